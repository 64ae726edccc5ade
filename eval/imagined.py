"""Imagining in pixels, beside imagining in features: a film of what comes next, watched by the same frozen encoder.

V-JEPA's predictor tells the encoder's features of what follows. A model that draws the next tubelet from those before
it (objective pixel_ar_raw) can go on drawing, and the encoder that watches its film says the same of it, at the same
places and in the same form: the bridge and all behind it cannot tell which of the two it reads but by how good it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import VJEPA2Model

from ..bridge.cache import pixels_for
from ..perception.encoder import VJEPA2World, grid_of, no_future, normalise, tapped
from ..perception.predictor import expected_form, target_levels, unroll
from ..reasoner.answer import Foretell, Frames
from ..train.learner import live_copy, train_device
from ..train.objectives import Student, film_of
from .surprise import open_watcher

OBJECTIVE = "pixel_ar_raw"


def open_painter(run: str | Path, like: VJEPA2World) -> Student:
    """A model of pixels from the folder of its pretraining run, for films that an encoder can watch.

    Raises ValueError for what is no run, a run of another objective, and for another window than the encoder's.
    """
    if not Path(run, "checkpoints").is_dir():
        raise ValueError(f"{run}: no pretraining run there (no checkpoints): name what `foretell pretrain --out` wrote")
    watcher = open_watcher(run)
    if watcher.objective != OBJECTIVE:
        raise ValueError(f"{run} was pretrained with {watcher.objective}: films are drawn by {OBJECTIVE}, so give one")
    ours, theirs = (
        (grid_of(one), one.crop_size, one.frames_per_clip) for one in (watcher.config, like.model.config)
    )  # fmt: skip
    if ours != theirs or watcher.rate != like.rate:
        raise ValueError(
            f"{run} draws {ours[2]} frames of {ours[1]} pixels at {watcher.rate:g} a second, the encoder watches "
            f"{theirs[2]} of {theirs[1]} at {like.rate:g}: pretrain it in the encoder's shape"
        )
    return live_copy(watcher.student).to(train_device())


@torch.no_grad()
def film_ahead(painter: Student, pixels: Tensor) -> Tensor:
    """The window moved on by its later half, which is drawn tubelet by tubelet: normalised [B, T, 3, S, S], the same.

    What is drawn is kept to the colours that a picture can have.
    """
    model = painter.jepa
    time, height, width = grid_of(model.config)
    frames, shown = int(model.config.tubelet_size), time // 2
    seen = pixels[:, -shown * frames :].to(model.dtype)
    film = torch.cat([seen, torch.zeros_like(pixels[:, : (time - shown) * frames], dtype=model.dtype)], dim=1)
    black, white = (normalise(torch.full((1, 1, 1, 1, 3), value, device=pixels.device)) for value in (0, 255))
    for tubelet in range(shown, time):
        positions = torch.arange(tubelet * height * width, device=pixels.device)
        places, visible = positions.expand(len(pixels), -1), no_future(positions, model)
        (known,) = tapped(model, film, (model.config.num_hidden_layers,), keep=places, visible=visible)
        told = painter.pixels(unroll(model, known, places, visible)[:, -height * width :])
        drawn = film_of(told.float(), model.config).clamp(black, white)
        film[:, tubelet * frames : (tubelet + 1) * frames] = drawn.to(film.dtype)
    return film


@torch.no_grad()
def expected(model: VJEPA2Model, painter: Student, pixels: Tensor) -> Tensor:
    """What a frozen encoder sees in the drawn half of `film_ahead`, in the form of its predictor's telling.

    pixels: normalised [B, T, 3, S, S]; returns [B, M, D] in (t, y, x) order, as `imagine` does.
    """
    film = film_ahead(painter, pixels)
    seen = expected_form(tapped(model, film.to(pixels.dtype), target_levels(model)))
    time, height, width = grid_of(model.config)
    return seen[:, (time // 2) * height * width :]


@torch.no_grad()
def seen_and_drawn(
    model: VJEPA2Model, taps: tuple[int, ...], painter: Student, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """World features [B, N, C] of clips [B, T, 3, S, S], and what a film shows of what comes next [B, M, D]."""
    return torch.cat(tapped(model, pixels, taps), dim=-1), expected(model, painter, pixels)


def watch_film(painter: Student, encoder: VJEPA2World, frames: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """As the cache's `watch`, of clips uint8 [T, H, W, 3] each."""
    return seen_and_drawn(encoder.model, encoder.taps, painter, pixels_for(encoder, frames))


class Filming(Foretell):
    """A model that reads what comes next off a film, not off its predictor."""

    def __init__(self, of: Foretell, painter: Student) -> None:
        super().__init__(of.model, of.processor, of.calibration)
        self.painter = painter

    def watch(self, clip: Frames) -> tuple[Tensor, Tensor | None]:
        """As a Foretell does."""
        encoder = self.model.encoder
        pixels = self.pixels(clip).to(encoder.device, encoder.dtype)
        return seen_and_drawn(encoder, tuple(self.model.config.taps), self.painter, pixels)
