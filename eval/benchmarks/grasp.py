"""GRASP level 2: 16 tests of intuitive physics from a Unity simulator (Jassim et al. 2024, arXiv 2311.09048).

Layout: i-machine-think/grasp, tools/prepare_data.py (level2/<scene>/<number>.mp4), grasp/tests/level2.py (P_<test> is
possible, IP_<test> is not) and GRASP/Assets/Scenes/Level2/ (the 16 tests). GRASP itself asks language models for yes or
no; its human score is of that task. Pairs by number and their metric: facebookresearch/jepa-intuitive-physics,
evaluation_code/evals/intuitive_physics/grasp_dataset.py and compute_metrics of eval.py (relative accuracy), as the mean
over tests that figures.ipynb takes.
"""

from collections.abc import Sequence
from pathlib import Path

from .shape import FIGURE_1, Benchmark, Cited, Figures, Row, Unlike, by_kind, event, inside, macro, told_apart, units_of


def load(folder: Path) -> list[Row]:
    """The videos of level 2; `kind` is the test. Videos of the same number were made with the same seed."""
    rows = [_row(path) for path in inside(folder, "level2/*P_*/*.mp4")]
    if lonely := [group[0]["id"] for group in units_of(rows) if sorted(r["possible"] for r in group) != [False, True]]:
        raise Unlike(f"{len(lonely)} videos have no partner in P_ or IP_, the first is {lonely[0]}")
    return rows


def _row(path: Path) -> Row:
    outcome, _, test = path.parent.name.partition("_")
    unit = f"{test}/{path.stem}"
    return event(f"{outcome}_{unit}", str(path), outcome == "P", scene=unit, kind=test, unit=unit)


def figures(rows: Sequence[Row]) -> Figures:
    """Pairs whose impossible video is the more surprising: mean over tests, and each test."""
    units = told_apart(rows)
    return {"mean of tests": macro(units), **by_kind(units)}


GRASP = Benchmark(
    name="grasp",
    title="GRASP level 2",
    asks="surprise",
    protocol="the impossible video of a pair is the more surprising one; mean over 16 tests",
    headline="mean of tests",
    chance=0.5,
    layout="level2/P_Collision/000.mp4 and level2/IP_Collision/000.mp4, and so on for each test",
    data="https://github.com/i-machine-think/grasp (videos.zip)",
    licence="MIT",
    load=load,
    figures=figures,
    humans=Cited("80", "arXiv 2311.09048, abstract: yes/no on single videos"),
    best=Cited("64 to 68", f"{FIGURE_1}; the best context length of each test"),
)
