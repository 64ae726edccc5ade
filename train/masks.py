"""What a pretraining step hides: blocks of the picture through all time, or the future of all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Grid = tuple[int, int, int]
Hidden = NDArray[np.bool_]


@dataclass(frozen=True)
class Mask:
    """What the student sees, `context` int64 [B, K], and what it must tell, `target` int64 [B, M]: sorted positions.

    blocks: the target is so many equal parts side by side, each of them told on its own.
    """

    context: Tensor
    target: Tensor
    future: bool = False
    blocks: int = 1

    def rows(self, which: slice) -> Mask:
        """Of some clips of the batch."""
        return replace(self, context=self.context[which], target=self.target[which])

    def to(self, device: torch.device) -> Mask:
        return replace(self, context=self.context.to(device), target=self.target.to(device))


@dataclass(frozen=True)
class MaskRecipe:
    """Shares of the mask kinds and the limits that bound a step's cost, as shares of a clip's tokens.

    The blocks are V-JEPA's (Bardes et al. 2024, arXiv 2404.08471, section 3.2): 8 of 15% and 2 of 70% of the picture.
    Causal masks hide everything from one tubelet on. The share that is neither short nor causal is long.
    """

    short_share: float = 0.35
    causal_share: float = 0.4
    max_target: float = 0.5
    min_context: float = 0.125
    aspect: tuple[float, float] = (0.75, 1.5)

    def __post_init__(self) -> None:
        if min(self.short_share, self.causal_share) < 0 or self.short_share + self.causal_share > 1:
            raise ValueError(
                f"short_share {self.short_share} and causal_share {self.causal_share} are shares of one whole: "
                "let both be at least 0 and their sum at most 1"
            )


@dataclass(frozen=True)
class Blocks:
    """How many blocks hide a clip, and which share of the picture each covers."""

    count: int
    share: float


SHORT, LONG = Blocks(8, 0.15), Blocks(2, 0.7)
TUBES = 0.9
"""Share of the picture that VideoMAE hides (Tong et al. 2022, arXiv 2203.12602, section 3.3)."""
SCATTERED = 0.75
"""Share of the patches that MAE hides (He et al. 2022, arXiv 2111.06377, section 3)."""


def draw_blocks(rng: np.random.Generator, grid: Grid, batch: int, blocks: Blocks, aspect: float) -> Hidden:
    """Blocks of one size at places of their own for each clip: [B, count, H, W]."""
    _, height, width = grid
    area = blocks.share * height * width
    tall = int(np.clip(round((area * aspect) ** 0.5), 1, height))
    wide = int(np.clip(round((area / aspect) ** 0.5), 1, width))
    top = rng.integers(0, height - tall + 1, (batch, blocks.count, 1, 1))
    left = rng.integers(0, width - wide + 1, (batch, blocks.count, 1, 1))
    y, x = np.arange(height)[:, None], np.arange(width)[None]
    inside: Hidden = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return inside


def hide_blocks(rng: np.random.Generator, grid: Grid, batch: int, blocks: Blocks, recipe: MaskRecipe) -> Hidden:
    """Places under blocks of one size, drawn for each clip, through all time: [B, N]."""
    inside = draw_blocks(rng, grid, batch, blocks, rng.uniform(*recipe.aspect))
    return np.tile(inside.any(1).reshape(batch, -1), (1, grid[0]))


def hide_most(rng: np.random.Generator, grid: Grid, batch: int, blocks: Blocks, recipe: MaskRecipe) -> Hidden:
    """As `hide_blocks`, drawn again for the clips of which too little stays visible."""
    hidden = hide_blocks(rng, grid, batch, blocks, recipe)
    for _ in range(1000):
        bare = (~hidden).mean(1) < recipe.min_context
        if not bare.any():
            return hidden
        hidden[bare] = hide_blocks(rng, grid, int(bare.sum()), blocks, recipe)
    raise ValueError(f"blocks leave too little of a grid {grid} visible: use a finer one, or causal masks alone")


def hide_future(rng: np.random.Generator, grid: Grid, batch: int) -> Hidden:
    """Everything from one tubelet on, at half time in half of the draws or more: [B, N]."""
    time, height, width = grid
    start = time // 2 if rng.random() < 0.5 else int(rng.integers(1, time))
    return np.tile(np.repeat(np.arange(time) >= start, height * width), (batch, 1))


def pick(rng: np.random.Generator, allowed: Hidden, cap: int) -> Tensor:
    """As many allowed places a clip as the clip with fewest has, at most `cap`, at random and sorted: int64 [B, K]."""
    count = min(cap, int(allowed.sum(1).min()))
    order = np.argsort(rng.random(allowed.shape) + ~allowed, axis=1)[:, :count]
    return torch.from_numpy(np.sort(order, axis=1))


def sample(rng: np.random.Generator, grid: Grid, batch: int, recipe: MaskRecipe) -> Mask:
    """One kind of mask for a batch, its places drawn for each clip."""
    kind, size = rng.random(), grid[0] * grid[1] * grid[2]
    future = kind < recipe.causal_share
    blocks = SHORT if kind < recipe.causal_share + recipe.short_share else LONG
    hidden = hide_future(rng, grid, batch) if future else hide_most(rng, grid, batch, blocks, recipe)
    return Mask(pick(rng, ~hidden, size), pick(rng, hidden, int(recipe.max_target * size)), future)


def multiblock(rng: np.random.Generator, grid: Grid, batch: int) -> Mask:
    """I-JEPA's: 4 blocks of .15-.2 of a picture (aspect .75-1.5), each told from what a block of .85-1 of it shows
    beside them (Assran et al. 2023, arXiv 2301.08243, section 3 and appendix A.1). Pictures only: one tubelet."""
    if grid[0] != 1:
        raise ValueError(f"a grid {grid} has {grid[0]} tubelets: multiblock masks are for pictures, one tubelet")
    seen = np.zeros((batch, 1), dtype=bool)
    while not seen.any(1).all():  # on a small picture four blocks may cover all: drawn again, as in the released code
        targets = draw_blocks(rng, grid, batch, Blocks(4, rng.uniform(0.15, 0.2)), rng.uniform(0.75, 1.5))
        context = draw_blocks(rng, grid, batch, Blocks(1, rng.uniform(0.85, 1.0)), 1.0)[:, 0]
        seen = (context & ~targets.any(1)).reshape(batch, -1)
    count = int(targets[0, 0].sum())
    places = np.nonzero(targets.reshape(batch * 4, -1))[1].reshape(batch, 4 * count)
    return Mask(pick(rng, seen, seen.shape[1]), torch.from_numpy(places), blocks=4)


def tubes(rng: np.random.Generator, grid: Grid, batch: int, share: float) -> Mask:
    """A share of the picture's patches, scattered, hidden through all time: VideoMAE's, and MAE's on one tubelet."""
    time, height, width = grid
    shown = max(1, round((1 - share) * height * width))
    order = np.argsort(rng.random((batch, height * width)), axis=1)
    hidden = np.tile(order.argsort(1) >= shown, (1, time))  # [B, N]
    return Mask(pick(rng, ~hidden, hidden.shape[1]), pick(rng, hidden, hidden.shape[1]))


def ahead(grid: Grid, batch: int) -> Mask:
    """For autoregression: all tubelets but the last are seen, all but the first are told from those before them."""
    time, height, width = grid
    if time < 2:
        raise ValueError(f"a grid {grid} has one tubelet: nothing follows it; use clips of two tubelets or more")
    places = torch.arange(time * height * width).expand(batch, -1)
    return Mask(places[:, : -height * width], places[:, height * width :], future=True)
