"""Surprise: how wrong a model's expectation of the coming frames was, window after window of a video.

The protocol is that of Garrido et al. 2025 (arXiv 2502.11831; facebookresearch/jepa-intuitive-physics,
evaluation_code/evals/intuitive_physics/eval.py): windows slide by one tubelet, the start of each is the context, of
several lengths, and what the model expects of the rest is compared with what came, by L1. Where that code zeroes what
VideoMAE predicts, models of pixels are here held to their real predictions.
Shapes: n frames, W windows, C contexts, T tubelets a window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from ..perception.encoder import VJEPA2World, grid_of, no_future, normalise, resize, tapped
from ..perception.predictor import BLOCKS, misses, predict, surprise, unroll
from ..perception.video import OVERSAMPLE, Clip, read_clip
from ..reasoner.answer import NANO
from ..reasoner.llm import ANEW, quiet, unbroken
from ..train import checkpoint
from ..train.learner import OBJECTIVES
from ..train.objectives import Student, patches, pixels_of

Floats = NDArray[np.float64]
STANDS_OUT = 3.5  # robust z-score from which a value is an outlier (Iglewicz & Hoaglin 1993)
NOISE = 1e-6  # a spread of surprise below this is rounding
TOKENS_AT_ONCE = 10_240  # in one forward pass, unless a window alone has more
NEXT = {"pixel_ar": patches, "pixel_ar_raw": pixels_of}  # what models tell that foresee the next tubelet only
CONTEXTS = 6  # at most, evenly spaced: the published configurations have 5 or 6
STRIP = 12  # frames under a curve


@dataclass(frozen=True)
class Watcher:
    """A model that expects what comes, in features or, where the student has a head for them, in pixels.

    objective: the name of what it was pretrained with. rate: frames a second.
    """

    student: Student
    objective: str
    rate: float

    @property
    def config(self) -> VJEPA2Config:
        return self.student.jepa.config

    @property
    def window(self) -> int:
        """Frames that it sees at once."""
        return int(self.config.frames_per_clip)

    @property
    def tubelet(self) -> int:
        """Frames a tubelet."""
        return int(self.config.tubelet_size)

    @property
    def at_once(self) -> int:
        """Windows in one forward pass."""
        return max(1, TOKENS_AT_ONCE // math.prod(grid_of(self.config)))

    def foresee(self, pixels: Tensor, contexts: Sequence[int]) -> Tensor:
        """How wrong it is: pixels [B, T, 3, S, S] -> [B, C, t], NaN where a tubelet was shown or is not foretold."""
        if self.student.head is None:
            return surprise(self.student.jepa, pixels, contexts)
        if self.objective in NEXT:
            return next_pixels(self.student, pixels, contexts, NEXT[self.objective])
        return hidden_pixels(self.student, pixels, contexts)

    def untrained(self, seed: int = 0) -> Watcher:
        """The same shape, encoder, predictor and head, with nothing learned."""
        torch.manual_seed(seed)
        student = Student(VJEPA2Model(self.config), self.student.head is not None)
        return Watcher(student.eval().requires_grad_(False), self.objective, self.rate)


def hidden_pixels(student: Student, pixels: Tensor, contexts: Sequence[int]) -> Tensor:
    """L1 between the standardised pixels that a masked autoencoder tells of the rest and those that came: [B, C, t]."""
    model = student.jepa

    def tell(known: Tensor, past: Tensor, future: Tensor) -> Tensor:
        return student.pixels(predict(model, known, past, future, BLOCKS))

    return misses(model, pixels, patches(pixels, model.config), contexts, tell).mean((3, 4))


def next_pixels(
    student: Student, pixels: Tensor, contexts: Sequence[int], wanted: Callable[[Tensor, VJEPA2Config], Tensor]
) -> Tensor:
    """As `hidden_pixels`, of a model that tells each tubelet from all before it: it foretells the next one only.

    wanted: the form of pixels that it learned to tell.
    """
    config = student.jepa.config
    time, height, width = grid_of(config)
    came = wanted(pixels, config)  # [B, N, P]
    positions = torch.arange(came.shape[1] - height * width)
    places, visible = positions.expand(len(pixels), -1), no_future(positions, student.jepa)
    (known,) = tapped(student.jepa, pixels, (config.num_hidden_layers,), keep=places, visible=visible)
    told = student.pixels(unroll(student.jepa, known, places, visible))
    distance = (told - came[:, height * width :]).abs().mean(-1)  # [B, N - h w]
    by_tubelet: Tensor = distance.unflatten(1, (time - 1, -1)).mean(2)  # [B, t - 1]
    errors = came.new_full((len(pixels), len(contexts), time), torch.nan)
    for row, context in enumerate(contexts):
        errors[:, row, context] = by_tubelet[:, context - 1]
    return errors


def open_watcher(model: str | Path | None) -> Watcher:
    """From an encoder's folder or Hub id, a Foretell model's folder, or the folder of a pretraining run (None: the
    embedded encoder). Raises ValueError where there is none, or a damaged one, or one of single frames: nothing
    follows them."""
    folder = Path(model or NANO)
    encoder = folder / "encoder" if (folder / "encoder").is_dir() else folder
    if not (encoder / "config.json").is_file() and (folder.exists() or "/" not in str(model)):
        raise ValueError(f"{model}: no encoder there (no config.json): name a folder or a hub id like owner/name")
    with quiet(), unbroken(encoder, ANEW):
        world = VJEPA2World.from_pretrained(encoder)
    if world.grid[0] < 2:
        raise ValueError(f"{model} sees single frames and expects nothing of the next: give an encoder of clips")
    run = checkpoint.latest(folder / "checkpoints")
    objective = run.state["recipe"]["objective"] if run is not None else "vjepa"
    student = Student(world.model, OBJECTIVES[objective].pixels)
    if run is not None and student.head is not None:
        student.load_state_dict(checkpoint.under("student", run.tensors))
    return Watcher(student.eval().requires_grad_(False), objective, world.rate)


def contexts_of(watcher: Watcher, window: int, context: int | None) -> list[int]:
    """Contexts in tubelets, from one in frames (None: up to CONTEXTS). Raises ValueError for what does not fit."""
    tubelet = watcher.tubelet
    if window % tubelet or not 2 * tubelet <= window <= watcher.window:
        raise ValueError(f"a window of {window} frames: multiples of {tubelet} up to {watcher.window} are allowed")
    if watcher.student.head is not None and window != watcher.window:
        raise ValueError(f"a window of {window} frames: a model of pixels sees {watcher.window} at once, no fewer")
    allowed = range(tubelet, window, tubelet)
    if context is not None and context not in allowed:
        raise ValueError(f"a context of {context} frames: {', '.join(map(str, allowed))} are allowed")
    spread: list[int] = np.unique(np.linspace(1, len(allowed), CONTEXTS).round().astype(int)).tolist()
    return spread if context is None else [context // tubelet]


def sliding(frames: Tensor, window: int, step: int) -> Tensor:
    """Windows of frames [n, S, S, 3] that begin `step` frames apart: [W, window, S, S, 3]."""
    return frames.unfold(0, window, step).permute(0, 4, 1, 2, 3)


@torch.no_grad()
def errors_of(watcher: Watcher, windows: Tensor, contexts: Sequence[int]) -> Floats:
    """How wrong each expectation was: windows uint8 [W, F, S, S, 3] -> [W, C, T], NaN where nothing was foretold."""
    parts = [watcher.foresee(normalise(part), contexts) for part in windows.split(watcher.at_once)]
    return torch.cat(parts).double().numpy()


def curve(errors: Floats) -> Floats:
    """Surprise at each tubelet of the video that was foretold, the last of them: [W, C, T] -> [at most W + T - 1].

    The mean over all windows and contexts that foretold it of how far the error lies above that context's usual one so
    far ahead (the median over windows), plus the mean of all usual ones: else the ends of a video, which fewer and
    other forecasts reach, would stand out.
    """
    foretold = ~np.isnan(errors[0])  # [C, T]
    usual = np.median(errors[:, foretold], axis=0)  # [forecasts of a window]
    ahead = np.nonzero(foretold)[1]  # which tubelet of the window each of them is about
    above, count = np.zeros((2, len(errors) + errors.shape[2] - 1))
    for window, found in enumerate(errors[:, foretold]):
        np.add.at(above, window + ahead, found - usual)
        np.add.at(count, window + ahead, 1)
    first = int(ahead.min())
    return np.asarray(above[first:] / count[first:] + usual.mean())


@dataclass(frozen=True)
class Surprise:
    """Surprise of a video over time: seconds [K] at which the tubelets begin, and how surprising each was [K].

    errors [W, C, T]: what it was made from. clip: the frames that were watched, at the model's rate.
    """

    clip: Clip
    seconds: Floats
    values: Floats
    errors: Floats

    @property
    def break_at(self) -> int:
        """The most surprising tubelet: where the world broke, if it did."""
        return int(self.values.argmax())

    @property
    def z(self) -> float:
        """How far that one stands out: its distance from the median in robust standard deviations (from the MAD)."""
        away = self.values - np.median(self.values)
        spread = 1.4826 * float(np.median(np.abs(away)))
        return float(away.max() / max(spread, NOISE)) if away.max() > NOISE else 0.0

    @property
    def broke(self) -> bool:
        return self.z >= STANDS_OUT

    def told(self) -> dict[str, Any]:
        """As JSON values; average and maximum over windows are the published scores of a whole video."""
        windows = np.nanmean(self.errors, axis=(1, 2))
        points = [
            {"seconds": round(second, 6), "surprise": value}
            for second, value in zip(self.seconds.tolist(), self.values.tolist(), strict=True)
        ]
        most = {**points[self.break_at], "z": self.z}
        return {
            "broke": self.broke, "most_surprising": most, "average": float(windows.mean()),
            "maximum": float(windows.max()), "shown": self.clip.shown, "duration": self.clip.duration, "curve": points,
        }  # fmt: skip


def read_all(path: str | Path, watcher: Watcher, until: float | None, window: int) -> Clip:
    """A video up to `until` on the model's time grid; one shorter than the window repeats its first frame."""
    last = read_clip(path, rate=watcher.rate, count=1, until=until, size=watcher.config.crop_size)
    count = int((last.shown + 1e-3) * watcher.rate) + 1  # frames appear up to 1 ms late (DESIGN, Frames shown)
    size = OVERSAMPLE * int(watcher.config.crop_size)
    return read_clip(path, rate=watcher.rate, count=max(window, count), until=until, size=size)


def watch_video(
    path: str | Path, watcher: Watcher, until: float | None = None, context: int | None = None,
    window: int | None = None, track: Callable[[Sequence[Tensor]], Iterator[Tensor]] = iter,
) -> Surprise:  # fmt: skip
    """Watch a video file and note what was not expected. context, window: in frames at the model's rate.

    Raises VideoError for the file, ValueError for what does not fit the model.
    """
    window = watcher.window if window is None else window
    contexts = contexts_of(watcher, window, context)
    clip = read_all(path, watcher, until, window)
    spare = (len(clip.frames) - window) % watcher.tubelet  # the grid ends at the last frame, so it is cut at its start
    shots = torch.from_numpy(clip.frames[spare:]).split(watcher.at_once)
    squares = torch.cat([resize(shot, int(watcher.config.crop_size)) for shot in shots])
    parts = sliding(squares, window, watcher.tubelet).split(watcher.at_once)
    errors = np.concatenate([errors_of(watcher, part, contexts) for part in track(parts)])
    values = curve(errors)
    return Surprise(clip, clip.times[spare :: watcher.tubelet][-len(values) :], values, errors)


def save_plot(found: Surprise, path: str | Path) -> None:
    """The curve above a strip of frames, the most surprising moment marked, as an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * STRIP, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.6, 1.2])
    above, below = parts
    axes = above.subplots()
    axes.plot(found.seconds, found.values, marker="o", ms=3, color="tab:blue")
    axes.axvline(found.seconds[found.break_at], color="tab:red", lw=1, ls="-" if found.broke else ":")
    axes.set(xlabel="seconds", ylabel="surprise (L1)", title=sentence(found))
    axes.spines[["top", "right"]].set_visible(False)
    picked = np.unique(np.linspace(0, len(found.clip.frames) - 1, STRIP).round().astype(int))
    for cell, place in zip(below.subplots(1, len(picked), squeeze=False)[0], picked, strict=True):
        cell.imshow(found.clip.frames[place])
        cell.set_title(f"{found.clip.times[place]:.2f} s", fontsize=8)
        cell.set_axis_off()
    figure.savefig(path)


def sentence(found: Surprise) -> str:
    """In words, what stands out, or that nothing does."""
    when = f"most surprising at {found.seconds[found.break_at]:.2f} s (robust z {found.z:.1f})"
    return f"{when}: something broke" if found.broke else f"{when}: nothing stands out"
