"""Other people's harnesses: Foretell as a model of lmms-eval, and lm-eval on its language model."""
