"""What a run tells of itself while it trains: its folder, its metrics for a tracker, its progress and speed."""

from __future__ import annotations

import json
import resource
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .learner import train_device
from .objectives import ranks
from .provenance import commit, environment
from .recipes import plain

TRACKERS = ("tensorboard", "wandb", "trackio", "none")
"""What metrics are sent to beside `metrics.jsonl`. Each is a package of its name."""


def check_tracker(name: str) -> None:
    """Raises ValueError for a tracker that is not known, or that is not installed."""
    if name not in TRACKERS:
        raise ValueError(f"no tracker {name!r}; there are: {', '.join(TRACKERS)}")
    if name != "none" and name not in map(str, get_available_trackers()):
        raise ValueError(f"tracking with {name} wants its package: `pip install {name}`, or --track tensorboard")


def open_tracker(name: str, out: Path, start: int, config: dict[str, Any]) -> GeneralTracker | None:
    """accelerate's tracker for a run that goes on from a step; it writes under `out`, or to where it is set up to.

    A resumed run is another run of the same group to wandb and trackio, whose steps cannot be taken back. Raises
    ValueError where wandb has no account to write to.
    """
    if name == "none":
        return None
    title = "/".join(out.absolute().parts[-2:])  # runs/nano/tune: nano/tune
    run = {"config": config, "group": title, "name": f"{title} from step {start}"}
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(out), "purge_step": start + 1},
        "wandb": {"run_name": "foretell", "dir": str(out), **run},
        "trackio": {"run_name": "foretell", **run},
    }
    tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[name](**options[name])
    try:
        with redirect_stdout(sys.stderr):  # trackio says there where it writes
            tracker.start()
    except getattr(sys.modules.get("wandb"), "Error", ()) as error:
        raise ValueError(f"wandb did not start ({error}): WANDB_MODE=offline keeps the run in {out}") from None
    return tracker


class Log:
    """A run's folder: `recipe.json`, `starts.jsonl` (a line a start: when, which code, on what), `metrics.jsonl`, which
    forgets what a resumed run will do again, and what the tracker keeps."""

    def __init__(self, out: Path, start: int, recipe: Any, track: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "recipe.json").write_text(json.dumps(plain(recipe), indent=2) + "\n", encoding="utf-8")
        append(out / "starts.jsonl", {"step": start, **circumstances()})
        self.path = out / "metrics.jsonl"
        forget(self.path, start)
        self.tracker = open_tracker(track, out, start, plain(recipe))

    def write(self, step: int, values: dict[str, float]) -> None:
        append(self.path, {"step": step, **values})
        if self.tracker is not None:
            self.tracker.log(values, step=step)

    def close(self) -> None:
        if self.tracker is not None:
            with redirect_stdout(sys.stderr):
                self.tracker.finish()


def append(path: Path, row: dict[str, Any]) -> None:
    """One more row of a JSONL file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def forget(path: Path, start: int) -> None:
    """Drop the rows after a step, and one that was cut off; killed on the way, all of them stay."""
    rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= start]
    draft = path.with_suffix(".draft")
    draft.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
    draft.replace(path)


def circumstances() -> dict[str, Any]:
    """When, how, by which code and on what this process was started."""
    started = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": shlex.join(sys.orig_argv)}
    return {**started, "commit": commit(), "ranks": ranks(), **environment()}


@dataclass
class Spent:
    """What a run has used so far, over all resumes and ranks: operations, seconds in steps, seconds in all; the clips
    that it has learned from, and the language model's tokens, padding left out."""

    flops: int = 0
    learning: float = 0.0
    seconds: float = 0.0
    clips: int = 0
    tokens: int = 0

    def add(self, clips: int, tokens: int, flops: int) -> None:
        """One step more; flops 0: not counted, so as many a token (or, without any, a clip) as before."""
        work, before = (tokens, self.tokens) if tokens else (clips, self.clips)
        self.flops += flops or round(self.flops * work / max(before, 1))
        self.clips, self.tokens = self.clips + clips, self.tokens + tokens

    def rates(self, peak: float) -> dict[str, float]:
        """For the log, with the share that steps reached of `peak` operations a second, and the most memory held."""
        told = {"flops": float(self.flops), "seconds": self.seconds, "gemm_share": self.share(peak)}
        if self.tokens:
            told |= {"tokens": float(self.tokens), "tokens_per_second": self.tokens / self.learning}
        return told | {"peak_bytes": peak_bytes()}

    def share(self, peak: float) -> float:
        return self.flops / self.learning / peak if self.learning else 0.0

    def speed(self, peak: float) -> str:
        """For people."""
        done, what = (self.tokens, "tokens") if self.tokens else (self.clips, "clips")
        return f"{done / self.learning:,.0f} {what}/s, {self.share(peak):.0%} of peak" if self.learning else ""


def peak_bytes() -> float:
    """The most memory this process has held: on the accelerator where there is one."""
    if train_device().type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(held if sys.platform == "darwin" else 1024 * held)


def progress_bar(shown: bool = True) -> Progress:
    """A bar whose tasks have a field `speed`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, disable=not shown)
