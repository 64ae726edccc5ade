"""JEPA against its pixel-generative rivals at equal compute: what their features tell, along training, with controls.

Every run sees the same clips in the same order through the same encoder and optimizer; runs of one kind end at the same
number of operations (a frozen teacher's come on top). Scores are probes on worlds that no run has seen. The claim that
is settled is a ratio: the compute that a pixel rival needs to reach a score, over JEPA's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bridge.projector import average
from ..perception.encoder import VJEPA2World, World, grid_of, normalise, open_model
from ..train import pretrain
from ..train.alarm import Unhealthy
from ..train.data import Packed, live_encoder, load_clips
from ..train.learner import OBJECTIVES, build, objective_of, step_flops
from ..train.objectives import pixels_of
from ..train.recipes import PretrainRecipe, nano_encoder, plain
from .probe import (
    TWO_RATES,
    Bench,
    Cells,
    Question,
    See,
    Training,
    plain_score,
    questions_of,
    random_init,
    score_of,
    watch,
)
from .race import UNKNOWN, Curve, half, ratios, resampled, resamples_of, verdict
from .record import digest, mark, provenance, rounded, write
from .stats import figure
from .turns import claim_of, in_turn

Row = dict[str, Any]
Curves = dict[tuple[str, str, str], list[Curve]]
"""By objective, variable and probe, one a run."""
Floats = NDArray[Any]
Kind = Literal["videos", "images"]
SIDES: dict[Kind, tuple[str, str]] = {"images": ("ijepa", "mae"), "videos": ("vjepa", "videomae")}
"""JEPA and its pixel rival; images first, since they take minutes."""
OTHERS = ("vjepa_dense", "lejepa", "pixel_ar", "salt", "videomae_published", "mae_published")
VARIABLES: dict[Kind, tuple[str, ...]] = {
    "videos": ("falls", "touches", "speed", "y", "mass"),
    "images": ("shape", "colour", "count"),
}
CORE: dict[Kind, tuple[str, ...]] = {"videos": ("falls", "touches"), "images": ("shape",)}
"""The variables that decide which clips are asked about; the others are asked about those of the same clips that have
them, so that no clip is encoded for one variable alone."""
ENCODER: dict[Kind, str] = {"videos": "nano", "images": "nano_picture"}
RANDOM = "random init"
ALONG, FINAL = ("ridge", "attentive1"), ("attentive4",)
"""Probes along a run, and at its end."""


@dataclass(frozen=True)
class Plan:
    """How long a benchmark is.

    steps: of V-JEPA and I-JEPA; their rivals take as many operations. points: shares of a run after which it is probed.
    rates: learning rates that every side may choose from, by ridge probes on validation clips at the end of a whole run
    (features may tell less and less after a part of one: LOG.md). seeds: of both sides, the run that was chosen among
    them; the other objectives run once. clips: how many these learn from. labels, curve_labels: training clips of the
    4-block probe, and of those along a run; test_clips: at most so many of each variable of CORE (0: all). axis_clips,
    axis_encoders: the data axis, of equal steps (axis_steps: enough to see each of the most clips once).
    """

    steps: int = 1000
    points: tuple[float, ...] = (0.25, 0.5, 1.0)
    rates: tuple[float, ...] = (3e-4, 6e-4, 1.2e-3)
    seeds: int = 3
    others: tuple[str, ...] = OTHERS
    clips: int = 16_000
    labels: int = 2000
    curve_labels: int = 1000
    axis_clips: tuple[int, ...] = (1000, 4000, 16000, 64000)
    axis_encoders: tuple[str, ...] = ("mini", "small", "nano")
    axis_steps: int = 2000
    encoders: Mapping[Kind, str] = field(default_factory=lambda: ENCODER)
    test_clips: int = 0
    curve: Training = field(default_factory=lambda: Training(every=50, patience=5, most=800, rates=TWO_RATES))
    final: Training = field(default_factory=lambda: Training(patience=4, most=1200, rates=TWO_RATES[1:]))
    base: PretrainRecipe = field(default_factory=nano_encoder)


def quick() -> Plan:
    """Minutes: does the machinery run? Its figures say nothing."""
    return Plan(
        steps=24, points=(0.5, 1.0), rates=(6e-4,), seeds=2, others=("lejepa",), labels=200, curve_labels=100,
        test_clips=100, axis_clips=(100, 200),
        axis_encoders=("small",), axis_steps=12, curve=Training(every=25, patience=1, most=50),
        final=Training(every=25, patience=1, most=50),
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One pretraining run of the benchmark: its name, its recipe, the job whose encoder teaches it (salt)."""

    name: str
    kind: Kind
    recipe: PretrainRecipe
    teacher: str = ""


@dataclass(frozen=True)
class Point:
    """An encoder along a run: its folder, the operations and seconds that made it, and the machine."""

    folder: Path
    flops: float
    seconds: float
    machine: str


@cache
def cost(recipe: PretrainRecipe) -> float:
    """Operations of a step of this recipe, the mean over its masks."""
    teacherless = replace(recipe, objective="vjepa") if recipe.objective == "salt" else recipe
    learner = build(teacherless, None)
    grid = grid_of(learner.student.model.config)
    draw, rng = objective_of(recipe).draw, np.random.default_rng(0)
    return float(
        np.mean([step_flops(learner.student, draw(rng, grid, recipe.batch, recipe), recipe) for _ in range(64)])
    )


def equalled(recipe: PretrainRecipe, like: PretrainRecipe) -> PretrainRecipe:
    """A recipe of as many operations as another, its schedule stretched with its steps."""
    steps = max(2, round(like.steps * cost(like) / cost(recipe)))
    return replace(recipe, steps=steps, warmup=max(1, round(like.warmup * steps / like.steps)))


def recipe_of(plan: Plan, kind: Kind, objective: str, steps: int) -> PretrainRecipe:
    """An objective's recipe of as many operations as so many steps of its kind's JEPA."""
    warmup = max(1, round(plan.base.warmup * steps / plan.base.steps))
    jepa = replace(plan.base, objective=SIDES[kind][0], encoder=plan.encoders[kind], steps=steps, warmup=warmup)
    return jepa if objective == jepa.objective else equalled(replace(jepa, objective=objective), jepa)


def kind_of(objective: str) -> Kind:
    """What an objective learns from."""
    return "images" if OBJECTIVES[objective].pictures else "videos"


def job_of(plan: Plan, objective: str, rate: float, seed: int = 0, teacher: str = "") -> Job:
    """A run of this objective, rate and seed, whose encoder is kept at the plan's points."""
    kind = kind_of(objective)
    recipe = recipe_of(plan, kind, objective, plan.steps)
    snapshots = tuple(sorted({max(1, round(share * recipe.steps)) for share in plan.points}))
    name = f"{objective}-{rate:g}-{seed}"
    return Job(name, kind, replace(recipe, seed=seed, lr=rate, snapshots=snapshots, clips=plan.clips), teacher)


def tuning_jobs(plan: Plan, kind: Kind) -> list[Job]:
    """The first run of both sides at every learning rate: equal budgets, the same choices."""
    return [job_of(plan, objective, rate) for objective in SIDES[kind] for rate in plan.rates]


def main_jobs(plan: Plan, kind: Kind, rates: Mapping[str, float]) -> list[Job]:
    """Runs along which probes are asked; a published model takes its matched version's rate, what else has not been
    tuned JEPA's; salt's teacher is the first VideoMAE. The first of each side is the tuning run that was chosen."""
    jepa, rival = SIDES[kind]
    sides = [job_of(plan, side, rates[side], seed) for seed in range(plan.seeds) for side in (jepa, rival)]
    return sides + [
        job_of(
            plan,
            other,
            rates.get(other.removesuffix("_published"), rates[jepa]),
            teacher=job_of(plan, rival, rates[rival]).name if other == "salt" else "",
        )
        for other in plan.others
        if kind_of(other) == kind
    ]


def axis_jobs(plan: Plan, rates: Mapping[str, float]) -> list[Job]:
    """The data axis: both video sides on growing numbers of clips, in every size of encoder."""
    jobs = []
    for objective in SIDES["videos"]:
        base = replace(recipe_of(plan, "videos", SIDES["videos"][0], plan.axis_steps), objective=objective)
        for encoder in plan.axis_encoders:
            for clips in plan.axis_clips:
                recipe = replace(base, encoder=encoder, clips=clips, lr=rates[objective])
                jobs.append(Job(f"axis-{objective}-{encoder}-{clips}", "videos", recipe))
    return jobs


class NotTaught(Exception):
    """A job's teacher has yet to learn."""


TOLD_LATER = (ArithmeticError, NotTaught)
"""What a run that is made ahead of its turn may end in."""


def kept_at(job: Job) -> tuple[int, ...]:
    """The steps of a job whose encoders are kept: its last one at least."""
    return job.recipe.snapshots or (job.recipe.steps,)


def done(job: Job, folder: Path) -> bool:
    """Whether a job has run to its end, here or on another machine."""
    return (pretrain.snapshot(folder / job.name, kept_at(job)[-1]) / "training.json").is_file()


def points_of(job: Job, data: Path, folder: Path) -> list[Point]:
    """Pretrain a job, or go on with it; its encoders along the way.

    What the alarm said of a run is kept, and raised again without another run. Raises ValueError where the folder holds
    a finished run of another recipe.
    """
    out = folder / job.name
    recipe = replace(job.recipe, snapshots=kept_at(job), log_every=job.recipe.steps)
    if (said := out / "stopped.txt").is_file():
        raise Unhealthy(said.read_text(encoding="utf-8"))
    if not done(job, folder):
        teacher = folder / job.teacher / "encoder" if job.teacher else None
        if teacher is not None and not (teacher / "training.json").is_file():
            raise NotTaught(job.name)
        try:
            pretrain.run(data, out, recipe, teacher=teacher)
        except ArithmeticError as error:
            out.mkdir(parents=True, exist_ok=True)
            write(said, str(error))
            raise
    refuse_another(out, recipe)
    extra = cost_of_teacher(folder / job.teacher) if job.teacher else (0.0, 0.0)
    points = []
    for step in recipe.snapshots:
        told = json.loads((pretrain.snapshot(out, step) / "training.json").read_text(encoding="utf-8"))
        flops, seconds = told["flops"] + extra[0], told["wall_seconds"] + extra[1]
        points.append(Point(pretrain.snapshot(out, step), flops, seconds, told["machine"]))
    return points


PACE = ("snapshots", "log_every", "probe_every", "save_every")
"""What of a recipe says when a run writes, not what it learns."""


def refuse_another(out: Path, recipe: PretrainRecipe) -> None:
    """Raises ValueError where a run's folder, made here or brought, is of another recipe."""
    held = plain(PretrainRecipe()) | json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    wanted = {name: value for name, value in plain(recipe).items() if name not in PACE}
    if changes := pretrain.differences(held, wanted):
        raise ValueError(f"{out} holds a run of another recipe ({changes}): remove it, or choose another --runs")


def cost_of_teacher(folder: Path) -> tuple[float, float]:
    """What a teacher cost is part of what its student cost: operations, seconds."""
    told = json.loads((folder / "encoder" / "training.json").read_text(encoding="utf-8"))
    return float(told["flops"]), float(told["wall_seconds"])


def thirds(world: World) -> See:
    """Tokens after a third, two thirds and all of the layers side by side, averaged 2 x 2 in space, for everybody."""
    depth = int(world.model.config.num_hidden_layers)
    layers = tuple(sorted({max(1, depth // 3), max(1, 2 * depth // 3), depth}))
    return lambda frames: blurred(world.layers(frames, layers), world)


def blurred(tokens: Tensor, world: World) -> Tensor:
    """2 x 2 neighbours averaged: [B, t h w, C] -> float32 [B, t h/2 w/2, C]."""
    return average(tokens.float(), world.grid)


def beside(tokens: Tensor, world: World) -> Tensor:
    """2 x 2 neighbours side by side, nothing averaged away: [B, t h w, P] -> [B, t h/2 w/2, 4 P]."""
    t, height, width = world.grid
    cells = tokens.unflatten(1, (t, height // 2, 2, width // 2, 2))  # [B, t, h/2, 2, w/2, 2, P]
    joined: Tensor = cells.transpose(3, 4).flatten(4).flatten(1, 3)
    return joined


def raw_pixels(world: World) -> See:
    """As many tokens of plain pixels."""
    return lambda frames: beside(pixels_of(normalise(frames), world.model.config), world)


def shuffled(see: See, seed: int = 0) -> See:
    """The same frames in random order, another for every clip: what is left without motion."""
    generator = torch.Generator().manual_seed(seed)

    def scramble(frames: Tensor) -> Tensor:
        orders = torch.stack([torch.randperm(frames.shape[1], generator=generator) for _ in frames])
        return see(frames[torch.arange(len(frames))[:, None], orders])

    return scramble


def recoloured(see: See) -> See:
    """Red, green and blue exchanged in a ring: every object of another colour, shapes and motion untouched."""
    return lambda frames: see(frames.roll(1, dims=-1))


@dataclass(frozen=True)
class Exam:
    """What probes learn from and are asked: worlds that no run was measured on while it learned."""

    train: Packed
    test: Packed
    asked: Mapping[str, Question]
    answers: Mapping[str, Question]

    @classmethod
    def of(cls, train: Packed, test: Packed, kind: Kind) -> Exam:
        """About all of these clips."""
        return cls(train, test, variables(train, kind), variables(test, kind))

    def bench(self, world: World, learn: See, test: See) -> Bench:
        """Features of both, as probes want them."""
        time, height, width = world.grid
        both = [watch(part, see, world) for part, see in ((self.train, learn), (self.test, test))]
        return Bench(both[0], both[1], (time, max(1, height // 2), max(1, width // 2)), self.asked, self.answers)


def part_of(packed: Packed, rows: NDArray[np.int64]) -> Packed:
    """Some of the clips."""
    clips = [packed.clips[row] for row in rows]
    digests = [packed.digests[row] for row in rows]
    index = {clip["video"]: row for row, clip in enumerate(clips)}
    return replace(packed, clips=clips, frames=packed.frames[rows], index=index, digests=digests)


def core(packed: Packed, kind: Kind, count: int) -> Packed:
    """The first `count` clips of each of the variables that decide."""
    known = variables(packed, kind)
    return part_of(packed, np.unique(np.concatenate([known[name].rows[: count or None] for name in CORE[kind]])))


def labelled(packed: Packed, plan: Plan) -> dict[tuple[Kind, bool], Packed]:
    """The clips that probes learn from, by kind, along runs and for the strongest probe."""
    most = {kind: core(packed, kind, max(plan.labels, plan.curve_labels)) for kind in SIDES}
    counts = {False: plan.curve_labels, True: plan.labels}
    return {(kind, final): core(most[kind], kind, count) for kind in SIDES for final, count in counts.items()}


def variables(packed: Packed, kind: Kind) -> dict[str, Question]:
    """What is asked about clips. Raises ValueError where the worlds do not have it."""
    known = questions_of(packed.clips)
    if missing := [name for name in VARIABLES[kind] if name not in known]:
        raise ValueError(f"{packed.root} has no {', '.join(missing)}: render worlds of all scenarios")
    return {name: known[name] for name in VARIABLES[kind]}


def world_of(folder: Path) -> World:
    """An encoder of a run, in the type that is fast here."""
    return live_encoder(World(open_model(folder).requires_grad_(False)))


@dataclass
class Referee:
    """Asks probes about encoders, each encoder's features being made once and only where something is not known yet.

    exams: by kind, for probes along runs and for the strongest one, which gets more labels; both ask the same of the
    same test clips.
    """

    plan: Plan
    exams: Mapping[tuple[Kind, bool], Exam]
    cells: Mapping[bool, Cells]

    @classmethod
    def over(
        cls, train: Mapping[tuple[Kind, bool], Packed], test: Packed, plan: Plan, cells: Mapping[bool, Cells]
    ) -> Referee:
        """A referee whose test clips are these. train: the labelled clips of every exam."""
        tested = {kind: core(test, kind, plan.test_clips) for kind in SIDES}
        return cls(plan, {key: Exam.of(part, tested[key[0]], key[0]) for key, part in train.items()}, cells)

    def answers(self, kind: Kind) -> Mapping[str, Question]:
        """What is true of the test clips."""
        return self.exams[kind, False].answers

    def ask(
        self,
        name: str,
        kind: Kind,
        world: Callable[[], World],
        probes: Sequence[str],
        see: Callable[[World], See] = thirds,
        test: Callable[[World], See] | None = None,
    ) -> dict[tuple[str, str], Floats]:
        """What probes say of every variable, by (variable, probe); the strongest one is asked on its own.

        test: how test clips are seen, where differently.
        """
        final = probes == FINAL
        how, labels = (self.plan.final, self.plan.labels) if final else (self.plan.curve, self.plan.curve_labels)
        cells, kept = {(v, probe): (name, v, probe) for v in VARIABLES[kind] for probe in probes}, self.cells[final]
        with claim_of(kept.path.with_suffix(".asked"), name, wait=True):
            kept.refresh()
            missing = [key for key, cell in cells.items() if cell not in kept.done]
            if missing:
                opened = world()
                bench = self.exams[kind, final].bench(opened, see(opened), (test or see)(opened))
            for variable, probe in missing:
                told = bench.tell(variable, probe, labels, how).values
                kept.keep(cells[variable, probe], {"told": np.round(told, 4).tolist()})
        return {key: np.array(kept.done[cell]["told"], dtype=np.float32) for key, cell in cells.items()}

    def judge(self, kind: Kind, variable: str, told: Floats) -> Row:
        """The figure of what was said of a variable, its interval over scenes."""
        question = self.answers(kind)[variable]
        found = figure(score_of(question, told), question.scenes, question.chance)
        return {"variable": variable, "metric": question.metric, **asdict(found)}


SHUFFLED = "shuffled frames"
CONTROLS: dict[str, tuple[Callable[[World], See], Callable[[World], See] | None]] = {
    SHUFFLED: (lambda world: shuffled(thirds(world)), None),
    "recoloured objects": (thirds, lambda world: recoloured(thirds(world))),
    "raw pixels": (raw_pixels, None),
}
"""How the clips that a probe learns from are seen, and the test clips, where those are seen differently."""


def run(
    data: Path,
    val: Path,
    test: Path,
    runs: Path,
    out: Path,
    plan: Plan,
    *,
    command: str = "",
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Tune, pretrain and probe all of a plan; writes `out` (JSON) and plots beside it, and returns what it wrote.

    Images are settled before videos begin, which take several times as long. All that is known is written after every
    run, with the names of what is "missing". The strongest probes of a kind come last: they take longer than a ratio.

    data: worlds to pretrain on and to label probes from; val: worlds on which rates are chosen; test: worlds that
    figures are about; runs: everything that a stopped benchmark goes on from. Several processes that are given the same
    share the work, where an accelerator or many cores have room for it. A run that the alarm stops is told under
    "stopped" and left out. Raises ValueError for worlds that are too few or lack a variable, Unhealthy where a side of
    the ratio cannot be trained. Runs of the data axis that want more clips than there are stay among what is missing,
    until more are rendered or their folders brought from where there were enough.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    learned, held, tested = (load_clips(one) for one in (data, val, test))
    frames = data / "frames.npy"
    labels = labelled(learned, plan)
    cells = {final: cells_of(plan, final, runs, labels, (val, test)) for final in (False, True)}
    chosen_by, judged_by = (Referee.over(labels, one, plan, cells) for one in (held, tested))
    tuning: dict[str, dict[str, Any]] = {"chosen": {}, "scores": {}, "stopped": {}}
    found: dict[str, Any] = {**provenance(command), "plan": json.loads(json.dumps(asdict(plan))), "tuning": tuning}
    found |= {"missing": [*SIDES, DATA_AXIS], "stopped": {}, "data_axis": [], "data_growth": []}
    found |= {kind: unsettled(kind) for kind in SIDES}
    for kind in SIDES:
        for part, one in tuned(plan, kind, frames, runs, chosen_by, tell).items():
            tuning[part] |= one
        compared(kind, main_jobs(plan, kind, tuning["chosen"]), frames, runs, judged_by, found, out, tell)
    axis = axis_jobs(plan, tuning["chosen"])
    found["missing"] = [job.name for job in axis]
    work = {
        job.name: partial(axis_rows, job, frames, runs, judged_by)
        for job in axis
        if job.recipe.clips <= len(learned.clips) or done(job, runs)
    }
    for number, (name, do) in enumerate(in_turn(runs / ".claims", work, TOLD_LATER)):
        tell(f"{DATA_AXIS}: {name}", number, len(work))
        found["data_axis"] += do()
        found["missing"].remove(name)
        kept(found, out)
    found["data_growth"] = growth(axis, frames, runs, judged_by)
    plot_axis(found["data_axis"], out.with_name(f"{out.stem}-data.png"))
    kept(found, out)
    return found


DATA_AXIS = "data axis"
"""What is missing until its runs are known by name, like each of the kinds."""


def kept(found: Mapping[str, Any], out: Path) -> None:
    """Write what is known by now."""
    write(out, json.dumps(rounded(found), indent=1) + "\n")


def compared(
    kind: Kind,
    jobs: Sequence[Job],
    frames: Path,
    runs: Path,
    referee: Referee,
    found: dict[str, Any],
    out: Path,
    tell: Callable[[str, int, int], None],
) -> None:
    """Follow the runs of one kind, and say in `found` what is known: ratio, curves, strongest probes, what is missing.

    out: where that is written, and its curves drawn beside it. Raises Unhealthy where the alarm stops one of its sides;
    of another objective that is a result.
    """
    missing, curves, strongest = found["missing"], Curves(), f"{FINAL[0]} probes of {kind}"
    place = missing.index(kind)
    missing[place : place + 1] = [*(job.name for job in jobs), strongest]
    work = {job.name: partial(followed, job, frames, runs, referee) for job in jobs}
    for number, (job, (name, do)) in enumerate(zip(jobs, in_turn(runs / ".claims", work, TOLD_LATER), strict=True)):
        tell(f"{kind}: {name}", number, len(jobs))
        missing.remove(name)
        try:
            told = do()
        except ArithmeticError as error:
            if job.recipe.objective in SIDES[kind]:
                raise
            found["stopped"][name] = str(error)
            kept(found, out)
            continue
        for (variable, probe), curve in told.items():
            curves.setdefault((job.recipe.objective, variable, probe), []).append(curve)
        found[kind] |= settled(kind, curves, referee)
        plot(found, out.with_suffix(".png"))
        kept(found, out)
    found[kind] |= finals(kind, jobs, referee)
    missing.remove(strongest)
    kept(found, out)


def cells_of(
    plan: Plan, final: bool, runs: Path, labels: Mapping[tuple[Kind, bool], Packed], asked: Sequence[Path]
) -> Cells:
    """What probes along runs, or the strongest ones, said: known as long as what decides it stays the same. Worlds to
    pretrain on may grow: of these the labelled clips decide."""
    how, count = (plan.final, plan.labels) if final else (plan.curve, plan.curve_labels)
    learned = [labels[kind, final].clips for kind in SIDES]
    decides = sha256(repr((learned, count, plan.test_clips, how, plan.base, plan.clips)).encode()).hexdigest()
    name = "finals.jsonl" if final else "cells.jsonl"
    return Cells(runs / name, mark(*(digest(one / "clips.jsonl") for one in asked), decides))


def tuned(
    plan: Plan, kind: Kind, frames: Path, runs: Path, referee: Referee, tell: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Both sides' learning rates, by the mean of their ridge probes on validation clips at the end of a run.

    A rate at which the alarm stops a run is out. Raises Unhealthy where that leaves a side none.
    """
    scores: dict[str, dict[float, float]] = {}
    stopped: dict[str, str] = {}
    jobs = tuning_jobs(plan, kind)

    def ended(job: Job) -> dict[tuple[str, str], Floats]:
        end = points_of(job, frames, runs)[-1]
        return referee.ask(f"{job.name} (validation)", job.kind, partial(world_of, end.folder), ("ridge",))

    turns = in_turn(runs / ".claims", {job.name: partial(ended, job) for job in jobs}, TOLD_LATER)
    for number, (job, (_, do)) in enumerate(zip(jobs, turns, strict=True)):
        tell(f"rates of {kind}: {job.name}", number, len(jobs))
        try:
            told = do()
        except ArithmeticError as error:
            stopped[job.name] = str(error)
            continue
        answers = referee.answers(job.kind)
        each = [plain_score(answers[variable], values) for (variable, _), values in told.items()]
        scores.setdefault(job.recipe.objective, {})[job.recipe.lr] = float(np.mean(each))
    if left := [side for side in SIDES[kind] if side not in scores]:
        raise Unhealthy(f"every rate of {', '.join(left)} was stopped: {'; '.join(stopped.values())}")
    best = {objective: max(tried, key=lambda rate: tried[rate]) for objective, tried in scores.items()}
    return {"chosen": best, "scores": scores, "stopped": stopped}


def followed(job: Job, frames: Path, runs: Path, referee: Referee) -> dict[tuple[str, str], Curve]:
    """The curves of one run, for every variable and probe."""
    points = points_of(job, frames, runs)
    told = [
        referee.ask(f"{job.name} {number}", job.kind, partial(world_of, point.folder), ALONG)
        for number, point in enumerate(points)
    ]
    flops, seconds = (np.array([getattr(point, name) for point in points]) for name in ("flops", "seconds"))
    objective, machine = job.recipe.objective, points[-1].machine
    return {key: Curve(objective, flops, seconds, machine, [one[key] for one in told]) for key in told[0]}


def not_known(lacking: Sequence[str]) -> dict[str, Any]:
    """The ratio while sides are missing."""
    return UNKNOWN | {
        "words": f"not known yet: {' and '.join(lacking)} {'have' if len(lacking) > 1 else 'has'} yet to run"
    }


def unsettled(kind: Kind) -> dict[str, Any]:
    """What is said of a kind before its first run."""
    empty: dict[str, Any] = {"random_init": [], "curves": [], "finals": [], "gap_to_random_init": {}}
    return {"flops_ratio": not_known(SIDES[kind]), **empty}


def settled(kind: Kind, curves: Curves, referee: Referee) -> dict[str, Any]:
    """What the probes along the runs of one kind say so far: ratios and curves."""
    (jepa, rival), answers = SIDES[kind], referee.answers(kind)
    base = referee.ask(f"{RANDOM} ({kind})", kind, partial(untrained, kind, referee.plan), ALONG)
    ran = {side for side, *_ in curves}
    lacking = [side for side in (jepa, rival) if side not in ran]
    raced = [
        ratios(curves[jepa, variable, probe], curves[rival, variable, probe], told, answers[variable])
        for (variable, probe), told in base.items()
        if {(jepa, variable, probe), (rival, variable, probe)} <= curves.keys()
    ]
    return {
        "flops_ratio": not_known(lacking) if lacking else verdict([one for one in raced if one is not None]),
        "random_init": [
            {"probe": probe, **referee.judge(kind, variable, told)} for (variable, probe), told in base.items()
        ],
        "curves": curve_rows(kind, curves, answers),
    }


def untrained(kind: Kind, plan: Plan) -> World:
    """JEPA's encoder before its first step."""
    learner = build(replace(plan.base, objective=SIDES[kind][0], encoder=plan.encoders[kind]), None)
    return live_encoder(random_init(VJEPA2World(learner.teacher, rate=plan.base.rate)))


def curve_rows(kind: Kind, curves: Curves, answers: Mapping[str, Question]) -> list[Row]:
    """Every curve with the intervals of its points, over scenes and runs."""
    rows = []
    for (objective, variable, probe), runs in curves.items():
        if variable not in VARIABLES[kind]:
            continue
        question = answers[variable]
        scores = resampled(runs, question, resamples_of(question), np.random.default_rng(0))
        low, high = np.percentile(scores[1:], (2.5, 97.5), axis=0)
        spent = {one.machine: [run.seconds for run in runs if run.machine == one.machine] for one in runs}
        rows.append(
            {
                "objective": objective, "variable": variable, "probe": probe, "metric": question.metric,
                "runs": len(runs), "chance": question.chance, "n": len(question.scenes),
                "flops": runs[0].flops.tolist(),
                "seconds": {machine: np.mean(each, axis=0).tolist() for machine, each in spent.items()},
                "value": scores[0].tolist(), "low": low.tolist(), "high": high.tolist(),
            }
        )  # fmt: skip
    return rows


def controls_of(kind: Kind) -> dict[str, tuple[Callable[[World], See], Callable[[World], See] | None]]:
    """Those that mean something: a single frame has no order."""
    return {name: how for name, how in CONTROLS.items() if kind == "videos" or name != SHUFFLED}


def finals(kind: Kind, jobs: Sequence[Job], referee: Referee) -> dict[str, Any]:
    """The strongest probe at the end of the first run of every objective of a kind, JEPA's controls, and its gap to
    random init."""
    jepa, runs = SIDES[kind][0], referee.cells[True].path.parent
    firsts = {job.recipe.objective: job.name for job in jobs if job.recipe.seed == 0}
    folders = {objective: runs / name / "encoder" for objective, name in firsts.items()}
    ends = {name: partial(world_of, at) for name, at in folders.items() if (at / "training.json").is_file()}
    asks = {RANDOM: partial(referee.ask, f"{RANDOM} ({kind})", kind, partial(untrained, kind, referee.plan), FINAL)}
    asks |= {name: partial(referee.ask, f"{firsts[name]} end", kind, end, FINAL) for name, end in ends.items()}
    if jepa in ends:
        for name, (see, test) in controls_of(kind).items():
            asks[name] = partial(referee.ask, f"{firsts[jepa]} {name}", kind, ends[jepa], FINAL, see, test)
    told = {name: ask() for name, ask in in_turn(runs / f".claims-{kind}", asks)}
    rows = [
        {"features": name, "probe": probe, **referee.judge(kind, variable, values)}
        for name, one in told.items()
        for (variable, probe), values in one.items()
    ]
    gaps = {
        variable: gap(referee.answers(kind)[variable], values, told[RANDOM][variable, probe])
        for (variable, probe), values in told.get(jepa, {}).items()
    }
    return {"finals": rows, "gap_to_random_init": gaps}


def gap(question: Question, ours: Floats, theirs: Floats) -> Row:
    """How much more one says than another of the same clips, with the interval of the difference."""
    scores = [score_of(question, told) for told in (ours, theirs)]
    return asdict(figure(lambda weights: scores[0](weights) - scores[1](weights), question.scenes, 0.0))


def axis_told(job: Job, frames: Path, runs: Path, referee: Referee) -> tuple[Point, dict[tuple[str, str], Floats]]:
    """The end of a run of the data axis, and what probes say of it."""
    (point,) = points_of(job, frames, runs)
    return point, referee.ask(job.name, job.kind, partial(world_of, point.folder), ALONG)


def axis_rows(job: Job, frames: Path, runs: Path, referee: Referee) -> list[Row]:
    """Raw points of the data axis, for a later fit."""
    point, told = axis_told(job, frames, runs, referee)
    shared = {"objective": job.recipe.objective, "encoder": job.recipe.encoder, "clips": job.recipe.clips}
    shared |= {"flops": point.flops, "seconds": point.seconds, "machine": point.machine}
    return [
        {**shared, "probe": probe, **referee.judge(job.kind, variable, values)}
        for (variable, probe), values in told.items()
    ]


def growth(jobs: Sequence[Job], frames: Path, runs: Path, referee: Referee) -> list[Row]:
    """What the most clips teach beyond the fewest at equal steps: of both sides in every size, each variable by each
    probe, the difference with its interval over scenes (one run each)."""
    rows = []
    for objective, encoder in dict.fromkeys((job.recipe.objective, job.recipe.encoder) for job in jobs):
        ran = [job for job in jobs if (job.recipe.objective, job.recipe.encoder) == (objective, encoder)]
        ran = sorted((job for job in ran if done(job, runs)), key=lambda job: job.recipe.clips)
        if len(ran) < 2:
            continue
        shared = {
            "objective": objective,
            "encoder": encoder,
            "fewest": ran[0].recipe.clips,
            "most": ran[-1].recipe.clips,
        }
        few, many = (axis_told(job, frames, runs, referee)[1] for job in (ran[0], ran[-1]))
        answers = referee.answers(ran[0].kind)
        rows += [
            {**shared, "variable": variable, "probe": probe, **gap(answers[variable], told, few[variable, probe])}
            for (variable, probe), told in many.items()
        ]
    return rows


def growth_table(rows: Sequence[Row]) -> list[str]:
    """What more clips teach, by the 1-block probe, as lines of Markdown; none where nothing has been measured."""
    asked = [row for row in rows if row["probe"] == ALONG[-1]]
    if not asked:
        return []
    names = list(dict.fromkeys(row["variable"] for row in asked))
    lines = ["", "What more clips teach at equal steps, 1-block probe (one run each, intervals over scenes):", ""]
    lines += [f"| objective | encoder | clips | {' | '.join(names)} |", f"| --- | --- | --- |{' ---: |' * len(names)}"]
    rows_of: dict[tuple[str, ...], list[Row]] = {}
    for row in asked:
        clips = f"{row['most']:,} for {row['fewest']:,}"
        rows_of.setdefault((row["objective"], row["encoder"], clips), []).append(row)
    for head, each in rows_of.items():
        told = (f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" for row in each)
        lines.append(f"| {' | '.join((*head, *told))} |")
    return lines


def table(found: Mapping[str, Any]) -> str:
    """The verdicts, the final probes and what more clips teach as Markdown."""
    lines = []
    for kind, (jepa, rival) in SIDES.items():
        one = found[kind]["flops_ratio"]
        numbers = " ".join("-" if one[name] is None else f"{one[name]:.2f}" for name in ("value", "low", "high"))
        lines.append(f"{kind}: compute of {rival} over {jepa}: {numbers} ({one['words']}; at most half: {half(one)})")
    lines += ["", "| features | variable | metric | 4-block probe |", "| --- | --- | --- | ---: |"]
    for kind in SIDES:
        for row in found[kind]["finals"]:
            told = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            lines.append(f"| {row['features']} | {row['variable']} | {row['metric']} | {told} |")
    lines += growth_table(found["data_growth"])
    if found["missing"]:
        told = "render more from the same seed, and give their folder to the same command: what is done stays"
        lines += ["", f"not run, for want of clips: {', '.join(found['missing'])} ({told})"]
    return "\n".join(lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Scores of the 1-block probe against compute, a panel for every variable, intervals as bands; what it says of
    random init as a dashed line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    asked = [(kind, name) for kind in SIDES for name in VARIABLES[kind] if found[kind]["curves"]]
    curves = [row for kind in SIDES for row in found[kind]["curves"] if row["probe"] == ALONG[-1]]
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(row["objective"] for row in curves))}
    lines: dict[str, Any] = {}
    columns, count = min(4, len(asked)), math.ceil(len(asked) / 4)
    picture = Picture(figsize=(3.4 * columns, 3.0 * count + 0.3), layout="constrained")
    FigureCanvasAgg(picture)
    panels = list(picture.subplots(count, columns, squeeze=False).flat)
    for axes in panels[len(asked) :]:
        axes.remove()
    for axes, (kind, variable) in zip(panels, asked, strict=False):
        for row in found[kind]["random_init"]:
            if (row["variable"], row["probe"]) == (variable, ALONG[-1]):
                lines[RANDOM] = axes.axhline(row["value"], ls="--", lw=1, color="black")
                axes.axhspan(row["low"], row["high"], alpha=0.1, lw=0, color="black")
        for row in curves:
            if row["variable"] == variable:
                name, colour = row["objective"], colours[row["objective"]]
                (lines[name],) = axes.plot(row["flops"], row["value"], marker=".", lw=1, color=colour)
                axes.fill_between(row["flops"], row["low"], row["high"], alpha=0.15, lw=0, color=colour)
                axes.set(title=variable, xlabel="operations", ylabel=row["metric"], xscale="log")
                axes.tick_params(axis="x", which="minor", labelbottom=False)
    picture.legend(lines.values(), lines.keys(), loc="outside lower center", fontsize=7, ncols=9)
    picture.savefig(path, dpi=120, metadata={"Software": None})


def plot_axis(rows: Sequence[Row], path: Path) -> None:
    """Scores of the 1-block probe against unique clips at equal steps, a panel for every variable, a line for every
    objective and size of encoder, intervals over scenes as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    asked = [row for row in rows if row["probe"] == ALONG[-1]]
    names = list(dict.fromkeys(row["variable"] for row in asked))
    if not names:
        return
    picture = Picture(figsize=(3.0 * len(names), 3.2), layout="constrained")
    FigureCanvasAgg(picture)
    for axes, name in zip(picture.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        lines: dict[tuple[str, str], list[Row]] = {}
        for row in sorted((row for row in asked if row["variable"] == name), key=lambda row: row["clips"]):
            lines.setdefault((row["objective"], row["encoder"]), []).append(row)
        for number, ((objective, encoder), line) in enumerate(lines.items()):
            value, low, high = (np.array([row[end] for row in line]) for end in ("value", "low", "high"))
            clips = [row["clips"] * 1.04 ** (number - len(lines) / 2) for row in line]  # bars beside each other
            style = {"ls": "-" if objective == SIDES["videos"][0] else "--", "marker": ".", "lw": 1, "elinewidth": 0.5}
            axes.errorbar(clips, value, (value - low, high - value), label=f"{objective}, {encoder}", **style)
        axes.set(title=name, xlabel="unique clips", ylabel=line[0]["metric"], xscale="log")
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=7, ncols=6)
    picture.savefig(path, dpi=120, metadata={"Software": None})
