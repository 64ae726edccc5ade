"""Physics-IQ: what really happened next in 66 filmed scenarios, against what a video generator made (arXiv 2501.09038).

Layout: google-deepmind/physics-IQ-benchmark, README.md (names; split-videos/testing-videos/30FPS/; a folder of
{id}_*.mp4 for every generator), code/run_physics_iq.py (split-videos/testing/30FPS/; ids of take 1, 0001 to 0198) and
descriptions/descriptions.csv. The folder generated/ around those of the generators is ours. The benchmark scores
generators by their pixels (code/calculate_iq_score.py). Here a world model is scored: is it less surprised by the
filmed continuation than by the generated one? No score of this ranking was published.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .shape import Benchmark, Cited, Figures, Row, Unlike, by_kind, event, inside, macro, told_apart

FILMED = "split-videos/testing*/30FPS/*_take-1_*.mp4"
MADE = "generated/*/[0-9][0-9][0-9][0-9]_*.mp4"


def load(folder: Path) -> list[Row]:
    """Each generated video with the filmed one of its id; `kind` is the generator."""
    filmed = {path.name[:4]: path for path in inside(folder, FILMED)}
    if not filmed:
        raise Unlike(f"found no {FILMED}")
    return [row for path in inside(folder, MADE) for row in _rows(path, filmed)]


def _rows(made: Path, filmed: dict[str, Path]) -> Iterator[Row]:
    generator, number = made.parent.name, made.name[:4]
    if number not in filmed:
        raise Unlike(f"{made} has no filmed video of the id {number}")
    scene = filmed[number].stem.rpartition("_")[2]  # its three views are filmed at once
    unit = f"{generator}/{number}"
    for possible, path in ((True, filmed[number]), (False, made)):
        id = f"{unit}-{'filmed' if possible else 'generated'}"
        yield event(id, str(path), possible, scene=scene, kind=generator, unit=unit)


def figures(rows: Sequence[Row]) -> Figures:
    """Pairs whose generated video is the more surprising: mean over generators, and each generator."""
    units = told_apart(rows)
    return {"mean of generators": macro(units), **by_kind(units)}


PHYSICS_IQ = Benchmark(
    name="physics-iq",
    title="Physics-IQ (ranking)",
    asks="surprise",
    protocol="a generated continuation is more surprising than the filmed one; mean over generators",
    headline="mean of generators",
    chance=0.5,
    layout="split-videos/testing/30FPS/0001_testing-videos_30FPS_perspective-left_take-1_*.mp4 and so on, and what "
    "generators made of them as generated/<generator>/0001_*.mp4",
    data="https://github.com/google-deepmind/physics-IQ-benchmark",
    licence="CC BY 4.0",
    load=load,
    figures=figures,
    best=Cited(
        "none of this ranking", "generators' own score: 62.6 of 100, Magi-1 with WMReward, README.md of the repository"
    ),
)
