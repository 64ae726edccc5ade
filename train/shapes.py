"""Shapes of released models, written down so that a plan needs no hub: each is the `config.json` of its name there.

Shapes only: what neither counts parameters nor costs memory (rotary base, norms' epsilon, special tokens) is left at
transformers' defaults. V-JEPA 2: transformers `models/vjepa2/convert_vjepa2_to_hf.py`, `get_vjepa2_config`.
"""

from typing import Any

from transformers import AutoConfig, LlamaConfig, PretrainedConfig, Qwen3Config, VJEPA2Config

from ..reasoner.answer import NANO

GIANT = {"hidden_size": 1408, "num_attention_heads": 22, "num_hidden_layers": 40, "mlp_ratio": 48 / 11}
SMALL_LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"

ENCODERS: dict[str, dict[str, Any]] = {
    "facebook/vjepa2-vitl-fpc64-256": {},  # what VJEPA2Config() is
    "facebook/vjepa2-vitg-fpc64-256": GIANT,
}
LANGUAGE_MODELS: dict[str, PretrainedConfig] = {
    SMALL_LLM: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-8B": Qwen3Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=False,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, tie_word_embeddings=False,
    ),
}  # fmt: skip


def encoder_shape(source: str) -> VJEPA2Config:
    """The encoder of a folder or hub id ("": the embedded one). Raises OSError where neither is known or reached."""
    if source in ENCODERS:
        return VJEPA2Config(**ENCODERS[source])
    config: VJEPA2Config = VJEPA2Config.from_pretrained(source or NANO / "encoder")
    return config


def language_shape(source: str) -> PretrainedConfig:
    """The language model of a folder or hub id ("": the embedded one), as `encoder_shape`."""
    if (source or SMALL_LLM) in LANGUAGE_MODELS:
        return LANGUAGE_MODELS[source or SMALL_LLM]
    config: PretrainedConfig = AutoConfig.from_pretrained(source)
    return config
