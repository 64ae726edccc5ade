"""One public benchmark: rows are answered or rated by a model and its controls, then scored as its authors do.

Answers go through the exam's machinery (per-sample file, resuming). Controls of answers: *blind*, a text-only guesser
that learned from the other folds of the benchmark (left out where there are fewer scenes than folds), and *mean
features*, the model shown the average of the benchmark's videos. Control of surprise: *pixel change*.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...perception.video import Clip
from .. import exam
from ..controls import Blind, MeanFeatures
from ..record import mark, provenance, rounded, write
from .catalogue import BENCHMARKS
from .shape import Benchmark, Row
from .watch import Surprise, filmed, pixel_change, surprise_of

if TYPE_CHECKING:
    from ...reasoner.answer import Foretell

FOLDS = 5


@dataclass(frozen=True)
class Judge:
    """Rates the rows of a benchmark by surprise. `mark` changes with its weights and with the data."""

    name: str
    mark: str
    open: Callable[[], Surprise]


def limited(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """About so many rows: whole scenes in a seeded random order, so that no unit is torn apart (None: all)."""
    scenes: dict[str, list[Row]] = {}
    for row in rows:
        scenes.setdefault(row["scene"], []).append(row)
    return [row for scene in exam.chosen(list(scenes.values()), limit) for row in scene]


def look(model: "Foretell", folder: Path, row: Row) -> Clip:
    """The frames that a row shows."""
    with filmed(folder / row["video"]) as path:
        return model.read(path, row["until"])


def answering(model: exam.Model, see: Callable[[Row], Clip]) -> exam.Answers:
    """Answers of a model to what it sees."""

    def answers(group: exam.Group) -> list[Row]:
        given = model.answer_many(see(group[0]), [(row["question"], row["options"]) for row in group])
        return [{"probabilities": answer.probabilities, "abstained": answer.abstained} for answer in given]

    return answers


def watching(source: str | Path, folder: Path) -> exam.Answers:
    """Answers of a model that is shown the videos."""
    model = exam.load_model(source)
    return answering(model, lambda row: look(model, folder, row))


def averaging(source: str | Path, folder: Path, rows: Sequence[Row]) -> exam.Answers:
    """Answers of the model that is shown the mean of MEAN_CLIPS of the benchmark's videos: no label is in it."""
    model, groups = exam.load_model(source), exam.by_frames(rows)
    picked = np.random.default_rng(0).permutation(len(groups))[: exam.MEAN_CLIPS]
    control = MeanFeatures.of(model, (look(model, folder, groups[place][0]) for place in picked))
    one = look(model, folder, rows[0])  # it answers the same whatever it sees
    return answering(control, lambda row: one)


def cross_fitted(rows: Sequence[Row]) -> exam.Answers:
    """Answers of a blind guesser that learned from the scenes of other folds: what text alone gives away here."""
    texts = [{**row, "kind": "", "duration": 0.0} for row in rows]
    scenes = {scene: place % FOLDS for place, scene in enumerate(sorted({row["scene"] for row in rows}))}
    odds: dict[str, dict[str, float]] = {}
    for fold in sorted(set(scenes.values())):
        asked = [row for row in texts if scenes[row["scene"]] == fold]
        blind = Blind.fit(row for row in texts if scenes[row["scene"]] != fold)
        odds |= zip((row["id"] for row in asked), blind.answer_rows(asked), strict=True)
    return lambda group: [{"probabilities": odds[row["id"]], "abstained": False} for row in group]


def _takers(source: str | Path, folder: Path, rows: Sequence[Row], data: str, controls: bool) -> Iterator[exam.Taker]:
    yield exam.Taker(exam.MODEL, mark(source, data), lambda: watching(source, folder))
    if controls and len({row["scene"] for row in rows}) >= FOLDS:
        yield exam.Taker("blind", mark("blind", data), lambda: cross_fitted(rows))
    if controls:
        mean_mark = mark("mean features", source, data)
        yield exam.Taker("mean features", mean_mark, lambda: averaging(source, folder, rows))


def _answered(
    model: str | Path, folder: Path, rows: Sequence[Row], data: str, out: Path, controls: bool
) -> dict[str, list[Row]]:
    takers = list(_takers(model, folder, rows, data, controls))
    samples = exam.Samples(out, takers)
    for taker in takers:
        exam.sit(taker, exam.by_frames(rows), samples)
    return {
        taker.name: [{**row, "right": kept["right"]} for row, kept in _kept(samples, taker, rows)] for taker in takers
    }


def _rated(
    model: str | Path, folder: Path, rows: Sequence[Row], data: str, out: Path, controls: bool
) -> dict[str, list[Row]]:
    judges = [Judge(exam.MODEL, mark(model, data), lambda: surprise_of(model))]
    if controls:
        judges.append(Judge("pixel change", mark("pixel change", data), lambda: pixel_change))
    samples = exam.Samples(out, judges)
    for judge in judges:
        rate(judge, folder, rows, samples)
    return {
        judge.name: [{**row, "surprise": kept["surprise"]} for row, kept in _kept(samples, judge, rows)]
        for judge in judges
    }


def _kept(samples: exam.Samples, whose: exam.Marked, rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Each row with what was written down for it."""
    return zip(rows, samples.of(whose.name, rows), strict=True)


def rate(judge: Judge, folder: Path, rows: Iterable[Row], samples: exam.Samples) -> None:
    """Have a judge rate what it has not rated yet, each video once, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    todo: dict[str, list[Row]] = {}
    for row in rows:
        if (judge.name, row["id"]) not in samples.rows:
            todo.setdefault(row["video"], []).append(row)
    if not todo:
        return
    surprise = judge.open()
    for video, group in track(todo.items(), description=judge.name, console=Console(stderr=True)):
        with filmed(folder / video, group[0]["rate"]) as path:
            value = surprise(path)
        samples.add({"taker": judge.name, "mark": judge.mark, "id": row["id"], "surprise": value} for row in group)


def run(
    name: str,
    folder: Path,
    model: str | Path | None,
    out: Path,
    *,
    limit: int | None = None,
    controls: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Put a model (None: the embedded one) to a benchmark and write the figures to `out`.

    folder: the benchmark's data as its authors lay it out, or where data that is made here is kept. limit: about so
    many rows, whole scenes at random. An interrupted run goes on from the per-sample file beside `out`. Raises
    ValueError where the folder is not what it should be, with where to get the data.
    """
    from ...reasoner.answer import NANO

    benchmark = BENCHMARKS[name]
    made = benchmark.make(folder, limit) if benchmark.make else {}
    rows = limited(benchmark.read(folder), limit)
    data = sha256(json.dumps([rows, made]).encode()).hexdigest()
    collect = _answered if benchmark.asks == "answers" else _rated
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {
        **provenance(command),
        "benchmark": name,
        "weights": mark(model or NANO),
        "data": {
            "rows": len(rows),
            "scenes": len({row["scene"] for row in rows}),
            "whole": limit is None,
            "sha256": data,
            **made,
        },
        "headline": benchmark.headline,
        "figures": _figures(
            benchmark, collect(model or NANO, folder, rows, data, out.with_suffix(".samples.jsonl"), controls)
        ),
    }
    write(out, json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n")
    return found


def _figures(benchmark: Benchmark, taken: dict[str, list[Row]]) -> dict[str, dict[str, Any]]:
    """Of each official metric, each taker's figure."""
    scored = {name: benchmark.figures(rows) for name, rows in taken.items()}
    return {
        metric: {name: asdict(found[metric]) for name, found in scored.items()}
        for metric in next(iter(scored.values()))
    }
