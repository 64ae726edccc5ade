"""CausalVQA: questions about causes in real videos, each put twice with other options (Foss et al. 2025).

Layout: facebookresearch/CausalVQA, README.md (columns, debug/), croissant.json (debug/debug_metadata.csv, videos/*.mp4)
and scripts/prep_mllm_eval.py (how options are written). Metric: causalvqa_aggregate_results of tasks/utils.py there,
over all questions, as tasks/debug_causalvqa.yaml weighs them. Answers are published for the debug set only.
"""

from collections.abc import Sequence
from pathlib import Path

from .shape import (
    Benchmark,
    Cited,
    Figures,
    Row,
    Unlike,
    accuracy,
    by_kind,
    question,
    read_table,
    singles,
    wholes,
)

SPLIT = "debug"
COLUMNS = ("qid", "type", "question", "choices1", "correct1", "choices2", "correct2", "difficulty", "renamed_video")


def load(folder: Path) -> list[Row]:
    """Every question of the debug set with its first and its second choices."""
    table = read_table(folder / SPLIT / f"{SPLIT}_metadata.csv", COLUMNS)
    return [_row(row, turn) for row in table for turn in ("1", "2")]


def _row(row: dict[str, str], turn: str) -> Row:
    options = _options(row[f"choices{turn}"])
    correct = row[f"correct{turn}"].strip()
    if correct not in options:
        raise Unlike(f"correct{turn} of question {row['qid']} is {correct!r}, its choices are numbered {list(options)}")
    return question(
        f"{row['qid']}-{turn}", f"{SPLIT}/videos/{row['renamed_video']}", row["question"], list(options.values()),
        options[correct], scene=row["renamed_video"], kind=row["type"].lower(), unit=row["qid"],
    )  # fmt: skip


def _options(text: str) -> dict[str, str]:
    """ "1. a|2. b" as {"1": "a", "2": "b"}."""
    numbered = (part.strip() for part in text.split("|"))
    return {part[0]: part[3:].strip() for part in numbered if part}


def figures(rows: Sequence[Row]) -> Figures:
    """Questions right with both choices (the benchmark's score), then each type of them; and single ones."""
    pairs = wholes(rows)
    return {"pairs": accuracy(pairs), "single": accuracy(singles(rows)), **by_kind(pairs)}


CAUSALVQA = Benchmark(
    name="causalvqa",
    title="CausalVQA",
    asks="answers",
    protocol="debug set (the test set's answers are withheld); right with both of a question's choices of five",
    headline="pairs",
    chance=0.04,
    layout="debug/debug_metadata.csv with the columns of the README, and debug/videos/*.mp4",
    data="https://github.com/facebookresearch/CausalVQA",
    licence="CC BY-NC 4.0, evaluation only; the videos under the Ego-Exo4D licence",
    load=load,
    figures=figures,
    humans=Cited("85", "croissant.json of the repository; all questions"),
    best=Cited("62", "croissant.json of the repository: Gemini 2.5 Flash; all questions"),
)
