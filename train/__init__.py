"""Everything that changes weights: worlds to learn from, pretraining, the bridge and the language model's LoRA."""
