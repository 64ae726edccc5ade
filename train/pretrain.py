"""Self-supervised pretraining of system 1 on memory-mapped clips, one loop for all objectives, resumable to the bit."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, VJEPA2Model

from ..perception.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Eyes,
    grid_of,
    normalise,
    seen,
    tapped,
    window_of,
)
from ..perception.gauges import centred_rank, effective_rank, feature_std, lidar, ridge_probe, spectrum_decay
from ..perception.predictor import expected_form, halves, predict, target_levels
from . import checkpoint
from .alarm import LOOK_EVERY, Alarm
from .flops import gemm_peak
from .learner import (
    Learner,
    build,
    learn,
    learning_rate,
    meet,
    meeting,
    momentum,
    objective_of,
    ranked,
    step_flops,
    train_device,
    train_dtype,
)
from .masks import Mask
from .monitor import Log, Spent, check_tracker, progress_bar
from .provenance import machine, weights_mark
from .recipes import PretrainRecipe, plain

T = TypeVar("T")
Rows = NDArray[np.int64]
Clips = NDArray[np.uint8]  # [N, F, S, S, 3]
Labels = NDArray[np.float32]  # [N, K], NaN where unknown
AHEAD = 4
"""Batches that are drawn at once for an accelerator, which takes several in the time that one thread draws one; a CPU's
cores have enough to do."""
LOOKED_AT = 16
"""Held-out clips that the alarm looks at: a few thousand tokens."""


@dataclass(frozen=True)
class Split:
    """The clips that are trained on and those that are only measured, as rows of the data."""

    train: Rows
    held_out: Rows


def open_array(path: Path) -> NDArray[Any]:
    """Memory-map the array of a .npy. Raises ValueError for what holds none, or several."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except EOFError:
        raise ValueError(f"{path} is empty: name a .npy with one array") from None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path} is an .npz of named arrays: save the one that is meant with np.save, as a .npy")
    return found


def open_clips(path: Path, window: int, size: int) -> Clips:
    """Memory-map clips, uint8 [N, F, S, S, 3], and refuse those this encoder cannot see."""
    clips: Clips = open_array(path)
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1] < window or clips.shape[2:] != (size, size, 3):
        raise ValueError(
            f"{path} holds {clips.dtype} {clips.shape}; this recipe's encoder wants uint8 [N, F, {size}, {size}, 3] "
            f"with at least {window} frames F: render or decode the clips so"
        )
    return clips


def split_rows(count: int, held_out: int, seed: int) -> Split:
    """At most a tenth of the rows, at random, are held out."""
    rows = np.random.default_rng(seed).permutation(count)
    cut = min(held_out, max(1, count // 10))
    return Split(np.sort(rows[cut:]), np.sort(rows[:cut]))


def chosen(rows: Rows, recipe: PretrainRecipe) -> Rows:
    """The rows that a recipe learns from: all, or so many at random that fewer are a part of more."""
    return np.sort(np.random.default_rng(recipe.seed).permutation(rows)[: recipe.clips]) if recipe.clips else rows


def open_labels(path: Path | None, split: Split) -> Labels | None:
    """The labels of the held-out rows, float [n, K], of a .npy that has one row a clip."""
    if path is None:
        return None
    labels = open_array(path)
    count = len(split.train) + len(split.held_out)
    if labels.ndim != 2 or len(labels) != count:
        raise ValueError(f"{path} holds labels {labels.shape}; the probe wants [{count}, K], one row a clip")
    held_out: Labels = labels[split.held_out].astype(np.float32)
    return held_out


def draw_windows(rng: np.random.Generator, count: int, frames: int, window: int, early_share: float) -> Rows:
    """Frame numbers of `count` windows [count, window]: a share begins before the clip and repeats its first frame."""
    start = rng.integers(0, frames - window + 1, count)
    early = rng.random(count) < early_share
    start[early] = -rng.integers(1, max(2, window), int(early.sum()))
    rows: Rows = np.maximum(start[:, None] + np.arange(window), 0)
    return rows


def augment(
    rng: np.random.Generator, frames: Clips, recipe: PretrainRecipe, device: torch.device | None = None
) -> Tensor:
    """Clips as the student and teacher see them: mirrored, tinted, noisy and normalised, one draw a clip.

    frames: uint8 [B, T, H, W, 3] -> float32 [B, T, 3, H, W], made on `device` (the CPU by default): noise for every
    pixel takes a CPU's core longer to draw than an accelerator to learn from it.
    """
    batch = len(frames)
    mirrored = rng.random(batch) < 0.5
    contrast = 1 + recipe.contrast * rng.uniform(-1, 1, (batch, 1))
    light = 1 + recipe.brightness * rng.uniform(-1, 1, (batch, 1)) + recipe.colour * rng.uniform(-1, 1, (batch, 3))
    gain, offset = contrast * light / 255, (1 - contrast) * light / 2
    strength = recipe.noise * rng.random((batch, 1))
    noise = torch.Generator(device or "cpu").manual_seed(int(rng.integers(2**63)))

    def each(values: NDArray[Any]) -> Tensor:
        """A number or a colour for every clip: [B, 1 or 3] -> [B, 1, 1, 1, 1 or 3]."""
        return torch.as_tensor(values, device=device)[:, None, None, None]

    seen = torch.as_tensor(frames, device=device)
    pixels = torch.randn(frames.shape, generator=noise, device=device).mul_(each(strength.astype(np.float32)))
    pixels += torch.where(each(mirrored[:, None]), seen.flip(3), seen) * each(gain.astype(np.float32))
    pixels += each(offset.astype(np.float32))
    pixels.clamp_(0, 1).sub_(torch.tensor(IMAGENET_MEAN, device=device)).div_(torch.tensor(IMAGENET_STD, device=device))
    return pixels.permute(0, 1, 4, 2, 3).contiguous()


def generator(step: int, recipe: PretrainRecipe) -> np.random.Generator:
    """What everything of a step is drawn from."""
    return np.random.default_rng([recipe.seed, step])


def draw_rows(rng: np.random.Generator, rows: Rows, recipe: PretrainRecipe) -> Rows:
    """Which clips a batch is made of: the first that is drawn."""
    return np.sort(rng.choice(rows, recipe.batch, replace=len(rows) < recipe.batch))


def draw(step: int, clips: Clips, rows: Rows, config: PreTrainedConfig, recipe: PretrainRecipe) -> tuple[Tensor, Mask]:
    """The batch of a step, a function of the seed and the step alone: resuming needs no data position."""
    rng = generator(step, recipe)
    chosen = draw_rows(rng, rows, recipe)
    windows = draw_windows(rng, recipe.batch, clips.shape[1], window_of(config).frames, recipe.early_share)
    frames = np.stack([clips[row][window] for row, window in zip(chosen, windows, strict=True)])
    pixels = augment(rng, frames, recipe, train_device())
    return pixels, objective_of(recipe).draw(rng, grid_of(config), recipe.batch, recipe)


def part(batch: tuple[Tensor, Mask], rank: int, count: int) -> tuple[Tensor, Mask]:
    """One rank's clips of a batch that all ranks draw alike."""
    pixels, mask = batch
    mine = slice(rank, None, count)
    return pixels[mine], mask.rows(mine)


def prefetched(make: Callable[[int], T], start: int, stop: int, ahead: int) -> Iterator[tuple[int, T]]:
    """Each step with what `make` gives for it, the next ones being made, each in a thread, while this one is used."""
    with ThreadPoolExecutor(ahead, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = deque(pool.submit(make, step) for step in range(start, min(start + ahead, stop)))
        for step in range(start, stop):
            ready = coming.popleft().result()
            if step + ahead < stop:
                coming.append(pool.submit(make, step + ahead))
            yield step, ready


def save_learner(folder: Path, step: int, learner: Learner, alarm: Alarm, spent: Spent, origin: dict[str, str]) -> None:
    """One checkpoint of everything that resuming needs."""
    optimizer, optimizer_state = checkpoint.pack_optimizer(learner.optimizer)
    rng, rng_state = checkpoint.pack_rng()
    parts = {"student": learner.student.state_dict(), "optimizer": optimizer, "rng": rng}
    if learner.average is not None:
        parts["average"] = learner.average.state_dict()
    tensors = {n: t for part, held in parts.items() for n, t in checkpoint.prefixed(part, held).items()}
    state = {"optimizer": optimizer_state, "rng": rng_state, "recipe": plain(alarm.recipe), "spent": asdict(spent)}
    checkpoint.save(folder, step, tensors, state | {"alarm": alarm.state(), "origin": origin})


def load_learner(saved: checkpoint.Checkpoint, learner: Learner) -> None:
    """Put a learner back where a checkpoint found it."""
    learner.student.load_state_dict(checkpoint.under("student", saved.tensors))
    if learner.average is not None:
        learner.average.load_state_dict(checkpoint.under("average", saved.tensors))
    checkpoint.unpack_optimizer(
        learner.optimizer, checkpoint.under("optimizer", saved.tensors), saved.state["optimizer"]
    )
    checkpoint.unpack_rng(checkpoint.under("rng", saved.tensors), saved.state["rng"])


@torch.no_grad()
def features_of(model: Eyes, frames: Clips, levels: tuple[int, ...]) -> list[Tensor]:
    """Hidden states [n, N, D] at `levels` of clips uint8 [n, T, H, W, 3], 64 at a time."""
    batches = torch.from_numpy(frames).split(64)
    states = [seen(model, normalise(batch.to(model.device)), levels) for batch in batches]
    return [torch.cat(level).cpu() for level in zip(*states, strict=True)]


def last_tokens(model: Eyes, frames: Clips) -> Tensor:
    """The last features of all tokens of clips uint8 [n, T, H, W, 3]: [n * N, D]."""
    (last,) = features_of(model, frames, (model.config.num_hidden_layers,))
    return last.flatten(0, 1)


@torch.no_grad()
def forecast_errors(student: VJEPA2Model, teacher: VJEPA2Model, frames: Clips) -> dict[str, float]:
    """L1 of the predictor's future on held-out clips beside two guesses: the last tubelet stays, the mean feature."""
    pixels = normalise(torch.from_numpy(frames).to(student.device))
    past, future = halves(student, len(frames))
    (known,) = tapped(student, pixels, (student.config.num_hidden_layers,), keep=past)
    wanted = expected_form(tapped(teacher, pixels, target_levels(student)))  # [B, N, D]
    before, came = wanted[:, : past.shape[1]], wanted[:, past.shape[1] :]
    _, height, width = grid_of(student.config)
    last = before[:, -height * width :].repeat(1, came.shape[1] // (height * width), 1)
    guesses = {"predictor": predict(student, known, past, future), "copy_last": last, "mean": came.mean((0, 1))}
    return {f"l1_{name}": float((guess - came).abs().mean()) for name, guess in guesses.items()}


def gauge(learner: Learner, frames: Clips, recipe: PretrainRecipe) -> dict[str, float]:
    """Health of the encoder's last features on held-out clips; beside a slow copy, how well its future is told."""
    foresees = learner.average is not None and grid_of(learner.encoder.config)[0] > 1
    told = forecast_errors(learner.student.jepa, learner.teacher, frames) if foresees else {}
    return health(learner.encoder, frames, recipe) | told


def health(model: Eyes, frames: Clips, recipe: PretrainRecipe) -> dict[str, float]:
    """What an encoder's last features of clips uint8 [n, T, H, W, 3] are worth, by gauges that need no labels."""
    (last,) = features_of(model, frames, (model.config.num_hidden_layers,))
    tokens = last.flatten(0, 1)
    return {
        "std": feature_std(tokens),
        "std_pooled": feature_std(last.mean(1)),
        "rank": effective_rank(tokens),
        "rank_centred": centred_rank(tokens),
        "decay": spectrum_decay(tokens),
        "lidar": lidar(views_of(model, frames, recipe)),
    }


@torch.no_grad()
def views_of(model: Eyes, frames: Clips, recipe: PretrainRecipe, count: int = 4) -> Tensor:
    """Pooled last features of several augmentations of each clip, the same ones every time: [n, count, D]."""
    rng, depth = np.random.default_rng(recipe.seed), (model.config.num_hidden_layers,)
    views = [seen(model, augment(rng, frames, recipe, model.device), depth)[0].mean(1) for _ in range(count)]
    return torch.stack(views, dim=1).cpu()


def probe(learner: Learner, frames: Clips, labels: Labels, recipe: PretrainRecipe) -> dict[str, float]:
    """Ridge scores of each label from the encoder's features, pooled over the clip and over 2 x 2 x 2 regions."""
    states = torch.cat(features_of(learner.encoder, frames, recipe.target_levels), dim=-1)  # [n, N, levels * D]
    volume = states.transpose(1, 2).unflatten(-1, grid_of(learner.encoder.config))
    pooled = [nn.functional.adaptive_avg_pool3d(volume, cells).flatten(1) for cells in (1, 2)]
    scores = ridge_probe(torch.cat(pooled, dim=1).numpy(), labels)
    return {f"probe_{index}": score for index, score in enumerate(scores) if math.isfinite(score)}


@dataclass(frozen=True)
class Watch:
    """Held-out clips [n, T, H, W, 3] and their labels [n, K]: what a run is measured on while it learns."""

    frames: Clips
    labels: Labels | None
    recipe: PretrainRecipe

    def look(self, done: int, learner: Learner) -> dict[str, float]:
        """What is due after `done` steps, or nothing."""
        seen: dict[str, float] = {}
        if due(done, self.recipe.log_every, self.recipe):
            seen |= gauge(learner, self.frames[:64], self.recipe)
            seen |= {"lr": learning_rate(done - 1, self.recipe), "ema": momentum(done - 1, self.recipe)}
        if self.labels is not None and due(done, self.recipe.probe_every, self.recipe):
            seen |= probe(learner, self.frames, self.labels, self.recipe)
        return seen


def due(done: int, every: int, recipe: PretrainRecipe) -> bool:
    """Whether something done every so many steps, and at the end, is due after `done` steps."""
    return done % every == 0 or done == recipe.steps


def export(learner: Learner, folder: Path) -> Path:
    """Write an ordinary transformers folder: the encoder that is kept, with the student's predictor if it has one."""
    model = deepcopy(learner.encoder)
    if isinstance(model, VJEPA2Model):
        model.predictor.load_state_dict(learner.student.jepa.predictor.state_dict())
    model.save_pretrained(folder)
    return folder


def snapshot(out: Path, step: int) -> Path:
    """Where the encoder of a step of `recipe.snapshots` is kept."""
    return out / "snapshots" / f"step-{step:08d}"


def record(folder: Path, clips: int, recipe: PretrainRecipe, steps: int, spent: Spent) -> None:
    """Write how an encoder came to be beside it, for model cards: `training.json`. steps: those that were done."""
    facts: dict[str, Any] = {
        "objective": objective_of(recipe).words,
        "clips": clips,
        "steps_done": steps,
        "machine": machine(),
    }
    facts |= {"wall_seconds": round(spent.seconds), "flops": spent.flops, "recipe": plain(recipe)}
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What a recipe changed, in words; empty where nothing did."""
    return ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name])


def origin_of(clips: Clips, init: Path | None, teacher: Path | None) -> dict[str, str]:
    """What a run learns from besides its recipe, in short: a resumed one must be given the same."""
    shape, first = " x ".join(map(str, clips.shape)), hashlib.sha256(clips[:1].tobytes()).hexdigest()[:12]
    return {"data": f"{shape} from {first}", "init": weights_mark(init), "teacher": weights_mark(teacher)}


def check_origin(folder: Path, saved: checkpoint.Checkpoint, origin: dict[str, str]) -> None:
    """Raises ValueError where a run's checkpoint says that it learned from something else; older ones do not say."""
    if changes := differences(origin | saved.state.get("origin", {}), origin):
        raise ValueError(
            f"{folder} holds a run that learned from something else ({changes}): give it the same again, or choose "
            "another folder"
        )


def begin(out: Path, learner: Learner, alarm: Alarm, resume: bool, origin: dict[str, str]) -> tuple[int, Spent]:
    """The step to start from, and what was spent until then: the newest checkpoint's."""
    recipe = alarm.recipe
    saved = checkpoint.latest(out / "checkpoints")
    if saved is not None and not resume:
        raise ValueError(f"{out} holds a run at step {saved.step}: resume it, or pretrain into another folder")
    if saved is not None and (changes := differences(saved.state["recipe"], plain(recipe))):
        raise ValueError(f"{out} holds a run of another recipe ({changes}): keep it, or pretrain into another folder")
    if saved is None:
        return 0, Spent()
    check_origin(out, saved, origin)
    load_learner(saved, learner)
    alarm.restore(saved.state["alarm"])
    return saved.step, Spent(**saved.state["spent"])


def listen(alarm: Alarm, done: int, loss: float, learner: Learner, frames: Clips) -> None:
    """Raise Unhealthy where the run has gone wrong; it is looked at when due, and before every checkpoint."""
    alarm.hear(done - 1, loss)
    if due(done, LOOK_EVERY, alarm.recipe) or due(done, alarm.recipe.save_every, alarm.recipe):
        examine(alarm, done - 1, learner, frames)


def examine(alarm: Alarm, step: int, learner: Learner, frames: Clips) -> None:
    """Show the alarm the student's weights and its features of held-out clips."""
    alarm.weigh(step, float(nn.utils.get_total_norm([p.detach() for p in learner.student.parameters()])))
    alarm.look(step, last_tokens(learner.student.model, frames))


def rolled_back(out: Path, learner: Learner) -> str:
    """Export the newest checkpoint's encoder, from before what went wrong; returns what to do with it, in words."""
    saved = checkpoint.latest(out / "checkpoints")
    if saved is None:
        return "no checkpoint is older than this: begin anew in another folder"
    load_learner(saved, learner)
    encoder = export(learner, out / "encoder")
    return f"{encoder} is the encoder of step {saved.step}, from before: go on from it in another folder with --init"


def run(
    data: Path,
    out: Path,
    recipe: PretrainRecipe,
    resume: bool = True,
    init: Path | None = None,
    probe_labels: Path | None = None,
    teacher: Path | None = None,
    track: str = "tensorboard",
) -> Path:
    """Pretrain on `data`, a .npy of clips uint8 [N, F, S, S, 3]; returns the encoder's folder, `out/encoder`.

    `teacher`: the encoder folder that salt learns from. `probe_labels`: .npy of float [N, K], NaN where unknown, read
    from features for the log alone. `track`: one of monitor.TRACKERS. The run's checkpoints lie in `out/checkpoints`;
    with `resume` it goes on from the newest, to the same losses bit for bit in fp32. Under `accelerate launch` the
    ranks share each batch; losses are those of one process but for rounding. A run that collapses or leaps is stopped
    (alarm.py) and its last healthy encoder exported.
    Raises ValueError for data or a folder that do not fit the recipe or a tracker that is missing, Unhealthy for such a
    run, FloatingPointError at the first non-finite loss.
    """
    check_tracker(track)
    accelerator = ranked()
    rank, count, main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    if recipe.batch % count:
        raise ValueError(
            f"a batch of {recipe.batch} does not divide among {count} processes: set a multiple of {count}"
        )
    stopping = meeting()
    learner = build(recipe, init, teacher)
    config = learner.student.model.config
    window = window_of(config)
    clips = open_clips(data, window.frames, window.size)
    split = split_rows(len(clips), recipe.held_out, recipe.seed)
    watch = Watch(clips[split.held_out, : window.frames], open_labels(probe_labels, split), recipe)
    alarm = Alarm(recipe, collapses=objective_of(recipe).collapses)
    origin = origin_of(clips, init, teacher)
    start, spent = begin(out, learner, alarm, resume, origin)
    if start == 0:
        examine(alarm, 0, learner, watch.frames[:LOOKED_AT])
    peak, began = count * gemm_peak(train_dtype(), train_device()), time.monotonic() - spent.seconds
    rows = chosen(split.train, recipe)
    drawn = partial(draw, clips=clips, rows=rows, config=config, recipe=recipe)
    ahead = 1 if train_device().type == "cpu" else AHEAD
    batches = prefetched(lambda step: part(drawn(step), rank, count), start, recipe.steps, ahead)
    with progress_bar(shown=main) as bar, closing(Log(out, start, recipe, track)) if main else nullcontext() as log:
        task = bar.add_task("pretrain", total=recipe.steps, completed=start, speed="")
        try:
            for step, (pixels, mask) in batches:
                stepped, shown = time.monotonic(), partial(draw_rows, generator(step, recipe), rows, recipe)
                values, done = learn(learner, step, pixels, mask, recipe, shown), step + 1
                spent.flops += count * step_flops(learner.student, mask, recipe)
                spent.learning += time.monotonic() - stepped
                spent.seconds, spent.clips = time.monotonic() - began, done * recipe.batch
                listen(alarm, done, values["loss"], learner, watch.frames[:LOOKED_AT])
                if log is not None and (seen := watch.look(done, learner)):
                    log.write(done, values | seen | {"clips": float(spent.clips)} | spent.rates(peak))
                if main and done in recipe.snapshots:
                    record(export(learner, snapshot(out, done)), len(rows), recipe, done, spent)
                if main and due(done, recipe.save_every, recipe):
                    save_learner(out / "checkpoints", done, learner, alarm, spent, origin)
                label = f"loss {values['loss']:.3f}"
                bar.update(task, completed=done, description=label, speed=spent.speed(peak))
        except ArithmeticError as error:
            told = f"{error}; {rolled_back(out, learner)}" if main else str(error)
            meet(stopping)
            raise type(error)(told) from None
    if main:
        record(export(learner, out / "encoder"), len(rows), recipe, recipe.steps, spent)
    accelerator.wait_for_everyone()
    return out / "encoder"
