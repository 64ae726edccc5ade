"""Self-supervised pretraining of system 1: V-JEPA on memory-mapped clips, resumable to the bit."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from transformers import VJEPA2Config, VJEPA2Model

from ..perception.encoder import IMAGENET_MEAN, IMAGENET_STD, grid_of, nano_config, normalise, tapped, tiny_config
from ..perception.gauges import centred_rank, effective_rank, feature_std, ridge_probe
from ..perception.predictor import expected_form, halves, predict
from . import checkpoint
from .masks import Mask, MaskRecipe, sample
from .objectives import Weights, vjepa

T = TypeVar("T")
Rows = NDArray[np.int64]
Clips = NDArray[np.uint8]  # [N, F, S, S, 3]
Labels = NDArray[np.float32]  # [N, K], NaN where unknown
CONFIGS = {"nano": nano_config, "tiny": tiny_config}


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides a pretraining run besides its data.

    The slow teacher (EMA .998 -> 1), the small rate and the variance and covariance terms hold the features
    apart; faster teachers collapsed onto the background. `target_levels` are the layers that are predicted; `rate` is
    the data's, in frames per second; `early_share` of the windows begin before their clip. What is neither short
    nor causal in the masks is long.
    """

    encoder: str = "nano"
    steps: int = 20_000
    batch: int = 32
    lr: float = 5e-4
    final_lr: float = 1e-5
    warmup: int = 500
    weight_decay: float = 0.04
    clip_grad: float = 1.0
    ema_start: float = 0.998
    ema_end: float = 1.0
    target_levels: tuple[int, ...] = (2, 4, 6)
    dense_weight: float = 0.5
    variance_weight: float = 1.0
    covariance_weight: float = 0.04
    short_share: float = 0.35
    causal_share: float = 0.4
    max_target: float = 0.5
    rate: float = 8.0
    early_share: float = 0.25
    brightness: float = 0.15
    contrast: float = 0.15
    colour: float = 0.08
    noise: float = 0.02
    held_out: int = 512
    log_every: int = 100
    probe_every: int = 500
    save_every: int = 500
    seed: int = 0


def nano() -> PretrainRecipe:
    """The embedded encoder's pretraining."""
    return PretrainRecipe(
        steps=2400,
        lr=6e-4,
        warmup=150,
        ema_start=0.995,
        short_share=0.4,
        causal_share=0.3,
        max_target=0.35,
        save_every=200,
    )


def tiny() -> PretrainRecipe:
    """A run of seconds on a model of thousands of parameters, for tests."""
    return PretrainRecipe(
        encoder="tiny",
        steps=6,
        batch=4,
        warmup=2,
        target_levels=(1, 2, 3),
        held_out=8,
        log_every=1,
        probe_every=6,
        save_every=3,
    )


@dataclass(frozen=True)
class Split:
    """The clips that are trained on and those that are only measured, as rows of the data."""

    train: Rows
    held_out: Rows


@dataclass
class Learner:
    """What a run changes: the student, its slow copy and the optimizer, all fp32, and the two models that compute."""

    student: VJEPA2Model
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    live_student: VJEPA2Model
    live_teacher: VJEPA2Model

    @property
    def teacher(self) -> VJEPA2Model:
        module = self.average.module
        assert isinstance(module, VJEPA2Model)
        return module


def train_device() -> torch.device:
    """Where pretraining runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_dtype() -> torch.dtype:
    """The type that pretraining computes in: bf16 where the machine multiplies it natively (else 100x slower)."""
    if train_device().type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def open_clips(path: Path, window: int, size: int) -> Clips:
    """Memory-map clips, uint8 [N, F, S, S, 3], and refuse those this encoder cannot see."""
    clips: Clips = np.load(path, mmap_mode="r", allow_pickle=False)
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


def open_labels(path: Path | None, split: Split) -> Labels | None:
    """The labels of the held-out rows, float [n, K], of a .npy that has one row a clip."""
    if path is None:
        return None
    labels = np.load(path, allow_pickle=False)
    count = len(split.train) + len(split.held_out)
    if labels.ndim != 2 or len(labels) != count:
        raise ValueError(f"{path} holds labels {labels.shape}; the probe wants [{count}, K], one row a clip")
    held_out: Labels = labels[split.held_out].astype(np.float32)
    return held_out


def draw_windows(rng: np.random.Generator, count: int, frames: int, window: int, early_share: float) -> Rows:
    """Frame numbers of `count` windows [count, window]: a share begins before the clip and repeats its first frame."""
    start = rng.integers(0, frames - window + 1, count)
    early = rng.random(count) < early_share
    start[early] = -rng.integers(1, window, int(early.sum()))
    rows: Rows = np.maximum(start[:, None] + np.arange(window), 0)
    return rows


def augment(rng: np.random.Generator, frames: Clips, recipe: PretrainRecipe) -> Tensor:
    """Clips as the student and teacher see them: mirrored, tinted, noisy and normalised, one draw a clip.

    frames: uint8 [B, T, H, W, 3] -> float32 [B, T, 3, H, W]. NumPy, because it runs beside torch in its own thread.
    """
    batch = len(frames)
    mirrored = np.where(rng.random((batch, 1, 1, 1, 1)) < 0.5, frames[:, :, :, ::-1], frames)
    contrast = 1 + recipe.contrast * rng.uniform(-1, 1, (batch, 1))
    light = 1 + recipe.brightness * rng.uniform(-1, 1, (batch, 1)) + recipe.colour * rng.uniform(-1, 1, (batch, 3))
    gain, offset = contrast * light / 255, (1 - contrast) * light / 2
    pixels = rng.standard_normal(frames.shape, dtype=np.float32)
    pixels *= (recipe.noise * rng.random((batch, 1, 1, 1, 1))).astype(np.float32)
    pixels += mirrored * gain[:, None, None, None].astype(np.float32)
    pixels += offset[:, None, None, None].astype(np.float32)
    np.clip(pixels, 0, 1, out=pixels)
    pixels -= np.array(IMAGENET_MEAN, dtype=np.float32)
    pixels /= np.array(IMAGENET_STD, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 1, 4, 2, 3)))


def draw(step: int, clips: Clips, rows: Rows, config: VJEPA2Config, recipe: PretrainRecipe) -> tuple[Tensor, Mask]:
    """The batch of a step, a function of the seed and the step alone: resuming needs no data position."""
    rng = np.random.default_rng([recipe.seed, step])
    chosen = np.sort(rng.choice(rows, recipe.batch, replace=len(rows) < recipe.batch))
    windows = draw_windows(rng, recipe.batch, clips.shape[1], config.frames_per_clip, recipe.early_share)
    frames = np.stack([clips[row][window] for row, window in zip(chosen, windows, strict=True)])
    masks = MaskRecipe(recipe.short_share, recipe.causal_share, recipe.max_target)
    return augment(rng, frames, recipe), sample(rng, grid_of(config), recipe.batch, masks)


def prefetched(make: Callable[[int], T], start: int, stop: int) -> Iterator[tuple[int, T]]:
    """Each step with what `make` gives for it, the next one being made while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(make, step) for step in range(start, min(start + 1, stop))]
        for step in range(start, stop):
            ready = coming.pop().result()
            coming = [pool.submit(make, following) for following in range(step + 1, min(step + 2, stop))]
            yield step, ready


def learning_rate(step: int, recipe: PretrainRecipe) -> float:
    """Linear warm-up, then a cosine down to `final_lr`: a function of the step alone, so that it has no state."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def momentum(step: int, recipe: PretrainRecipe) -> float:
    """The teacher's decay, linear from `ema_start` to `ema_end`."""
    return recipe.ema_start + (recipe.ema_end - recipe.ema_start) * step / recipe.steps


def build(recipe: PretrainRecipe, init: Path | None) -> Learner:
    """A fresh learner, or one that starts from the weights of a `VJEPA2Model` folder."""
    if init is None and recipe.encoder not in CONFIGS:
        raise ValueError(f"encoder {recipe.encoder!r} is not one of {', '.join(CONFIGS)}: choose one, or pass init")
    torch.manual_seed(recipe.seed)
    student = VJEPA2Model(CONFIGS[recipe.encoder]()) if init is None else VJEPA2Model.from_pretrained(init)
    student.train().float()
    nn.Module.to(student, train_device())
    student.config.target_levels, student.config.rate = list(recipe.target_levels), recipe.rate
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_start))
    average.requires_grad_(False)
    groups = [
        {"params": [p for p in student.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in student.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    return Learner(student, average, optimizer, live_copy(student), live_copy(average.module))


def live_copy(model: nn.Module) -> VJEPA2Model:
    """The model that computes for an fp32 master: itself in fp32, a copy where `train_dtype` is smaller."""
    live = model if train_dtype() == torch.float32 else deepcopy(model).to(train_dtype())
    assert isinstance(live, VJEPA2Model)
    return live


@torch.no_grad()
def refresh(live: VJEPA2Model, master: VJEPA2Model) -> None:
    """Round the master's weights into its live copy."""
    if live is not master:
        for small, exact in zip(live.parameters(), master.parameters(), strict=True):
            small.copy_(exact)


def hand_gradients(live: VJEPA2Model, master: VJEPA2Model) -> None:
    """Move the live copy's gradients to the master, in fp32."""
    if live is not master:
        for small, exact in zip(live.parameters(), master.parameters(), strict=True):
            exact.grad = None if small.grad is None else small.grad.to(exact.dtype)
            small.grad = None


def gradients(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe) -> dict[str, float]:
    """The loss and its parts for a batch; leaves their gradients on the student."""
    refresh(learner.live_student, learner.student)
    refresh(learner.live_teacher, learner.teacher)
    weights = Weights(recipe.dense_weight, recipe.variance_weight, recipe.covariance_weight)
    pixels, mask = pixels.to(learner.live_student.device, learner.live_student.dtype), mask.to(learner.student.device)
    parts = vjepa(learner.live_student, learner.live_teacher, pixels, mask, recipe.target_levels, weights)
    parts["loss"].backward()
    hand_gradients(learner.live_student, learner.student)
    return {name: float(part.detach()) for name, part in parts.items()}


def learn(learner: Learner, step: int, pixels: Tensor, mask: Mask, recipe: PretrainRecipe) -> dict[str, float]:
    """One step of the student and its teacher; returns the loss and its parts."""
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate(step, recipe)
    values = gradients(learner, pixels, mask, recipe)
    values["grad_norm"] = float(nn.utils.clip_grad_norm_(learner.student.parameters(), recipe.clip_grad))
    refuse_nonfinite(step, values)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.average.multi_avg_fn = get_ema_multi_avg_fn(momentum(step, recipe))
    learner.average.update_parameters(learner.student)
    return values


def refuse_nonfinite(step: int, values: dict[str, float]) -> None:
    """Stop before the optimizer spreads it."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"step {step}: {', '.join(wrong)}; nothing of this step was kept: try a lower lr in a new folder"
        )


def save_learner(folder: Path, step: int, learner: Learner, recipe: PretrainRecipe, seconds: float = 0.0) -> None:
    """One checkpoint of everything that resuming needs. seconds: what the run has taken so far, over all resumes."""
    optimizer, optimizer_state = checkpoint.pack_optimizer(learner.optimizer)
    rng, rng_state = checkpoint.pack_rng()
    tensors = (
        checkpoint.prefixed("student", learner.student.state_dict())
        | checkpoint.prefixed("average", learner.average.state_dict())
        | checkpoint.prefixed("optimizer", optimizer)
        | checkpoint.prefixed("rng", rng)
    )
    state = {"optimizer": optimizer_state, "rng": rng_state, "recipe": plain(recipe), "seconds": seconds}
    checkpoint.save(folder, step, tensors, state)


def load_learner(saved: checkpoint.Checkpoint, learner: Learner) -> None:
    """Put a learner back where a checkpoint found it."""
    learner.student.load_state_dict(checkpoint.under("student", saved.tensors))
    learner.average.load_state_dict(checkpoint.under("average", saved.tensors))
    checkpoint.unpack_optimizer(
        learner.optimizer, checkpoint.under("optimizer", saved.tensors), saved.state["optimizer"]
    )
    checkpoint.unpack_rng(checkpoint.under("rng", saved.tensors), saved.state["rng"])


@torch.no_grad()
def features_of(model: VJEPA2Model, frames: Clips, levels: tuple[int, ...]) -> list[Tensor]:
    """Hidden states [n, N, D] at `levels` of clips uint8 [n, T, H, W, 3], 64 at a time."""
    batches = torch.from_numpy(frames).split(64)
    states = [tapped(model, normalise(batch.to(model.device)), levels) for batch in batches]
    return [torch.cat(level).cpu() for level in zip(*states, strict=True)]


@torch.no_grad()
def forecast_errors(learner: Learner, frames: Clips, recipe: PretrainRecipe) -> dict[str, float]:
    """L1 of the predictor's future on held-out clips beside two guesses: the last tubelet stays, the mean feature."""
    student, teacher = learner.student, learner.teacher
    pixels = normalise(torch.from_numpy(frames).to(student.device))
    past, future = halves(student, len(frames))
    (known,) = tapped(student, pixels, (student.config.num_hidden_layers,), keep=past)
    wanted = expected_form(tapped(teacher, pixels, recipe.target_levels))  # [B, N, D]
    before, came = wanted[:, : past.shape[1]], wanted[:, past.shape[1] :]
    _, height, width = grid_of(student.config)
    last = before[:, -height * width :].repeat(1, came.shape[1] // (height * width), 1)
    guesses = {"predictor": predict(student, known, past, future), "copy_last": last, "mean": came.mean((0, 1))}
    return {f"l1_{name}": float((guess - came).abs().mean()) for name, guess in guesses.items()}


def gauge(learner: Learner, frames: Clips, recipe: PretrainRecipe) -> dict[str, float]:
    """Health of the teacher's last features on held-out clips, and how well the future is told."""
    (last,) = features_of(learner.teacher, frames, (learner.teacher.config.num_hidden_layers,))
    tokens = last.flatten(0, 1)
    return {
        "std": feature_std(tokens),
        "std_pooled": feature_std(last.mean(1)),
        "rank": effective_rank(tokens),
        "rank_centred": centred_rank(tokens),
        **forecast_errors(learner, frames, recipe),
    }


def probe(learner: Learner, frames: Clips, labels: Labels, recipe: PretrainRecipe) -> dict[str, float]:
    """Ridge scores of each label from the teacher's features, pooled over the clip and over 2 x 2 x 2 regions."""
    states = torch.cat(features_of(learner.teacher, frames, recipe.target_levels), dim=-1)  # [n, N, levels * D]
    volume = states.transpose(1, 2).unflatten(-1, grid_of(learner.teacher.config))
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


class Log:
    """Metrics of a run, to TensorBoard and to `metrics.jsonl`; a resumed run forgets what it will do again."""

    def __init__(self, out: Path, start: int) -> None:
        self.path = out / "metrics.jsonl"
        rows = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= start]
        self.path.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


def export(learner: Learner, out: Path) -> Path:
    """Write `out/encoder`, an ordinary `VJEPA2Model` folder: the teacher's encoder and the student's predictor."""
    model = deepcopy(learner.teacher)
    model.predictor.load_state_dict(learner.student.predictor.state_dict())
    model.save_pretrained(out / "encoder")
    return out / "encoder"


def record(folder: Path, clips: int, recipe: PretrainRecipe, steps: int, seconds: float) -> None:
    """Write how an encoder came to be beside it, for model cards: `training.json`. steps: those that were done."""
    facts = {"objective": "V-JEPA, dense, several levels", "clips": clips, "steps_done": steps, "machine": machine()}
    facts |= {"wall_seconds": round(seconds), "recipe": plain(recipe)}
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def machine() -> str:
    """What this training runs on, in words."""
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    return f"{kind}, {str(train_dtype()).removeprefix('torch.')}"


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as it reads back from JSON."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What a recipe changed, in words; empty where nothing did."""
    return ", ".join(f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name])


def begin(out: Path, learner: Learner, recipe: PretrainRecipe, resume: bool) -> tuple[int, float]:
    """The step to start from, and the seconds taken until then: the newest checkpoint's; writes the recipe beside."""
    saved = checkpoint.latest(out / "checkpoints")
    if saved is not None and not resume:
        raise ValueError(f"{out} holds a run at step {saved.step}: resume it, or pretrain into another folder")
    if saved is not None and (changes := differences(saved.state["recipe"], plain(recipe))):
        raise ValueError(f"{out} holds a run of another recipe ({changes}): keep it, or pretrain into another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(plain(recipe), indent=2) + "\n", encoding="utf-8")
    if saved is None:
        return 0, 0.0
    load_learner(saved, learner)
    return saved.step, float(saved.state.get("seconds", 0.0))


def progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )


def run(
    data: Path,
    out: Path,
    recipe: PretrainRecipe,
    resume: bool = True,
    init: Path | None = None,
    probe_labels: Path | None = None,
) -> Path:
    """Pretrain on `data`, a .npy of clips uint8 [N, F, S, S, 3]; returns the encoder's folder, `out/encoder`.

    `probe_labels`: .npy of float [N, K], NaN where unknown, read from features for the log alone. The run's
    checkpoints lie in `out/checkpoints`; with `resume` it goes on from the newest, to the same losses bit for bit in
    fp32.
    Raises ValueError for data or a folder that do not fit the recipe, FloatingPointError at the first non-finite loss.
    """
    learner = build(recipe, init)
    config = learner.student.config
    clips = open_clips(data, config.frames_per_clip, config.crop_size)
    split = split_rows(len(clips), recipe.held_out, recipe.seed)
    watch = Watch(clips[split.held_out, : config.frames_per_clip], open_labels(probe_labels, split), recipe)
    start, before = begin(out, learner, recipe, resume)
    began = time.monotonic() - before
    batches = prefetched(lambda step: draw(step, clips, split.train, config, recipe), start, recipe.steps)
    with progress_bar() as bar, closing(Log(out, start)) as log:
        task = bar.add_task("pretrain", total=recipe.steps, completed=start)
        for step, (pixels, mask) in batches:
            values, done = learn(learner, step, pixels, mask, recipe), step + 1
            if seen := watch.look(done, learner):
                log.write(done, values | seen)
            if due(done, recipe.save_every, recipe):
                save_learner(out / "checkpoints", done, learner, recipe, time.monotonic() - began)
            bar.update(task, completed=done, description=f"loss {values['loss']:.3f}")
    encoder = export(learner, out)
    seconds = time.monotonic() - began if start < recipe.steps else before
    record(encoder, len(split.train), recipe, recipe.steps, seconds)
    return encoder
