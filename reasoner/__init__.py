"""System 2: the hybrid model, its processor and its answers."""
