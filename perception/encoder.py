"""System 1's eyes: a short clip in, a grid of world features out, from any encoder that speaks `WorldEncoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    PreTrainedConfig,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    VJEPA2Config,
    VJEPA2Model,
)
from transformers.models.vjepa2.modeling_vjepa2 import VJEPA2Layer, VJEPA2RopeAttention

from .published import Published, embedded, trunk

# The statistics of VJEPA2VideoProcessor.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Not fields of VJEPA2Config itself, kept in a saved folder's config.json: `rate`, in frames per second, and `taps`.
EMBEDDED: dict[str, Any] = {"attn_implementation": "sdpa", "rate": 8.0}


Rotation = tuple[Tensor, Tensor]
Eyes = VJEPA2Model | Published
"""The models that watch: V-JEPA's architecture, which most objectives share, and published rivals in their own."""
KINDS: dict[str, type[Eyes]] = {
    "vjepa2": VJEPA2Model,
    "videomae": VideoMAEForPreTraining,
    "vit_mae": ViTMAEForPreTraining,
}

CACHED_TOKENS, CACHED_SCORES = 512, 2**21
"""Up to so many tokens, and so many scores at once, `dot_product_attention` beats torch's fused kernel on CPUs."""


class WorldEncoder(Protocol):
    """What the bridge needs to know of an encoder: how wide, what grid, how many frames of what size how fast."""

    @property
    def width(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int, int]: ...
    @property
    def tokens_per_clip(self) -> int: ...
    @property
    def frames(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def size(self) -> int: ...

    def encode(self, frames: Tensor) -> Tensor:
        """World features of clips: uint8 [B, T, H, W, 3] -> float [B, N, width]."""
        ...


def nano_config() -> VJEPA2Config:
    """The embedded encoder: 3.2M parameters that see one second as 4 x 8 x 8 tokens."""
    return VJEPA2Config(
        patch_size=8,
        crop_size=64,
        frames_per_clip=8,
        tubelet_size=2,
        hidden_size=192,
        num_attention_heads=6,
        num_hidden_layers=6,
        pred_hidden_size=96,
        pred_num_attention_heads=3,
        pred_num_hidden_layers=4,
        pred_num_mask_tokens=2,
        pred_zero_init_mask_tokens=False,
        **EMBEDDED | {"taps": [0, 3, 6]},  # early layers keep what late ones throw away
    )


def small_config() -> VJEPA2Config:
    """Half as wide as the embedded encoder and two thirds as deep."""
    narrow = {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 4, "taps": [0, 2, 4]}
    return VJEPA2Config(**nano_config().to_diff_dict() | narrow)


def mini_config() -> VJEPA2Config:
    """A third as wide as the embedded encoder and half as deep."""
    narrow = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "taps": [0, 1, 3]}
    return VJEPA2Config(**nano_config().to_diff_dict() | narrow)


def picture_config() -> VJEPA2Config:
    """The embedded encoder's shape for single frames: 8 x 8 tokens."""
    return VJEPA2Config(**nano_config().to_diff_dict() | {"frames_per_clip": 1, "tubelet_size": 1})


def tiny_config() -> VJEPA2Config:
    """The same shape small enough for a test: 4 x 4 x 4 tokens of 48 numbers."""
    return VJEPA2Config(
        patch_size=4,
        crop_size=16,
        frames_per_clip=8,
        tubelet_size=2,
        hidden_size=48,
        num_attention_heads=3,
        num_hidden_layers=3,
        pred_hidden_size=32,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
        pred_num_mask_tokens=2,
        pred_zero_init_mask_tokens=False,
        **EMBEDDED,
    )


class Window(NamedTuple):
    """What a model sees at once: frames, frames a token, pixels a side, pixels a token's side."""

    frames: int
    tubelet: int
    size: int
    patch: int


def window_of(config: PreTrainedConfig) -> Window:
    """What a model with this config, of one of KINDS, sees at once."""
    size: int | list[int] | tuple[int, int]
    if isinstance(config, VJEPA2Config):
        frames, tubelet, size = config.frames_per_clip, config.tubelet_size, config.crop_size
    elif isinstance(config, VideoMAEConfig):
        frames, tubelet, size = config.num_frames, config.tubelet_size, config.image_size
    else:
        assert isinstance(config, ViTMAEConfig), type(config)
        frames, tubelet, size = 1, 1, config.image_size
    assert isinstance(size, int) and isinstance(config.patch_size, int), (size, config.patch_size)
    return Window(frames, tubelet, size, config.patch_size)


def grid_of(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Tokens along time, height and width."""
    frames, tubelet, size, patch = window_of(config)
    return frames // tubelet, size // patch, size // patch


def rotation(layer: nn.Module, positions: Tensor) -> Rotation:
    """The rotary code of token positions, computed once for all layers (Hugging Face's recomputes it in each).

    positions: int64 [B, K], indices into the flattened (t, y, x) grid. Returns cos, and sin with the signs that
    `rotate` wants, [B, 1, K, head width]. The halves are tiled, not interleaved, as in the upstream code whose
    checkpoints depend on it.
    """
    assert isinstance(layer, VJEPA2Layer), type(layer)
    attention = layer.attention
    side, width = attention.grid_size, attention.d_dim
    axes = (positions // side**2, positions % side**2 // side, positions % side)
    rates = 10000.0 ** -(torch.arange(width // 2, device=positions.device) / (width / 2))
    angles = torch.cat([(axis[..., None] * rates).repeat(1, 1, 2) for axis in axes], dim=-1)
    angles = F.pad(angles, (0, attention.attention_head_size - 3 * width))[:, None]  # [B, 1, K, head]
    signs = torch.tensor([-1.0, 1.0], device=positions.device).repeat(angles.shape[-1] // 2)
    return angles.cos(), angles.sin() * signs


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Rotate pairs of channels of queries or keys [B, heads, K, head width] by their positions' angles."""
    cos, sin = turn
    return torch.addcmul(x * cos, x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2), sin)


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
    """Softmax attention over [B, heads, K, head width]; visible: bool [K, K], which token sees which.

    In bf16 on CPUs two products and a softmax, a few clips at a time so that their scores stay in cache: 2 to 5 times
    faster forward and backward than torch's fused kernel there up to some hundreds of tokens (`python -m
    foretell.eval.speed attention`). Everywhere else the fused kernel.
    """
    count = query.shape[-2]
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or count > CACHED_TOKENS:
        return F.scaled_dot_product_attention(query, key, value, visible)
    at_once = max(1, CACHED_SCORES // (query.shape[1] * count**2))
    parts = zip(*(part.split(at_once) for part in (query * query.shape[-1] ** -0.5, key, value)), strict=True)
    mixed = []
    for asked, known, told in parts:
        scores = asked @ known.transpose(-1, -2)  # [b, heads, K, K]
        scores = scores if visible is None else scores.masked_fill(~visible, -torch.inf)
        mixed.append(scores.softmax(-1) @ told)
    return torch.cat(mixed)


def attend(attention: VJEPA2RopeAttention, hidden: Tensor, turn: Rotation, visible: Tensor | None = None) -> Tensor:
    """Self-attention of V-JEPA 2 with a rotary code given from outside: [B, K, D] -> [B, K, D].

    visible: bool [K, K], which token sees which; all see all without it.
    """
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query, key, value = (
        project(hidden).unflatten(-1, heads).transpose(1, 2)  # [B, heads, K, head]
        for project in (attention.query, attention.key, attention.value)
    )
    mixed = dot_product_attention(rotate(query, turn), rotate(key, turn), value, visible)
    output: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
    return output


def block(layer: nn.Module, hidden: Tensor, turn: Rotation, visible: Tensor | None = None) -> Tensor:
    """One transformer layer of V-JEPA 2: [B, K, D] -> [B, K, D]; visible as in `attend`."""
    assert isinstance(layer, VJEPA2Layer), type(layer)
    hidden = hidden + layer.drop_path(attend(layer.attention, layer.norm1(hidden), turn, visible))
    output: Tensor = hidden + layer.drop_path(layer.mlp(layer.norm2(hidden)))
    return output


def gather(tokens: Tensor, positions: Tensor) -> Tensor:
    """The tokens [B, N, D] at positions int64 [B, K]: [B, K, D]."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[-1]))


def tapped(
    model: VJEPA2Model,
    pixels: Tensor,
    taps: tuple[int, ...],
    keep: Tensor | None = None,
    visible: Tensor | None = None,
) -> list[Tensor]:
    """What the encoder knows after each layer in `taps` (0: its patch embedding), seeing all tokens or those kept.

    pixels: normalised [B, T, 3, H, W]; keep: int64 [B, K] positions of the tokens that are encoded at all; visible:
    bool [K, K], which of them sees which. More frames than the model's window are seen window by window, each apart
    from the others: pictures' models watch videos so.
    Returns a list of [B, K or N, D]; the model's final norm is applied to the last layer only.
    """
    window = window_of(model.config).frames
    if pixels.shape[1] > window and keep is None:
        parts = tapped(model, pixels.unflatten(1, (-1, window)).flatten(0, 1), taps, visible=visible)
        return [part.unflatten(0, (len(pixels), -1)).flatten(1, 2) for part in parts]
    hidden: Tensor = model.encoder.embeddings(pixels)  # [B, N, D]
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None] if keep is None else keep
    hidden = hidden if keep is None else gather(hidden, keep)
    cos, sin = rotation(model.encoder.layer[0], positions)
    turn = cos.to(hidden.dtype), sin.to(hidden.dtype)
    layers = [partial(block, layer, turn=turn, visible=visible) for layer in model.encoder.layer]
    return walked(hidden, layers, model.encoder.layernorm, taps)


def walked(
    hidden: Tensor, layers: Sequence[Callable[[Tensor], Tensor]], norm: nn.Module, taps: tuple[int, ...]
) -> list[Tensor]:
    """Tokens [B, K, D] after each layer in `taps` (0: as they are given); the norm is the last layer's only."""
    depth = len(layers)
    if not taps or not all(0 <= tap <= depth for tap in taps):
        raise ValueError(f"taps {taps} must be layers of the encoder, 0 (patch embedding) to {depth}")
    states = {0: hidden}
    for number, layer in enumerate(layers[: max(taps)], start=1):
        states[number] = layer(states[number - 1])
    if depth in taps:
        states[depth] = norm(states[depth])
    return [states[tap] for tap in taps]


def seen(model: Eyes, pixels: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
    """As `tapped`, of any model and whole clips: a list of [B, N, D]."""
    if isinstance(model, VJEPA2Model):
        return tapped(model, pixels, taps)
    layers, norm, extra = trunk(model)
    return [state[:, extra:] for state in walked(embedded(model, pixels), [*layers], norm, taps)]


def open_model(path: str | Path) -> Eyes:
    """A model of one of KINDS from a folder or a Hub id, in float32. Raises ValueError for another kind."""
    kind = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{path} holds a model of type {kind}; encoders are of type {', '.join(KINDS)}: give one")
    model: Eyes = KINDS[kind].from_pretrained(path, attn_implementation="sdpa", dtype=torch.float32)
    return model


def no_future(positions: Tensor, model: VJEPA2Model) -> Tensor:
    """Block-causal attention: a token sees its own tubelet and those before it. positions int64 [K] -> bool [K, K]."""
    _, height, width = grid_of(model.config)
    tubelet = positions // (height * width)
    return tubelet[:, None] >= tubelet[None, :]


def normalise(frames: Tensor) -> Tensor:
    """Frames as the encoder was trained to see them: uint8 [B, T, H, W, 3] -> float [B, T, 3, H, W]."""
    mean, std = (torch.tensor(values, device=frames.device) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((frames - mean) / std).permute(0, 1, 4, 2, 3)


def resize(frames: Tensor, size: int) -> Tensor:
    """The whole frame squashed to a square, antialiased, nothing cropped: uint8 [T, H, W, 3] -> [T, size, size, 3]."""
    if frames.shape[1:3] == (size, size):
        return frames
    pixels = frames.permute(0, 3, 1, 2).float()
    small = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class World(nn.Module):
    """A model as a `WorldEncoder`: several of its depths, side by side."""

    model: Eyes

    def __init__(
        self, model: Eyes, taps: tuple[int, ...] | None = None, rate: float | None = None, frames: int | None = None
    ) -> None:
        """taps, rate: its folder's own where they are left out; frames: whole windows of it (left out: one)."""
        super().__init__()
        depth = model.config.num_hidden_layers
        rate = getattr(model.config, "rate", None) if rate is None else rate
        if rate is None:
            raise ValueError("this encoder's folder does not say its frame rate: pass rate, in frames per second")
        thirds = sorted({max(1, depth // 3), max(1, 2 * depth // 3), depth})
        self.model = model
        self.taps = tuple(getattr(model.config, "taps", None) or thirds) if taps is None else taps
        self._rate = float(rate)
        self._windows, rest = divmod(frames or self._window.frames, self._window.frames)
        if rest or not self._windows:
            raise ValueError(f"this encoder sees {self._window.frames} frames at a time, so not {frames}: a multiple")

    @property
    def _window(self) -> Window:
        return window_of(self.model.config)

    @property
    def width(self) -> int:
        return len(self.taps) * int(self.model.config.hidden_size)

    @property
    def grid(self) -> tuple[int, int, int]:
        time, height, width = grid_of(self.model.config)
        return self._windows * time, height, width

    @property
    def tokens_per_clip(self) -> int:
        time, height, width = self.grid
        return time * height * width

    @property
    def frames(self) -> int:
        return self._windows * self._window.frames

    @property
    def rate(self) -> float:
        return self._rate

    @property
    def size(self) -> int:
        return self._window.size

    def encode(self, frames: Tensor) -> Tensor:
        """World features of clips: uint8 [B, T, H, W, 3] -> float [B, N, width], the tapped layers side by side."""
        expected = (self.frames, self.size, self.size, 3)
        if frames.dtype != torch.uint8 or frames.shape[1:] != expected:
            raise ValueError(
                f"frames are {frames.dtype} {tuple(frames.shape)}; this encoder sees torch.uint8 clips of shape "
                f"{expected}, batched: sample and resize them first"
            )
        return self.layers(frames, self.taps)

    def layers(self, frames: Tensor, taps: tuple[int, ...]) -> Tensor:
        """As `encode`, of any layers: uint8 [B, T, S, S, 3] -> [B, N, layers * D]."""
        pixels = normalise(frames.to(self.model.device)).to(self.model.dtype)
        return torch.cat(seen(self.model, pixels, taps), dim=-1)


class VJEPA2World(World):
    """A V-JEPA 2 encoder as a `WorldEncoder`, with the predictor that surprise and imagination need."""

    model: VJEPA2Model

    def __init__(
        self,
        model: VJEPA2Model,
        taps: tuple[int, ...] | None = None,
        rate: float | None = None,
        frames: int | None = None,
        surprise: bool = False,
    ) -> None:
        """surprise: whether its predictor also tells how what was seen last was not as expected (predictor.watched)."""
        super().__init__(model, taps, rate, frames)
        self.surprise = surprise

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        taps: tuple[int, ...] | None = None,
        rate: float | None = None,
        frames: int | None = None,
        surprise: bool = False,
    ) -> VJEPA2World:
        """An encoder from a folder or a Hub id, frozen, in float32; `taps`: its own, else 1/3, 2/3 and full depth.

        Raises ValueError for a folder of a published rival.
        """
        model = open_model(path)
        if not isinstance(model, VJEPA2Model):
            raise ValueError(
                f"{path} is a {type(model).__name__}: this wants V-JEPA's architecture, with its predictor"
            )
        return cls(model.eval().requires_grad_(False), taps, rate, frames, surprise)
