"""Pictures moved, mirrored, lit and framed anew each time they are drawn, and where what they show lies then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float32]
EDGE = 0.06
"""What lies nearer to the edge, in pictures, is half cut off."""
GRAINS = 1 << 20
"""Places in the noise from which a clip may take its own."""


@dataclass(frozen=True)
class Moves:
    """What is done to each of B clips.

    scale [B, 2]: how far apart columns and rows of the new picture lie in the old one, columns below 0 where it is
    mirrored; shift [B, 2]: where its middle was, in half pictures from the old middle; gain [B, 3]: of red, green and
    blue; lift [B]: what is added to all of them, of 255; contrast, saturation [B]: 1 as they were; noise [B]: its
    standard deviation, of 255; grain [B]: which noise; bars [B, 2]: what is black at both sides, and above and below,
    in pictures.
    """

    scale: Array
    shift: Array
    gain: Array
    lift: Array
    contrast: Array
    saturation: Array
    noise: Array
    grain: Array
    bars: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, sides: Sequence[float] = (-1.0, 1.0)) -> Moves:
        """Up to 1.4 times smaller or 1.28 larger, and .15 pictures to every side; about one in four stays where it is,
        one in four stays lit as it is. sides: below 0 for mirrored."""
        far, changed = rng.uniform(-0.33, 1, (2, count, 1)).clip(0)  # how much of it all
        zoom, side = np.exp(far[:, 0] * rng.uniform(-0.35, 0.25, count)), rng.choice(sides, count)
        shift = far * rng.uniform(-0.3, 0.3, (count, 2))
        gain = np.exp(changed * (rng.uniform(-0.25, 0.25, (count, 1)) + rng.uniform(-0.08, 0.08, (count, 3))))
        lift = changed[:, 0] * rng.uniform(-15, 15, count)
        contrast, saturation = np.exp(changed * rng.uniform((-0.5, -0.6), (0.3, 0.4), (count, 2))).T
        noise, grain = 14 * changed[:, 0] * rng.random(count) ** 2, rng.integers(GRAINS, size=count)
        bars = rng.uniform(0, 0.14, (count, 1)) * (rng.integers(6, size=(count, 1)) == np.arange(2))
        parts = np.stack([side / zoom, 1 / zoom], 1), shift, gain, lift, contrast, saturation, noise, grain, bars
        return cls(*(part.astype(np.float32) for part in parts))

    @classmethod
    def keeping(
        cls, rng: np.random.Generator, places: Tensor, sides: Sequence[float] = (-1.0, 1.0), tries: int = 12
    ) -> Moves:
        """For each clip one that keeps its places [B, K, >= 2] off the edge if they were in the picture (NaN: they were
        not); where none of `tries` draws can, the one that keeps most."""
        count, here = len(places), places[..., :2]
        drawn = cls.draw(rng, tries * count, sides)
        outside = ~((here >= 0) & (here < 1)).all(-1)  # [B, K]
        there = drawn.places(here.repeat(tries, 1, 1))  # [tries * B, K, 2]
        edge = EDGE + torch.from_numpy(drawn.bars)[:, None]
        inside = ((there > edge) & (there < 1 - edge)).all(-1) | outside.repeat(tries, 1)
        best = inside.sum(-1).view(tries, count).numpy().argmax(0)  # [B]
        return drawn.part(best * count + np.arange(count))

    @classmethod
    def join(cls, parts: Sequence[Moves]) -> Moves:
        """Of several sets of clips, one after the other."""
        return cls(*(np.concatenate([getattr(one, name.name) for one in parts]) for name in fields(cls)))

    def part(self, mine: slice | NDArray[np.int64]) -> Moves:
        """Those of some of the clips."""
        return Moves(*(getattr(self, name.name)[mine] for name in fields(self)))

    @property
    def mirrored(self) -> Tensor:
        """Which clips are mirrored: bool [B]."""
        return torch.from_numpy(self.scale[:, 0] < 0)

    def frames(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, S, S, 3] -> the same, on its device; what comes in from outside continues the edge."""

        def wide(part: Array) -> Tensor:
            """[B] or [B, 3] beside pictures [B, T, 3, S, S]."""
            return torch.from_numpy(part.reshape(len(part), 1, -1, 1, 1)).to(frames.device)

        moved = self._moved(frames)
        lit = moved * wide(self.gain) + wide(self.lift)
        lit = (lit - lit.mean(2, keepdim=True)) * wide(self.saturation) + lit.mean(2, keepdim=True)
        lit = (lit - 127.5) * wide(self.contrast) + 127.5 + self._grains(lit) * wide(self.noise)
        return self._framed(lit).movedim(2, -1).clamp(0, 255).round().to(torch.uint8)

    def _moved(self, frames: Tensor) -> Tensor:
        """float32 [B, T, 3, S, S]"""
        count, time = frames.shape[:2]
        matrix = torch.cat([torch.diag_embed(torch.from_numpy(self.scale)), torch.from_numpy(self.shift)[..., None]], 2)
        flat = frames.flatten(0, 1).movedim(-1, 1).float()  # [B * T, 3, S, S]
        grid = F.affine_grid(matrix.repeat_interleave(time, 0).to(flat.device), list(flat.shape), align_corners=False)
        moved = F.grid_sample(flat, grid, padding_mode="border", align_corners=False)
        return moved.view(count, time, *moved.shape[1:])

    def _grains(self, like: Tensor) -> Tensor:
        """Noise of deviation 1 in the shape of pictures: the same for a clip whatever it is drawn beside."""
        count = like[0].numel()
        begin = torch.from_numpy(self.grain).long().to(like.device)
        drawn: Tensor = noise(count, like.device).unfold(0, count, 1)[begin]
        return drawn.view(like.shape)

    def _framed(self, pictures: Tensor) -> Tensor:
        """Black where the bars are: [B, T, 3, S, S] -> the same."""
        size = pictures.shape[-1]
        place = (torch.arange(size) + 0.5) / size
        across, down = ((place > bar) & (place < 1 - bar) for bar in torch.from_numpy(self.bars.T)[..., None])  # [B, S]
        shown = (down[:, :, None] & across[:, None, :])[:, None, None]
        framed: Tensor = pictures * shown.to(pictures.device)
        return framed

    def places(self, places: Tensor) -> Tensor:
        """Where things lie now, and how far they go: [B, K, P], a place (across, down) in pictures, then moves from it;
        NaN stays NaN."""
        scale, shift = (torch.from_numpy(part)[:, None] for part in (self.scale, self.shift))
        here = ((2 * places[..., :2] - 1 - shift) / scale + 1) / 2
        return torch.cat([here, places[..., 2:] / scale.repeat(1, 1, places.shape[-1] // 2 - 1)], dim=-1)


@cache
def noise(count: int, device: torch.device) -> Tensor:
    """Normal numbers, enough for pictures of `count` from any of GRAINS places on."""
    drawn: Tensor = torch.randn(count + GRAINS, generator=torch.Generator().manual_seed(0))
    return drawn.to(device)
