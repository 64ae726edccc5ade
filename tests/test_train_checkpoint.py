"""Claims about checkpoints: whole or absent, whatever kills the writer, and what comes back is what went in."""

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from foretell.train import checkpoint
from foretell.train.checkpoint import (
    latest,
    load,
    pack_optimizer,
    pack_rng,
    prefixed,
    save,
    under,
    unpack_optimizer,
    unpack_rng,
)


def one(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((3, 2), value)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_comes_back_is_what_went_in(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(4, 3).T,
        "b": torch.arange(5, dtype=torch.uint8),
        "c": torch.tensor(2.5, dtype=torch.bfloat16),
    }
    state = {"rows": [1, 2], "name": "x", "rate": 0.1}
    path = save(tmp_path, 1000, tensors, state)
    assert path.name == "step-00001000"
    found = latest(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.state) == (path, 1000, state)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert all(found.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_the_newest_is_by_step_and_older_ones_go(tmp_path: Path) -> None:
    for step in (5, 100_000_000, 20):
        save(tmp_path, step, one(step), {}, keep=3)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 100_000_000
    save(tmp_path, 100_000_001, one(0), {}, keep=2)
    assert names(tmp_path) == ["step-100000000", "step-100000001"]


def test_a_step_is_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 3, one(1), {})
    with pytest.raises(ValueError, match="exists already"):
        save(tmp_path, 3, one(2), {})
    assert load(tmp_path / "step-00000003").tensors["weight"][0, 0] == 1


def test_leftovers_of_a_killed_save_are_ignored_and_then_removed(tmp_path: Path) -> None:
    save(tmp_path, 3, one(1), {})
    left = tmp_path / f"{checkpoint.UNFINISHED}abc"
    left.mkdir()
    (left / checkpoint.TENSORS).write_bytes(b"half")
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 3
    save(tmp_path, 4, one(2), {})
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


def test_a_failed_save_leaves_the_previous_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 3, one(1), {}, keep=1)
    monkeypatch.setattr(checkpoint, "sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 4, one(2), {}, keep=1)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 3


def failing(function: Callable[..., Any], calls: list[None], last: int) -> Callable[..., Any]:
    """The function, whose `last`-th call, counted over all that share `calls`, finds the disk full."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == last:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments, **options)

    return call


def test_whichever_write_fails_a_whole_checkpoint_stays(tmp_path: Path) -> None:
    failed, last = 0, 0
    while failed == last:
        last += 1
        folder, calls = tmp_path / str(last), list[None]()
        save(folder, 3, one(3), {"value": 3}, keep=1)
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in ((checkpoint, "save_file"), (checkpoint, "sync"), (tempfile, "mkdtemp")):
                patch.setattr(owner, name, failing(getattr(owner, name), calls, last))
            for name in ("write_text", "rename"):
                patch.setattr(Path, name, failing(getattr(Path, name), calls, last))
            with suppress(OSError):
                save(folder, 4, one(4), {"value": 4}, keep=1)
        failed += len(calls) == last
        assert whole_value(folder) in (3, 4)
        assert not list(folder.glob(f"{checkpoint.UNFINISHED}*"))
        save(folder, 5, one(5), {"value": 5}, keep=1)
        assert whole_value(folder) == 5 and names(folder) == ["step-00000005"]
    assert failed == 9  # a folder, two files, three syncs, the rename, a sync, the rename of the old one


@pytest.mark.parametrize("room", [0, 100, 5_000, 39_999])
def test_a_disk_that_fills_up_amid_the_tensors_costs_only_the_new_checkpoint(tmp_path: Path, room: int) -> None:
    weights = {"weight": torch.full((10_000,), 3.0)}
    save(tmp_path, 3, weights, {"value": 3}, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="earlier ones are whole"):
            save(tmp_path, 4, weights, {"value": 4}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert whole_value(tmp_path) == 3 and names(tmp_path) == ["step-00000003"]


def test_not_a_number_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path, 1, one(1), {"loss": float("nan")})
    assert latest(tmp_path) is None


WRITER = """
import sys, torch
from pathlib import Path
from foretell.train.checkpoint import save
step = 0
while True:
    step += 1
    save(Path(sys.argv[1]), step, {"weight": torch.full((400_000,), float(step))}, {"value": step})
"""


def test_kill_minus_nine_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    try:
        while not list(tmp_path.glob("step-*")) and writer.poll() is None:
            time.sleep(0.01)
        seen: set[int] = set()
        while len(seen) < 3 and writer.poll() is None:
            # Stopped at an arbitrary instant, the folder is what a crash would leave.
            writer.send_signal(signal.SIGSTOP)
            os.waitpid(writer.pid, os.WUNTRACED)
            seen.add(whole_value(tmp_path))
            writer.send_signal(signal.SIGCONT)
            time.sleep(0.017)
    finally:
        writer.kill()
        writer.wait()
    assert whole_value(tmp_path) >= max(seen) > 0


def whole_value(folder: Path) -> int:
    found = latest(folder)
    assert found is not None
    assert (found.tensors["weight"] == found.step).all()
    assert found.state == {"value": found.step}
    return found.step


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups: list[dict[str, Any]] = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    advance(model, optimizer, steps)
    return model, optimizer


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)])
def test_an_unpacked_optimizer_goes_on_to_the_bit(make: type[torch.optim.AdamW], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters())
    advance(model, optimizer, 3)
    tensors, state = pack_optimizer(optimizer)
    saved = load(save(tmp_path, 3, prefixed("model", model.state_dict()) | prefixed("optimizer", tensors), state))
    advance(model, optimizer, 3)

    other = nn.Linear(3, 2)
    other.load_state_dict(under("model", saved.tensors))
    resumed = make(other.parameters())
    unpack_optimizer(resumed, under("optimizer", saved.tensors), saved.state)
    advance(other, resumed, 3)
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(other.bias, model.bias)


def test_packing_copies_so_that_training_on_does_not_change_it() -> None:
    model, optimizer = trained(1)
    tensors, state = pack_optimizer(optimizer)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    advance(model, optimizer, 1)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert json.loads(json.dumps(state)) == json.loads(json.dumps(state, allow_nan=False))


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    tensors, state = pack_rng()
    saved = load(save(tmp_path, 1, tensors, state))

    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.random()), random.random()

    expected = draws()
    draws()
    unpack_rng(saved.tensors, saved.state)
    assert draws() == expected


def test_prefixes_do_not_swallow_longer_names() -> None:
    tensors = prefixed("model", one(1)) | prefixed("model_ema", one(2))
    assert under("model", tensors)["weight"][0, 0] == 1
    assert list(under("model", tensors)) == ["weight"]
