"""Perception Test, multiple-choice video questions: everyday videos, three options (arXiv 2305.13786).

Layout and metric: google-deepmind/perception_test, README.md (fields of questions, top-1 accuracy, cut frames),
data_visualisation.ipynb (how the JSON is nested; videos/); that answer_id counts from 0: EvolvingLMMs-Lab/lmms-eval,
lmms_eval/tasks/perceptiontest/val/utils.py. Videos whose end gives answers away are cut where
cut_frame_mapping_valid.json tells, as the README asks for; it does not tell whether that frame is still shown, so here
it is not.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .shape import Benchmark, Cited, Figures, Row, accuracy, by_kind, fields, question, read_json, singles

FILE, CUTS = "mc_question_valid.json", "cut_frame_mapping_valid.json"


def load(folder: Path) -> list[Row]:
    """The questions of the validation split; `kind` is the area, `reasoning` the type of reasoning."""
    cuts = fields(read_json(folder / CUTS), (), CUTS)
    videos = fields(read_json(folder / FILE), (), FILE)
    return [row for name, video in videos.items() for row in _rows(name, video, int(cuts.get(name, -1)))]


def _rows(name: str, video: Any, cut: int) -> Iterator[Row]:
    fields(video, ("metadata", "mc_question"), f"{name} in {FILE}")
    rate = float(fields(video["metadata"], ("frame_rate",), f"metadata of {name}")["frame_rate"])
    until = (cut - 1) / rate if cut > 0 else None  # the frame before the cut
    for asked in video["mc_question"]:
        fields(asked, ("id", "question", "options", "answer_id", "area", "reasoning"), f"a question of {name}")
        options = asked["options"]
        row = question(
            f"{name}-{asked['id']}", f"videos/{name}.mp4", asked["question"], options, options[int(asked["answer_id"])],
            scene=name, kind=str(asked["area"]).lower(), until=until,
        )  # fmt: skip
        yield {**row, "reasoning": str(asked["reasoning"]).lower()}


def figures(rows: Sequence[Row]) -> Figures:
    """Top-1 accuracy, and that of each area and type of reasoning."""
    units = singles(rows)
    reasoning = singles([{**row, "kind": row["reasoning"]} for row in rows])
    return {"top-1": accuracy(units), **by_kind(units), **by_kind(reasoning)}


PERCEPTIONTEST = Benchmark(
    name="perceptiontest",
    title="Perception Test",
    asks="answers",
    protocol="multiple-choice questions of the validation split, cut where the end would tell; top-1 accuracy",
    headline="top-1",
    chance=1 / 3,
    layout=f"{FILE}, {CUTS} and videos/*.mp4",
    data="https://github.com/google-deepmind/perception_test",
    licence="CC BY 4.0",
    load=load,
    figures=figures,
    humans=Cited("91.4", "arXiv 2305.13786, abstract"),
    best=Cited("84.0", "arXiv 2506.09985, abstract: V-JEPA 2 with an 8B language model"),
)
