"""Claims about system 1: our token-dropping forward is Hugging Face's, and its shapes are what the parts say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import VJEPA2Model

from foretell.perception import encoder
from foretell.perception.encoder import (
    VJEPA2World,
    gather,
    grid_of,
    nano_config,
    normalise,
    resize,
    tapped,
    tiny_config,
)
from foretell.perception.gauges import (
    centred_rank,
    effective_rank,
    feature_std,
    lidar,
    ridge_probe,
    spectrum_decay,
)
from foretell.perception.predictor import (
    FUTURE,
    complete,
    expected_form,
    halves,
    imagine,
    predict,
    surprise,
    surprise_map,
    surprise_so_far,
    target_levels,
    watched,
)

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def model() -> VJEPA2Model:
    torch.manual_seed(0)
    made = VJEPA2Model(tiny_config())
    made.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def frames() -> Tensor:
    return torch.randint(0, 256, (3, 8, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pixels(frames: Tensor) -> Tensor:
    return normalise(frames)


def shuffled_positions(batch: int, count: int) -> Tensor:
    return torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(i))[:count] for i in range(batch)])


def test_tapped_last_layer_is_hugging_faces_last_hidden_state(model: VJEPA2Model, pixels: Tensor) -> None:
    (ours,) = tapped(model, pixels, (3,))
    theirs = model(pixels, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_tapped_middle_layers_are_hugging_faces_hidden_states(model: VJEPA2Model, pixels: Tensor) -> None:
    theirs = model(pixels, skip_predictor=True, output_hidden_states=True).hidden_states
    for ours, expected in zip(tapped(model, pixels, (1, 2)), theirs[1:3], strict=True):
        torch.testing.assert_close(ours, expected, **CLOSE)


def test_keeping_every_token_is_the_full_forward(model: VJEPA2Model, pixels: Tensor) -> None:
    everything = torch.arange(64).expand(3, -1)
    for kept, full in zip(tapped(model, pixels, (1, 3), keep=everything), tapped(model, pixels, (1, 3)), strict=True):
        torch.testing.assert_close(kept, full, **CLOSE)


def test_kept_tokens_keep_their_positions_whatever_their_order(model: VJEPA2Model, pixels: Tensor) -> None:
    (full,) = tapped(model, pixels, (3,))
    order = shuffled_positions(3, 64)
    (kept,) = tapped(model, pixels, (3,), keep=order)
    torch.testing.assert_close(kept, gather(full, order), **CLOSE)


def test_kept_tokens_are_those_of_the_layers_position_mask(model: VJEPA2Model, pixels: Tensor) -> None:
    keep = shuffled_positions(3, 10)
    hidden = gather(model.encoder.embeddings(pixels), keep)
    for layer in model.encoder.layer:
        hidden = layer(hidden, keep)[0]
    (ours,) = tapped(model, pixels, (3,), keep=keep)
    torch.testing.assert_close(ours, model.encoder.layernorm(hidden), **CLOSE)


def test_what_is_not_kept_cannot_be_seen(model: VJEPA2Model, pixels: Tensor) -> None:
    past, _ = halves(model, 3)
    changed = pixels.clone()
    changed[:, 4:] = 0
    (before,), (after,) = tapped(model, pixels, (3,), keep=past), tapped(model, changed, (3,), keep=past)
    assert torch.equal(before, after)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_attention_in_bf16_is_torchs_own_however_many_clips_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int, masked: bool
) -> None:
    monkeypatch.setattr(encoder, "CACHED_SCORES", at_once * 2 * 7**2)
    exact = [torch.randn(5, 2, 7, 8, requires_grad=True) for _ in range(3)]
    rounded = [part.detach().bfloat16().requires_grad_() for part in exact]
    visible = torch.ones(7, 7).tril().bool() if masked else None
    (query, key, value), small = exact, rounded
    wanted = F.scaled_dot_product_attention(query, key, value, visible)
    found = encoder.dot_product_attention(small[0], small[1], small[2], visible)
    wanted.square().sum().backward()
    found.square().sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.03)
    for one, other in zip(rounded, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad.float(), other.grad, atol=0.1, rtol=0.1)


def test_permuting_the_batch_permutes_the_features(model: VJEPA2Model, frames: Tensor) -> None:
    world = VJEPA2World(model)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(world.encode(frames[order]), world.encode(frames)[order], **CLOSE)


def test_taps_outside_the_encoder_are_refused(model: VJEPA2Model, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"0 \(patch embedding\) to 3"):
        tapped(model, pixels, (2, 4))


def test_normalise_is_the_video_processors(frames: Tensor) -> None:
    from transformers import VJEPA2VideoProcessor

    processor = VJEPA2VideoProcessor(do_resize=False, do_center_crop=False)
    theirs = processor(list(frames.permute(0, 1, 4, 2, 3)), return_tensors="pt")["pixel_values_videos"]
    torch.testing.assert_close(normalise(frames), theirs, rtol=1e-5, atol=1e-5)


def test_resize_squashes_and_crops_nothing() -> None:
    wide = torch.zeros(2, 20, 60, 3, dtype=torch.uint8)
    wide[:, :, :15] = 240
    small = resize(wide, 8)
    assert small.shape == (2, 8, 8, 3)
    assert small.dtype == torch.uint8
    assert (small[:, :, 0] == 240).all()
    assert (small[:, :, -1] == 0).all()
    assert torch.equal(resize(small, 8), small)


def test_parts_tell_their_own_size(model: VJEPA2Model, frames: Tensor) -> None:
    world = VJEPA2World(model)
    assert (world.grid, world.frames, world.size, world.rate) == ((4, 4, 4), 8, 16, 8.0)
    assert world.encode(frames).shape == (3, world.tokens_per_clip, world.width) == (3, 64, 144)


def test_nano_sees_one_second_as_256_tokens_of_576() -> None:
    world = VJEPA2World(VJEPA2Model(nano_config()))
    assert (world.grid, world.tokens_per_clip, world.width, world.taps) == ((4, 8, 8), 256, 576, (0, 3, 6))
    assert VJEPA2World(VJEPA2Model(tiny_config())).taps == (1, 2, 3)  # thirds, where the config names none
    assert sum(p.numel() for p in world.model.parameters()) < 3_500_000


def test_wrong_frames_are_refused_with_the_right_shape(model: VJEPA2Model, frames: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(8, 16, 16, 3\)"):
        VJEPA2World(model).encode(frames[:, :4])
    with pytest.raises(ValueError, match="uint8"):
        VJEPA2World(model).encode(frames.float())


def test_an_encoder_that_does_not_say_its_rate_needs_one() -> None:
    config = tiny_config()
    config.rate = None
    silent = VJEPA2Model(config)
    with pytest.raises(ValueError, match="pass rate"):
        VJEPA2World(silent)
    assert VJEPA2World(silent, rate=4).rate == 4.0


def test_a_saved_folder_gives_the_same_features(model: VJEPA2Model, frames: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = VJEPA2World.from_pretrained(tmp_path)
    assert again.rate == 8.0
    assert torch.equal(again.encode(frames), VJEPA2World(model).encode(frames))
    assert not any(p.requires_grad for p in again.parameters())


def test_predict_is_hugging_faces_predictor(model: VJEPA2Model, pixels: Tensor) -> None:
    (last,) = tapped(model, pixels, (3,))
    order = shuffled_positions(3, 30)
    context, target = order[:, :20], order[:, 20:]
    theirs = model.predictor(last, [context], [target]).last_hidden_state
    torch.testing.assert_close(predict(model, gather(last, context), context, target), theirs, **CLOSE)


def test_complete_also_tells_what_was_seen(model: VJEPA2Model, pixels: Tensor) -> None:
    (last,) = tapped(model, pixels, (3,))
    past, future = halves(model, 3)
    told = complete(model, last[:, :32], past, future, FUTURE)
    assert told.shape == (3, 64, 48)
    assert torch.equal(told[:, 32:], predict(model, last[:, :32], past, future))


def test_imagination_depends_on_the_last_half_only(model: VJEPA2Model, pixels: Tensor) -> None:
    (last,) = tapped(model, pixels, (3,))
    expected = imagine(model, last)
    assert expected.shape == (3, 32, 48)
    changed = last.clone()
    changed[:, :32] = 0
    assert torch.equal(imagine(model, changed), expected)
    changed[:, 32:] = 0
    assert not torch.allclose(imagine(model, changed), expected)


def test_rotary_positions_are_not_relative_so_imagination_reindexes(model: VJEPA2Model, pixels: Tensor) -> None:
    (last,) = tapped(model, pixels, (3,))
    past, future = halves(model, 3)
    later = predict(model, last[:, 32:], past + 32, future + 32)
    assert torch.equal(imagine(model, last), predict(model, last[:, 32:], past, future))
    assert not torch.allclose(imagine(model, last), later, **CLOSE)


def test_surprise_so_far_is_what_the_mean_error_is_taken_of(model: VJEPA2Model, pixels: Tensor) -> None:
    levels = target_levels(model)
    told = surprise_so_far(model, pixels, tapped(model, pixels, levels))
    _, height, width = grid_of(model.config)
    chart = surprise_map(model, pixels, [2])[:, 0, 2:]  # [B, 2, h, w]
    torch.testing.assert_close(told.abs().mean(-1).unflatten(1, (2, height, width)), chart, **CLOSE)
    twice = torch.cat([pixels.flip(1), pixels], dim=1)  # of several windows the last is told
    states = tapped(model, twice, levels)
    torch.testing.assert_close(surprise_so_far(model, twice, states), told, **CLOSE)


def test_what_is_watched_is_what_its_parts_tell(model: VJEPA2Model, pixels: Tensor) -> None:
    depth = model.config.num_hidden_layers
    seen, last = torch.cat(tapped(model, pixels, (1, depth)), -1), tapped(model, pixels, (depth,))[0]
    alone, none = watched(model, pixels, (1, depth), imagination=False)
    features, expected = watched(model, pixels, (1, depth), imagination=True)
    surprised, told = watched(model, pixels, (1, depth), imagination=True, surprise=True)
    assert none is None and expected is not None and told is not None
    for one in (alone, features, surprised):
        torch.testing.assert_close(one, seen)
    torch.testing.assert_close(expected, imagine(model, last))
    so_far = surprise_so_far(model, pixels, tapped(model, pixels, target_levels(model)))
    torch.testing.assert_close(told, torch.cat([so_far, expected], 1))


def test_surprise_is_the_mean_of_its_map_and_grows_where_the_future_changes(model: VJEPA2Model, pixels: Tensor) -> None:
    chart = surprise_map(model, pixels, (1, 2))
    assert chart.shape == (3, 2, 4, 4, 4)
    torch.testing.assert_close(surprise(model, pixels, (1, 2)), chart.mean((3, 4)), equal_nan=True)
    changed = pixels.clone()
    changed[:, 6:] = 3.0
    difference = (surprise_map(model, changed, (2,)) - chart[:, 1:]).abs()
    assert (difference[:, 0, 3] > 1e-4).any()


def test_surprise_is_untold_where_the_context_was_and_blind_to_what_comes_after(
    model: VJEPA2Model, pixels: Tensor
) -> None:
    told = surprise(model, pixels, (1, 3))
    assert torch.equal(told.isnan()[0], torch.tensor([[True, False, False, False], [True, True, True, False]]))
    (known,) = tapped(model, pixels[:, :2], (3,))
    past = torch.arange(16).expand(3, -1)
    expected = predict(model, known, past, torch.arange(16, 64).expand(3, -1))
    came = expected_form(tapped(model, pixels, (3,)))[:, 16:]
    by_hand = (expected - came).abs().mean(-1).unflatten(1, (3, 16)).mean(2)
    torch.testing.assert_close(told[:, 0, 1:], by_hand, **CLOSE)


def test_a_context_that_leaves_nothing_to_expect_is_refused(model: VJEPA2Model, pixels: Tensor) -> None:
    with pytest.raises(ValueError, match="1 to 3 of a window's 4"):
        surprise(model, pixels, (4,))


def test_expected_form_is_normed_and_ignores_scale() -> None:
    states = [torch.randn(2, 5, 48), torch.randn(2, 5, 48)]
    form = expected_form(states)
    torch.testing.assert_close(form.mean(-1), torch.zeros(2, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(form.var(-1, unbiased=False), torch.ones(2, 5), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(expected_form([states[0] * 100, states[1]]), form, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_spectrum_decay_is_the_exponent_of_the_power_law(exponent: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, 33).float() ** (-exponent / 2)
    features = torch.randn(20_000, 32, generator=generator) * scales
    assert spectrum_decay(features) == pytest.approx(exponent, abs=0.1)
    assert spectrum_decay(features + 100) == pytest.approx(exponent, abs=0.1)


@pytest.mark.parametrize("directions", [2, 6, 12])
def test_lidar_counts_the_directions_in_which_clips_differ(directions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.zeros(400, 1, 16)
    clips[..., :directions] = torch.randn(400, 1, directions, generator=generator)
    views = clips + 0.05 * torch.randn(400, 4, 16, generator=generator)
    assert lidar(views) == pytest.approx(directions, rel=0.15)
    assert lidar(views @ torch.randn(16, 16, generator=generator)) == pytest.approx(directions, rel=0.15)
    assert lidar(torch.ones(20, 4, 16)) == pytest.approx(1)


def test_effective_rank_counts_directions() -> None:
    basis = torch.eye(8).repeat(10, 1)
    assert effective_rank(basis) == pytest.approx(8, rel=1e-3)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, rel=1e-3)


def test_a_common_offset_hides_rank_but_not_the_centred_rank() -> None:
    features = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    assert effective_rank(features + 1000) < 1.2
    assert centred_rank(features + 1000) > 7.5


def test_feature_std_is_zero_on_collapse() -> None:
    assert feature_std(torch.ones(20, 4)) == 0
    assert feature_std(torch.tensor([[1.0], [-1.0]])) == pytest.approx(2**0.5)


def test_ridge_probe_reads_what_is_linear_and_chances_on_what_is_not() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 10), dtype=np.float32)
    linear, noise = features @ rng.standard_normal(10), rng.standard_normal(300)
    labels = np.stack([linear, linear > 0, noise, rng.random(300) > 0.5, np.ones(300)], axis=1).astype(np.float32)
    labels[:20, 0] = np.nan
    value, binary, unread, chance, constant = ridge_probe(features, labels)
    assert value > 0.99
    assert binary > 0.9
    assert unread < 0.1
    assert 0.35 < chance < 0.65
    assert np.isnan(constant)


def test_ridge_probe_wants_a_row_of_labels_a_clip() -> None:
    with pytest.raises(ValueError, match="one row of labels a clip"):
        ridge_probe(np.zeros((3, 2), dtype=np.float32), np.zeros((4, 1), dtype=np.float32))


def test_grid_is_time_height_width() -> None:
    assert grid_of(nano_config()) == (4, 8, 8)
