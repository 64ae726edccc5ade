"""Claims about the feature cache: exact up to its precision, resumable, keyed by all it depends on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from foretell.bridge import cache
from foretell.bridge.cache import FeatureCache, Frames, build, encoder_digest, feature_key, statistics, watch
from foretell.perception.encoder import VJEPA2World, tiny_config


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


def test_the_key_names_video_until_and_encoder(encoder: VJEPA2World) -> None:
    keys = {feature_key(*parts) for parts in (("v", 0.5, "e"), ("w", 0.5, "e"), ("v", None, "e"), ("v", 0.5, "f"))}
    assert len(keys) == 4
    before = encoder_digest(encoder)
    assert before == encoder_digest(encoder)
    assert before != encoder_digest(VJEPA2World(encoder.model, taps=(1,)))


def test_statistics_are_those_of_all_tokens(tmp_path: Path, encoder: VJEPA2World) -> None:
    frames = clips(4, encoder)
    stored = build(tmp_path, encoder, list("abcd"), frames.__getitem__)
    (mean, std), _ = statistics(stored, list("abcd"))
    seen = watch(encoder, frames)[0].flatten(0, 1)
    assert torch.allclose(mean, seen.mean(0), atol=5e-3) and torch.allclose(std, seen.std(0), atol=5e-3)
