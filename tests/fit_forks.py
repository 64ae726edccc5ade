"""Bridge trainings in processes of their own, forked from this one, which has imported everything once.

A line of JSON on stdin orders a training; the line on stdout that answers it is a list of its ranks' exit statuses,
negative for signals. An order holds `out`, `ranks`, `sharded`, `settings` (fields of the recipe), `stages` (fields of
its stages); `kill_after`: seconds in the loop after which all ranks are killed; `die_in_save`: the number of the
operation on the disk, counted over all saves, before which the first rank kills itself.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what the first sharded module would import in every rank

from foretell.train import checkpoint, data, fit
from foretell.train.recipes import FitRecipe, tiny

LAB = Path(sys.argv[1])


def recipe_of(order: dict[str, Any]) -> FitRecipe:
    recipe = tiny()
    stages = {name: replace(stage, **order["stages"].get(name, {})) for name, stage in recipe.stages.items()}
    return replace(recipe, stages=stages, **order["settings"])


def counted(function: Callable[..., Any], calls: list[None], last: int) -> Callable[..., Any]:
    """The function, before whose `last`-th call, counted over all that share `calls`, this process is killed."""

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return call


DISK = ((checkpoint, "save_file"), (checkpoint, "sync"), (Path, "write_text"), (Path, "rename"), (shutil, "rmtree"))


def die_in_save(last: int) -> None:
    """Be killed before the `last` operation on the disk of this process's saves."""
    calls: list[None] = []
    save, plain = checkpoint.save, [(owner, name, getattr(owner, name)) for owner, name in DISK]

    def doomed(*arguments: Any, **options: Any) -> Path:
        for owner, name, function in plain:
            setattr(owner, name, counted(function, calls, last))
        path = save(*arguments, **options)
        for owner, name, function in plain:
            setattr(owner, name, function)
        return path

    checkpoint.save = doomed


def train(order: dict[str, Any], rank: int, port: int, begun: int) -> None:
    """One rank: everything is fp32, as claims of exactness are."""
    if order["ranks"] > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(order["ranks"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for room in (fit, data):
        setattr(room, "train_dtype", lambda: torch.float32)  # noqa: B010  # mypy does not see it there
    draw = fit.Run._draw

    def telling(*arguments: Any) -> Any:
        os.write(begun, b".")
        return draw(*arguments)

    setattr(fit.Run, "_draw", telling)  # noqa: B010
    if "die_in_save" in order and rank == 0:
        die_in_save(order["die_in_save"])
    fit.run(
        LAB / "data", LAB / "data", LAB / "encoder", Path(order["out"]), recipe_of(order), str(LAB / "llm"),
        LAB / "features", sharded=order["sharded"],
    )  # fmt: skip


def fork(order: dict[str, Any], rank: int, port: int, begun: int) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        log = os.open(f"{order['out']}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(order, rank, port, begun)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        os._exit(status)


def obey(order: dict[str, Any]) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reading, writing = os.pipe()
    ranks = [fork(order, rank, port, writing) for rank in range(order["ranks"])]
    os.close(writing)
    if "kill_after" in order:
        os.read(reading, 1)
        time.sleep(order["kill_after"])
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
    os.close(reading)
    return statuses


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        given = {"ranks": 1, "sharded": False, "settings": {}, "stages": {}} | json.loads(line)
        print(json.dumps(obey(given)), flush=True)
