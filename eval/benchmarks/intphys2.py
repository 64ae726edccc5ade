"""IntPhys 2: possible and impossible events in rich virtual scenes (Bordes et al. 2025, arXiv 2506.09849).

Layout: facebookresearch/IntPhys2, ComputeScoreIntPhys2.ipynb (Main/metadata.csv with SceneIndex, condition, type) and
IntPhys2_transformers.py (<split>/Videos/*.mp4; the four types of a scene); file_name and Difficulty, which may be
empty, as EvolvingLMMs-Lab/lmms-eval reads them from facebook/IntPhys2 (lmms_eval/tasks/intphys2/utils.py). Metric of
models that predict: that of facebookresearch/jepa-intuitive-physics (compute_metrics of
evaluation_code/evals/intuitive_physics/eval.py), on which README.md says that prediction_evals/ stands, over pairs that
share the prefix of `type` (1_Possible with 1_Impossible) and are never crossed.
"""

from collections.abc import Sequence
from pathlib import Path

from .shape import Benchmark, Cited, Figures, Row, Unlike, accuracy, by_kind, event, read_table, told_apart, units_of

SPLIT = "Main"
COLUMNS = ("SceneIndex", "file_name", "condition", "type", "Difficulty")


def load(folder: Path) -> list[Row]:
    """The videos of the main split. `kind` is the difficulty, `condition` the principle at stake."""
    rows = [_row(row) for row in read_table(folder / SPLIT / "metadata.csv", COLUMNS)]
    if lonely := [
        group[0]["unit"] for group in units_of(rows) if sorted(r["possible"] for r in group) != [False, True]
    ]:
        raise Unlike(f"{len(lonely)} pairs are not one possible and one impossible video, the first is {lonely[0]}")
    return rows


def _row(row: dict[str, str]) -> Row:
    prefix, _, outcome = row["type"].partition("_")
    if outcome not in ("Possible", "Impossible"):
        raise Unlike(f"type {row['type']!r} in metadata.csv is none of 1_Possible, 1_Impossible, 2_...")
    scene = row["SceneIndex"]
    made = event(
        row["file_name"], f"{SPLIT}/{row['file_name']}", outcome == "Possible", scene=scene,
        kind=row["Difficulty"] or "unknown", unit=f"{scene}-{prefix}",
    )  # fmt: skip
    return {**made, "condition": row["condition"].partition("_")[0]}


def figures(rows: Sequence[Row]) -> Figures:
    """Pairs whose impossible video is the more surprising; immutability_texture and the like count with their kin."""
    conditions = told_apart([{**row, "kind": row["condition"]} for row in rows])
    units = told_apart(rows)
    return {"pairs": accuracy(units), **by_kind(units), **by_kind(conditions)}


INTPHYS2 = Benchmark(
    name="intphys2",
    title="IntPhys 2",
    asks="surprise",
    protocol="main split; the impossible video of a pair is the more surprising one",
    headline="pairs",
    chance=0.5,
    layout="Main/metadata.csv with SceneIndex, file_name, condition, type and Difficulty, and Main/Videos/*.mp4",
    data="https://huggingface.co/datasets/facebook/IntPhys2",
    licence="CC BY-NC 4.0, evaluation only",
    load=load,
    figures=figures,
    humans=Cited("near 100", "arXiv 2506.09849, abstract"),
    best=Cited("near 50", "arXiv 2506.09849, abstract: most models at chance"),
)
