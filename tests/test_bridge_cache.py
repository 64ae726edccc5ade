"""Claims about the feature cache: exact up to its precision, resumable, keyed by all it depends on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from foretell.bridge import cache
from foretell.bridge.cache import FeatureCache, Frames, build, encoder_digest, feature_key, statistics, watch
from foretell.perception.encoder import VJEPA2World, tiny_config
from foretell.train.data import live_encoder


@pytest.fixture(scope="module")
def encoder() -> VJEPA2World:
    torch.manual_seed(0)
    return VJEPA2World(VJEPA2Model(tiny_config()).eval())


def clips(count: int, encoder: VJEPA2World) -> list[Frames]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (encoder.frames, 20, 24, 3), dtype=np.uint8) for _ in range(count)]


def test_cached_features_equal_computed_ones_in_half_precision(tmp_path: Path, encoder: VJEPA2World) -> None:
    frames = clips(5, encoder)
    keys = [feature_key(str(i), None, "e") for i in range(5)]
    stored = build(tmp_path, encoder, keys, frames.__getitem__, batch=2)
    seen, imagined = watch(encoder, frames)
    assert seen.shape == (5, encoder.tokens_per_clip, encoder.width)
    got = stored.rows([keys[3], keys[1]])
    assert torch.allclose(got[0], seen[[3, 1]], rtol=2e-3, atol=2e-3)
    assert torch.allclose(got[1], imagined[[3, 1]], rtol=2e-3, atol=2e-3)


def test_a_shard_that_was_cut_off_is_named(tmp_path: Path, encoder: VJEPA2World) -> None:
    stored = build(tmp_path, encoder, ["a", "b"], clips(2, encoder).__getitem__)
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ValueError, match=rf"{shard.name} is cut off: remove it with its .json"):
        stored.rows(["b", "a"])


def test_a_half_built_cache_goes_on_where_it_was(
    tmp_path: Path, encoder: VJEPA2World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARD", 2)
    frames, keys = clips(5, encoder), [f"k{i}" for i in range(5)]
    read: list[int] = []

    def broken(i: int) -> Frames:
        if i == 3:
            raise OSError("gone")
        return frames[i]

    with pytest.raises(OSError, match="gone"):
        build(tmp_path, encoder, keys, broken)
    assert set(FeatureCache.open(tmp_path).place) == {"k0", "k1"}

    def noted(i: int) -> Frames:
        read.append(i)
        return frames[i]

    whole = build(tmp_path, encoder, keys, noted)
    assert read == [2, 3, 4] and set(whole.place) == set(keys)


WRITER = """
import sys
from pathlib import Path
import numpy as np, torch
from transformers import VJEPA2Model
from foretell.bridge import cache
from foretell.perception.encoder import VJEPA2World, tiny_config

cache.SHARD = 2
torch.manual_seed(0)
encoder = VJEPA2World(VJEPA2Model(tiny_config()).eval())
keys = [f"k{i}" for i in range(12)]

def read(i):
    print(i, flush=True)
    if sys.argv[2] == "stuck":
        sys.stdin.read()
    return np.random.default_rng(i).integers(0, 255, (encoder.frames, 20, 24, 3), dtype=np.uint8)

assert set(cache.build(Path(sys.argv[1]), encoder, keys, read).place) == set(keys)
"""


def test_processes_share_the_work_and_one_that_is_killed_costs_only_its_shard(
    tmp_path: Path, encoder: VJEPA2World
) -> None:
    def writer(kind: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path), kind]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with writer("stuck") as stuck:
        assert stuck.stdout is not None and stuck.stdout.readline() == "0\n"
        with writer("free") as free:
            assert free.stdout is not None
            others = [int(free.stdout.readline()) for _ in range(10)]
            half = FeatureCache.open(tmp_path)
            stuck.kill()
            rest, _ = free.communicate()
    assert others == list(range(2, 12)) and half.rows(["k2", "k3"])[0].shape[0] == 2 and "k0" not in half
    assert (free.returncode, rest.split()) == (0, ["0", "1"])
    frames = [np.random.default_rng(i).integers(0, 255, (encoder.frames, 20, 24, 3), dtype=np.uint8) for i in (0, 11)]
    stored = FeatureCache.open(tmp_path).rows(["k0", "k11"])
    assert torch.allclose(stored[0], watch(encoder, frames)[0], rtol=2e-3, atol=2e-3)


HOLDER = """
import fcntl, sys, time
with open(sys.argv[1], "a") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX, 1, 0xAB)
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_claim_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as held, (tmp_path / "lock").open("a") as lock:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        with cache.claim(lock, "ab", wait=False) as mine, cache.claim(lock, "ac", wait=False) as free:
            assert (mine, free) == (False, True)
        held.kill()
        with cache.claim(lock, "ab", wait=True) as mine:
            assert mine


def test_the_key_names_video_until_and_encoder(encoder: VJEPA2World) -> None:
    keys = {feature_key(*parts) for parts in (("v", 0.5, "e"), ("w", 0.5, "e"), ("v", None, "e"), ("v", 0.5, "f"))}
    assert len(keys) == 4
    before = encoder_digest(encoder)
    assert before == encoder_digest(encoder)
    assert before != encoder_digest(VJEPA2World(encoder.model, taps=(1,)))
    surprised = VJEPA2World(encoder.model, surprise=True)
    assert before != encoder_digest(surprised)
    assert live_encoder(surprised).surprise and not live_encoder(encoder).surprise


def test_statistics_are_those_of_all_tokens(tmp_path: Path, encoder: VJEPA2World) -> None:
    frames = clips(4, encoder)
    stored = build(tmp_path, encoder, list("abcd"), frames.__getitem__)
    (mean, std), _ = statistics(stored, list("abcd"))
    seen = watch(encoder, frames)[0].flatten(0, 1)
    assert torch.allclose(mean, seen.mean(0), atol=5e-3) and torch.allclose(std, seen.std(0), atol=5e-3)
