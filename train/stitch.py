"""A trained bridge behind another encoder: what it read before is told from what it is given now.

Encoders that watched the same worlds say much of the same in other coordinates. A linear layer between one's features
and what was trained on another's is model stitching (Lenc & Vedaldi 2015, arXiv 1411.5908; Bansal et al. 2021, arXiv
2106.07682); here it is folded into the bridge's intakes, from where training goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..bridge.projector import WorldProjector
from ..perception.encoder import VJEPA2World
from ..reasoner.model import ForetellConfig
from .data import cache_features, cache_videos, load_clips
from .pairs import is_worlds, read_samples, readable

Rows = tuple[Tensor, Tensor]
"""Features [n, N, C] of what was seen, and of what is expected next [n, M, E]."""
TOKENS, FEWEST = 60_000, 16
"""A seam is fitted to the clips that make so many tokens, and to so many clips at least."""
PENALTY = 1e-4
"""Of ridge regression, beside the mean square of the standardised features."""


@dataclass(frozen=True)
class Seam:
    """What one encoder's features tell of another's, both standardised: `new @ weight.T + bias` is near `old`.

    explained: the share of the old ones' variance, on clips that the seam was not fitted to.
    """

    weight: Tensor  # [C_old, C_new]
    bias: Tensor  # [C_old]
    explained: float

    @classmethod
    def between(cls, new: Tensor, old: Tensor) -> Seam:
        """Ridge regression on seven eighths of the clips: [n, N, C_new], [n, N, C_old]."""
        from sklearn.linear_model import Ridge

        cut = len(new) * 7 // 8
        (given, unseen), (wanted, truth) = (
            (part[:cut].flatten(0, 1).double().numpy(), part[cut:].flatten(0, 1).numpy()) for part in (new, old)
        )
        fit = Ridge(alpha=PENALTY * len(given), solver="cholesky").fit(given, wanted)
        missed = ((fit.predict(unseen) - truth) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()
        return cls(torch.from_numpy(fit.coef_).float(), torch.from_numpy(fit.intercept_).float(), 1 - float(missed))

    def folded(self, weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
        """A linear layer that read the old features, as it reads the new ones."""
        weight, bias = (weights[f"{layer}.{part}"].float() for part in ("weight", "bias"))
        return {f"{layer}.weight": weight @ self.weight, f"{layer}.bias": bias + weight @ self.bias}


@dataclass(frozen=True)
class Stitched:
    """A bridge's weights behind another encoder; explained: how much of what it read is told there (Seam)."""

    weights: dict[str, Tensor]
    explained: float


def behind(
    world: VJEPA2World, model: Path, bridge: WorldProjector, data: Sequence[Path], features: Path
) -> Stitched | None:
    """A model folder's bridge, stitched to `world`; None where it has read this encoder, or its folder has none.

    bridge: a fresh one, which knows how this encoder's features are standardised; data: worlds or sets of pairs, of
    which the first clips are shown to both; features: folder of the cache. Raises ValueError for encoders that cut
    videos into other grids, and for fewer than FEWEST clips.
    """
    if not (model / "encoder").is_dir() or not (model / "bridge.safetensors").is_file():
        return None
    theirs = encoder_beside(model)
    if same(theirs, world):
        return None
    if theirs.grid != world.grid:
        raise ValueError(
            f"{model}'s bridge reads tokens on a grid of {theirs.grid} (t, y, x), this encoder makes {world.grid}: "
            "start without --init, or name the model's lora folder to take that alone"
        )
    count = max(FEWEST, TOKENS // world.tokens_per_clip // len(data))
    new, old = (watched(data, encoder, features, count) for encoder in (world, theirs))
    if len(new[0]) < FEWEST:
        raise ValueError(
            f"{len(new[0])} clips can be shown to both encoders, and {model}'s bridge wants {FEWEST} to be stitched to "
            "this one: give more data, or name the model's lora folder to take that alone"
        )
    return stitched(load_file(model / "bridge.safetensors"), bridge, new, old)


def encoder_beside(model: Path) -> VJEPA2World:
    """A model folder's encoder, as its bridge is shown it."""
    config = ForetellConfig.from_pretrained(model)
    return VJEPA2World.from_pretrained(
        model / "encoder", tuple(config.taps), config.rate, config.frames, config.bridge_config.surprise
    )


def same(one: VJEPA2World, other: VJEPA2World) -> bool:
    """Whether two encoders say the same, but for the rounding of weights that were saved in half precision."""
    asked = [(each.taps, each.rate, each.frames, each.size, each.surprise) for each in (one, other)]
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    alike = asked[0] == asked[1] and {n: t.shape for n, t in mine.items()} == {n: t.shape for n, t in theirs.items()}
    return alike and all(torch.allclose(t.float(), theirs[n].float(), rtol=1e-3, atol=1e-6) for n, t in mine.items())


def watched(data: Sequence[Path], encoder: VJEPA2World, features: Path, count: int) -> Rows:
    """An encoder's features of the first `count` clips of every set."""
    parts = []
    for path in data:
        if is_worlds(path):
            cache, keys = cache_features(load_clips(path), encoder, features, most=count)
        else:
            cache, found, _ = cache_videos(readable(read_samples(path, features / "videos"))[:count], encoder, features)
            keys = list(found.values())
        parts.append(cache.rows(keys[:count]))
    seen, imagined = (torch.cat(part).float() for part in zip(*parts, strict=True))
    return seen, imagined


def stitched(saved: Mapping[str, Tensor], bridge: WorldProjector, new: Rows, old: Rows) -> Stitched:
    """`saved`, which read the old features, so that it reads the new ones of the same clips."""
    weights, explained = dict(saved), 0.0
    for name, told, known in zip(("seen", "imagined"), new, old, strict=True):
        intake = getattr(bridge, name, None)
        if intake is None or f"{name}.project.weight" not in saved:
            continue
        told, known = (told - intake.mean) / intake.std, (known - saved[f"{name}.mean"]) / saved[f"{name}.std"]
        seam = Seam.between(told, known)
        weights |= seam.folded(saved, f"{name}.project") | {f"{name}.mean": intake.mean, f"{name}.std": intake.std}
        if name == "seen":
            explained = seam.explained
            if bridge.config.magnify and "magnifier.open.weight" in saved:
                theirs = saved["magnifier.open.weight"].shape[1]
                patches = Seam.between(told[..., : bridge.config.magnify_channels], known[..., :theirs])
                weights |= patches.folded(saved, "magnifier.open")
    return Stitched(weights, explained)
