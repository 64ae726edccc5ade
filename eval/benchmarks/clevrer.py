"""CLEVRER: collisions of simple objects, and four types of questions about them (Yi et al. 2020, arXiv 1910.01442).

Layout: chuangg/CLEVRER, executor/run_mc.py, run_oe.py and get_results.py for the fields of validation.json (scenes
10000 to 14999); data.csail.mit.edu/clevrer/README.txt for the videos (5 s, in folders of 1000) and the licence. Metric:
executor/run_mc.py, per option and per question; run_oe.py for descriptive questions. They are open there; here the
options are all words that are an answer anywhere.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .shape import (
    YES_NO,
    Benchmark,
    Figures,
    Row,
    Unlike,
    accuracy,
    fields,
    inside,
    question,
    read_json,
    singles,
    wholes,
)

CHOSEN = ("explanatory", "predictive", "counterfactual")
FILE = "validation.json"


def load(folder: Path) -> list[Row]:
    """Every descriptive question once, every option of the others as a yes/no question of its own."""
    files = inside(folder, FILE)
    if not files:
        raise Unlike(f"{FILE} is nowhere in it")
    videos = {path.name: path for path in inside(folder, "video_*.mp4")}
    scenes = [fields(scene, ("video_filename", "questions"), FILE) for scene in read_json(folder / files[0])]
    asked = [(scene["video_filename"], _checked(row)) for scene in scenes for row in scene["questions"]]
    words = sorted({row["answer"] for _, row in asked if row["question_type"] == "descriptive"})
    return [
        made
        for name, row in asked
        for made in _rows(str(videos.get(name, name)), name.removesuffix(".mp4"), row, words)
    ]


def _checked(row: Any) -> Row:
    """A question of the file."""
    kind = fields(row, ("question_id", "question", "question_type"), f"a question of {FILE}")["question_type"]
    where = f"a {kind} question of {FILE}"
    checked = fields(row, ("answer",) if kind == "descriptive" else ("choices",), where)
    for choice in checked.get("choices", ()):
        fields(choice, ("choice_id", "choice", "answer"), f"a choice of {where}")
    return checked


def _rows(video: str, scene: str, row: Row, words: Sequence[str]) -> Iterator[Row]:
    unit, kind = f"{scene}-{row['question_id']}", row["question_type"]
    if kind == "descriptive":
        yield question(unit, video, row["question"], words, row["answer"], scene=scene, kind=kind)
        return
    for choice in row["choices"]:
        text = f"{row['question']} Is this right: {choice['choice']}?"
        answer = YES_NO[0] if choice["answer"] == "correct" else YES_NO[1]
        id = f"{unit}-{choice['choice_id']}"
        yield question(id, video, text, YES_NO, answer, scene=scene, kind=kind, unit=unit)


def figures(rows: Sequence[Row]) -> Figures:
    """run_mc.py's figures: options that are judged right, and questions all of whose options are."""
    found: Figures = {}
    for name, kinds in {**{kind: (kind,) for kind in CHOSEN}, "overall": CHOSEN}.items():
        if asked := [row for row in rows if row["kind"] in kinds]:
            found[f"{name}, per question"] = accuracy(wholes(asked))
            found[f"{name}, per option"] = accuracy(singles(asked))
    if told := [row for row in rows if row["kind"] == "descriptive"]:
        found["descriptive"] = accuracy(singles(told))
    return found


CLEVRER = Benchmark(
    name="clevrer",
    title="CLEVRER",
    asks="answers",
    protocol="validation split; every option is asked on its own, a question is right when all its options are",
    headline="predictive, per question",
    chance=0.25,
    layout="validation.json, and the videos video_10000.mp4 to video_14999.mp4 in any folders",
    data="http://clevrer.csail.mit.edu",
    licence="CC0",
    load=load,
    figures=figures,
)
