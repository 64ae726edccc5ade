"""Frozen features computed once: safetensors shards, half precision, keyed by what they depend on.

A key says which video (its bytes), which frames were shown (`until`), which encoder (weights, taps, rate) and how
frames were made into its input; change one and the features are computed anew. A shard appears by one rename, so a
build can be stopped at any moment and goes on where it was; any number of processes may build one cache at once.
"""

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as remembered
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ..perception.encoder import VJEPA2World, grid_of, normalise, resize
from ..perception.predictor import watched
from ..perception.video import open_file

SHARD = 256  # clips
PARTS = ("features", "imagined")
TRANSFORM = "squash-antialias-1"  # how frames become the encoder's input; a new name makes every key new

Frames = NDArray[np.uint8]


def file_digest(path: Path) -> str:
    """sha256 of a video file's bytes. Raises VideoError for what is no regular file within the limits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoder_digest(encoder: VJEPA2World) -> str:
    """Names the weights (predictor included), taps and rate that features depend on, and whether surprise is told."""
    told = ["surprise"] if encoder.surprise else []
    return weights_digest(encoder.model, [encoder.taps, encoder.rate, encoder.size, encoder.frames, *told])


def weights_digest(model: nn.Module, settings: Sequence[Any]) -> str:
    """Names a model's weights, and settings that JSON can hold."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def feature_key(video: str, until: float | None, encoder: str, mirrored: bool = False) -> str:
    """The key of one clip: digest of the video's bytes, seconds shown (None: all), digest of the encoder."""
    transform = f"{TRANSFORM}-mirrored-moved-2" if mirrored else TRANSFORM
    return hashlib.sha256(json.dumps([video, until, encoder, transform]).encode()).hexdigest()[:32]


def pixels_for(encoder: VJEPA2World, frames: Sequence[Frames]) -> Tensor:
    """Clips uint8 [T, H, W, 3] each, as an encoder is given them: normalised [B, T, 3, S, S]."""
    squares = torch.stack([resize(torch.from_numpy(np.ascontiguousarray(clip)), encoder.size) for clip in frames])
    return normalise(squares).to(encoder.model.device, encoder.model.dtype)


def watch(encoder: VJEPA2World, frames: Sequence[Frames]) -> tuple[Tensor, Tensor]:
    """World features [B, N, C] of clips uint8 [T, H, W, 3] each, and what the predictor adds to them [B, M, D]
    (predictor.watched). A model of single pictures expects nothing: M is 0."""
    return observe(encoder, pixels_for(encoder, frames))


def observe(encoder: VJEPA2World, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """As `watch`, of pixels that are normalised already [B, T, 3, S, S]."""
    foresees = grid_of(encoder.model.config)[0] > 1
    features, imagined = watched(encoder.model, pixels, encoder.taps, foresees, encoder.surprise)
    width = int(encoder.model.config.hidden_size)
    return features, features.new_empty(len(features), 0, width) if imagined is None else imagined


Look = Callable[[VJEPA2World, Sequence[Frames]], tuple[Tensor, Tensor]]
"""As `watch` does."""


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk by key. Rows are read one by one; nothing is loaded whole."""

    folder: Path
    place: dict[str, tuple[Path, int]]
    shards: frozenset[Path] = frozenset()

    @classmethod
    def open(cls, folder: Path) -> "FeatureCache":
        """Whatever shards are whole already."""
        return cls(folder, {}).grown()

    def grown(self) -> "FeatureCache":
        """With the shards that became whole since."""
        new = sorted(set(self.folder.glob("shard-*.json")) - self.shards)
        held = {path.with_suffix(".safetensors"): json.loads(path.read_text(encoding="utf-8")) for path in new}
        place = {key: (shard, row) for shard, keys in held.items() for row, key in enumerate(keys)}
        return FeatureCache(self.folder, self.place | place, self.shards.union(new)) if new else self

    def __contains__(self, key: str) -> bool:
        return key in self.place

    def rows(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """float32 features [B, N, C] and imagined ones [B, M, D]. Raises KeyError where a key was never computed."""
        seen, imagined = zip(*(self._row(key) for key in keys), strict=True)
        return torch.stack(seen).float(), torch.stack(imagined).float()

    def _row(self, key: str) -> tuple[Tensor, Tensor]:
        shard, row = self.place[key]
        with shard.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            features, imagined = (_row_of(file, *_layout(shard)[name], row) for name in PARTS)
        return features, imagined


@remembered
def _layout(shard: Path) -> dict[str, tuple[int, list[int]]]:
    """Where each part of a shard begins, in bytes, and its shape."""
    with shard.open("rb") as file:
        header = json.loads(file.read(length := int.from_bytes(file.read(8), "little")))
    return {name: (8 + length + header[name]["data_offsets"][0], header[name]["shape"]) for name in PARTS}


def _row_of(file: IO[bytes], start: int, shape: list[int], row: int) -> Tensor:
    """One row of a float16 tensor, and no byte beside it: [shape[0], ...] -> [...].

    Plain reads, since a memory map has the kernel read ahead: megabytes for every row that is drawn at random from more
    than fits in memory. Raises ValueError where the file ends before the row does.
    """
    size = 2 * math.prod(shape[1:])
    held = bytearray(os.pread(file.fileno(), size, start + row * size))
    if len(held) < size:
        raise ValueError(f"{file.name} is cut off: remove it with its .json, and its features are computed again")
    return torch.frombuffer(held, dtype=torch.float16).view(shape[1:]) if size else torch.empty(shape[1:]).half()


@contextmanager
def claim(lock: IO[Any], name: str, wait: bool) -> Iterator[bool]:
    """Whether this process alone may do the work called `name` (hexadecimal) while the block runs.

    wait: until whoever does it is done or dead, and so always True. A claim is one locked byte of the open file `lock`:
    the kernel gives up those of a killed process, and NFS carries them between machines. Threads share their claims.
    """
    place = int(name[:15], 16)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, place)


@contextmanager
def claimed(path: Path, name: str, wait: bool) -> Iterator[bool]:
    """As `claim`, of a file that is opened for it: one at a time, as closing it gives up all that a process claims."""
    with path.open("a") as lock, claim(lock, name, wait) as mine:
        yield mine


def _name(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:16]


def _write(folder: Path, claimed: str, keys: Sequence[str], features: Tensor, imagined: Tensor) -> None:
    """The tensors first, then their keys: a shard without its keys does not count. claimed: names the drafts."""
    draft, target = folder / f".draft-{claimed}", folder / f"shard-{_name(keys)}.safetensors"
    save_file(dict(zip(PARTS, (features, imagined), strict=True)), draft)
    _publish(draft, target)
    draft.write_text(json.dumps(list(keys)), encoding="utf-8")
    _publish(draft, target.with_suffix(".json"))


def _publish(draft: Path, target: Path) -> None:
    """Put a draft in its place once its bytes are on disk."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(target)


def _compute(
    encoder: VJEPA2World,
    shown: Callable[[Sequence[int]], Sequence[Frames | None]],
    rows: Sequence[int],
    batch: int,
    look: Look,
) -> tuple[list[int], list[Tensor]]:
    """The rows that can be shown, with their features in half precision: [n, N, C], imagined ones [n, M, D]."""
    found: list[int] = []
    parts: list[list[Tensor]] = []
    for some in (rows[start : start + batch] for start in range(0, len(rows), batch)):
        frames = {i: clip for i, clip in zip(some, shown(some), strict=True) if clip is not None}
        found += frames
        parts += [[part.half().cpu() for part in look(encoder, list(frames.values()))]] if frames else []
    return found, [torch.cat(column) for column in zip(*parts, strict=True)]


def build(
    folder: Path,
    encoder: VJEPA2World,
    keys: Sequence[str],
    read: Callable[[int], Frames | None],
    batch: int = 32,
    track: Callable[[Iterator[int], int], Iterator[int]] | None = None,
    readers: int = 1,
    look: Look = watch,
) -> FeatureCache:
    """Compute what is missing; processes that are given the same keys share the work, and each returns a whole cache.

    read(i): the shown frames [T, H, W, 3] of keys[i], None where there are none to be had (its key stays missing); so
    many readers at once; track wraps the shards in progress; look: `watch`, or what imagines otherwise (in a folder of
    its own: keys do not tell how).
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = FeatureCache.open(folder)
    groups = [range(start, min(start + SHARD, len(keys))) for start in range(0, len(keys), SHARD)]
    missing = [group for group in groups if any(keys[i] not in cache for i in group)]
    turns = track(iter(range(len(missing))), len(missing)) if track else range(len(missing))
    # First what nobody else is at, then what others were at: it is there by now, or they were killed.
    rounds = chain(((missing[turn], False) for turn in turns), ((group, True) for group in missing))
    tried: set[range] = set()
    with (folder / ".claims").open("a") as lock, ThreadPoolExecutor(readers) as pool:
        for group, wait in rounds:
            name = _name([keys[i] for i in group])
            with claim(lock, name, wait) as mine:
                cache = cache.grown()
                rows = [i for i in group if keys[i] not in cache]
                if not mine or not rows or group in tried:
                    continue
                tried.add(group)
                found, tensors = _compute(encoder, lambda some: list(pool.map(read, some)), rows, batch, look)
                if found:
                    _write(folder, name, [keys[i] for i in found], *tensors)
    return cache.grown()


def statistics(cache: FeatureCache, keys: Sequence[str]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Channel mean and standard deviation over clips and tokens: of features ([C], [C]) and of imagined ones."""
    seen, imagined = (_moments(part.flatten(0, 1)) for part in cache.rows(keys))
    return seen, imagined


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column of [n, C]; of no rows 0 and 1."""
    return (rows.mean(0), rows.std(0)) if len(rows) else (rows.new_zeros(rows.shape[1]), rows.new_ones(rows.shape[1]))
