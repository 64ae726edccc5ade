"""MVP: minimal video pairs, one question with opposite answers in two near-identical videos (arXiv 2506.09987).

Layout and metric: facebookresearch/minimal_video_pairs, tasks/mvp/utils.py (fields, videos/<video_path>, pairs,
compute_metrics), tasks/mvp/mvp.yaml and mvp_mini.yaml (subsets, all of the same weight) and Makefile (download_videos).
The annotations are parquet files on the Hub; export each subset once, so that no parquet reader is needed here:
`load_dataset("facebook/minimal_video_pairs", "intuitive_physics", split="mini").to_json("intuitive_physics.jsonl")`.
"""

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .shape import (
    Benchmark,
    Cited,
    Figures,
    Row,
    Unlike,
    accuracy,
    fields,
    macro,
    question,
    read_lines,
    singles,
    units_of,
    wholes,
)

SUBSETS = ("human_object_interactions", "intuitive_physics", "robot_object_interactions", "temporal_reasoning")
NAMES = ("video_id", "video_path", "question", "candidates", "answer")


def load(folder: Path) -> list[Row]:
    """The subsets that are there. Two rows are a pair when their video_id differs in its last part only."""
    rows = [
        _row(subset, fields(row, NAMES, f"a line of {subset}.jsonl"))
        for subset in SUBSETS
        for row in read_lines(folder / f"{subset}.jsonl")
    ]
    if odd := [group[0]["unit"] for group in units_of(rows) if len(group) != 2]:
        raise Unlike(f"{len(odd)} pairs do not have two videos, the first is {odd[0]}")
    return rows


def _row(subset: str, row: Row) -> Row:
    unit = f"{subset}/{row['video_id'].rpartition('_')[0]}"
    return question(
        f"{subset}/{row['video_id']}", f"videos/{row['video_path']}", row["question"], _options(row["candidates"]),
        str(row["answer"]), scene=unit, kind=subset, unit=unit,
    )  # fmt: skip


def _options(listed: Any) -> list[str]:
    """The candidates, which some exports hold as the text of a Python list."""
    try:
        return [str(option) for option in (ast.literal_eval(listed) if isinstance(listed, str) else listed)]
    except (SyntaxError, TypeError, ValueError):
        raise Unlike(f"candidates {listed!r} are no list") from None


def figures(rows: Sequence[Row]) -> Figures:
    """utils.py's pair and single accuracy of each subset, and their means over subsets, as mvp.yaml weighs them."""
    found: Figures = {"pairs": macro(wholes(rows)), "single videos": macro(singles(rows))}
    for subset in sorted({row["kind"] for row in rows}):
        asked = [row for row in rows if row["kind"] == subset]
        found |= {f"{subset}, pairs": accuracy(wholes(asked)), f"{subset}, single": accuracy(singles(asked))}
    return found


MVP = Benchmark(
    name="mvp",
    title="MVP",
    asks="answers",
    protocol="mean over subsets of the pairs with both videos right",
    headline="pairs",
    chance=0.25,
    layout=f"one or more of {', '.join(f'{name}.jsonl' for name in SUBSETS)}, exported with datasets' to_json from "
    "facebook/minimal_video_pairs, and videos/ as `make download_videos` of the repository builds it",
    data="https://github.com/facebookresearch/minimal_video_pairs",
    licence="CC BY-NC 4.0; the videos under the terms of their nine sources",
    load=load,
    figures=figures,
    humans=Cited("92.9", "arXiv 2506.09987, abstract"),
    best=Cited("40.2", "arXiv 2506.09987, abstract: best open model"),
)
