"""CoPhy, BlocktowerCF: will a tower with hidden masses, frictions and gravity stay as it is? (arXiv 1909.12000).

Layout: fabienbaradel/cophy, README.md (blocktowerCF/<blocks>/<id>/cd/ with rgb.mp4 and states.npy),
dataloaders/dataset_blocktower.py and dataloaders/splits/ (the lists, also in splits.zip). Stability:
bias_free_blocktower.py there, states of the first and the last step that differ by less than 0.05 in all. The paper
scores predicted 3-D poses (cf_learning/main.py), which an answer in words does not give; so this asks for the outcome
of C alone, without the observed AB.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .shape import YES_NO, Benchmark, Figures, Row, Unlike, accuracy, by_kind, inside, macro, question, singles

QUESTION = "Will the tower fall?"
STILL = 0.05


def load(folder: Path) -> list[Row]:
    """The examples of the normal test splits; `kind` is the number of blocks."""
    lists = inside(folder, "blocktowerCF_test_[34]_normal.txt")
    if not lists:
        raise Unlike("blocktowerCF_test_3_normal.txt and blocktowerCF_test_4_normal.txt are nowhere in it")
    return [
        _row(folder, path.stem.split("_")[2], example)
        for path in lists
        for example in (folder / path).read_text(encoding="utf-8").split()
    ]


def _row(folder: Path, blocks: str, example: str) -> Row:
    place = f"blocktowerCF/{blocks}/{example}/cd"
    answer = YES_NO[1] if stable(folder / place / "states.npy") else YES_NO[0]
    name = f"{blocks}/{example}"
    return question(
        name, f"{place}/rgb.mp4", QUESTION, YES_NO, answer, scene=name, kind=f"{blocks} blocks", until=0.0
    )  # fmt: skip


def stable(path: Path) -> bool:
    """Whether nothing moved. states.npy: [T, K, 13], poses and velocities of K blocks in T steps."""
    if not path.is_file():
        raise Unlike(f"{'/'.join(path.parts[-5:])} is missing")
    states = np.load(path, allow_pickle=False)
    return float(np.abs(states[0] - states[-1]).sum()) < STILL


def figures(rows: Sequence[Row]) -> Figures:
    """Accuracy as the mean over numbers of blocks, and of each number."""
    units = singles(rows)
    return {"mean of heights": macro(units), "all towers": accuracy(units), **by_kind(units)}


COPHY = Benchmark(
    name="cophy",
    title="CoPhy block towers",
    asks="answers",
    protocol="first picture of C shown: will it fall; not the paper's pose error; mean of 3 and 4 blocks",
    headline="mean of heights",
    chance=0.5,
    layout="blocktowerCF/3/<id>/cd/ and blocktowerCF/4/<id>/cd/ with rgb.mp4 and states.npy, and the test lists "
    "blocktowerCF_test_3_normal.txt and blocktowerCF_test_4_normal.txt of splits.zip in any folder",
    data="https://zenodo.org/record/3674790 (cophy_224.tar.gz, splits.zip)",
    licence="GPL-3.0 (the repository's); for the data see the Zenodo record",
    load=load,
    figures=figures,
)
