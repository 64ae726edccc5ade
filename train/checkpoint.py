"""Crash-atomic checkpoints without pickle: a folder `step-00001000` is whole or it is not there.

Tensors lie in safetensors, everything else in JSON. Used by pretraining and by bridge training alike.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .shard import alike, whole

TENSORS, STATE, UNFINISHED = "tensors.safetensors", "state.json", ".unfinished-"
STEP = re.compile(r"step-(\d{8,})")

Tensors = dict[str, Tensor]
State = dict[str, Any]  # JSON


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint, read into memory."""

    path: Path
    step: int
    tensors: Tensors
    state: State


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `folder/step-…` so that a crash at any instant leaves the previous ones, and this one whole or absent.

    The `keep` newest stay; older ones go only after this one is on disk. Raises ValueError where the step exists,
    OSError where the disk is full.
    """
    assert keep >= 1, keep
    final = folder / f"step-{step:08d}"
    if final.exists():
        raise ValueError(f"{final} exists already: resume from it, or train into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    discard_unfinished(folder)
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary / TENSORS)
        (temporary / STATE).write_text(json.dumps({"step": step, **state}, allow_nan=False), encoding="utf-8")
        for path in (temporary / TENSORS, temporary / STATE, temporary):
            sync(path)
        temporary.rename(final)
    except SafetensorError as error:
        raise OSError(
            f"{final} could not be written ({error}); earlier ones are whole: make room, then resume"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what did not fit on a full disk must not go on filling it
    sync(folder)
    for path in steps(folder)[:-keep]:
        shutil.rmtree(path.rename(folder / f"{UNFINISHED}{path.name}"))
    return final


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, by step; None where there is none."""
    found = steps(folder)
    return load(found[-1]) if found else None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint folder."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return Checkpoint(path, state.pop("step"), load_file(path / TENSORS), state)


def steps(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest step first."""
    found = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def discard_unfinished(folder: Path) -> None:
    """Remove what a killed `save` left behind; a folder has one writer."""
    for path in folder.glob(UNFINISHED + "*"):
        shutil.rmtree(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors whose names begin with `prefix.`, without it: the inverse of `prefixed`."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors with `prefix.` before their names, so that several parts share one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, State]:
    """An optimizer's state as named tensors and JSON: parameter 3's "exp_avg" becomes "3.exp_avg". Shards of it are
    gathered, so that all ranks must ask at once."""
    packed = optimizer.state_dict()
    entries = {f"{index}.{name}": value for index, state in packed["state"].items() for name, value in state.items()}
    tensors = {name: whole(value).clone() for name, value in entries.items() if isinstance(value, Tensor)}
    scalars = {name: value for name, value in entries.items() if not isinstance(value, Tensor)}
    return tensors, {"groups": packed["param_groups"], "scalars": scalars}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put what `pack_optimizer` gave back into an optimizer over the same parameters, sharded or not."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *state["scalars"].items()]:
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = alike(value, held[int(index)]) if key in tensors else value
    optimizer.load_state_dict({"state": entries, "param_groups": state["groups"]})


def pack_rng() -> tuple[Tensors, State]:
    """The states of torch's (of the accelerator in use too), NumPy's and Python's global generators."""
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {"python": [version, list(internal), gauss], "numpy": [name, np.asarray(keys).tolist(), *rest]}


def unpack_rng(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Put the generators back where `pack_rng` found them."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
