"""How results are written down: where they came from, rounded, whole or not at all."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..train.provenance import commit, machine

Row = dict[str, Any]


def provenance(command: str) -> dict[str, Any]:
    """What made a result: command, commit, date, machine."""
    today = datetime.now(UTC).date().isoformat()
    return {"command": command, "commit": commit(), "date": today, "machine": machine()}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


def mark(*parts: str | Path) -> str:
    """A short name of what answers depend on: changes when weights, settings or questions change."""
    whole = sha256()
    for part in parts:
        files = sorted(Path(part).rglob("*")) if Path(part).is_dir() else []
        for file in (f for f in files if f.suffix in {".safetensors", ".json"} and f.name != "training.json"):
            whole.update(f"{file.relative_to(part)} {digest(file)}\n".encode())
        whole.update(f"{'folder' if files else part}\n".encode())
    return whole.hexdigest()[:16]


def rounded(value: Any) -> Any:
    """Numbers to four decimals: finer than any interval, and easier to read."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def line(row: Mapping[str, Any]) -> str:
    """A row of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def readable(path: Path) -> Iterator[Row]:
    """Whole JSON lines of a file that may have been cut off, or may not exist."""
    if path.is_file():
        yield from map(json.loads, path.read_bytes().split(b"\n")[:-1])


def write(path: Path, text: str) -> None:
    """The whole file or nothing."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
