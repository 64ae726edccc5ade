"""The exam on held-out worlds: every question is answered by the model and by each control, and scored with intervals.

An answer that is missing, or is none of the options, is wrong. Answers are written down as they come, so that an exam
that was stopped goes on where it was; the figures are made from these rows and nothing else.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..perception.video import Clip, frame_grid
from ..train.data import Packed, load_clips, questions_by_clip
from .controls import ALTERED, Blind, MeanFeatures, Probabilities, Row
from .page import page
from .record import digest, line, mark, provenance, readable, rounded, write
from .stats import (
    Figure,
    Statistic,
    aurc,
    balanced_accuracy,
    brier,
    ece,
    figure,
    holm,
    mean_of,
    reliability,
    risk_coverage,
    versus,
)

if TYPE_CHECKING:
    from ..reasoner.answer import Answer, Foretell, Question

Group = list[Row]  # questions about the same frames of the same video
Answers = Callable[[Group], list[Row]]  # one {"probabilities", "abstained"} a question; "answer": what it wrote
MODEL, OWN_WORDS, PATCHES = "foretell", "own words", "patches alone"
CURVE_POINTS = 50
GUESSERS = 1000  # behind the noise floor
MEAN_CLIPS = 512  # training clips behind the mean features: their mean moves by 1/20 of a standard deviation at most


class Model(Protocol):
    """What sits the exam: told how many frames at which rate it wants, it answers questions about a clip."""

    @property
    def frames(self) -> int: ...

    @property
    def rate(self) -> float: ...

    def answer_many(self, clip: Clip, questions: "Sequence[Question]") -> "Sequence[Answer]": ...


@dataclass(frozen=True)
class Taker:
    """One column of the results. `mark` changes with its weights and its data: rows of another mark are not reused.

    shared: whether several processes help to answer (not worth it where most of the work is getting ready). means:
    what it is, and whether it was trained for what it is shown here.
    """

    name: str
    mark: str
    open: Callable[[], Answers]
    shared: bool = True
    means: str = ""


@dataclass(frozen=True)
class Headline:
    """A figure of the first table: which questions it is about."""

    key: str
    label: str
    holds: Callable[[Row], bool]


def yes_no(row: Row) -> bool:
    return sorted(option.lower() for option in row["options"]) == ["no", "yes"]


HEADLINES = (
    Headline("towers_falls", "towers: will it fall?", lambda r: _is(r, "predictive", "falls", "towers") and yes_no(r)),
    Headline(
        "collide_touches",
        "collide: will they touch?",
        lambda r: _is(r, "predictive", "touches", "collide") and yes_no(r),
    ),
    Headline("predictive_yes_no", "all predictive, yes/no", lambda r: r["kind"] == "predictive" and yes_no(r)),
    Headline("predictive_other", "predictive, other options", lambda r: r["kind"] == "predictive" and not yes_no(r)),
    Headline("descriptive", "descriptive", lambda r: r["kind"] == "descriptive"),
    Headline("explanatory", "explanatory", lambda r: r["kind"] == "explanatory"),
)


def _is(row: Row, kind: str, asked: str, scenario: str) -> bool:
    return (row["kind"], row["type"], row["scenario"]) == (kind, asked, scenario)


def load_rows(packed: Packed) -> list[Row]:
    """The questions of decoded worlds that have options and an answer, each with the `duration` of its video (s)."""
    asked = (row for rows in questions_by_clip(packed) for row in rows if row.get("options") and row.get("answer"))
    return [{**row, "duration": float(packed.times[-1])} for row in asked]


def by_frames(rows: Iterable[Row]) -> list[Group]:
    """Questions about the same frames together: one look, one prefix for all of them."""
    groups: dict[tuple[str, float | None], Group] = {}
    for row in rows:
        groups.setdefault((row["video"], row.get("until")), []).append(row)
    return list(groups.values())


def thinned(group: Group, most: int | None) -> Group:
    """At most so many questions about the same frames: the first (the outcome, if kept), others at random."""
    if most is None or len(group) <= most:
        return group
    order = np.random.default_rng(list(group[0]["id"].encode())).permutation(len(group) - 1)[: most - 1]
    return [group[0], *(group[1 + place] for place in sorted(order))]


def chosen(groups: Sequence[Group], limit: int | None, seed: int = 0) -> list[Group]:
    """Whole groups in a seeded random order until they hold `limit` questions (None: all, in their order)."""
    if limit is None:
        return list(groups)
    picked: list[Group] = []
    for place in np.random.default_rng(seed).permutation(len(groups)):
        if sum(map(len, picked)) >= limit:
            break
        picked.append(groups[place])
    return picked


def clip_of(packed: Packed, video: str, until: float | None, *, rate: float, count: int) -> Clip:
    """The frames that a question shows, from decoded worlds: the same rule as for a file (DESIGN, Frames shown)."""
    frames = packed.shown(packed.index[video], until, rate, count)  # [T, S, S, 3]
    times = packed.times[frame_grid(packed.times, rate, count, until)]  # [T]
    return Clip(frames=frames, times=times, duration=float(packed.times[-1]), shown=float(times[-1]))


def watching(model: Model, packed: Packed, alter: Callable[[Clip], Clip] = lambda clip: clip) -> Answers:
    """Answers of a model that is shown the frames, altered."""

    def answers(group: Group) -> list[Row]:
        look = alter(look_of(model, packed, group[0]))
        given = model.answer_many(look, [(row["question"], row["options"]) for row in group])
        return [{"probabilities": answer.probabilities, "abstained": answer.abstained} for answer in given]

    return answers


def writing(model: "Foretell", packed: Packed) -> Answers:
    """Answers of a model that writes them and is not told the options."""

    def answers(group: Group) -> list[Row]:
        look = model.watch(look_of(model, packed, group[0]))
        written = model.generate_features(*look, [row["question"] for row in group])
        return [among(answer, row["options"]) for answer, row in zip(written, group, strict=True)]

    return answers


def among(written: "Answer", options: Sequence[str]) -> Row:
    """A text as the option that it says, whatever its capitals: as sure as of the text, the others have the rest in
    equal parts. A text that says none of them is no answer."""
    from ..reasoner.answer import answer_text

    texts = {answer_text(option).casefold(): option for option in options}
    said = texts.get(answer_text(written.text).casefold())
    if said is None:
        return {"probabilities": None, "abstained": True}
    rest = (1 - written.confidence) / max(1, len(options) - 1)
    odds = {option: written.confidence if option == said else rest for option in options}
    return {"answer": said, "probabilities": odds, "abstained": written.abstained}


def guessing(blind: Blind) -> Answers:
    """Answers of the text-only guesser."""
    return lambda group: [{"probabilities": odds, "abstained": False} for odds in blind.answer_rows(group)]


def _sample(taker: Taker, row: Row, given: Row) -> Row:
    """One line of the per-sample file."""
    odds: Probabilities = given["probabilities"] or {}
    known = bool(odds) and bool(np.isfinite(list(odds.values())).all())
    best = (given.get("answer") or max(odds, key=odds.__getitem__)) if known else None
    kept = ("id", "scene", "scenario", "kind", "type", "negated", "options")
    return {
        "taker": taker.name,
        "mark": taker.mark,
        **{key: row[key] for key in kept if key in row},
        "truth": row["answer"],
        "answer": best,
        "right": best == row["answer"],
        "confidence": 0.0 if best is None else odds[best],
        "probabilities": None if best is None else odds,
        "abstained": given["abstained"],
    }


class Marked(Protocol):
    """Whose rows those of a per-sample file are."""

    @property
    def name(self) -> str: ...

    @property
    def mark(self) -> str: ...


class Samples:
    """The per-sample file: one JSON line a question and taker, appended as answers come."""

    def __init__(self, path: Path, takers: Iterable[Marked]) -> None:
        """Keep the rows of these takers under these marks, and on disk those of takers who are not there this time;
        drop what these said under other marks, and a last line that was cut off."""
        self.path = path
        marks = {taker.name: taker.mark for taker in takers}
        held = list(readable(path))
        self.rows = {(row["taker"], row["id"]): row for row in held if marks.get(row["taker"]) == row["mark"]}
        absent = [row for row in held if row["taker"] not in marks]
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, "".join(map(line, [*absent, *self.rows.values()])))

    def add(self, rows: Iterable[Row]) -> None:
        fresh = list(rows)
        self.rows.update({(row["taker"], row["id"]): row for row in fresh})
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(line(row) for row in fresh)

    def of(self, taker: str, rows: Iterable[Row]) -> list[Row]:
        return [self.rows[taker, row["id"]] for row in rows]


def unanswered(taker: Taker, groups: Sequence[Group], samples: Samples) -> list[Group]:
    """Groups with a question that this taker has not answered yet."""
    return [group for group in groups if any((taker.name, row["id"]) not in samples.rows for row in group)]


def sit(taker: Taker, groups: Sequence[Group], samples: Samples, shown: bool = True) -> None:
    """Have one taker answer what it has not answered yet, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    todo = unanswered(taker, groups, samples)
    if not todo:
        return
    answers = taker.open()
    for group in track(todo, description=taker.name, console=Console(stderr=True), disable=not shown):
        given = answers(group)
        missing = [{"probabilities": None, "abstained": True}] * (len(group) - len(given))
        samples.add(_sample(taker, row, one) for row, one in zip(group, [*given, *missing], strict=True))


def _help(taker: Taker, groups: Sequence[Group], path: Path, threads: int, shown: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    sit(taker, groups, Samples(path, [taker]), shown)


def sit_together(taker: Taker, groups: Sequence[Group], samples: Samples, workers: int) -> None:
    """As `sit`, in so many processes with the cores shared out: small forward passes leave two threads waiting.

    Each writes a file of its own, which joins the per-sample file at the end; an exam that was stopped goes on from
    them. Raises RuntimeError where a process failed.
    """
    count = workers if taker.shared else 1
    parts = [samples.path.with_suffix(f".{taker.mark}-{k}.samples.jsonl") for k in range(count)]
    todo = unanswered(taker, groups, samples)
    if not todo:
        return
    fork, threads = multiprocessing.get_context("fork"), max(1, (os.cpu_count() or 1) // len(parts))
    shares = [(todo[k :: len(parts)], part, threads, k == 0) for k, part in enumerate(parts)]
    helpers = [fork.Process(target=_help, args=(taker, *share)) for share in shares]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    if failed := [helper.exitcode for helper in helpers if helper.exitcode]:
        raise RuntimeError(f"{taker.name}: {len(failed)} of {len(helpers)} processes failed: their errors are above")
    samples.add(row for part in parts for row in readable(part))
    for part in parts:
        part.unlink()


def all_sit(takers: Sequence[Taker], groups: Sequence[Group], path: Path, workers: int) -> Samples:
    """The per-sample file, once every taker has answered everything, in so many processes."""
    kept = Samples(path, takers)
    for taker in takers:
        sit(taker, groups, kept) if workers == 1 else sit_together(taker, groups, kept, workers)
    return kept


def measured(rows: Sequence[Row]) -> tuple[str, Statistic, float]:
    """What is measured, how, and what guessing scores: balanced accuracy where all questions are yes/no, otherwise
    accuracy."""
    right = [row["right"] for row in rows]
    if all(map(yes_no, rows)):
        return "balanced accuracy", balanced_accuracy(right, [row["truth"] for row in rows]), 0.5
    return "accuracy", mean_of(right), float(np.mean([1 / len(row["options"]) for row in rows]))


def score(rows: Sequence[Row]) -> tuple[str, Figure]:
    """What is measured, and the figure."""
    metric, statistic, chance = measured(rows)
    return metric, figure(statistic, [row["scene"] for row in rows], chance)


def _scores(takers: Mapping[str, Sequence[Row]], holds: Callable[[Row], bool]) -> dict[str, Any] | None:
    """One line of a table: the metric, and each taker's figure over the questions that hold. None without questions."""
    scored = {name: score(kept) for name, rows in takers.items() if (kept := [row for row in rows if holds(row)])}
    if not scored:
        return None
    metric = next(iter(scored.values()))[0]
    return {"metric": metric, "takers": {name: asdict(found) for name, (_, found) in scored.items()}}


def headlines(takers: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The first table, in the order of HEADLINES, with what guessing scores; those without a question are left out."""
    lines = ((line, _scores(takers, line.holds)) for line in HEADLINES)
    return {
        line.key: {"label": line.label, "guessing": _floor([row for row in takers[MODEL] if line.holds(row)]), **scores}
        for line, scores in lines
        if scores
    }


def _floor(rows: Sequence[Row]) -> list[float]:
    """The noise floor: between which scores 95% of those land who choose among the options by lot."""
    draws = np.random.default_rng(0).random((GUESSERS, len(rows))) < [1 / len(row["options"]) for row in rows]
    even = np.ones((1, len(rows)))
    statistic = partial(balanced_accuracy, truth=[row["truth"] for row in rows]) if all(map(yes_no, rows)) else mean_of
    scores = [float(statistic(right)(even)[0]) for right in draws]
    return [float(score) for score in np.percentile(scores, (2.5, 97.5))]


def pairs(takers: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """The model against each other taker on the same questions of every headline, p by McNemar's exact test, adjusted
    for all of these comparisons."""
    own = takers[MODEL]
    others = [(name, rows) for name, rows in takers.items() if name != MODEL]
    found = []
    for headline in HEADLINES:
        kept = [place for place, row in enumerate(own) if headline.holds(row)]
        for name, rows in others if kept else ():
            ours, theirs = ([one[place]["right"] for place in kept] for one in (own, rows))
            compared = versus(ours, theirs, [own[place]["scene"] for place in kept])
            found.append({"headline": headline.key, "other": name, **compared})
    adjusted = holm([one["p"] for one in found])
    return [{**one, "p": p} for one, p in zip(found, adjusted, strict=True)]


def _cell(row: Row) -> tuple[str, str, str]:
    return row["kind"], row["scenario"], row["type"]


def by_type(takers: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """A figure for every kind, scenario and type of question."""
    return [_cell_line(takers, cell) for cell in sorted({_cell(row) for rows in takers.values() for row in rows})]


def _cell_line(takers: Mapping[str, Sequence[Row]], cell: tuple[str, str, str]) -> dict[str, Any]:
    scores = _scores(takers, lambda row: _cell(row) == cell)
    assert scores is not None, "a cell comes from a row that is in it"
    return {**dict(zip(("kind", "scenario", "type"), cell, strict=True)), **scores}


def by_option(takers: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Of headlines with other options than yes and no: is each option, by itself, held to be likelier than not where it
    is true, and only there? A question is right as a whole where its likeliest option is."""
    lines = [line for line in HEADLINES if any(line.holds(row) and not yes_no(row) for row in takers[MODEL])]
    return [
        {
            "label": line.label,
            "metric": "balanced accuracy of options",
            "takers": {name: asdict(_options(list(filter(line.holds, rows)))) for name, rows in takers.items()},
        }
        for line in lines
    ]


def _options(rows: Sequence[Row]) -> Figure:
    each = [
        (option == row["truth"], (row["probabilities"] or {}).get(option, 0.0) > 0.5, row["scene"])
        for row in rows
        if not yes_no(row)
        for option in row["options"]
    ]
    right = [true == held for true, held, _ in each]
    return figure(balanced_accuracy(right, [str(true) for true, *_ in each]), [scene for *_, scene in each], 0.5)


def minimal_pairs(takers: Mapping[str, Sequence[Row]], asked: Sequence[Row]) -> list[dict[str, Any]]:
    """Pairs of clips that differ in one hidden property, asked the same question with two answers: are both right? All
    of them first, then scenario by scenario; none where no clips come in pairs."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(asked):
        if "pair" in row:
            found.setdefault((row["pair"], row["question"]), []).append(place)
    both = [places for places in found.values() if len({asked[place]["answer"] for place in places}) == 2]
    scenarios = sorted({asked[places[0]]["scenario"] for places in both})
    chosen_pairs = {"all minimal pairs": both} | {
        name: [places for places in both if asked[places[0]]["scenario"] == name] for name in scenarios
    }
    return [
        {
            "label": label,
            "metric": "both right",
            "takers": {name: asdict(_both_right(rows, asked, pairs)) for name, rows in takers.items()},
        }
        for label, pairs in (chosen_pairs if both else {}).items()
    ]


def _both_right(rows: Sequence[Row], asked: Sequence[Row], both: Sequence[Sequence[int]]) -> Figure:
    right = [all(rows[place]["right"] for place in places) for places in both]
    chance = np.mean([np.prod([1 / len(asked[place]["options"]) for place in places]) for places in both])
    return figure(mean_of(right), [asked[places[0]]["pair"] for places in both], float(chance))


def calibration(rows: Sequence[Row]) -> dict[str, Any]:
    """How honest the probabilities of yes/no answers are, of every kind of question."""
    asked = [row for row in rows if yes_no(row)]
    confidence, right = [row["confidence"] for row in asked], [row["right"] for row in asked]
    on_truth = [(row["probabilities"] or {}).get(row["truth"], 0.0) for row in asked]
    scenes = [row["scene"] for row in asked]
    return {
        "ece": asdict(figure(ece(confidence, right), scenes, None)),
        "brier": asdict(figure(brier(on_truth, np.ones(len(asked))), scenes, 0.25)),
        "aurc": asdict(figure(aurc(confidence, right), scenes, float(1 - np.mean(right)))),
        "reliability": reliability(confidence, right),
        "risk_coverage": _curve(confidence, right),
    }


def _curve(confidence: Sequence[float], right: Sequence[bool]) -> list[tuple[float, float]]:
    """CURVE_POINTS of the risk-coverage curve, the last at full coverage."""
    coverage, risk = risk_coverage(confidence, right)
    kept = np.unique(np.linspace(0, len(risk) - 1, CURVE_POINTS + 1).round().astype(int)[1:])
    return [(float(coverage[k]), float(risk[k])) for k in kept]


def abstention(rows: Sequence[Row]) -> dict[str, Any]:
    """What the model's own threshold keeps of all questions, and how much of that is right."""
    answered = [not row["abstained"] for row in rows]
    kept = [row for row, given in zip(rows, answered, strict=True) if given]
    accuracy = mean_of([row["right"] for row in kept])
    return {
        "answered": asdict(figure(mean_of(answered), [row["scene"] for row in rows], None)),
        "right_when_answered": asdict(figure(accuracy, [row["scene"] for row in kept], None)) if kept else None,
    }


def load_model(source: str | Path) -> "Foretell":
    """In the machine's fastest type: bf16 halves an exam's hours where it is native; the results say which it was."""
    from ..reasoner.answer import Foretell
    from ..reasoner.llm import native_dtype

    return Foretell.load(source, dtype=native_dtype())


def _mean_features(model: "Foretell", train: Packed) -> MeanFeatures:
    """The model with its features replaced by their mean over MEAN_CLIPS looks at training clips."""
    groups = by_frames(load_rows(train))
    picked = np.random.default_rng(0).permutation(len(groups))[:MEAN_CLIPS]
    looks = (groups[place][0] for place in picked)
    return MeanFeatures.of(model, (look_of(model, train, row) for row in looks))


def patch_channels(source: str | Path) -> int:
    """How many of a feature's first channels are the patch embedding's; 0 where it is not read, or nothing else is."""
    from ..reasoner.model import companion

    path = companion(source, "config.json")
    config = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    taps = config.get("taps") or []
    return int(config["vision_config"]["hidden_size"]) if len(taps) > 1 and taps[0] == 0 else 0


def look_of(model: Model, packed: Packed, row: Row) -> Clip:
    return clip_of(packed, row["video"], row.get("until"), rate=model.rate, count=model.frames)


def _takers(
    source: str | Path, packed: Packed, train: Packed | None, controls: Mapping[str, str | Path], altered: bool
) -> Iterator[Taker]:
    """The model, its controls (two of them where there is training data), and the other models to compare with."""
    data = digest(packed.root / "questions.jsonl")
    yield Taker(MODEL, mark(source, data), partial(watching_model, source, packed), means="the model")
    yield Taker(
        OWN_WORDS, mark(source, data, OWN_WORDS), lambda: writing(load_model(source), packed),
        means="the model, writing its answer and not told the options; a text that is none of them is wrong",
    )  # fmt: skip
    if train is not None:
        learned = digest(train.root / "questions.jsonl")
        yield Taker(
            "blind", mark(data, learned), lambda: guessing(Blind.fit(load_rows(train))), shared=False,
            means="trained on the questions about the training worlds given here, `until` and duration; no video",
        )  # fmt: skip
        yield Taker(
            "mean features", mark(source, data, learned),
            lambda: watching(_mean_features(load_model(source), train), packed),
            means="the model, not trained again, its world features replaced by their training mean",
        )  # fmt: skip
        if own := patch_channels(source) if altered else 0:
            yield Taker(
                PATCHES, mark(source, data, learned, PATCHES),
                lambda: watching(replace(_mean_features(load_model(source), train), own=own), packed),
                means="the model, not trained again, given its encoder's patch embedding, and of all layers above it "
                "their training mean",
            )  # fmt: skip
    for name, alter in ALTERED.items() if altered else ():
        yield Taker(
            name, mark(source, data, name), partial(watching_model, source, packed, alter),
            means="the model, not trained again, shown the clips so",
        )  # fmt: skip
    for name, folder in controls.items():
        yield Taker(name, mark(folder, data), partial(watching_model, folder, packed), means="another model")


def watching_model(source: str | Path, packed: Packed, alter: Callable[[Clip], Clip] = lambda clip: clip) -> Answers:
    """Answers of the model in a folder, loaded when it is its turn."""
    return watching(load_model(source), packed, alter)


def figures(answered: Mapping[str, Sequence[Row]], asked: Sequence[Row]) -> dict[str, Any]:
    """All figures, from each taker's rows of the per-sample file; the model's own come first. asked: the questions."""
    return {
        "headlines": headlines(answered),
        "by_type": by_type(answered),
        "by_option": by_option(answered),
        "minimal_pairs": minimal_pairs(answered, asked),
        "pairs": pairs(answered),
        "calibration": {name: calibration(rows) for name, rows in answered.items() if any(map(yes_no, rows))},
        "abstention": abstention(answered[MODEL]),
    }


def _data(packed: Packed, groups: Sequence[Group]) -> dict[str, Any]:
    """What a split held: enough to make it again and to see that it is the same."""
    rows, seeds = [row for group in groups for row in group], [clip["seed"] for clip in packed.clips]
    return {
        "questions": len(rows),
        "clips": len({row["video"] for row in rows}),
        "scenes": len({row["scene"] for row in rows}),
        "seeds": [min(seeds), max(seeds)],
        "sha256": digest(packed.root / "questions.jsonl"),
    }


def run(
    model_dir: str | Path | None,
    data: Path,
    out: Path,
    *,
    train_data: Path | None = None,
    controls: Mapping[str, str | Path] | None = None,
    altered: bool = True,
    limit: int | None = None,
    per_clip: int | None = None,
    command: str = "",
    samples: Path | None = None,
    workers: int = 1,
    readouts: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Examine a model (None: the embedded one) and its controls on a worlds folder; write the figures to `out`, and a
    page to look at beside it (.html).

    train_data: the training split, for the blind and mean-features controls (None leaves them out). controls: name
    -> folder of another model. altered: whether the model is also shown the clips of ALTERED, and given its encoder's
    patches alone. limit: about so many questions, whole clips at random; per_clip: at most so many questions of a clip,
    its outcome first. samples: the per-sample file (None: beside `out`); an interrupted exam goes on from it. workers:
    processes that answer.
    readouts: what else is read out of the model, by its name in the results (readouts.py).
    Raises ValueError where no question has options and an answer.
    """
    from ..reasoner.answer import NANO

    packed, train = load_clips(data), load_clips(train_data) if train_data else None
    groups = chosen([thinned(group, per_clip) for group in by_frames(load_rows(packed))], limit)
    if not groups:
        raise ValueError(f"{data} holds no question with options and an answer: make some with `foretell worlds`")
    takers = list(_takers(model_dir or NANO, packed, train, controls or {}, altered))
    kept = all_sit(takers, groups, samples or out.with_suffix(".samples.jsonl"), workers)
    asked = [row for group in groups for row in group]
    answered = {taker.name: kept.of(taker.name, asked) for taker in takers}
    found = {
        **provenance(command),
        "weights": mark(model_dir or NANO),
        "data": {"test": _data(packed, groups)}
        | ({"train": _data(train, by_frames(load_rows(train)))} if train else {}),
        "takers": {taker.name: taker.means for taker in takers},
        "figures": figures(answered, asked),
        **{name: read() for name, read in (readouts or {}).items()},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n")
    write(out.with_suffix(".html"), page(found, answered[MODEL], asked, packed, out.parent))
    return found
