"""A user's paired data in the field's formats: every row of a file becomes a sample, or says why it cannot.

Read are LLaVA / ShareGPT `conversations`, HF `messages` and flat rows (of QUESTIONS.jsonl, with an answer), as JSON
lines, a JSON list, parquet, or a folder laid out as on the Hub (videofolder, parquet). A sample with a fault keeps its
place, so that what is drawn for training around it stays the same.
"""

import glob
import hashlib
import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.progress import track

from ..perception.video import VideoError, read_clip
from ..reasoner.answer import YES_NO, answer_text, check_text, distinct, is_yes_no
from ..reasoner.batch import is_name, problems

Row = dict[str, Any]
Excerpt = tuple[Path, float | None]
"""A video as it is shown: its file, up to how many seconds (None: all of it)."""
T = TypeVar("T")


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MARKERS = ("<video>", "<image>")
"""Where a conversation shows its video; data made for LLaVA marks videos as images."""
CARDS = ("README.md", ".huggingface.yaml")
"""Where a folder laid out as on the Hub may say, in YAML, which files its rows are in."""
MOST_BYTES = {"question": 1500, "options": 1500, "answer": 4000}
"""A token is a byte at least, so that no tokenizer makes more of a question than `ask` takes (MAX_QUESTION)."""


@dataclass(frozen=True)
class Source:
    """A set of paired data; a clip of it is drawn `weight` times as often as a clip of a set of weight 1."""

    path: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "Source":
        """PATH or PATH:WEIGHT. Raises ValueError for a weight that is not above 0."""
        path, colon, number = text.rpartition(":")
        if not colon or Path(text).exists():
            return cls(Path(text))
        try:
            weight = float(number)
        except ValueError:
            return cls(Path(text))
        if not 0 < weight < math.inf:
            raise ValueError(f"{text}: weight {number} is not allowed: a number above 0, such as {path}:0.5")
        return cls(Path(path), weight)


class Turn(NamedTuple):
    """A question with its answer, which is one of the options where there are any."""

    question: str
    answer: str
    options: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Sample:
    """One row: questions and answers about one video, shown up to `until` seconds (None: all of it).

    name: its id, else its place in the file. With a fault it is not trained on, and what was not read of it is missing.
    """

    name: str
    source: Path
    video: Path = Path()
    until: float | None = None
    turns: tuple[Turn, ...] = ()
    scene: str | None = None
    scenario: str | None = None
    kind: str | None = None
    fault: str | None = None

    @property
    def excerpt(self) -> Excerpt:
        """What is shown of its video."""
        return self.video, self.until

    @property
    def rows(self) -> list[Row]:
        """Its questions as rows of QUESTIONS.jsonl with an answer; an empty row in the place of each with a fault."""
        if self.fault is not None:
            return [{}] * max(1, len(self.turns))
        about = {"id": self.name, "video": str(self.video), "until": self.until, "kind": self.kind or "answers"}
        about |= {"scene": self.scene, "scenario": self.scenario}
        return [{**about, **turn._asdict(), "options": turn.options and [*turn.options]} for turn in self.turns]


def read_samples(path: Path, unpacked: Path) -> list[Sample]:
    """Every row of a set, in its order; whether its video can be read is not looked at yet.

    unpacked: folder for videos that lie inside of parquet. Raises ValueError where the set as a whole cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    samples = [_sample(row, f"row {number}", path, folder, unpacked) for number, row in _rows(path)]
    if not samples:
        raise ValueError(f"{path}: holds no rows: write one JSON object a line, with video, question and answer")
    return samples


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their number, counted from 1: lines of JSON not parsed yet, everything else as objects."""
    lines = path / "metadata.jsonl" if (path / "metadata.jsonl").is_file() else path
    if lines.suffix == ".jsonl" and lines.is_file():
        with lines.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    elif path.suffix == ".json" and path.is_file():
        yield from enumerate(_listed(path), start=1)
    elif path.suffix == ".parquet" or path.is_dir():
        yield from enumerate(_table(path), start=1)
    else:
        raise ValueError(
            f"{path}: no data: name a folder (of `foretell worlds`, or laid out as on the Hub) or a .jsonl, .json or "
            ".parquet file"
        )


def _listed(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not JSON ({error}): write a list of rows, or one row a line in a .jsonl file"
        ) from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a JSON {type(rows).__name__}: write a list of rows [{{...}}, {{...}}]")
    return rows


def _table(path: Path) -> Iterator[Row]:
    """Rows of a parquet file, of those that a pattern such as data/train-*.parquet matches, or of a Hub's folder."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise ValueError(f"{path}: reading it needs the library datasets: pip install 'datasets>=4.6'") from None
    for name in CARDS:
        _check_card(path / name)
    files = glob.escape(str(path)) if path.is_file() else str(path)
    given = {"path": str(path.resolve())} if path.is_dir() else {"path": "parquet", "data_files": files}
    splits = load_dataset(**given, streaming=True)
    if len(splits) != 1:
        raise ValueError(f"{path}: holds the splits {', '.join(splits)}: name the files of one, as DIR/train-*.parquet")
    (rows,) = splits.values()
    yield from rows.decode(False)  # a video stays a path, or the bytes of a file


def _check_card(card: Path) -> None:
    """Refuse a card of a Hub's folder that names its files by URL, which datasets would fetch. Raises ValueError."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    if not card.is_file():
        return
    try:
        text = card.read_bytes().decode()
        if card.suffix == ".md":
            front = REGEX_YAML_BLOCK.search(text)
            text = front[2] if front else ""
        facts = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{card}: not YAML ({' '.join(str(error).split())}): mend it or take it away") from None
    if any("://" in text for text in _texts(facts.get("configs") if isinstance(facts, dict) else None)):
        raise ValueError(f"{card}: names files by URL, which are not fetched: download them and name local files")


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of YAML, whose parts may hold one another."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict | list | set | tuple) and id(one) not in seen:
            seen.add(id(one))
            left += [*one, *one.values()] if isinstance(one, dict) else one


def _sample(row: Any, name: str, source: Path, folder: Path, unpacked: Path) -> Sample:
    """One row, with the first fault that is found in it; `row` may be a line of JSON still."""
    sample = Sample(name, source)
    try:
        row = _object(row)
        given = name if row.get("id") is None else row["id"]
        sample = replace(sample, name=str(given) if is_name(given) else name)
        sample = replace(sample, video=_located(_video(row), folder, unpacked))
        for problem in problems({**row, "id": given, "video": "-", "question": "-"}):
            raise ValueError(problem)
        sample = replace(sample, until=row.get("until"), turns=_turns(row))
        about: dict[str, Any] = {
            word: str(row[word]) for word in ("scene", "scenario", "kind") if row.get(word) is not None
        }
        return replace(sample, **about, turns=tuple(_settled(turn) for turn in sample.turns))
    except ValueError as error:
        return replace(sample, fault=" ".join(str(error).split()))


def _object(row: Any) -> Row:
    if isinstance(row, bytes):
        try:
            row = json.loads(row)
        except (ValueError, RecursionError):
            raise ValueError("not JSON: write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object: write {...} with video, question and answer")
    return row


def _video(row: Row) -> Any:
    """The one video that a row names: as `video`, `file_name` (videofolder), in `videos` or in a message's content."""
    shown = [part for turn in _talk(row) for part in _many(turn.get("content")) if _type(part) == "video"]
    parts = [part.get("video") or part.get("path") or part.get("url") for part in shown]
    found: list[Any] = []
    for video in (row.get("video"), row.get("file_name"), *_many(row.get("videos")), *parts):
        found += [] if video is None or video in found else [video]
    if len(found) != 1:
        raise ValueError(f"names {len(found)} videos: name one, as `video`")
    return found[0]


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _located(video: Any, folder: Path, unpacked: Path) -> Path:
    """Where a video lies: a path is relative to the set's folder, the bytes of a file are written to `unpacked`."""
    if isinstance(video, dict):  # as datasets gives it
        content = video.get("bytes")
        if isinstance(content, bytes):
            return _unpack(content, unpacked)
        if content is not None:
            raise ValueError("the bytes of its video are text or numbers: name the path of a file")
        video = video.get("path")
    if not isinstance(video, str) or not video:
        raise ValueError(f"video must be the path of a file, got {video!r}")
    if "://" in video:
        raise ValueError("its video is a URL, which is not fetched: download it first")
    return folder / video


def _unpack(content: bytes, folder: Path) -> Path:
    path = folder / hashlib.sha256(content).hexdigest()
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)
    return path


def _talk(row: Row) -> list[Row]:
    """A row's conversation, turn by turn; empty for a flat row."""
    talk = row.get("messages") if row.get("conversations") is None else row["conversations"]
    if not all(isinstance(turn, dict) for turn in _many(talk)):
        raise ValueError("a turn of its conversation is no object: write {from, value} or {role, content}")
    return _many(talk)


def _turns(row: Row) -> tuple[Turn, ...]:
    """Questions with their answers, without the marks of where the video is shown; system prompts are left out."""
    talk = _talk(row)
    if not talk:
        return (Turn(row.get("question"), row.get("answer"), row.get("options")),)  # type: ignore[arg-type]  # see _settled
    said = [(_role(turn), _text(turn)) for turn in talk]
    said = [(role, text) for role, text in said if role != "system"]
    roles = [role for role, _ in said]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(f"turns are by {', '.join(roles[:6]) or 'nobody'}: user and assistant take turns, user first")
    if row.get("options") is not None and len(said) > 2:
        raise ValueError("options for several questions: give each question a row of its own")
    return tuple(Turn(q, a, row.get("options")) for (_, q), (_, a) in zip(said[::2], said[1::2], strict=True))


def _role(turn: Row) -> str:
    role = turn.get("role") if turn.get("from") is None else turn["from"]
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"a turn is by {role!r}: {', '.join(ROLES)} are allowed")
    return ROLES[role]


def _text(turn: Row) -> str:
    """What is said in a turn. Raises ValueError where there is more than text and video in it."""
    parts = _many(turn.get("content") if turn.get("value") is None else turn["value"])
    texts = [part.get("text") if _type(part) == "text" else part for part in parts if _type(part) != "video"]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a turn holds more than text and video: take out images and tool calls")
    text = "\n".join(texts)
    for marker in MARKERS:
        text = text.replace(marker, "")
    return text.strip()


def _settled(turn: Turn) -> Turn:
    """The turn with its answer as its options spell it. Raises ValueError for texts that cannot be trained on."""
    for what, text in (("question", turn.question), ("answer", turn.answer)):
        check_text(f"the {what}", text)
        _check_size(what, text)
    said, texts = answer_text(turn.answer), [] if turn.options is None else distinct(turn.options)
    _check_size("options", "".join(texts))
    wants = is_yes_no(turn.question) if turn.options is None else {text.lower() for text in texts} == set(YES_NO)
    if wants and said.lower() in YES_NO:
        return Turn(turn.question, said.lower(), YES_NO)
    if turn.options is None:
        return turn
    if said not in texts:
        raise ValueError(f"the answer {turn.answer!r} is none of the options {turn.options!r}")
    return Turn(turn.question, turn.options[texts.index(said)], tuple(turn.options))


def _check_size(what: str, text: str) -> None:
    if (size := len(text.encode())) > MOST_BYTES[what]:
        raise ValueError(f"the {what} takes {size:,} bytes: at most {MOST_BYTES[what]:,} are allowed")


def by_excerpt(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples on the same frames of the same video together, in the order of the first of each."""
    groups: dict[Excerpt, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.excerpt, []).append(sample)
    return list(groups.values())


def with_faults(samples: Iterable[Sample], unseen: Mapping[Excerpt, str]) -> list[Sample]:
    """The samples, with a fault on those whose excerpt cannot be shown, for the reason given."""
    return [replace(one, fault=one.fault or unseen.get(one.excerpt)) for one in samples]


def readable(samples: Iterable[Sample]) -> list[Excerpt]:
    """What the samples without a fault show, each excerpt once."""
    return list(dict.fromkeys(one.excerpt for one in samples if one.fault is None))


def watched(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, with a fault on those whose video does not decode up to `until`: all are tried, with progress."""
    excerpts = readable(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = list(progress(pool.map(_unseen, excerpts), len(excerpts), "videos"))
    return with_faults(samples, {one: reason for one, reason in zip(excerpts, reasons, strict=True) if reason})


def progress(steps: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The steps, with a bar on stderr; of several ranks one shows it."""
    alone = os.environ.get("RANK", "0") == "0"
    return iter(track(steps, what, total=total, console=Console(stderr=True), disable=not alone))


def _unseen(excerpt: Excerpt) -> str | None:
    """Why an excerpt cannot be shown, if it cannot."""
    video, until = excerpt
    try:
        read_clip(video, rate=8.0, count=16, until=until, size=64)
    except VideoError as error:
        return error.reason
    return None


@dataclass
class Quarantine:
    """Samples with a fault, written to `path` (None: nowhere) and counted; too many in a set stop the run.

    most: the share of a set's samples that may have one.
    """

    path: Path | None
    most: float
    held: dict[Path, list[Sample]] = field(default_factory=dict)

    def hold(self, samples: Sequence[Sample]) -> None:
        """Set aside those of one set that have a fault. Raises ValueError where they are too many, or all."""
        bad = [one for one in samples if one.fault is not None]
        self.held[samples[0].source] = bad
        if self.path is not None:
            write_quarantine(self.path, [one for held in self.held.values() for one in held])
        if len(bad) > self.most * len(samples) or len(bad) == len(samples):
            raise ValueError(
                f"{samples[0].source}: {len(bad):,} of {len(samples):,} samples cannot be used, and at most "
                f"{self.most:.1%} may be so (--max-bad): {'; '.join(f'{one.name}: {one.fault}' for one in bad[:3])}"
            )

    @property
    def count(self) -> int:
        """How many samples are set aside."""
        return sum(map(len, self.held.values()))


def write_quarantine(path: Path, samples: Iterable[Sample]) -> None:
    """One line of JSON a sample: id, file (the set's), video, reason. The file appears whole."""
    rows = [{"id": one.name, "file": str(one.source), "video": str(one.video), "reason": one.fault} for one in samples]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    draft.replace(path)


@dataclass(frozen=True)
class Report:
    """What a set holds. Questions, videos, answers: of the samples without a fault; bad: those with one, by reason.

    answer_median, answer_longest: characters. yes_no: share of questions that want yes or no; yes: share of these
    whose answer is yes (None where there are none).
    """

    set: str
    samples: int
    questions: int
    videos: int
    bad: int
    reasons: dict[str, int]
    answer_median: float
    answer_longest: int
    yes_no: float
    yes: float | None

    @classmethod
    def of(cls, path: Path, samples: Sequence[Sample]) -> "Report":
        good = [one for one in samples if one.fault is None]
        reasons = Counter(one.fault for one in samples if one.fault is not None)
        turns = [turn for one in good for turn in one.turns]
        lengths = [len(turn.answer) for turn in turns] or [0]
        closed = [turn.answer == "yes" for turn in turns if turn.options == YES_NO]
        return cls(
            str(path), len(samples), len(turns), len({one.video for one in good}), len(samples) - len(good),
            dict(reasons.most_common()), statistics.median(lengths), max(lengths),
            len(closed) / max(1, len(turns)), sum(closed) / len(closed) if closed else None,
        )  # fmt: skip

    def status(self, most: float) -> int:
        """Exit status: 0 usable, 1 where a larger share than `most` has a fault, 2 where nothing could be read."""
        return 2 if self.bad == self.samples else int(self.bad > most * self.samples)


def check(paths: Iterable[Path], unpacked: Path, quarantine: Path | None) -> list[Report]:
    """Read sets as training will, every video included (of a worlds folder unless they are decoded already).

    What has a fault is written to `quarantine`. Raises ValueError for a set that cannot be read at all.
    """
    reports, held = [], []
    for path in paths:
        samples = read_samples(path / "questions.jsonl" if is_worlds(path) else path, unpacked)
        samples = samples if (path / "frames.npy").is_file() else watched(samples)
        reports.append(Report.of(path, samples))
        held += [one for one in samples if one.fault is not None]
    if quarantine is not None:
        write_quarantine(quarantine, held)
    return reports


def is_worlds(path: Path) -> bool:
    """Whether `foretell worlds` wrote this folder."""
    return (path / "clips.jsonl").is_file()
