"""ShapeStacks: pictures of stacks of blocks, stable or about to fall (Groth et al. 2018).

Layout and label: ogroth/shapestacks, README.md (splits/, recordings/) and data_provider/shapestacks_provider.py (stable
exactly where the scenario's name holds vcom=0 and vpsf=0; pictures rgb-*-mono-0.png). Metric: accuracy over pictures
(tf_models/inception/inception_model.py, test_inception_v4_shapestacks.py). A picture is shown as a video of one frame.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .shape import YES_NO, Benchmark, Figures, Row, Unlike, accuracy, by_kind, macro, question, singles

QUESTION = "Will the tower fall?"
SPLITS = ("blocks_all", "ccs_all")


def load(folder: Path) -> list[Row]:
    """The test pictures of the splits that are there; `kind` is the split: cubes only, or mixed shapes."""
    lists = {split: folder / "splits" / split / "test.txt" for split in SPLITS}
    if not any(path.is_file() for path in lists.values()):
        raise Unlike(f"found none of {', '.join(f'splits/{split}/test.txt' for split in SPLITS)}")
    return [
        row
        for split, path in lists.items()
        if path.is_file()
        for scenario in path.read_text(encoding="utf-8").split()
        for row in _rows(folder, split, scenario)
    ]


def _rows(folder: Path, split: str, scenario: str) -> Iterator[Row]:
    pictures = sorted((folder / "recordings" / scenario).glob("rgb-*-mono-0.png"))
    if not pictures:
        raise Unlike(f"recordings/{scenario} holds no picture rgb-*-mono-0.png")
    stable = "vcom=0" in scenario and "vpsf=0" in scenario
    for picture in pictures:
        path = str(picture.relative_to(folder))
        answer = YES_NO[1] if stable else YES_NO[0]
        yield question(f"{split}/{path}", path, QUESTION, YES_NO, answer, scene=scenario, kind=split)


def figures(rows: Sequence[Row]) -> Figures:
    """Accuracy over pictures: the mean of the splits, all together, and each split."""
    units = singles(rows)
    return {"mean of splits": macro(units), "all pictures": accuracy(units), **by_kind(units)}


SHAPESTACKS = Benchmark(
    name="shapestacks",
    title="ShapeStacks",
    asks="answers",
    protocol="test pictures of cubes (blocks_all) and of mixed shapes (ccs_all): will it fall; mean of both",
    headline="mean of splits",
    chance=0.5,
    layout="splits/blocks_all/test.txt or splits/ccs_all/test.txt, and recordings/env_*/rgb-*-mono-0.png",
    data="https://ogroth.github.io/shapestacks (shapestacks-rgb.tar.gz, shapestacks-meta.tar.gz)",
    licence="GPL-3.0 (the repository's; the data state none)",
    load=load,
    figures=figures,
)
