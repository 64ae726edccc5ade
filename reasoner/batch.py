"""A file of questions in, a file of answers out: one row a question, in order, whatever happens to a row; resumable."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

from .answer import Answer, Foretell

Row = dict[str, Any]

_BEGINNING = b'{"id": '
"""What every row of answers starts with."""
_NO_MEMORY = re.compile("out of memory|not enough memory|allocate memory|bad_alloc|alloc_failed", re.IGNORECASE)
"""Of a RuntimeError of torch, on a CPU or an accelerator."""


@dataclass(frozen=True)
class Counts:
    """What became of the questions of a file: answered now, answered by an earlier run, failed."""

    answered: int
    kept: int
    failed: int

    @property
    def status(self) -> int:
        """Exit status of the command: 0 where every row has its answer, else 1."""
        return 1 if self.failed else 0


@dataclass(frozen=True)
class Entry:
    """One line of QUESTIONS.jsonl; with an error it is not asked. until in seconds."""

    id: str | int | None
    video: Path = Path()
    question: str = ""
    options: tuple[str, ...] | None = None
    until: float | None = None
    error: str | None = None


def answer_file(questions: str | Path, out: str | Path, model: Foretell) -> Counts:
    """Answer every row of QUESTIONS.jsonl into ANSWERS.jsonl (DESIGN, The command line).

    Answers are appended as they come, so that a run that was stopped loses nothing; a second run asks only what is
    missing or failed, and the file ends up in the order of the questions. Raises ValueError or OSError where nothing
    could start: questions that are not there, an `out` that holds something else or is no regular file. Where `out` is
    a link, what it names is written.
    """
    questions, out = Path(questions), Path(out)
    if out.exists() and not out.is_file():
        raise ValueError(f"{out}: no regular file: answers are kept in one, so name a file with --out")
    out = Path(os.path.realpath(out))  # Path.resolve gives up on a link to itself
    entries = read_entries(questions)
    if out.exists() and out.samefile(questions):
        raise ValueError(f"{out}: answers would overwrite the questions: name another file with --out")
    rows = _previous(out, entries)  # by the entry's place
    kept = len(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    _replace(out, [rows[place] for place in sorted(rows)])
    todo = [place for place in range(len(entries)) if place not in rows]
    for places, answers in _asked(model, entries, todo):
        _append(out, answers)
        rows.update(zip(places, answers, strict=True))
    _replace(out, [rows[place] for place in range(len(entries))])
    failed = sum(row["error"] is not None for row in rows.values())
    return Counts(answered=len(entries) - kept - failed, kept=kept, failed=failed)


def read_entries(path: Path) -> list[Entry]:
    """The rows of QUESTIONS.jsonl, blank lines left out. Raises ValueError where there are none."""
    if not path.is_file():
        raise ValueError(f"{path}: not a file: name a JSON-lines file of questions")
    lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: holds no questions: write one JSON object a line")
    entries = [_entry(line, number, path.parent) for number, line in lines]
    return _without_twins(entries, [number for number, _ in lines])


def _without_twins(entries: Sequence[Entry], numbers: Sequence[int]) -> list[Entry]:
    """The entries, with an error on those whose id came before."""
    first: dict[str | int, int] = {}
    checked = []
    for entry, number in zip(entries, numbers, strict=True):
        earlier = first.setdefault(entry.id, number) if entry.id is not None else number
        error = f"line {number}: id {entry.id!r} is taken by line {earlier}: give every question an id of its own"
        checked.append(entry if earlier == number else replace(entry, error=error))
    return checked


def _entry(line: bytes, number: int, folder: Path) -> Entry:
    """One line, its fields checked; a video's path is relative to the questions' folder."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Entry(None, error=f"line {number}: not JSON: {error}")
    if not isinstance(row, dict):
        return Entry(None, error=f"line {number}: not a JSON object: write {{...}} with id, video and question")
    name = row.get("id") if is_name(row.get("id")) else None
    for problem in problems(row):
        return Entry(name, error=f"line {number}: {problem}")
    options = None if row.get("options") is None else tuple(row["options"])
    return Entry(name, folder / row["video"], row["question"], options, row.get("until"))


def problems(row: Row) -> Iterator[str]:
    """What is wrong with the fields of a row; what is wrong with a question or a video is found when it is asked."""
    if not is_name(row.get("id")):
        yield f"id must be a text or a whole number, got {row.get('id')!r}"
    for name in ("video", "question"):
        if not isinstance(row.get(name), str):
            yield f"{name} must be a text, got {row.get(name)!r}"
    options, until = row.get("options"), row.get("until")
    if options is not None and not isinstance(options, list):
        yield f"options must be a list of texts, got {options!r}"
    if until is not None and not (type(until) in (int, float) and 0 <= until < 1e9):
        yield f"until must be a number of seconds, 0 or more, got {until!r}"


def is_name(value: object) -> bool:
    """Whether something can be the id of a row: a whole number, or text without control characters."""
    return type(value) is int or (isinstance(value, str) and value.isprintable())


def _previous(out: Path, entries: Sequence[Entry]) -> dict[int, Row]:
    """What an earlier run answered, by the place of the question. Raises ValueError where `out` is another file."""
    places = {entry.id: place for place, entry in enumerate(entries) if entry.error is None}
    rows: dict[int, Row] = {}
    for row in _whole_rows(out):
        if row.get("error", "") is None and is_name(row.get("id")) and row["id"] in places:
            rows[places[row["id"]]] = row
        elif not row.get("error"):
            raise ValueError(f"{out}: holds more than answers to these questions: name another file with --out")
    return rows


def _whole_rows(path: Path) -> Iterator[Row]:
    """The JSON objects of a file that may be absent, or cut off in its last line; {} for what is none."""
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    yield from map(_row_of, lines)
    if row := _row_of(last):
        yield row
    elif not (last.startswith(_BEGINNING) or _BEGINNING.startswith(last)):
        yield {}


def _row_of(line: bytes) -> Row:
    """The JSON object on a line, or {}."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _asked(model: Foretell, entries: Sequence[Entry], todo: Sequence[int]) -> Iterator[tuple[list[int], list[Row]]]:
    """Answers as they come, with a progress bar: all questions on the same frames at once, failed rows first."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("answering", total=len(todo))
        for places in _by_frames(entries, todo):
            yield places, _answer_group(model, [entries[place] for place in places])
            progress.advance(bar, len(places))


def _by_frames(entries: Sequence[Entry], todo: Iterable[int]) -> list[list[int]]:
    """Places of the entries, those on the same frames of the same video together."""
    groups: dict[tuple[Path, float | None], list[int]] = {}
    for place in todo:
        groups.setdefault((entries[place].video, entries[place].until), []).append(place)
    return list(groups.values())


def _answer_group(model: Foretell, group: Sequence[Entry]) -> list[Row]:
    """Rows for questions on the same frames. A bad question fails alone, a bad video fails them all; where memory is
    too short for all of them, each is asked alone."""
    errors = [entry.error or _refusal(model, entry) for entry in group]
    good = [entry for entry, error in zip(group, errors, strict=True) if error is None]
    short = False
    try:
        clip = model.read(group[0].video, group[0].until) if good else None
        found = iter(model.answer_many(clip, [(entry.question, entry.options) for entry in good]) if clip else ())
    except (ValueError, OSError) as error:
        errors = [known or _line(error) for known in errors]
    except (MemoryError, RuntimeError) as error:
        errors = [known or _shortage(error) for known in errors]
        short = True
    if short and len(good) > 1:
        return [row for entry in group for row in _answer_group(model, [entry])]
    return [
        _failed(entry, error) if error else _row(entry, next(found)) for entry, error in zip(group, errors, strict=True)
    ]


def _refusal(model: Foretell, entry: Entry) -> str | None:
    """Why a question cannot be asked, if it cannot."""
    try:
        model.ask(entry.question, entry.options)
    except ValueError as error:
        return _line(error)
    return None


def _shortage(error: Exception) -> str:
    """Tells that memory ran out; raises the error again where it is another."""
    if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
        raise error
    told = shorten(_line(error), 160)
    return f"memory ran out ({told}): shorten the question and its options, or ask it where there is more memory"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _row(entry: Entry, answer: Answer) -> Row:
    odds = {} if answer.probabilities is None else {"probabilities": answer.probabilities}
    sure = {"confidence": answer.confidence, "abstained": answer.abstained}
    return {"id": entry.id, "answer": answer.text, **odds, **sure, "error": None}


def _failed(entry: Entry, error: str) -> Row:
    return {"id": entry.id, "answer": None, "confidence": None, "abstained": False, "error": error}


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _append(path: Path, rows: Iterable[Row]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_lines(rows))
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, rows: Iterable[Row]) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(_lines(rows), encoding="utf-8")
    draft.replace(path)
