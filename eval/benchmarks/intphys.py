"""IntPhys: quadruplets of two possible and two impossible movies made of the same frames (arXiv 1803.07616).

Layout: bootphon/intphys, Tools/make_archives.py (dev.tar.gz: dev/ with pictures and a status.json whose header says
is_possible) and Content/Scripts/tools/saver.py (dev/<block>/<scene>/1 to 4, two of them possible);
facebookresearch/minimal_video_pairs, setup/setup_intphys.py, for O1/01/1/scene/scene_001.png to 100. Metrics: the
relative and the absolute error (equations 1 and 2 of the paper) on plausibility = -surprise, as accuracies (1 - error);
a null submission has the relative error 0.5 (intphys.cognitive-ml.fr, news 2020-01-27), so ties count one half.
"""

from collections.abc import Sequence
from pathlib import Path

from ..stats import auroc, figure
from .shape import (
    Benchmark,
    Cited,
    Figures,
    Row,
    Unit,
    Unlike,
    accuracy,
    beats,
    by_kind,
    event,
    fields,
    inside,
    read_json,
    units_of,
)

RATE = 15.0  # 100 pictures a movie, 15,000 movies in about 25 hours (IntPhys V1.0, Train set)


def load(folder: Path) -> list[Row]:
    """The movies of the development set; `kind` is the block (O1, O2, O3), `unit` the quadruplet."""
    rows = [_row(folder, path.parent) for path in inside(folder, "dev/O*/*/*/status.json")]
    for group in units_of(rows):
        if sorted(row["possible"] for row in group) != [False, False, True, True]:
            raise Unlike(f"{group[0]['unit']} is not two possible and two impossible movies, but {len(group)}")
    return rows


def _row(folder: Path, movie: Path) -> Row:
    header = fields(read_json(folder / movie / "status.json"), ("header",), f"{movie}/status.json")["header"]
    possible = fields(header, ("is_possible",), f"the header of {movie}/status.json")["is_possible"]
    block, scene = movie.parts[-3:-1]
    unit = f"{block}/{scene}"
    return event(str(movie), str(movie / "scene"), bool(possible), scene=unit, kind=block, unit=unit, rate=RATE)


def quadruplets(rows: Sequence[Row]) -> list[Unit]:
    """Whether the two impossible movies are together more surprising than the two possible ones."""
    found = []
    for group in units_of(rows):
        of = [sum(row["surprise"] for row in group if row["possible"] is possible) for possible in (False, True)]
        found.append(Unit(beats(*of), 0.5, group[0]["scene"], group[0]["kind"]))
    return found


def figures(rows: Sequence[Row]) -> Figures:
    """Relative accuracy, overall and of each block, and absolute accuracy (area under the ROC curve)."""
    units = quadruplets(rows)
    curve = auroc([row["surprise"] for row in rows], [not row["possible"] for row in rows])
    absolute = figure(curve, [row["scene"] for row in rows], 0.5)
    return {"relative": accuracy(units), "absolute": absolute, **by_kind(units)}


INTPHYS = Benchmark(
    name="intphys",
    title="IntPhys (dev)",
    asks="surprise",
    protocol="the two impossible movies of a quadruplet are together more surprising than the two possible ones",
    headline="relative",
    chance=0.5,
    layout="dev/O1/01/1/ to dev/O3/30/4/, each with scene/*.png and status.json",
    data="https://intphys.cognitive-ml.fr (dev.tar.gz)",
    licence="none stated by its authors that we found; ask them",
    load=load,
    figures=figures,
    humans=Cited("81", "figures.ipynb of facebookresearch/jepa-intuitive-physics: mean of six conditions; test set"),
    best=Cited("99.9", "the same notebook: V-JEPA, mean surprise; test set"),
)
