"""What an encoder's frozen features tell: probes of growing strength on outcomes and physical variables, with controls.

A weak probe asks what lies open in the features, a strong one what is in them at all; the strongest on raw pixels is a
small supervised network of its own. So every figure stands beside a random-init encoder and raw pixels under the same
probe, the same labels and the same training. Shapes: n clips, N tokens, C channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import VJEPA2Model

from ..bridge.cache import claimed
from ..bridge.projector import Intake, Reader, block
from ..perception.encoder import VJEPA2World, World, grid_of, normalise, resize, tapped, window_of
from ..perception.video import last_shown
from ..train.data import Packed, load_clips
from ..train.facts import Targets
from ..train.learner import train_device, train_dtype
from ..train.moves import Moves
from ..train.objectives import pixels_of
from ..train.pairs import progress
from ..train.worlds.scene import COLOURS, SHAPES
from ..train.worlds.sight import SHAPED, count_seen, in_sight
from .record import digest, line, mark, provenance, readable, rounded, write
from .stats import Statistic, balanced_accuracy, figure

Row = dict[str, Any]
Features = NDArray[np.float16]  # [n, N, C]
Floats = NDArray[np.float32]
Grid = tuple[int, int, int]
See = Callable[[Tensor], Tensor]
Cell = tuple[str, str, str]  # taker, variable, probe
PROBES = ("ridge", "knn", "attentive1", "attentive4")
FINETUNE = "finetune"
"""The encoder itself learns, under an attentive probe of one block: minutes to an hour a variable, so only if asked."""
ASKED_FOR = ("attentive2", FINETUNE)
"""Probes that are asked only if they are named."""
FINE_RATES = (1e-4, 5e-4)
"""Learning rates of the encoder when it learns too; its head's is ten times 1e-4."""
RATES = ((3e-4, 0.01), (1e-3, 0.01), (1e-3, 0.1), (3e-3, 0.05))
"""Learning rate and weight decay of the attentive heads that are trained side by side; validation picks one, as
V-JEPA 2 does (Assran et al. 2025, arXiv 2506.09985, section 5)."""
TWO_RATES = (RATES[0], RATES[2])
"""Two of them, for whoever trains for long (the benchmark, rates that fall to nothing): all four double the hours."""
NEIGHBOURS = (5, 20, 50)
PLACES = ("x", "y")
"""Variables that move with the picture."""
KINDS = {"shape": tuple(SHAPES), "colour": tuple(COLOURS)}
"""Variables that are one of several kinds; a value is the place of a kind in its row."""


def variables_of(clip: Row) -> dict[str, float]:
    """What a probe may be asked of a clip: its outcome, 0 or 1, and variables at the last shown frame.

    x, y (places in the image), shape, colour, speed (m/s) and mass (its logarithm, kg) are of the object that moves or
    is named first, shape and mass where its shape has a name; count is of all objects; margin, in metres, is the
    smallest distance of a centre of mass from the rim of its support, of towers and of what a plank carries.
    """
    last = min(last_shown(clip["until"], clip["fps"]), clip["frames"] - 1)
    now, before = (np.array(clip["states"][frame][0]) for frame in (last, max(last - 1, 0)))
    told = {clip["outcome"]["name"]: float(clip["outcome"]["value"]), "x": float(now[7]), "y": float(now[8])}
    if (count := count_seen(clip)) is not None:
        told["count"] = float(count)
    if clip["objects"][0] in in_sight(clip):
        told["colour"] = float(KINDS["colour"].index(clip["objects"][0]["colour"]))
    if clip["scenario"] in ("towers", "support"):
        return told | {"margin": float(min(clip["notes"]["margins"]))}
    if clip["scenario"] == "dominoes":
        return told
    if last > 0:
        told["speed"] = float(np.linalg.norm(now[:3] - before[:3]) * clip["fps"])
    if clip["objects"][0]["shape"] not in KINDS["shape"]:
        return told
    if clip["objects"][0] in in_sight(clip, SHAPED):
        told["shape"] = float(KINDS["shape"].index(clip["objects"][0]["shape"]))
    if last > 0:
        told["mass"] = math.log(volume(clip["objects"][0]) * clip["objects"][0]["density"])
    return told


def volume(one: Row) -> float:
    """Of an object, from its half sizes: cubic metres."""
    half: list[float] = one["half"]
    if one["shape"] == "box":
        return 8.0 * math.prod(half)
    return 4 / 3 * math.pi * half[0] ** 3 if one["shape"] == "ball" else math.pi * half[0] ** 2 * 2 * half[1]


@dataclass(frozen=True)
class Question:
    """One variable of the clips of a split where it is known: rows of the split, values, scenes; of kinds or measured.

    kinds: how many there are, 0 of a measure; a value is then a kind's number.
    """

    name: str
    rows: NDArray[np.int64]
    values: Floats
    scenes: list[str]
    kinds: int

    @property
    def columns(self) -> Floats:
        """What a regression is asked for: 1 for its kind and -1 for others, or the measure: [n, kinds or 1]."""
        if not self.kinds:
            return self.values[:, None]
        signs: Floats = np.where(self.values[:, None] == np.arange(self.kinds), 1, -1).astype(np.float32)
        return signs

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing, or R2 of the mean."""
        return 1 / len(np.unique(self.values)) if self.kinds else 0.0

    @property
    def metric(self) -> str:
        return "balanced accuracy" if self.kinds else "R2"

    def part(self, which: NDArray[np.int64]) -> Question:
        return Question(self.name, self.rows[which], self.values[which], [self.scenes[i] for i in which], self.kinds)


def parted(
    count: int, labels: int | None, how: Training, chosen: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many labelled clips a probe learns from, and the fifth that validates, if anything is chosen by it;
    labels: of so many only."""
    order = np.random.default_rng(how.seed).permutation(count)[: labels or None]
    cut = max(1, len(order) // 5) if chosen else 0
    return np.sort(order[cut:]), np.sort(order[:cut])


def questions_of(clips: Sequence[Row]) -> dict[str, Question]:
    """Every variable that at least one clip has, by name."""
    told = [variables_of(clip) for clip in clips]
    found = {}
    for name in sorted({name for one in told for name in one}):
        rows = np.array([row for row, one in enumerate(told) if name in one])
        values = np.array([told[row][name] for row in rows], dtype=np.float32)
        scenes = [clips[row]["scene"] for row in rows]
        found[name] = Question(name, rows, values, scenes, _kinds(name, values))
    return found


def _kinds(name: str, values: Floats) -> int:
    """An outcome is of two kinds, no and yes."""
    return len(KINDS[name]) if name in KINDS else 2 if set(np.unique(values)) <= {0.0, 1.0} else 0


@torch.no_grad()
def watch(packed: Packed, see: See, world: World, moves: Moves | None = None, last: int = 0) -> Features:
    """Features of every clip, shown up to its `until`; see: uint8 [B, T, S, S, 3] -> [B, N, C]; moves: what is done to
    each clip before (None: nothing); last: it sees so many of the last frames alone (0: all)."""
    parts = []
    for start in range(0, len(packed.clips), 64):
        shown = frames_of(packed, world, range(start, min(start + 64, len(packed.clips))))
        frames = torch.from_numpy(shown[:, -last:])
        frames = moves.part(slice(start, start + 64)).frames(frames) if moves else frames
        parts.append(see(frames).half().cpu().numpy())
    return np.concatenate(parts)


def views_of(packed: Packed, see: See, world: World, count: int, last: int = 0) -> list[Features]:
    """Features of so many other views of every clip: moved, mirrored and lit anew, its objects kept in the picture.

    They are the same for whatever sees them.
    """
    rng, places = np.random.default_rng(0), Targets.of(packed.clips).places
    each = progress(range(count), count, "views")
    return [watch(packed, see, world, Moves.keeping(rng, places), last) for _ in each]


def layer_of(world: VJEPA2World, layer: int) -> See:
    """The encoder's tokens after one layer (0: its patch embedding)."""
    place = world.model.device, world.model.dtype
    return lambda frames: tapped(world.model, normalise(frames).to(*place), (layer,))[0]


def latest(see: See, grid: Grid, tubelets: int) -> See:
    """The tokens of the last so many tubelets alone."""
    return lambda frames: see(frames)[:, -tubelets * grid[1] * grid[2] :]


def raw_pixels(world: VJEPA2World) -> See:
    """The same tokens as plain pixels."""
    return lambda frames: pixels_of(normalise(frames), world.model.config)


def random_init(world: VJEPA2World, seed: int = 0) -> VJEPA2World:
    """An encoder of the same shape that has learned nothing."""
    torch.manual_seed(seed)
    model = VJEPA2Model(world.model.config).eval().requires_grad_(False)
    nn.Module.to(model, world.model.device)
    return VJEPA2World(model, world.taps, world.rate, world.frames)


def pooled(features: Features, grid: Grid) -> Floats:
    """Means over the clip and over its 2 x 2 x 2 regions, for probes that see no tokens: [n, 9 C]."""
    cells = []
    for part in np.array_split(features, max(1, len(features) // 256)):
        volume_ = torch.from_numpy(part).float().transpose(1, 2).unflatten(-1, grid)  # [n, C, t, y, x]
        both = [nn.functional.adaptive_avg_pool3d(volume_, size).flatten(1) for size in (1, 2)]
        cells.append(torch.cat(both, dim=1).numpy())
    return np.concatenate(cells)


@dataclass(frozen=True)
class Told:
    """What a probe said of the test clips [n, kinds or 1], and how it came to be: its setting and, if it trained, its
    curve."""

    values: Floats
    setting: dict[str, Any]
    curve: list[tuple[int, float]]


def r_squared(told: Floats, truth: Floats) -> Statistic:
    """Share of the variance that is told, in each resample of scenes."""
    error, truth = (told - truth).astype(np.float64) ** 2, truth.astype(np.float64)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights.sum(1)
        mean = weights @ truth / total
        spread = weights @ truth**2 / total - mean**2
        told_share: NDArray[np.float64] = 1 - (weights @ error / total) / spread
        return told_share

    return statistic


def score_of(question: Question, told: Floats) -> Statistic:
    """Balanced accuracy of kinds (told: the largest column), R2 of a measure; told [n, kinds or 1]."""
    if not question.kinds:
        return r_squared(told[:, 0], question.values)
    return balanced_accuracy(told.argmax(1) == question.values, [str(int(value)) for value in question.values])


def plain_score(question: Question, told: Floats) -> float:
    return float(score_of(question, told)(np.ones((1, len(told))))[0])


def ridge(train: Floats, val: Floats, test: Floats, question: Question, held: Question) -> Told:
    """Linear regression, its penalty chosen on validation."""
    fits = ridges(train, question.columns, np.logspace(0, 6, 7))
    best = max(fits, key=lambda alpha: plain_score(held, told_by(fits[alpha], val)))
    return Told(told_by(fits[best], test), {"alpha": float(best)}, [])


def ridges(features: Floats, columns: Floats, penalties: Iterable[float]) -> dict[float, Any]:
    """Linear regressions by their penalty. Of fewer clips than features the clips' products with each other say all,
    and are the same for every penalty."""
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.linear_model import Ridge

    if features.shape[1] <= len(features):
        return {penalty: Ridge(penalty).fit(features, columns) for penalty in penalties}
    centre, mean = features.mean(0), columns.mean(0)
    centred = features - centre
    products = centred @ centred.T
    kernels = {p: KernelRidge(alpha=p, kernel="precomputed").fit(products, columns - mean) for p in penalties}
    weights = {penalty: centred.T @ kernel.dual_coef_ for penalty, kernel in kernels.items()}
    return {penalty: Linear(weight, mean - centre @ weight) for penalty, weight in weights.items()}


@dataclass(frozen=True)
class Linear:
    """A fitted regression: weights [C, columns], offset [columns]."""

    weights: Floats
    offset: Floats

    def predict(self, features: Floats) -> Floats:
        told: Floats = features @ self.weights + self.offset
        return told


def told_by(fit: Any, features: Floats) -> Floats:
    """What a regression of sklearn says, always in columns: [n, kinds or 1]."""
    told: Floats = fit.predict(features).reshape(len(features), -1).astype(np.float32)
    return told


def knn(train: Floats, val: Floats, test: Floats, question: Question, held: Question) -> Told:
    """The mean of the nearest training clips by cosine, their number chosen on validation."""
    from sklearn.neighbors import KNeighborsRegressor

    counts = [count for count in NEIGHBOURS if count <= len(train)] or [len(train)]
    fits = {count: KNeighborsRegressor(count, metric="cosine").fit(train, question.columns) for count in counts}
    best = max(fits, key=lambda count: plain_score(held, told_by(fits[count], val)))
    return Told(told_by(fits[best], test), {"neighbours": best}, [])


POOLED = {"ridge": ridge, "knn": knn}


@contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """bf16 where it is native; on CPUs without the fused attention, which is slower there on so few tokens."""
    fused = [] if device.type == "cpu" else [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
    fast = torch.autocast(device.type, train_dtype(), enabled=train_dtype() != torch.float32)
    with fast, sdpa_kernel([*fused, SDPBackend.MATH]):
        yield


class AttentiveProbe(nn.Module):
    """Self-attention between tokens with places, then one query that reads them: [B, N, C] -> [B, columns].

    V-JEPA's attentive probe (Bardes et al. 2024, section 4), with blocks of self-attention before it as in V-JEPA 2.
    """

    def __init__(self, channels: int, grid: Grid, blocks: int, columns: int, width: int = 192, heads: int = 6) -> None:
        super().__init__()
        self.intake = Intake(channels, grid, width)
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(blocks - 1))
        self.query = nn.Parameter(torch.randn(1, width) * 0.5)
        self.reader = Reader(width, heads)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, columns))

    def forward(self, features: Tensor) -> Tensor:
        with quick(features.device):
            tokens = self.intake(features)
            for one in self.blocks:
                tokens = one(tokens)
            told: Tensor = self.out(self.reader(self.query, tokens)[:, 0])
        return told.float()


@dataclass(frozen=True)
class Training:
    """How attentive probes train: a head at each of `rates` (learning rate, weight decay), all on the same batches,
    until none has won for `patience` looks at validation, or `most` steps. patience 0: all steps, at rates that fall to
    nothing as a cosine; nothing is chosen, so no clip is kept from learning, and what is told is the mean of all heads
    at their end."""

    batch: int = 64
    warmup: int = 50
    every: int = 100
    patience: int = 8
    most: int = 6000
    width: int = 192
    rates: tuple[tuple[float, float], ...] = RATES
    seed: int = 0


class Heads:
    """Modules that train side by side on the same batches, each with its own optimizer: [B, ...] -> [B, columns]."""

    def __init__(
        self, heads: list[nn.Module], optimizers: list[torch.optim.Optimizer], question: Question, how: Training
    ) -> None:
        self.heads, self.optimizers = [nn.Module.to(head, train_device()) for head in heads], optimizers
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.kinds, self.how = question.kinds, how
        self.mean, self.scale = 0.0, 1.0
        if not self.kinds:
            self.mean, self.scale = float(question.values.mean()), float(question.values.std()) + 1e-6

    def learn(self, step: int, tokens: Tensor, values: Floats) -> Floats:
        """One step of every head: tokens [B, N, C] or frames, values [B]; what each said before: [heads, B, columns]"""
        wanted = torch.from_numpy((values - self.mean) / self.scale).float()
        wanted = (wanted.long() if self.kinds else wanted[:, None]).to(train_device())
        tokens = tokens.to(train_device())
        loss = nn.functional.cross_entropy if self.kinds else nn.functional.mse_loss
        said = []
        for head, optimizer, rates in zip(self.heads, self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self._pace(step)
            optimizer.zero_grad()
            said.append(head(tokens))
            loss(said[-1], wanted).backward()
            nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
        return self._in_units(torch.stack(said))

    def _pace(self, step: int) -> float:
        """The share of its rate at which a head learns."""
        falling = 1.0 if self.how.patience else (1 + math.cos(math.pi * (step - 1) / self.how.most)) / 2
        return min(1.0, step / self.how.warmup) * falling

    def tell(self, number: int, inputs: NDArray[Any], rows: NDArray[np.int64]) -> Floats:
        """What one head says of some clips, in the variable's own units: [n, kinds or 1]."""
        return self._in_units(read(self.heads[number], inputs, rows))

    def _in_units(self, said: Tensor) -> Floats:
        told: Floats = (said.detach().cpu().numpy() * self.scale + self.mean).astype(np.float32)
        return told

    def tell_all(self, inputs: NDArray[Any], rows: NDArray[np.int64]) -> Floats:
        """What every head says of some clips: [heads, n, kinds or 1]."""
        return np.stack([self.tell(number, inputs, rows) for number in range(len(self.heads))])


def standardised(head: AttentiveProbe, sample: Tensor) -> AttentiveProbe:
    """A head that knows the mean and the spread of the channels of some tokens [n, N, C]."""
    flat = sample.float().flatten(0, 1)
    head.intake.mean.copy_(flat.mean(0))
    head.intake.std.copy_(flat.std(0).clamp_min(1e-3))
    return head


def attentive(
    train: Features, test: Features, known: Question, held: Question, asked: Question, grid: Grid, blocks: int,
    how: Training, views: Sequence[Features] = (),
) -> Told:  # fmt: skip
    """What the head says that validation likes best, at the step where it likes it best."""
    torch.manual_seed(how.seed)
    sample = torch.from_numpy(train[known.rows[:512]])
    columns = max(1, known.kinds)
    probes = [
        standardised(AttentiveProbe(train.shape[-1], grid, blocks, columns, how.width), sample) for _ in how.rates
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay, fused=True)
        for head, (rate, decay) in zip(probes, how.rates, strict=True)
    ]
    return trained(Heads([*probes], optimizers, known, how), train, test, known, held, asked, how, views)


class Tunable(nn.Module):
    """An encoder up to a layer, with a head: frames [B, T, S, S, 3] of 0..255 -> [B, columns]."""

    def __init__(self, model: VJEPA2Model, layer: int, head: AttentiveProbe) -> None:
        super().__init__()
        self.model, self.layer, self.head = model, layer, head

    def forward(self, frames: Tensor) -> Tensor:
        told: Tensor = self.head(tapped(self.model, normalise(frames), (self.layer,))[0])
        return told


def finetuned(
    world: VJEPA2World, layer: int, train: Packed, test: Packed, known: Question, held: Question, asked: Question,
    how: Training,
) -> Told:  # fmt: skip
    """As `attentive` of one block, but the encoder learns with it, at each of FINE_RATES."""
    learned, tested = (frames_of(part, world, range(len(part.clips))) for part in (train, test))
    with torch.no_grad():
        sample = world.layers(torch.from_numpy(learned[known.rows[:256]]), (layer,)).cpu()
    modules: list[nn.Module] = []
    optimizers: list[torch.optim.Optimizer] = []
    for rate in FINE_RATES:
        torch.manual_seed(how.seed)
        columns, grid = max(1, known.kinds), grid_of(world.model.config)
        head = standardised(AttentiveProbe(sample.shape[-1], grid, 1, columns, how.width), sample)
        model = deepcopy(world.model)
        learns = [model.encoder.embeddings, *model.encoder.layer[:layer], model.encoder.layernorm]
        parameters = [p.requires_grad_() for part in learns for p in part.parameters()]
        groups = [{"params": parameters, "lr": rate}, {"params": head.parameters(), "lr": 1e-3}]
        modules.append(Tunable(model, layer, head))
        optimizers.append(torch.optim.AdamW(groups, weight_decay=0.05))
    return trained(Heads(modules, optimizers, known, how), learned, tested, known, held, asked, how)


def frames_of(packed: Packed, world: World, rows: Iterable[int]) -> NDArray[np.uint8]:
    """What an encoder is shown of some clips, up to their `until`: [n, T, S, S, 3]."""
    shown = [packed.shown(row, packed.clips[row]["until"], world.rate, world.frames) for row in rows]
    return np.stack([resize(torch.from_numpy(np.ascontiguousarray(one)), world.size).numpy() for one in shown])


def trained(
    heads: Heads, train: NDArray[Any], test: NDArray[Any], known: Question, held: Question, asked: Question,
    how: Training, views: Sequence[Features] = (),
) -> Told:  # fmt: skip
    """Train heads until none has won on validation for a while; what the winner said when it was at its best. Where
    rates fall to nothing (`annealed`), what all say at the end: the best of many looks flatters itself.

    views: of the training clips, besides `train`; of each clip one is drawn every time.
    """
    if not how.patience:
        return annealed(heads, [train, *views], test, known, asked, how)
    rng = np.random.default_rng(how.seed)
    best, since, curve = (-math.inf, 0, 0), 0, []
    kept: Floats = np.zeros((len(asked.rows), max(1, asked.kinds)), dtype=np.float32)
    for step in range(1, how.most + 1):
        which = batch_of(known, how, rng)
        heads.learn(step, drawn([train, *views], known.rows[which], rng), known.values[which])
        if step % how.every and step != how.most:
            continue
        scores = [plain_score(held, one) for one in heads.tell_all(train, held.rows)]
        winner = int(np.argmax(scores))
        curve.append((step, scores[winner]))
        since += 1
        if scores[winner] > best[0]:
            best, since = (scores[winner], winner, step), 0
            kept = heads.tell(winner, test, asked.rows)
        if since >= how.patience:
            break
    group = heads.optimizers[best[1]].param_groups[0]
    setting = {"lr": heads.rates[best[1]][0], "weight_decay": group["weight_decay"]}
    return Told(kept, setting | {"steps": best[2], "converged": since >= how.patience}, curve)


def annealed(
    heads: Heads, views: Sequence[NDArray[Any]], test: NDArray[Any], known: Question, asked: Question, how: Training
) -> Told:
    """Train heads until their rates have fallen to nothing; what all say then, on average.

    Nothing is chosen. The curve is of what they said of the last `every` batches, each before they learned from it: it
    shows when learning ends, and of moved views that are hardly seen twice how well it is learned.
    """
    rng = np.random.default_rng(how.seed)
    said, of, curve = [], [], []
    for step in range(1, how.most + 1):
        which = batch_of(known, how, rng)
        said.append(heads.learn(step, drawn(views, known.rows[which], rng), known.values[which]).mean(0))
        of.append(which)
        if step % how.every == 0 or step == how.most:
            curve.append((step, plain_score(known.part(np.concatenate(of)), np.concatenate(said))))
            said, of = [], []
    return Told(heads.tell_all(test, asked.rows).mean(0), {"heads": len(heads.heads), "annealed": how.most}, curve)


def batch_of(known: Question, how: Training, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which clips are learned from next."""
    return rng.choice(len(known.rows), min(how.batch, len(known.rows)), replace=False)


def drawn(views: Sequence[NDArray[Any]], rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """Of each of these clips one view: float32 [B, ...]"""
    if len(views) == 1:
        return torch.from_numpy(views[0][rows]).float()
    which = rng.integers(len(views), size=len(rows))
    return torch.from_numpy(np.stack([views[view][row] for view, row in zip(which, rows, strict=True)])).float()


@torch.no_grad()
def read(head: nn.Module, inputs: NDArray[Any], rows: NDArray[np.int64]) -> Tensor:
    """What a head says of some clips: float32 [n, columns]."""
    batches = (torch.from_numpy(inputs[rows[at : at + 256]]) for at in range(0, len(rows), 256))
    return torch.cat([head(batch.to(train_device()).float()) for batch in batches])


@dataclass(frozen=True)
class Bench:
    """Features of one encoder's layer on the training and test clips, and what probes are asked of them.

    tune: trains the encoder itself, where there is one. pool: what probes that see no tokens are given of them. views:
    of the training clips, from which attentive probes learn as well.
    """

    train: Features
    test: Features
    grid: Grid
    asked: Mapping[str, Question]
    answers: Mapping[str, Question]
    tune: Callable[[Question, Question, Question, Training], Told] | None = None
    pool: Callable[[Features, Grid], Floats] = pooled
    views: Sequence[Features] = ()

    def measure(self, name: str, probe: str, labels: int | None, how: Training) -> Row:
        """One probe on one variable: its figure on the test clips, and how it was trained."""
        asked, told = self.answers[name], self.tell(name, probe, labels, how)
        found = figure(score_of(asked, told.values), asked.scenes, asked.chance)
        count = min(labels or len(self.asked[name].rows), len(self.asked[name].rows))
        return {**asdict(found), "metric": asked.metric, "labels": count, **told.setting, "curve": told.curve}

    def tell(self, name: str, probe: str, labels: int | None, how: Training) -> Told:
        """What one probe says of one variable of the test clips."""
        question, asked = self.asked[name], self.answers[name]
        chosen = probe in POOLED or how.patience > 0
        known, held = map(question.part, parted(len(question.rows), labels, how, chosen))
        if probe.startswith("attentive"):
            blocks = int(probe.removeprefix("attentive"))
            return attentive(self.train, self.test, known, held, asked, self.grid, blocks, how, self.views)
        if probe == FINETUNE:
            assert self.tune is not None, "raw pixels have no encoder that could learn"
            return self.tune(known, held, asked, how)
        return self._pooled(POOLED[probe], known, held, asked)

    def _pooled(self, fit: Callable[..., Told], known: Question, held: Question, asked: Question) -> Told:
        parts = [self.train[known.rows], self.train[held.rows], self.test[asked.rows]]
        flat = [self.pool(part, self.grid).astype(np.float64) for part in parts]  # thousands of columns, few clips
        mean, std = flat[0].mean(0), flat[0].std(0) + 1e-6
        return fit(*((part - mean) / std for part in flat), known, held)


def run(
    model: str | Path,
    data: Path,
    train_data: Path,
    out: Path,
    *,
    probes: Sequence[str] = PROBES,
    layers: Sequence[int] | None = None,
    variables: Sequence[str] | None = None,
    labels: int | None = None,
    views: int = 0,
    tubelets: int | None = None,
    how: Training | None = None,
    command: str = "",
    track: Callable[[Iterator[Cell], int], Iterator[Cell]] | None = None,
) -> dict[str, Any]:
    """Probe an encoder, a random-init one and raw pixels on worlds; write figures to `out` and curves beside it (PNG).

    data, train_data: worlds to test and to train on; where something is chosen, a fifth of these validates. layers: of
    the encoder (None: its taps). labels: at most so many training clips a variable. views: so many more of every
    training clip (`views_of`) for attentive probes; V-JEPA's learn from crops and mirror images, too. tubelets: frozen
    features of the last so many alone (None: of all). Every figure is kept in `out` with the ending .cells.jsonl as
    soon as it is there, and not made again. Raises ValueError for a probe, layer or variable that does not exist, for
    places that would be asked of moved views, for views that no probe would learn from, and for an encoder that would
    learn from them.
    """
    world, how = VJEPA2World.from_pretrained(model), how or Training()
    nn.Module.to(world.model, train_device())
    train, test = load_clips(train_data), load_clips(data)
    asked, answers = questions_of(train.clips), questions_of(test.clips)
    shared = sorted((asked.keys() & answers.keys()) - {*(PLACES if views else ())})
    names, layers = list(variables or shared), list(layers or world.taps)
    refuse(probes, (*PROBES, *ASKED_FOR), "probe")
    refuse(names, shared, "variable of moved views" if views else "variable")
    refuse(layers, range(world.model.config.num_hidden_layers + 1), "layer")
    if tubelets is not None:
        refuse([tubelets], range(1, grid_of(world.model.config)[0] + 1), "--tubelets")
    if FINETUNE in probes and (views or tubelets):
        raise ValueError("finetune learns from whole clips as they are: leave out --views and --tubelets, or finetune")
    if views and not any(probe.startswith("attentive") for probe in probes):
        raise ValueError(f"--views {views}: only attentive probes learn from views; name one, or leave out --views")
    takers = takers_of(world, layers)
    splits = (digest(part.root / "clips.jsonl") for part in (train, test))
    protocol = [str(labels), json.dumps(asdict(how)), str(views), str(tubelets)]
    cells = Cells(out.with_suffix(".cells.jsonl"), mark(model, *splits, *protocol))
    pairs = [(taker, probe) for taker in takers for probe in probes if takers[taker].world or probe != FINETUNE]
    wanted = [(taker, name, probe) for name in names for taker, probe in pairs]
    wanted.sort(key=lambda cell: list(takers).index(cell[0]))
    missing = [cell for cell in wanted if cell not in cells.done]
    bench, seen = None, ""
    for taker, name, probe in track(iter(missing), len(missing)) if track else missing:
        if taker != seen:
            bench, seen = takers[taker].bench(train, test, world, asked, answers, views, tubelets), taker
        assert bench is not None
        cells.keep((taker, name, probe), bench.measure(name, probe, labels, how))
    clips = {"train": len(train.clips), "test": len(test.clips)}
    found = {**provenance(command), "clips": clips, "figures": [cells.done[cell] for cell in wanted]}
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    plot(found, out.with_suffix(".png"))
    return found


@dataclass(frozen=True)
class Taker:
    """What is probed: how it sees frames; the encoder, up to which layer, where there is one."""

    see: See
    world: VJEPA2World | None = None
    layer: int = 0

    def bench(
        self, train: Packed, test: Packed, like: VJEPA2World, asked: Mapping[str, Question],
        answers: Mapping[str, Question], views: int = 0, tubelets: int | None = None,
    ) -> Bench:  # fmt: skip
        """Its features of the clips and of other views of them, and the way to train it."""
        tune = None if self.world is None else partial(finetuned, self.world, self.layer, train, test)
        time, height, width = grid_of(like.model.config)
        grid = (tubelets or time, height, width)
        see = latest(self.see, grid, grid[0])
        last = 0 if self.layer else grid[0] * window_of(like.model.config).tubelet  # patches and pixels know no others
        features = [watch(part, see, like, last=last) for part in (train, test)]
        more = views_of(train, see, like, views, last) if views else []
        return Bench(features[0], features[1], grid, asked, answers, tune, views=more)


def takers_of(world: VJEPA2World, layers: Sequence[int]) -> dict[str, Taker]:
    """What is probed, by name: every layer of the encoder and of a random-init one, and raw pixels."""
    random, takers = random_init(world), {}
    for layer in layers:
        takers[f"encoder, layer {layer}"] = Taker(layer_of(world, layer), world, layer)
        takers[f"random init, layer {layer}"] = Taker(layer_of(random, layer), random, layer)
    return {**takers, "raw pixels": Taker(raw_pixels(world))}


class Cells:
    """Figures on disk as they come, a line each, by (taker, variable, probe); those of another `mark` are not known.

    Several processes may keep theirs in one file.
    """

    def __init__(self, path: Path, depends: str) -> None:
        self.path, self.mark = path, depends
        self.done: dict[Cell, Row] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            write(path, "".join(map(line, readable(path))))  # without a line that was cut off
        self.refresh()

    def _alone(self) -> AbstractContextManager[bool]:
        return claimed(self.path.with_suffix(".claims"), "0", wait=True)

    def refresh(self) -> None:
        """Know what other processes kept since."""
        with self._alone():
            rows = [row for row in readable(self.path) if row.pop("mark") == self.mark]
        self.done = {(row["taker"], row["variable"], row["probe"]): row for row in rows}

    def keep(self, cell: Cell, measured: Row) -> None:
        row = dict(zip(("taker", "variable", "probe"), cell, strict=True)) | measured
        with self._alone(), self.path.open("a", encoding="utf-8") as file:
            file.write(line({"mark": self.mark, **row}))
        self.done[cell] = row


def table(found: Mapping[str, Any]) -> str:
    """The figures as Markdown: a row for every variable and taker, a column for every probe."""
    cells = {(one["variable"], one["taker"], one["probe"]): one for one in found["figures"]}
    probes = list(dict.fromkeys(probe for _, _, probe in cells))
    lines = [["variable", "metric", "features", *probes], ["---"] * 3 + ["---:"] * len(probes)]
    for name, taker in dict.fromkeys((name, taker) for name, taker, _ in sorted(cells, key=lambda cell: cell[0])):
        row = [cells.get((name, taker, probe)) for probe in probes]
        told = [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" if one else "" for one in row]
        lines.append([name, next(one["metric"] for one in row if one), taker, *told])
    return "\n".join(f"| {' | '.join(cells_)} |" for cells_ in lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Curves of the attentive probes, a panel for every variable: flat at first, then sudden. On validation; of those
    that learn from every clip, on the clips that they are about to learn from."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    trained = [one for one in found["figures"] if one["curve"]]
    names = list(dict.fromkeys(one["variable"] for one in trained))
    if not names:
        return
    columns, curves = min(3, len(names)), len({(one["taker"], one["probe"]) for one in trained})
    picture = Picture(figsize=(3.2 * len(names), 3 + 0.2 * math.ceil(curves / columns)), layout="constrained")
    FigureCanvasAgg(picture)
    for axes, name in zip(picture.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        asked = [one for one in trained if one["variable"] == name]
        clips = "about to be learned from" if all("annealed" in one for one in asked) else "validation"
        for one in asked:
            axes.plot(*zip(*one["curve"], strict=True), label=f"{one['taker']}, {one['probe']}", lw=1)
        axes.set(title=name, xlabel="steps", ylabel=f"{one['metric']}\n({clips})")
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=columns)
    picture.savefig(path, dpi=120, metadata={"Software": None})


def refuse(given: Sequence[Any], allowed: Sequence[Any], what: str) -> None:
    """Raises ValueError that names what is not allowed of the things given, and what is."""
    if wrong := [one for one in given if one not in allowed]:
        raise ValueError(f"{what} {', '.join(map(str, wrong))} is unknown: choose from {', '.join(map(str, allowed))}")
