"""System 1's expectations: V-JEPA's own predictor, asked for what was not seen, and how wrong it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import VJEPA2Model

from .encoder import block, grid_of, rotation, tapped, window_of

# V-JEPA gives each kind of mask its own mask token; Hugging Face's predictor always uses the one at index 1.
BLOCKS, FUTURE = 0, 1

Tell = Callable[[Tensor, Tensor, Tensor], Tensor]  # features, their positions, other positions -> what is there


def complete(model: VJEPA2Model, features: Tensor, context: Tensor, target: Tensor, token: int = FUTURE) -> Tensor:
    """The predictor's view of the whole scene: at the places it was shown, then at those it was not.

    features: [B, K, D], the encoder's last hidden states at positions `context`, int64 [B, K]; `target`: int64 [B, M].
    Returns [B, K + M, D]. V-JEPA 2.1 trains the first K outputs too (its dense loss).
    """
    predictor = model.predictor
    shown: Tensor = predictor.embeddings.predictor_embeddings(features)
    blank = predictor.embeddings.mask_tokens[token % predictor.embeddings.num_mask_tokens].to(shown.dtype)
    hidden = torch.cat([shown, blank.expand(*target.shape, -1)], dim=1)  # [B, K + M, d]
    return _decode(model, hidden, torch.cat([context, target], dim=1))


def unroll(model: VJEPA2Model, features: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
    """The predictor as the decoder of an autoregressive encoder: no mask tokens, and nobody sees what comes later.

    features: [B, K, D] at positions int64 [B, K]; visible: bool [K, K]. Returns [B, K, D].
    """
    return _decode(model, model.predictor.embeddings.predictor_embeddings(features), positions, visible)


def _decode(model: VJEPA2Model, hidden: Tensor, positions: Tensor, visible: Tensor | None = None) -> Tensor:
    """The predictor's layers and projection: [B, K, d] -> [B, K, D]."""
    predictor = model.predictor
    cos, sin = rotation(predictor.layer[0], positions)
    turn = cos.to(hidden.dtype), sin.to(hidden.dtype)
    for layer in predictor.layer:
        hidden = block(layer, hidden, turn, visible)
    output: Tensor = predictor.proj(predictor.layernorm(hidden))
    return output


def predict(model: VJEPA2Model, features: Tensor, context: Tensor, target: Tensor, token: int = FUTURE) -> Tensor:
    """Expected features at the positions `target` [B, M], given those [B, K, D] at `context` [B, K]: [B, M, D]."""
    return complete(model, features, context, target, token)[:, context.shape[1] :]


def halves(model: VJEPA2Model, batch: int) -> tuple[Tensor, Tensor]:
    """Positions of the earlier and the later half of the window, in time: int64 [B, K], [B, M]."""
    time, height, width = grid_of(model.config)
    positions = torch.arange(time * height * width, device=model.device).expand(batch, -1)
    past = (time // 2) * height * width
    return positions[:, :past], positions[:, past:]


def imagine(model: VJEPA2Model, last_hidden: Tensor) -> Tensor:
    """Expected features of what comes next: the tubelets that follow the window, as many as the later half holds.

    last_hidden: [B, N, D], the encoder's last hidden states (final norm applied). Its last T // 2 tubelets are
    re-indexed to the start of the position grid and the rest of the grid is predicted: the causal mask of pretraining.
    Shifting both beyond the grid instead would not be the same: upstream's tiled rotary code is not quite relative.
    Returns [B, M, D] in (t, y, x) order.
    """
    past, future = halves(model, last_hidden.shape[0])
    return predict(model, last_hidden[:, -past.shape[1] :], past, future)


def surprise_so_far(model: VJEPA2Model, pixels: Tensor, states: list[Tensor]) -> Tensor:
    """How the later half of the window differs from what was to be expected after its earlier half: [B, M, D].

    The earlier half is encoded on its own, as in `misses`, of which this is the part before the mean. pixels:
    normalised [B, T, 3, H, W]; states: what the encoder knows of them at `target_levels`, [B, N, D] each.
    """
    past, future = halves(model, len(pixels))
    window = pixels[:, -window_of(model.config).frames :]
    (known,) = tapped(model, window, (model.config.num_hidden_layers,), keep=past)
    return expected_form(states)[:, -future.shape[1] :] - predict(model, known, past, future)


@torch.no_grad()
def watched(
    model: VJEPA2Model, pixels: Tensor, taps: tuple[int, ...], imagination: bool, surprise: bool = False
) -> tuple[Tensor, Tensor | None]:
    """World features of clips, the tapped layers side by side, and what the predictor adds to them.

    pixels: normalised [B, T, 3, S, S] -> features [B, N, C], imagined [B, M, D] or None without imagination: what is to
    be expected next, and with `surprise` how what was seen last was not as expected before it, [B, 2M, D].
    """
    if not imagination:
        return torch.cat(tapped(model, pixels, taps), dim=-1), None
    levels = target_levels(model) if surprise else ()
    states = tapped(model, pixels, (*taps, *levels, model.config.num_hidden_layers))
    told = imagine(model, states[-1])
    if surprise:
        told = torch.cat([surprise_so_far(model, pixels, states[len(taps) : -1]).to(told.dtype), told], dim=1)
    return torch.cat(states[: len(taps)], dim=-1), told


def target_levels(model: VJEPA2Model) -> tuple[int, ...]:
    """The layers whose mean the predictor was trained to expect; V-JEPA 2 proper expects the last one."""
    return tuple(getattr(model.config, "target_levels", None) or (model.config.num_hidden_layers,))


def expected_form(states: list[Tensor]) -> Tensor:
    """Hidden states [B, N, D] of several layers in the form in which they are predicted: normed, averaged, normed.

    The mean over layers is data2vec's (arXiv 2202.03555, section 3.3); the norm without gain is V-JEPA's.
    """
    width = states[0].shape[-1:]
    mean = torch.stack([F.layer_norm(state.float(), width) for state in states]).mean(0)
    return F.layer_norm(mean, width)


def misses(model: VJEPA2Model, pixels: Tensor, came: Tensor, contexts: Sequence[int], tell: Tell) -> Tensor:
    """How far what came [B, N, D] is from what is told of it after each number of tubelets in `contexts`: L1 a feature.

    The context is encoded on its own, so that nothing of the rest leaks into what is told. pixels: normalised
    [B, T, 3, H, W], a window or less; tell: features at positions, and other positions, to what is expected there.
    Returns [B, C, t, h, w], NaN at tubelets that were shown. Raises ValueError where a context leaves nothing to tell.
    """
    _, height, width = grid_of(model.config)
    time = came.shape[1] // (height * width)
    if wrong := [context for context in contexts if not 0 < context < time]:
        raise ValueError(f"contexts of {wrong} tubelets: 1 to {time - 1} of a window's {time} are allowed")
    positions = torch.arange(came.shape[1], device=came.device).expand(len(pixels), -1)
    distance = came.new_full((len(pixels), len(contexts), came.shape[1]), torch.nan)
    for row, context in enumerate(contexts):
        past, future = positions.tensor_split([context * height * width], dim=1)
        (known,) = tapped(model, pixels, (model.config.num_hidden_layers,), keep=past)
        distance[:, row, past.shape[1] :] = (tell(known, past, future) - came[:, past.shape[1] :]).abs().mean(-1)
    chart: Tensor = distance.unflatten(2, (time, height, width))
    return chart


def surprise_map(model: VJEPA2Model, pixels: Tensor, contexts: Sequence[int]) -> Tensor:
    """How wrong V-JEPA's predictor is, place by place: [B, T, 3, H, W] -> [B, C, t, h, w], as `misses` tells.

    What came is what the frozen encoder says of the whole window (Garrido et al. 2025, arXiv 2502.11831;
    `extract_losses` in facebookresearch/jepa-intuitive-physics, evaluation_code/evals/intuitive_physics/eval.py).
    """
    came = expected_form(tapped(model, pixels, target_levels(model)))
    return misses(model, pixels, came, contexts, partial(predict, model))


def surprise(model: VJEPA2Model, pixels: Tensor, contexts: Sequence[int]) -> Tensor:
    """Surprise of each tubelet, NaN where it was shown: pixels [B, T, 3, H, W] -> [B, C, t]."""
    return surprise_map(model, pixels, contexts).mean((3, 4))
