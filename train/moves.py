"""Pictures moved, zoomed, mirrored and lit anew each time they are drawn, and where what they show lies then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float32]
EDGE = 0.06
"""What lies nearer to the edge, in pictures, is half cut off."""


@dataclass(frozen=True)
class Moves:
    """What is done to each of B clips.

    scale [B, 2]: how far apart columns and rows of the new picture lie in the old one, columns below 0 where it is
    mirrored; shift [B, 2]: where its middle was, in half pictures from the old middle; gain [B, 3]: of red, green and
    blue; lift [B]: what is added to all of them, of 255.
    """

    scale: Floats
    shift: Floats
    gain: Floats
    lift: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int, sides: Sequence[float] = (-1.0, 1.0)) -> Moves:
        """Up to 1.28 times larger or smaller and .15 pictures to every side; sides: below 0 for mirrored."""
        zoom, side = np.exp(rng.uniform(-0.25, 0.25, count)), rng.choice(sides, count)
        shift = rng.uniform(-0.3, 0.3, (count, 2))
        gain = np.exp(rng.uniform(-0.25, 0.25, (count, 1)) + rng.uniform(-0.08, 0.08, (count, 3)))
        parts = np.stack([side / zoom, 1 / zoom], axis=1), shift, gain, rng.uniform(-15, 15, count)
        return cls(*(part.astype(np.float32) for part in parts))

    @classmethod
    def mirror(cls, rng: np.random.Generator, places: Tensor, tries: int = 16) -> Moves:
        """One that mirrors a clip and keeps these places [K, 2] off the edge if they were in the picture; where none of
        `tries` draws can, the one that keeps most."""
        drawn = cls.draw(rng, tries, sides=(-1.0,))
        outside = ((places < 0) | (places >= 1)).any(-1)  # [K]
        there = drawn.places(places.expand(tries, -1, -1))
        kept = ((there > EDGE) & (there < 1 - EDGE)).all(-1) | outside  # [tries, K]
        best = int(np.argmax(kept.sum(-1).numpy()))
        return drawn.part(slice(best, best + 1))

    @classmethod
    def join(cls, parts: Sequence[Moves]) -> Moves:
        """Of several sets of clips, one after the other."""
        return cls(*(np.concatenate([getattr(one, name.name) for one in parts]) for name in fields(cls)))

    def part(self, mine: slice) -> Moves:
        """Those of some of the clips."""
        return Moves(self.scale[mine], self.shift[mine], self.gain[mine], self.lift[mine])

    def frames(self, frames: Tensor) -> Tensor:
        """uint8 [B, T, S, S, 3] -> the same; what comes in from outside continues the edge."""
        count, time = frames.shape[:2]
        matrix = torch.cat([torch.diag_embed(torch.from_numpy(self.scale)), torch.from_numpy(self.shift)[..., None]], 2)
        flat = frames.flatten(0, 1).movedim(-1, 1).float()  # [B * T, 3, S, S]
        grid = F.affine_grid(matrix.repeat_interleave(time, 0), list(flat.shape), align_corners=False)
        moved = F.grid_sample(flat, grid, padding_mode="border", align_corners=False).unflatten(0, (count, time))
        gain, lift = torch.from_numpy(self.gain)[:, None, :, None, None], torch.from_numpy(self.lift)
        lit: Tensor = moved * gain + lift.view(-1, 1, 1, 1, 1)
        return lit.movedim(2, -1).clamp(0, 255).round().to(torch.uint8)

    def places(self, places: Tensor) -> Tensor:
        """Where things lie now: [B, K, P], the first two of P across and down, in pictures; NaN stays NaN."""
        scale, shift = (torch.from_numpy(part)[:, None] for part in (self.scale, self.shift))
        here = ((2 * places[..., :2] - 1 - shift) / scale + 1) / 2
        return torch.cat([here, places[..., 2:]], dim=-1)
