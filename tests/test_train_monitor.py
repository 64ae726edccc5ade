"""Claims about what a run tells of itself: it forgets what it will do again, and says what it was started as."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import accelerate.tracking
import pytest
from accelerate import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foretell.__main__ import main
from foretell.train import monitor
from foretell.train.monitor import Log, Spent
from foretell.train.recipes import tiny, tiny_encoder


def steps(out: Path) -> dict[int, float]:
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path: Path) -> None:
    for start, losses in ((0, {1: 0.5, 2: 0.25, 3: 9.0, 4: 9.0}), (2, {3: 0.125, 4: 0.0625})):
        log = Log(tmp_path, start, tiny(), "tensorboard")
        for step, loss in losses.items():
            log.write(step, {"loss": loss})
        log.close()
    wanted = {1: 0.5, 2: 0.25, 3: 0.125, 4: 0.0625}
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert steps(tmp_path) == wanted
    assert {event.step: event.value for event in board.Scalars("loss")} == wanted


def test_a_folder_says_with_what_and_on_what_its_run_was_started(tmp_path: Path) -> None:
    for start in (0, 7):
        Log(tmp_path, start, tiny_encoder(), "none").close()
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["step"], second["step"], first["ranks"]) == (0, 7, 1)
    assert {"date", "command", "commit", "python", "platform", "packages", "threads", "gpus"} <= first.keys()
    assert {"torch", "transformers", "peft", "accelerate"} <= first["packages"].keys()
    assert first["command"] == shlex.join(sys.orig_argv) and all(flag.isidentifier() for flag in first["cpu_flags"])
    assert json.loads((tmp_path / "recipe.json").read_text())["encoder"] == "tiny"
    assert not (tmp_path / "tensorboard").exists()


class Listener:
    """In the place of a tracker of accelerate whose package is not here."""

    heard: ClassVar[list[Any]] = []

    def __init__(self, **options: Any) -> None:
        self.heard[:] = [options]

    def start(self) -> None: ...

    def log(self, values: dict[str, Any], step: int) -> None:
        self.heard.append((step, values))

    def finish(self) -> None:
        self.heard.append("finished")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_get_the_recipe_and_a_run_of_their_own_for_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, Listener)
    names = []
    for start in (0, 2):
        log = Log(tmp_path, start, tiny(), name)
        log.write(start + 1, {"loss": 1.0})
        log.close()
        options, told, last = Listener.heard
        assert options["config"]["lora_rank"] == 2 and options["group"] == f"{tmp_path.parent.name}/{tmp_path.name}"
        assert told == (start + 1, {"loss": 1.0}) and last == "finished"
        names.append(options["name"])
    assert names[0] != names[1]


def test_a_tracker_that_is_not_there_is_one_line_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "get_available_trackers", lambda: ["tensorboard"])
    for command in (
        ["pretrain", "tiny", "--data", "none.npy", "--out", str(tmp_path / "out")],
        ["train", "tiny", "--data", str(tmp_path), "--val", str(tmp_path), "--out", str(tmp_path / "out")],
    ):
        assert main([*command, "--track", "wandb"]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "`pip install wandb`, or --track tensorboard" in told
        assert main([*command, "--track", "board"]) == 2
        assert "there are: tensorboard, wandb, trackio, none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Stranger(Listener):
    def start(self) -> None:
        raise LookupError("No API key configured.")


def test_wandb_without_an_account_says_how_to_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Error=LookupError))
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Stranger)
    with pytest.raises(ValueError, match=r"No API key configured.*WANDB_MODE=offline"):
        Log(tmp_path, 0, tiny(), "wandb")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_other_trackers_work_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip(name)
    PartialState(cpu=True)  # every run has one
    log = Log(tmp_path, 0, tiny(), name)
    log.write(1, {"loss": 1.0})
    log.close()
    assert list((tmp_path / name).iterdir())


def test_operations_that_are_not_counted_go_by_tokens_or_else_by_clips() -> None:
    read, seen = Spent(learning=2.0), Spent(learning=2.0)
    for tokens, flops in ((100, 1000), (50, 0), (50, 400)):
        read.add(4, tokens, flops)
        seen.add(4, 0, flops)
    assert (read.flops, read.tokens, read.clips) == (1900, 200, 12)
    assert seen.flops == 2400
    assert read.speed(peak=1900) == "100 tokens/s, 50% of peak" and seen.speed(peak=1200) == "6 clips/s, 100% of peak"
    assert read.rates(peak=1900)["gemm_share"] == 0.5 and read.rates(1900)["tokens_per_second"] == 100
    assert Spent().speed(peak=1.0) == "" and Spent().rates(1.0)["gemm_share"] == 0
