"""Whether cheap gauges tell what a probe would: their rank correlation with probes' scores over pretraining runs.

A point is an encoder along a run: its gauges, which take seconds and no labels, and what probes say of it. Points of
one run stand or fall together, so that intervals are over whole runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import VJEPA2Model

from ..perception.encoder import grid_of, open_model, resize, window_of
from ..reasoner.llm import quiet
from ..train.data import load_clips
from ..train.learner import objective_of
from ..train.pretrain import Clips, forecast_errors, health
from ..train.recipes import PretrainRecipe
from .bench import ALONG, VARIABLES, Kind, core, kind_of, variables
from .probe import Cells, Question, plain_score
from .record import digest, mark, provenance, readable, rounded, write
from .stats import figure, spearman

Row = dict[str, Any]
Told = Mapping[tuple[str, str, str], Sequence[Sequence[float]]]
"""What a benchmark's probes said, by taker, variable and probe."""
Answers = Mapping[Kind, Mapping[str, Question]]
"""What is true of worlds, by kind and variable."""
GAUGES = {
    "std": 1, "std_pooled": 1, "rank": 1, "rank_centred": 1, "decay": -1, "lidar": 1, "predictor / copy_last": -1,
    "predictor / mean": -1, "loss": -1,
}  # fmt: skip
"""What is held against probes, and whether more of it should be better (1) or worse (-1)."""
CLIPS = 64
"""Clips that gauges are computed on, as many as while a run learns."""
FEWEST = 5
"""Runs below which whole runs cannot be resampled: no interval, and so no verdict."""
TRUSTED = 0.5
"""A rank correlation of which a gauge puts about two of three pairs of encoders in the probe's order."""
ALL = "all"
LOGGED = "ridge (log)"
"""The probe of runs that were pretrained with labels: the ridge probes of their own metrics."""


@dataclass(frozen=True)
class Point:
    """An encoder along a run: its gauges, and what one probe scores on it (the mean over variables, each from
    chance, 0, to all right, 1)."""

    run: str
    step: int
    objective: str
    probe: str
    score: float
    gauges: dict[str, float]


def run(
    runs: Sequence[Path],
    out: Path,
    *,
    test: Path | None = None,
    val: Path | None = None,
    command: str = "",
    track: Callable[[Sequence[tuple[Path, Told]]], Iterator[tuple[Path, Told]]] = iter,
) -> dict[str, Any]:
    """Hold every gauge against probes over all runs; writes `out` (JSON) and a scatter plot beside it (PNG).

    runs: folders of benchmarks, or of pretraining runs with probes in their metrics. test, val: the worlds of the
    benchmarks; without val their tuning runs are left out. Gauges of a snapshot are kept in `out` with the ending
    .cells.jsonl, and not made again. Snapshots whose weights are gone are named under "left_out". Raises ValueError
    where there is nothing to compare, or worlds do not fit.
    """
    benches = [one for one in runs if (one / "cells.jsonl").is_file()]
    if benches and test is None:
        raise ValueError(f"{benches[0]} holds what probes said of test worlds: pass --test, the ones it was given")
    points = [point for one in runs if one not in benches for point in logged(one)]
    left_out = [str(at) for one in benches for at in sorted(one.glob("*/snapshots/step-*")) if not has_weights(at)]
    if test is not None:
        split = {name: load_clips(at) for name, at in (("test", test), ("val", val)) if at is not None}
        frames = split["test"].frames[np.linspace(0, len(split["test"].clips) - 1, CLIPS).astype(int)]
        cells = Cells(out.with_suffix(".cells.jsonl"), mark(digest(test / "clips.jsonl"), str(CLIPS)))
        answers = {
            name: {kind: variables(core(packed, kind, 0), kind) for kind in VARIABLES} for name, packed in split.items()
        }
        asked = [
            (one.parent, said) for at in benches for said in [said_in(at)] for one in sorted(at.glob("*/recipe.json"))
        ]
        for folder, said in track(asked):
            points += followed(folder, said, answers, frames, cells)
    if not points:
        raise ValueError(
            f"{', '.join(map(str, runs))}: no run there has both gauges and probes: give the --runs folder of "
            "`foretell bench`, or runs pretrained with probe labels whose probe_every is a multiple of log_every"
        )
    found = {**provenance(command), "rows": rows_of(points), "points": [asdict(point) for point in points]}
    found |= {"left_out": left_out}
    write(out, json.dumps(rounded(found), indent=1) + "\n")
    plot(points, out.with_suffix(".png"))
    return found


def logged(folder: Path) -> list[Point]:
    """The points of a run whose own metrics have probes."""
    metrics = list(readable(folder / "metrics.jsonl"))
    told = [(row, [value for name, value in row.items() if name.startswith("probe_")]) for row in metrics]
    return [
        Point(str(folder), row["step"], recipe_in(folder).objective, LOGGED, float(np.mean(scores)), compared(row))
        for row, scores in told
        if scores and "rank" in row
    ]


def said_in(folder: Path) -> Told:
    """What probes said in a benchmark, as it was asked last: its settings may have changed before."""
    rows = list(readable(folder / "cells.jsonl"))
    return {
        (row["taker"], row["variable"], row["probe"]): row["told"] for row in rows if row["mark"] == rows[-1]["mark"]
    }


def has_weights(snapshot: Path) -> bool:
    """Whether an encoder is there, not only the record of how it came to be."""
    return (snapshot / "config.json").is_file()


def followed(folder: Path, said: Told, answers: Mapping[str, Answers], frames: Clips, cells: Cells) -> list[Point]:
    """The points of one run of a benchmark: its snapshots that probes were asked about, on test worlds if they were."""
    losses = {row["step"]: row["loss"] for row in readable(folder / "metrics.jsonl")}
    snapshots, recipe = sorted((folder / "snapshots").glob("step-*")), recipe_in(folder)
    points = []
    for number, at in enumerate(snapshots):
        takers = {f"{folder.name} {number}": "test"}
        if number == len(snapshots) - 1:
            takers |= {folder.name: "test", f"{folder.name} (validation)": "val"}
        step = int(at.name.removeprefix("step-"))
        told = (scored(said, one, kind_of(recipe.objective), answers.get(worlds)) for one, worlds in takers.items())
        if has_weights(at) and (scores := next(filter(None, told), None)):
            gauges = compared(measured(at, recipe, frames, cells) | {"loss": losses.get(step, np.nan)})
            points += [Point(str(folder), step, recipe.objective, *one, gauges) for one in scores.items()]
    return points


def scored(said: Told, taker: str, kind: Kind, answers: Answers | None) -> dict[str, float]:
    """The score of every probe that was asked for all variables, by its name and kind."""
    found = {}
    for probe in ALONG:
        told = {name: np.array(said[taker, name, probe]) for name in VARIABLES[kind] if (taker, name, probe) in said}
        if answers is not None and len(told) == len(VARIABLES[kind]):
            asked = answers[kind]
            check_counts(asked, {name: len(one) for name, one in told.items()})
            found[f"{probe} ({kind})"] = float(np.mean([skill(asked[name], one) for name, one in told.items()]))
    return found


def check_counts(asked: Mapping[str, Question], counts: Mapping[str, int]) -> None:
    """Raises ValueError where a benchmark asked about another number of clips than these worlds hold."""
    held = {name: len(one.rows) for name, one in asked.items()}
    if held != dict(counts):
        raise ValueError(
            f"--test or --val holds other clips than probes were asked about ({held}, not {dict(counts)}): pass the "
            "benchmark's own worlds (of --quick, which asks about a part of them, gauges cannot be judged)"
        )


def skill(question: Question, told: Any) -> float:
    """A score from chance, 0, to all right, 1; of clips that are all of one kind nobody can be wrong: 0."""
    if question.chance == 1:
        return 0.0
    return (plain_score(question, told) - question.chance) / (1 - question.chance)


def recipe_in(folder: Path) -> PretrainRecipe:
    """The recipe of a run."""
    return PretrainRecipe(**json.loads((folder / "recipe.json").read_text(encoding="utf-8")))


def measured(snapshot: Path, recipe: PretrainRecipe, frames: Clips, cells: Cells) -> dict[str, float]:
    """The gauges of a kept encoder: of its features and, where it has learned to foresee them, of its predictor."""
    cell = (str(snapshot), "", "gauges")
    if cell not in cells.done:
        with quiet():
            model = open_model(snapshot).requires_grad_(False)
        window = window_of(model.config)
        shown = torch.from_numpy(np.ascontiguousarray(frames[:, : window.frames])).flatten(0, 1)
        clips = resize(shown, window.size).unflatten(0, (len(frames), window.frames)).numpy()
        told = health(model, clips, recipe)
        if objective_of(recipe).teacher == "slow" and grid_of(model.config)[0] > 1 and isinstance(model, VJEPA2Model):
            told |= forecast_errors(model, model, clips)
        cells.keep(cell, {"gauges": told})
    gauges: dict[str, float] = cells.done[cell]["gauges"]
    return gauges


def compared(row: Mapping[str, Any]) -> dict[str, float]:
    """Those of GAUGES that are known; the predictor's error is held against what two guesses miss by."""
    guesses = ("copy_last", "mean") if "l1_predictor" in row else ()
    known = {**row, **{f"predictor / {guess}": row["l1_predictor"] / row[f"l1_{guess}"] for guess in guesses}}
    return {name: float(known[name]) for name in GAUGES if np.isfinite(known.get(name, np.nan))}


def rows_of(points: Sequence[Point]) -> list[Row]:
    """Every probe and gauge, over all runs and over those of each objective."""
    rows = []
    for probe in sorted({point.probe for point in points}):
        asked = [point for point in points if point.probe == probe]
        for name in (ALL, *sorted({point.objective for point in asked})):
            for gauge in GAUGES:
                known = [point for point in asked if name in (ALL, point.objective) and gauge in point.gauges]
                if len(known) > 1 and (name, gauge) != (ALL, "loss"):  # losses of two objectives do not compare
                    rows.append({"probe": probe, "objective": name, "gauge": gauge, **tracked(known, gauge)})
    return rows


def tracked(points: Sequence[Point], gauge: str) -> Row:
    """How a gauge, turned so that more should be better, ranks encoders as a probe does; no interval of few runs."""
    told = [GAUGES[gauge] * point.gauges[gauge] for point in points]
    found = figure(spearman(told, [point.score for point in points]), [point.run for point in points], 0.0)
    runs = len({point.run for point in points})
    low, high = (found.low, found.high) if runs >= FEWEST else (None, None)
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "points": len(points),
        "runs": runs,
        "words": words(low, high),
    }


def words(low: float | None, high: float | None) -> str:
    """What an interval allows to say."""
    if low is None or high is None:
        return "no evidence"
    if high < 0:
        return "misleads"
    return "trust" if low > TRUSTED else "tracks" if low > 0 else "no evidence"


def table(found: Mapping[str, Any]) -> str:
    """The correlations as Markdown, a table for every probe: a row for every gauge, a column for all runs and those of
    every objective."""
    parts = []
    for probe in dict.fromkeys(row["probe"] for row in found["rows"]):
        asked = {(row["gauge"], row["objective"]): row for row in found["rows"] if row["probe"] == probe}
        names = list(dict.fromkeys(name for _, name in asked))
        lines = [[probe, *names], ["---"] * (1 + len(names))]
        for gauge in dict.fromkeys(gauge for gauge, _ in asked):
            lines.append([gauge, *(_cell(asked.get((gauge, name))) for name in names)])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    legend = (
        "Rank correlation of each gauge, turned so that more should be better, with the probe, its interval over runs. "
        f"trust: all above {TRUSTED:g}; tracks: above 0; misleads: below 0. Fewer than {FEWEST} runs have no interval."
    )
    bare = found["left_out"]
    gone = (
        [f"Left out, their weights are gone: {', '.join(bare)}. Pretrain these runs again to have them."]
        if bare
        else []
    )
    return "\n\n".join([*parts, legend, *gone])


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{interval} {row['words']}, {row['points']} points, {row['runs']} runs"


def plot(points: Sequence[Point], path: Path) -> None:
    """Every gauge against every probe, a dot for an encoder, coloured by objective."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    probes, objectives = (list(dict.fromkeys(getattr(one, name) for one in points)) for name in ("probe", "objective"))
    picture = Picture(figsize=(2.4 * len(GAUGES), 2.4 * len(probes) + 0.6), layout="constrained")
    FigureCanvasAgg(picture)
    for row, probe in zip(picture.subplots(len(probes), len(GAUGES), squeeze=False), probes, strict=True):
        for axes, gauge in zip(row, GAUGES, strict=True):
            for number, objective in enumerate(objectives):
                known = [p for p in points if (p.probe, p.objective) == (probe, objective) and gauge in p.gauges]
                told = [point.gauges[gauge] for point in known], [point.score for point in known]
                axes.scatter(*told, s=14, color=f"C{number}", label=objective)
            axes.set(xlabel=gauge)
        row[0].set(ylabel=probe)
    picture.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=len(objectives))
    picture.savefig(path, dpi=100, metadata={"Software": None})
