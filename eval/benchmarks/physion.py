"""Physion, object contact prediction: will the red object hit the yellow area? (Bear et al. 2021, arXiv 2106.08261).

Layout: cogtoolslab/physics-benchmarking-neurips2021, README.md (PhysionTest-Core: <Scenario>/mp4s-redyellow/ are what
models see), data/extract_labels.ipynb (columns of its tables of labels) and download_stimuli.py (a video is called like
its trial, but for "-redyellow"). Question: experiments/*/js/setup.js. Shown: the first 1.5 s
(prereg/preregistration_neurips2021.md). Metric: accuracy of each scenario (results/csv/summary/), no readout trained.
"""

from collections.abc import Sequence
from pathlib import Path

from .shape import (
    YES_NO,
    Benchmark,
    Cited,
    Figures,
    Row,
    Unlike,
    accuracy,
    by_kind,
    inside,
    macro,
    question,
    read_table,
    singles,
)

QUESTION = "Is the red object going to hit the yellow area?"
SHOWN = 1.5  # seconds
OUTCOME = "ground truth outcome"
ANSWERS = {"True": YES_NO[0], "False": YES_NO[1]}


def load(folder: Path) -> list[Row]:
    """The test trials; `kind` is the scenario."""
    videos = {path.stem.replace("-redyellow", ""): path for path in inside(folder, "mp4s-redyellow/*.mp4")}
    return [_row(row[""], row[OUTCOME], videos) for row in read_table(folder / "labels.csv", ("", OUTCOME))]


def _row(trial: str, outcome: str, videos: dict[str, Path]) -> Row:
    """A trial and its video."""
    if outcome not in ANSWERS:
        raise Unlike(f"the outcome of {trial} is {outcome!r}, neither of {list(ANSWERS)}")
    path = videos.get(trial, Path(f"{trial}.mp4"))
    kind = path.parts[-3] if len(path.parts) > 2 else ""
    return question(trial, str(path), QUESTION, YES_NO, ANSWERS[outcome], scene=trial, kind=kind, until=SHOWN)


def figures(rows: Sequence[Row]) -> Figures:
    """Accuracy as the mean over scenarios, and of each scenario."""
    units = singles(rows)
    return {"mean of scenarios": macro(units), "all trials": accuracy(units), **by_kind(units)}


PHYSION = Benchmark(
    name="physion",
    title="Physion",
    asks="answers",
    protocol="contact prediction on the red/yellow test videos, 1.5 s shown, no readout trained; mean over scenarios",
    headline="mean of scenarios",
    chance=0.5,
    layout="labels.csv and Collide/mp4s-redyellow/*.mp4 to Support/mp4s-redyellow/*.mp4 (PhysionTest-Core)",
    data="https://github.com/cogtoolslab/physics-benchmarking-neurips2021 (Physion.zip)",
    licence="MIT (the repository's)",
    load=load,
    figures=figures,
    humans=Cited("74.7", "results/csv/summary/human_accuracy_by_scenario.csv of the repository, mean of eight"),
    best=Cited(
        "61.8",
        "results/csv/summary/model_human_accuracies.csv of the repository, mean of eight: RPIN, the best "
        "of nine (three seeds, three training sets), with a readout trained on what it was shown",
    ),
)
