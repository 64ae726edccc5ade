"""What a public benchmark is here: rows that are answered or rated, and how these become the official figures.

A row of a benchmark that is *answered* is a question with options (`question`); one that is *rated* is a video that is
possible or not (`event`). `unit` joins rows that count as one (both videos of a pair); `scene` joins what intervals
must not tear apart; `kind` is the subset a row is reported in.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..stats import Figure, balanced_accuracy, figure, mean_of

Row = Mapping[str, Any]
Figures = dict[str, Figure]
YES_NO = ("yes", "no")
FIGURE_1 = "V-JEPA, 95% interval that figures.ipynb of facebookresearch/jepa-intuitive-physics prints for its Figure 1"


class Unlike(ValueError):
    """A folder is not laid out as its benchmark is; the message says what was found."""


@dataclass(frozen=True)
class Cited:
    """A published score in percent, and where it stands."""

    score: str
    source: str


@dataclass(frozen=True)
class Benchmark:
    """One public benchmark.

    asks: whether a model's answers or its surprise are scored. chance, humans, best: of the figure called `headline`;
    None where nobody published one that we could verify. layout: what the folder must hold. figures: from rows with
    `right` (answers) or `surprise`, the official metrics by their names, the headline among them. make: fills the
    folder of a benchmark whose data nobody has to bring with so many rows (None: all), and tells what made them.
    """

    name: str
    title: str
    asks: Literal["answers", "surprise"]
    protocol: str
    headline: str
    chance: float
    layout: str
    data: str
    licence: str
    load: Callable[[Path], list[Row]]
    figures: Callable[[Sequence[Row]], Figures]
    humans: Cited | None = None
    best: Cited | None = None
    make: Callable[[Path, int | None], dict[str, Any]] | None = None

    def read(self, folder: Path) -> list[Row]:
        """The rows of a folder, all of whose videos are there. Raises ValueError where it is not what it should be."""
        try:
            return _present(self.load(_there(folder)), folder)
        except Unlike as error:
            raise ValueError(
                f"{folder} is not {self.title}: {error}. Expected: {self.layout}. "
                f"The data: {self.data} (licence: {self.licence})"
            ) from None


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise Unlike("there is no such folder")
    return folder


def _present(rows: list[Row], folder: Path) -> list[Row]:
    if not rows:
        raise Unlike(f"found no item in it, only {_names(folder)}")
    missing = [row["video"] for row in rows if not (folder / row["video"]).exists()]
    if missing:
        raise Unlike(f"{len(missing)} of {len(rows)} videos are missing, the first is {missing[0]}")
    return rows


def _names(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir())
    return f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}" if found else "an empty folder"


def question(
    id: str,
    video: str,
    text: str,
    options: Sequence[str],
    answer: str,
    *,
    scene: str,
    kind: str,
    unit: str | None = None,
    until: float | None = None,
) -> Row:
    """A row to answer. video: relative to the benchmark's folder; until: seconds shown (None: the whole video)."""
    if answer not in options:
        raise Unlike(f"the answer {answer!r} of question {id} is none of its options {list(options)}")
    asked = {"question": text, "options": list(options), "answer": answer, "until": until}
    return {"id": id, "video": video, **asked, "scene": scene, "kind": kind, "unit": unit or id}


def event(id: str, video: str, possible: bool, *, scene: str, kind: str, unit: str, rate: float | None = None) -> Row:
    """A row to rate by surprise. rate: pictures a second, where `video` is a folder of pictures."""
    return {"id": id, "video": video, "possible": possible, "scene": scene, "kind": kind, "unit": unit, "rate": rate}


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has these columns."""
    if not path.is_file():
        raise Unlike(f"{path.name} is missing; found {_names(path.parent) if path.parent.is_dir() else 'no folder'}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if absent := set(columns) - set(table.fieldnames or ()):
            raise Unlike(f"{path.name} lacks the columns {sorted(absent)}; it has {table.fieldnames}")
        return list(table)


def read_json(path: Path) -> Any:
    """A JSON file."""
    if not path.is_file():
        raise Unlike(f"{path.name} is missing; found {_names(path.parent) if path.parent.is_dir() else 'no folder'}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unlike(f"{path.name} is no JSON ({error})") from None


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON-lines file; none where there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError as error:
        raise Unlike(f"{path.name} is no JSON lines ({error})") from None


def fields(row: Any, names: Iterable[str], where: str) -> Row:
    """The row, which must be a mapping with these names."""
    if not isinstance(row, dict) or not set(names) <= set(row):
        raise Unlike(f"{where} lacks some of {sorted(names)}; it has {sorted(row) if isinstance(row, dict) else row!r}")
    return row


def inside(folder: Path, pattern: str) -> list[Path]:
    """What lies somewhere below the folder under such a name, relative to it and sorted."""
    return sorted(path.relative_to(folder) for path in folder.rglob(pattern))


@dataclass(frozen=True)
class Unit:
    """What counts as one: how right it is (0 to 1), and how right a guess would be."""

    right: float
    chance: float
    scene: str
    kind: str


def singles(rows: Iterable[Row]) -> list[Unit]:
    """Every answered row for itself."""
    return [Unit(float(row["right"]), 1 / len(row["options"]), row["scene"], row["kind"]) for row in rows]


def units_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows that count as one, together."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["unit"], []).append(row)
    return list(groups.values())


def wholes(rows: Iterable[Row]) -> list[Unit]:
    """Units of answered rows, each right where all of its rows are."""
    return [
        Unit(
            float(all(row["right"] for row in group)),
            math.prod(1 / len(row["options"]) for row in group),
            group[0]["scene"],
            group[0]["kind"],
        )
        for group in units_of(rows)
    ]


def beats(surprise: float, other: float) -> float:
    """1 where the first is more surprising, 1/2 in a tie."""
    return float(surprise > other) + 0.5 * float(surprise == other)


def told_apart(rows: Iterable[Row]) -> list[Unit]:
    """Units of rated rows: how often an impossible video is more surprising than a possible one of the same unit."""
    found = []
    for group in units_of(rows):
        possible = [row["surprise"] for row in group if row["possible"]]
        wins = [beats(row["surprise"], one) for row in group if not row["possible"] for one in possible]
        found.append(Unit(sum(wins) / len(wins), 0.5, group[0]["scene"], group[0]["kind"]))
    return found


def accuracy(units: Sequence[Unit]) -> Figure:
    """The share of units that are right."""
    return figure(mean_of([unit.right for unit in units]), [unit.scene for unit in units], _chance(units))


def macro(units: Sequence[Unit]) -> Figure:
    """The mean over kinds of the share of units that are right: every kind counts the same."""
    statistic = balanced_accuracy([unit.right for unit in units], [unit.kind for unit in units])
    chances = [_chance(group) for group in _kinds(units).values()]
    return figure(statistic, [unit.scene for unit in units], sum(chances) / len(chances))


def by_kind(units: Sequence[Unit]) -> Figures:
    """The share of units that are right in each kind."""
    return {kind: accuracy(group) for kind, group in sorted(_kinds(units).items())}


def _chance(units: Sequence[Unit]) -> float:
    return sum(unit.chance for unit in units) / len(units)


def _kinds(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.kind, []).append(unit)
    return groups
