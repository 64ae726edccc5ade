"""World features in, language-model token embeddings out."""
