"""A hybrid model small enough for a test: random weights, a byte tokenizer, a language model of two layers."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from foretell.bridge.projector import BridgeConfig
from foretell.perception.encoder import grid_of, tiny_config
from foretell.reasoner.answer import Foretell
from foretell.reasoner.model import ForetellConfig, ForetellForConditionalGeneration
from foretell.reasoner.processing import ForetellProcessor

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and SmolLM2's control tokens under SmolLM2's ids."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*CONTROL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def tiny_text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(CONTROL) + 256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.3,  # far from uniform, so that greedy choices are clear
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def tiny_hybrid_config(imagined_tokens: int = 2) -> ForetellConfig:
    vision, taps = tiny_config(), (1, 3)
    time, height, width = grid_of(vision)
    bridge = BridgeConfig(
        feature_width=len(taps) * vision.hidden_size,
        grid=(time, height, width),
        imagined_width=vision.hidden_size,
        imagined_grid=(time // 2, height, width),
        width=24,
        depth=1,
        heads=2,
        cells=(1, 2, 2),
        global_tokens=2,
        imagined_tokens=imagined_tokens,
        llm_width=32,
    )
    return ForetellConfig(
        vision_config=vision, bridge_config=bridge, text_config=tiny_text_config(), video_token_id=5, taps=taps
    )


def tiny_model(imagined_tokens: int = 2) -> Any:
    """Any: the type of transformers' generate() says less than its use."""
    torch.manual_seed(0)
    model: Any = ForetellForConditionalGeneration(tiny_hybrid_config(imagined_tokens))
    model.eval()
    return model


def tiny_foretell() -> Foretell:
    model = tiny_model()
    return Foretell(model, ForetellProcessor.for_model(model.config, tiny_tokenizer()))


def noise(seed: int, count: int = 8, size: int = 16) -> NDArray[np.uint8]:
    """Frames of noise, uint8 [T, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def chat(processor: ForetellProcessor, question: str = "Will it fall?", seed: int = 0) -> dict[str, Tensor]:
    """Model inputs for one question about a clip of noise, by the chat template."""
    content = [{"type": "video", "video": noise(seed)}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(inputs)
