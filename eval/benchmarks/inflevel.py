"""InfLevel-lab: filmed events for infants that keep or break continuity, solidity and gravity (Weihs et al. 2022).

Layout and metric: allenai/inflevel, README.md (folders and file names) and evaluator.py (which event types are real,
all four comparisons of the two real and the two magic videos of a group, groups that are not whole are skipped). Whole
videos are rated, the familiarisation at their beginning included. The published score is of matched pairs only
(facebookresearch/jepa-intuitive-physics, evaluation_code/evals/intuitive_physics/inflevel_dataset.py).
"""

from collections.abc import Sequence
from pathlib import Path

from .shape import FIGURE_1, Benchmark, Cited, Figures, Row, Unlike, by_kind, event, macro, told_apart, units_of

REAL = {"continuity": {"vv", "ii"}, "solidity": {"ui", "cv"}, "gravity": {"ui", "cv"}}
MAGIC = {"continuity": {"iv", "vi"}, "solidity": {"uv", "ci"}, "gravity": {"uv", "ci"}}


def load(folder: Path) -> list[Row]:
    """The videos of whole groups; `kind` is the principle."""
    rows = [_row(path.relative_to(folder)) for name in REAL for path in sorted(folder.glob(f"{name}/*.mp4"))]
    return [row for group in units_of(rows) if len(group) == 4 for row in group]


def _row(path: Path) -> Row:
    """camera__principle__cover__object__type[__direction].mp4"""
    principle, parts = path.parent.name, path.stem.split("__")
    if len(parts) < 5 or parts[4] not in REAL[principle] | MAGIC[principle]:
        raise Unlike(f"{path} is not called camera__{principle}__cover__object__type[__direction].mp4")
    unit = "__".join([principle, parts[0], *parts[2:4], *parts[5:]])
    return event(path.stem, str(path), parts[4] in REAL[principle], scene=unit, kind=principle, unit=unit)


def figures(rows: Sequence[Row]) -> Figures:
    """evaluator.py's accuracy of each principle, and their mean."""
    units = told_apart(rows)
    return {"mean of principles": macro(units), **by_kind(units)}


INFLEVEL = Benchmark(
    name="inflevel",
    title="InfLevel-lab",
    asks="surprise",
    protocol="magic videos are more surprising than real ones of the same group; mean over three principles",
    headline="mean of principles",
    chance=0.5,
    layout="continuity/, gravity/ and solidity/ (the insides of inflevel_lab/) with videos called "
    "center__continuity__darkbluecup__blueclover__ii__LR.mp4 and the like",
    data="https://github.com/allenai/inflevel (inflevel_lab.tar.gz)",
    licence="Apache-2.0 (the repository's)",
    load=load,
    figures=figures,
    humans=Cited("near 100", "README.md of the repository"),
    best=Cited("60 to 63", f"{FIGURE_1}; matched pairs"),
)
