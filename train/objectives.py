"""What pretraining asks of the features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import VJEPA2Model

from ..perception.encoder import gather, tapped
from ..perception.predictor import BLOCKS, FUTURE, complete, expected_form
from .masks import Mask


@dataclass(frozen=True)
class Weights:
    """How much each part of the V-JEPA loss counts, beside the prediction itself."""

    dense: float = 0.5
    variance: float = 1.0
    covariance: float = 0.04


def variance(features: Tensor) -> Tensor:
    """How far the channels' spread across samples [n, D] falls short of 1 (VICReg, arXiv 2105.04906, equation 1)."""
    return F.relu(1 - (features.var(dim=0) + 1e-4).sqrt()).mean()


def covariance(features: Tensor) -> Tensor:
    """How much channels [n, D] repeat each other: squared off-diagonal covariances over D (VICReg, equation 3)."""
    centred = features - features.mean(dim=0)
    matrix = centred.T @ centred / (len(features) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / features.shape[1]


def vjepa(
    student: VJEPA2Model, teacher: VJEPA2Model, pixels: Tensor, mask: Mask, levels: tuple[int, ...], weights: Weights
) -> dict[str, Tensor]:
    """Tell the teacher's features of what is hidden from what is seen; returns "loss" and its parts, scalars.

    The teacher sees the whole clip; the student's encoder sees the context only. L1 on normed features is V-JEPA's
    (arXiv 2404.08471), the loss on context places V-JEPA 2.1's, the variance and covariance terms VICReg's. These two
    act on the student's states normed without gain, the space of the targets, where a spread of 1 is the
    largest that all channels can share. pixels: normalised [B, T, 3, H, W].
    """
    with torch.no_grad():
        wanted = expected_form(tapped(teacher, pixels, levels))  # [B, N, D]
    depth = student.config.num_hidden_layers
    states = tapped(student, pixels, (*levels, depth), keep=mask.context)
    told = complete(student, states[-1], mask.context, mask.target, FUTURE if mask.future else BLOCKS)
    seen = mask.context.shape[1]
    flat = [F.layer_norm(state.float(), state.shape[-1:]).flatten(0, 1) for state in states[:-1]]
    parts = {
        "predict": F.l1_loss(told[:, seen:].float(), gather(wanted, mask.target)),
        "dense": F.l1_loss(told[:, :seen].float(), gather(wanted, mask.context)),
        "variance": torch.stack([variance(state) for state in flat]).mean(),
        "covariance": torch.stack([covariance(state) for state in flat]).mean(),
    }
    loss = parts["predict"] + sum(getattr(weights, name) * parts[name] for name in ("dense", "variance", "covariance"))
    return {"loss": loss, **parts}
