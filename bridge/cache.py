"""Frozen features computed once: safetensors shards, half precision, keyed by what they depend on.

A key says which video (its bytes), which frames were shown (`until`), which encoder (weights, taps, rate) and how
frames were made into its input; change one and the features are computed anew. A shard appears by one rename, so a
build can be stopped at any moment and goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..perception.encoder import VJEPA2World, normalise, resize, tapped
from ..perception.predictor import imagine
from ..perception.video import open_file

SHARD = 256  # clips
TRANSFORM = "squash-antialias-1"  # how frames become the encoder's input; a new name makes every key new

Frames = NDArray[np.uint8]


def file_digest(path: Path) -> str:
    """sha256 of a video file's bytes. Raises VideoError for what is no regular file within the limits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encoder_digest(encoder: VJEPA2World) -> str:
    """Names the weights (predictor included), taps and rate that features depend on."""
    digest = hashlib.sha256(json.dumps([encoder.taps, encoder.rate, encoder.size, encoder.frames]).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def feature_key(video: str, until: float | None, encoder: str, mirrored: bool = False) -> str:
    """The key of one clip: digest of the video's bytes, seconds shown (None: all), digest of the encoder."""
    transform = f"{TRANSFORM}-mirrored-relit" if mirrored else TRANSFORM
    return hashlib.sha256(json.dumps([video, until, encoder, transform]).encode()).hexdigest()[:32]


@torch.no_grad()
def watch(encoder: VJEPA2World, frames: Sequence[Frames]) -> tuple[Tensor, Tensor]:
    """World features [B, N, C] of clips uint8 [T, H, W, 3] each, and what the predictor expects next [B, M, D]."""
    squares = torch.stack([resize(torch.from_numpy(np.ascontiguousarray(clip)), encoder.size) for clip in frames])
    device, depth = encoder.model.device, encoder.model.config.num_hidden_layers
    pixels = normalise(squares).to(device, encoder.model.dtype)
    *layers, last = tapped(encoder.model, pixels, (*encoder.taps, depth))
    return torch.cat(layers, dim=-1), imagine(encoder.model, last)


@dataclass(frozen=True)
class FeatureCache:
    """Features on disk by key. Rows are read from memory-mapped shards; nothing is loaded whole."""

    folder: Path
    place: dict[str, tuple[Path, int]]

    @classmethod
    def open(cls, folder: Path) -> "FeatureCache":
        """Whatever shards are whole already."""
        place: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob("shard-*.json")):
            shard = path.with_suffix(".safetensors")
            place |= {key: (shard, row) for row, key in enumerate(json.loads(path.read_text(encoding="utf-8")))}
        return cls(folder, place)

    def __contains__(self, key: str) -> bool:
        return key in self.place

    def rows(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """float32 features [B, N, C] and imagined ones [B, M, D]. Raises KeyError where a key was never computed."""
        seen, imagined = zip(*(self._row(key) for key in keys), strict=True)
        return torch.stack(seen).float(), torch.stack(imagined).float()

    def _row(self, key: str) -> tuple[Tensor, Tensor]:
        shard, row = self.place[key]
        with safe_open(shard, framework="pt") as file:
            return file.get_slice("features")[row], file.get_slice("imagined")[row]


def _write(folder: Path, keys: Sequence[str], features: Tensor, imagined: Tensor) -> None:
    """The tensors first, then their keys: a shard without its keys does not count."""
    stem = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
    data, names = folder / f"shard-{stem}.safetensors", folder / f"shard-{stem}.json"
    save_file({"features": features.half(), "imagined": imagined.half()}, data.with_suffix(".tmp"))
    data.with_suffix(".tmp").replace(data)
    names.with_suffix(".draft").write_text(json.dumps(list(keys)), encoding="utf-8")
    names.with_suffix(".draft").replace(names)


def build(
    folder: Path,
    encoder: VJEPA2World,
    keys: Sequence[str],
    read: Callable[[int], Frames | None],
    batch: int = 32,
    track: Callable[[Iterator[int], int], Iterator[int]] | None = None,
    readers: int = 1,
) -> FeatureCache:
    """Compute what is missing. read(i): the shown frames [T, H, W, 3] of keys[i], None where there are none to be had
    (its key stays missing); so many readers at once; track wraps shards in progress."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = FeatureCache.open(folder)
    missing = [i for i, key in enumerate(keys) if key not in cache]
    starts = range(0, len(missing), SHARD)
    with ThreadPoolExecutor(readers) as pool:
        for start in track(iter(starts), len(starts)) if track else starts:
            chosen, found, parts = missing[start : start + SHARD], [], []
            for some in (chosen[b : b + batch] for b in range(0, len(chosen), batch)):
                shown = {i: frames for i, frames in zip(some, pool.map(read, some), strict=True) if frames is not None}
                found += [keys[i] for i in shown]
                parts += [watch(encoder, list(shown.values()))] if shown else []
            if found:
                _write(folder, found, *(torch.cat(column) for column in zip(*parts, strict=True)))
    return FeatureCache.open(folder)


def statistics(cache: FeatureCache, keys: Sequence[str]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Channel mean and standard deviation over clips and tokens: of features ([C], [C]) and of imagined ones."""
    both = cache.rows(keys)
    seen, imagined = ((t.flatten(0, 1).mean(0), t.flatten(0, 1).std(0)) for t in both)
    return seen, imagined
