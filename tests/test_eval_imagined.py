"""Claims about imagining in pixels: a film goes on from what was seen, and the same encoder tells what it shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Config, VJEPA2Model

from foretell.eval import imagined
from foretell.eval.imagined import Filming, expected, film_ahead, open_painter, watch_film
from foretell.perception.encoder import VJEPA2World, no_future, normalise, tapped, tiny_config
from foretell.perception.predictor import expected_form, imagine, target_levels, unroll
from foretell.train import learner, pretrain
from foretell.train.objectives import Student, film_of, pixels_of
from foretell.train.recipes import tiny_encoder

from .reasoner_tiny import noise, tiny_foretell


@pytest.fixture
def painter() -> Student:
    torch.manual_seed(3)
    return Student(VJEPA2Model(tiny_config()), pixels=True).eval().requires_grad_(False)


@pytest.fixture
def watched() -> VJEPA2Model:
    torch.manual_seed(4)
    model: VJEPA2Model = VJEPA2Model(tiny_config()).eval().requires_grad_(False)
    return model


def clips(count: int = 2) -> torch.Tensor:
    return normalise(torch.randint(0, 256, (count, 8, 16, 16, 3), dtype=torch.uint8))


def test_a_film_is_put_together_from_its_tokens() -> None:
    pixels = clips()
    torch.testing.assert_close(film_of(pixels_of(pixels, tiny_config()), tiny_config()), pixels)
    last = pixels_of(pixels, tiny_config())[:, -16:]
    torch.testing.assert_close(film_of(last, tiny_config()), pixels[:, -2:])


def test_a_film_goes_on_from_what_was_seen_last_and_from_itself(painter: Student) -> None:
    pixels = clips()
    film = film_ahead(painter, pixels)
    assert film.shape == pixels.shape
    assert torch.equal(film[:, :4], pixels[:, 4:])
    positions = torch.arange(3 * 16)
    places, visible = positions.expand(2, -1), no_future(positions, painter.jepa)
    (known,) = tapped(painter.jepa, film, (3,), keep=places, visible=visible)
    told = film_of(painter.pixels(unroll(painter.jepa, known, places, visible)), painter.jepa.config)
    black, white = (normalise(torch.full((1, 1, 1, 1, 3), value)) for value in (0, 255))
    torch.testing.assert_close(film[:, 4:], told[:, 2:].clamp(black, white))
    other = torch.cat([clips()[:, :4], pixels[:, 4:]], dim=1)  # what happened before does not count
    assert torch.equal(film_ahead(painter, other), film)


def test_no_film_shows_what_a_picture_cannot(painter: Student) -> None:
    assert painter.head is not None
    painter.head.bias.fill_(99.0)
    assert torch.equal(film_ahead(painter, clips())[:, 4:], normalise(torch.full((2, 4, 16, 16, 3), 255)))


def test_a_true_film_is_told_as_the_predictor_should_have_told_it(
    painter: Student, watched: VJEPA2Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, came = clips(), clips()
    monkeypatch.setattr(imagined, "film_ahead", lambda painter, pixels: torch.cat([pixels[:, 4:], came[:, 4:]], 1))
    whole = torch.cat([pixels[:, 4:], came[:, 4:]], 1)
    wanted = expected_form(tapped(watched, whole, target_levels(watched)))[:, 32:]
    told = expected(watched, painter, pixels)
    torch.testing.assert_close(told, wanted)
    (last,) = tapped(watched, pixels, (3,))
    assert told.shape == imagine(watched, last).shape


def test_a_model_and_a_cache_watch_the_same_film(painter: Student) -> None:
    foretell, clip = tiny_foretell(), noise(0)
    world = VJEPA2World(foretell.model.encoder, tuple(foretell.model.config.taps), foretell.rate)
    seen, drawn = Filming(foretell, painter).watch(clip)
    for ours, theirs in zip(watch_film(painter, world, [clip]), (seen, drawn), strict=True):
        torch.testing.assert_close(ours, theirs)
    plain, told = foretell.watch(clip)
    torch.testing.assert_close(seen, plain)
    assert drawn is not None and told is not None and not torch.allclose(drawn, told)


def test_only_a_model_of_plain_pixels_in_the_encoders_shape_draws(
    tmp_path: Path, watched: VJEPA2Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "gemm_peak", lambda dtype, device: 1e9)
    np.save(tmp_path / "clips.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 16, 16, 3), dtype=np.uint8))
    recipe = replace(tiny_encoder(), steps=2)
    for objective in ("pixel_ar", "pixel_ar_raw"):
        pretrain.run(tmp_path / "clips.npy", tmp_path / objective, replace(recipe, objective=objective))
    world = VJEPA2World(watched, rate=recipe.rate)
    assert next(open_painter(tmp_path / "pixel_ar_raw", world).parameters()).dtype == learner.train_dtype()
    with pytest.raises(ValueError, match="pretrained with pixel_ar: films are drawn by pixel_ar_raw"):
        open_painter(tmp_path / "pixel_ar", world)
    larger = VJEPA2Model(VJEPA2Config(**tiny_config().to_diff_dict() | {"crop_size": 32}))
    with pytest.raises(ValueError, match="draws 8 frames of 16 pixels at 8 a second, the encoder watches 8 of 32"):
        open_painter(tmp_path / "pixel_ar_raw", VJEPA2World(larger, rate=8.0))
