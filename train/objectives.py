"""What pretraining asks of an encoder: latent objectives and their pixel-generative rivals, plain functions.

All take the student, normalised pixels [B, T, 3, H, W] and a mask, and return scalars by name, "loss" among them. What
predicts features and what decodes pixels is one network, V-JEPA's predictor, so that only the target differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from transformers import PreTrainedConfig, VJEPA2Model

from ..perception.encoder import Eyes, gather, grid_of, no_future, tapped, window_of
from ..perception.predictor import BLOCKS, FUTURE, complete, expected_form, unroll
from ..perception.published import loss_of
from .masks import Mask

Parts = dict[str, Tensor]
STRIDE = 7
"""SIGReg looks at one token in so many, of all rows and columns among them: all would cost more than the encoder."""


class Student(nn.Module):
    """What is trained: an encoder with its predictor and, for objectives in pixels, a head from features into them; or
    a published model, which has all of its own."""

    model: Eyes

    def __init__(self, model: Eyes, pixels: bool) -> None:
        super().__init__()
        self.model = model
        headed = pixels and isinstance(model, VJEPA2Model)
        self.head = nn.Linear(model.config.hidden_size, patch_size(model.config)) if headed else None

    @property
    def jepa(self) -> VJEPA2Model:
        """The model, of V-JEPA's architecture."""
        assert isinstance(self.model, VJEPA2Model), f"{type(self.model).__name__} has no predictor"
        return self.model

    def pixels(self, features: Tensor) -> Tensor:
        """[B, M, D] -> the pixels of M tokens [B, M, P]."""
        assert self.head is not None, "this objective is in pixels: build the student with pixels=True"
        told: Tensor = self.head(features)
        return told


def patch_size(config: PreTrainedConfig) -> int:
    """Numbers in a token's pixels: frames x height x width x 3."""
    window = window_of(config)
    return window.tubelet * window.patch**2 * 3


def pixels_of(pixels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Each token's pixels, of whole tubelets: [B, T, 3, H, W] -> float32 [B, N, P]."""
    _, height, width = grid_of(config)
    tubelets = (-1, window_of(config).tubelet)
    tokens = pixels.float().unflatten(4, (width, -1)).unflatten(3, (height, -1)).unflatten(1, tubelets)
    # [B, t, frames, 3, h, patch, w, patch] -> [B, t, h, w, ...]
    flat: Tensor = tokens.permute(0, 1, 4, 6, 2, 5, 7, 3).flatten(4).flatten(1, 3)
    return flat


def film_of(tokens: Tensor, config: PreTrainedConfig) -> Tensor:
    """The pixels of whole tubelets, from each token's: [B, t h w, P] -> [B, T, 3, H, W]."""
    _, height, width = grid_of(config)
    window = window_of(config)
    split = tokens.unflatten(2, (window.tubelet, window.patch, window.patch, 3))
    grid = split.unflatten(1, (-1, height, width))  # [B, t, h, w, frames, patch, patch, 3]
    film: Tensor = grid.permute(0, 1, 4, 7, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(1, 2)
    return film


def patches(pixels: Tensor, config: PreTrainedConfig) -> Tensor:
    """Each token's pixels, standardised within the token (MAE, section 4.1): [B, T, 3, H, W] -> float32 [B, N, P]."""
    flat = pixels_of(pixels, config)
    unbiased = (flat.shape[-1] - 1) / flat.shape[-1]  # MAE divides by n - 1, the layer norm by n, several times faster
    standard: Tensor = F.layer_norm(flat, flat.shape[-1:], eps=1e-6 * unbiased) * unbiased**0.5
    return standard


@dataclass(frozen=True)
class Weights:
    """How much each part of the V-JEPA loss counts, beside the prediction itself."""

    dense: float = 0.5
    variance: float = 1.0
    covariance: float = 0.04


def spread(features: Tensor) -> Tensor:
    """Covariance matrix of samples [n, D], those of all ranks together: [D, D]."""
    count = len(features) * ranks()
    centred = features - over_ranks(features.mean(dim=0))
    return over_ranks(centred.T @ centred / len(features)) * count / (count - 1)


def variance(matrix: Tensor) -> Tensor:
    """How far the channels' spread, the roots of a covariance matrix's diagonal, falls short of 1 (VICReg, arXiv
    2105.04906, equation 1)."""
    return F.relu(1 - (matrix.diagonal() + 1e-4).sqrt()).mean()


def covariance(matrix: Tensor) -> Tensor:
    """How much channels repeat each other: squared off-diagonal covariances over their number (VICReg, equation 3)."""
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)


def vjepa(
    student: Student, teacher: VJEPA2Model, pixels: Tensor, mask: Mask, levels: tuple[int, ...], weights: Weights
) -> Parts:
    """Tell the teacher's features of what is hidden from what is seen.

    The teacher sees the whole clip; the student's encoder sees the context only. L1 on normed features is V-JEPA's
    (arXiv 2404.08471), the loss on context places V-JEPA 2.1's, the variance and covariance terms VICReg's. These two
    act on the student's states normed without gain, the space of the targets, where a spread of 1 is the
    largest that all channels can share. With a frozen teacher that learned from pixels this is SALT's second stage
    (arXiv 2509.24317).
    """
    with torch.no_grad():
        wanted = expected_form(tapped(teacher, pixels, levels))  # [B, N, D]
    depth = student.jepa.config.num_hidden_layers
    states = tapped(student.jepa, pixels, (*levels, depth), keep=mask.context)
    told = complete(student.jepa, states[-1], mask.context, mask.target, FUTURE if mask.future else BLOCKS)
    seen = mask.context.shape[1]
    spreads = [spread(F.layer_norm(state.float(), state.shape[-1:]).flatten(0, 1)) for state in states[:-1]]
    parts = {
        "predict": F.l1_loss(told[:, seen:].float(), gather(wanted, mask.target)),
        "dense": F.l1_loss(told[:, :seen].float(), gather(wanted, mask.context)),
        "variance": torch.stack([variance(one) for one in spreads]).mean(),
        "covariance": torch.stack([covariance(one) for one in spreads]).mean(),
    }
    loss = parts["predict"] + sum(getattr(weights, name) * parts[name] for name in ("dense", "variance", "covariance"))
    return {"loss": loss, **parts}


def ijepa(student: Student, teacher: VJEPA2Model, pixels: Tensor, mask: Mask, weights: Weights) -> Parts:
    """Tell the teacher's normed last features of each target block, block by block, from the context.

    I-JEPA (arXiv 2301.08243, section 3): smooth L1, as in its released code, on layer-normed targets. The published
    objective has no variance and covariance terms (weights of 0); they are those of `vjepa`.
    """
    depth = student.jepa.config.num_hidden_layers
    with torch.no_grad():
        wanted = expected_form(tapped(teacher, pixels, (depth,)))  # [B, N, D]
    (known,) = tapped(student.jepa, pixels, (depth,), keep=mask.context)
    losses = [
        F.smooth_l1_loss(
            complete(student.jepa, known, mask.context, block, BLOCKS)[:, known.shape[1] :].float(),
            gather(wanted, block),
        )
        for block in mask.target.chunk(mask.blocks, dim=1)
    ]
    matrix = spread(F.layer_norm(known.float(), known.shape[-1:]).flatten(0, 1))
    parts = {"predict": torch.stack(losses).mean(), "variance": variance(matrix), "covariance": covariance(matrix)}
    loss = parts["predict"] + weights.variance * parts["variance"] + weights.covariance * parts["covariance"]
    return {"loss": loss, **parts}


def lejepa(student: Student, pixels: Tensor, mask: Mask, weight: float, directions: Tensor) -> Parts:
    """Tell one's own features of what is hidden; nothing but SIGReg keeps them from saying the same of everything.

    No teacher and no stop-gradient: LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544), its two views being the whole
    clip and its context. SIGReg is asked of pooled features and of tokens. directions: unit vectors [D, S].
    """
    depth = student.jepa.config.num_hidden_layers
    (whole,) = tapped(student.jepa, pixels, (depth,))
    (known,) = tapped(student.jepa, pixels, (depth,), keep=mask.context)
    told = complete(student.jepa, known, mask.context, mask.target, FUTURE if mask.future else BLOCKS)
    parts = {
        "predict": F.mse_loss(told[:, known.shape[1] :].float(), gather(whole, mask.target).float()),
        "sigreg": sigreg(whole.float().mean(1), directions) + sigreg(whole.float().flatten(0, 1)[::STRIDE], directions),
    }
    return {"loss": (1 - weight) * parts["predict"] + weight * parts["sigreg"], **parts}


def sigreg(features: Tensor, directions: Tensor, knots: int = 17, reach: float = 3.0) -> Tensor:
    """How far features [n, D] are from a standard normal in every direction [D, S]: the Epps-Pulley statistic over n.

    The integral over t of |empirical - normal characteristic function|^2 under a Gaussian window, by the trapezoid
    rule on `knots` points of [-reach, reach] (arXiv 2511.08544, section 4). Not multiplied by n, so that its size does
    not depend on the batch. The empirical function is averaged over all ranks.
    """
    t = torch.linspace(0, reach, knots, device=features.device)  # the integrand is even
    normal = (-t.square() / 2).exp()
    angles = (features @ directions)[..., None] * t  # [n, S, knots]
    real, imaginary = over_ranks(angles.cos().mean(0)), over_ranks(angles.sin().mean(0))  # [S, knots]
    gap = (real - normal).square() + imaginary.square()
    return 2 * torch.trapezoid(gap * normal, t, dim=-1).mean()


def ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_ranks(mean: Tensor) -> Tensor:
    """The mean of equally large ranks' means, with gradients to all of them."""
    if ranks() == 1:
        return mean
    summed: Tensor = all_reduce(mean)
    return summed / ranks()


def sketch(width: int, count: int, seed: int, step: int) -> Tensor:
    """Random unit vectors [width, count], drawn anew each step and the same on every rank."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return F.normalize(torch.randn(width, count, generator=generator), dim=0)


def pixels_hidden(student: Student, pixels: Tensor, mask: Mask) -> Parts:
    """Tell the standardised pixels of what is hidden from what is seen: VideoMAE (arXiv 2203.12602), and MAE
    (arXiv 2111.06377) on single frames."""
    config = student.jepa.config
    (known,) = tapped(student.jepa, pixels, (config.num_hidden_layers,), keep=mask.context)
    told = complete(student.jepa, known, mask.context, mask.target, BLOCKS)[:, known.shape[1] :]
    return {"loss": F.mse_loss(student.pixels(told).float(), gather(patches(pixels, config), mask.target))}


def pixels_next(
    student: Student, pixels: Tensor, mask: Mask, wanted: Callable[[Tensor, PreTrainedConfig], Tensor] = patches
) -> Parts:
    """Tell each tubelet's pixels from the tubelets before it: autoregression over time, in one pass.

    wanted: `patches`, as the other objectives in pixels, or `pixels_of`, which make a film to go on from. Encoder and
    decoder are block-causal: a token sees its own tubelet and earlier ones (as in Rajasegaran et al. 2025, arXiv
    2501.05453, with continuous pixels and whole tubelets instead of tokens one by one).
    """
    config = student.jepa.config
    visible = no_future(mask.context[0], student.jepa)
    (known,) = tapped(student.jepa, pixels, (config.num_hidden_layers,), keep=mask.context, visible=visible)
    told = unroll(student.jepa, known, mask.context, visible)
    return {"loss": F.mse_loss(student.pixels(told).float(), gather(wanted(pixels, config), mask.target))}


def published(student: Student, pixels: Tensor, mask: Mask) -> Parts:
    """A published model's own loss on what the mask hides."""
    assert not isinstance(student.model, VJEPA2Model)
    places = len(pixels), mask.context.shape[1] + mask.target.shape[1]
    hidden = torch.zeros(places, dtype=torch.bool, device=pixels.device).scatter(1, mask.target, True)
    return {"loss": loss_of(student.model, pixels, hidden)}
