"""Claims about stitching: a bridge behind another encoder begins with what it knows, and is refused what cannot be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import VJEPA2Model

from foretell.bridge.projector import WorldProjector
from foretell.perception.encoder import VJEPA2World, tiny_config
from foretell.reasoner.model import load
from foretell.train import fit, stitch
from foretell.train.data import cache_features, load_clips
from foretell.train.recipes import tiny

from .fit_lab import make_lab

MORE = (0, 1, 2, 3)
"""Layers that hold all that the model's bridge reads, and one more."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def model(lab: Path) -> Path:
    recipe = replace(tiny(), imagined_tokens=3)
    return fit.run(lab / "data", lab / "data", lab / "encoder", lab / "run", recipe, str(lab / "llm"))


def fresh(lab: Path, world: VJEPA2World) -> fit.Trainee:
    """A hybrid whose bridge knows how the encoder's features are standardised, and nothing else."""
    trainee, _ = fit.build(replace(tiny(), imagined_tokens=3, seed=5), world, str(lab / "llm"))
    rows = stitch.watched([lab / "data"], world, lab / "features", 24)
    trainee.model.bridge.standardise(*((part.flatten(0, 1).mean(0), part.flatten(0, 1).std(0)) for part in rows))
    return trainee


@torch.no_grad()
def read(bridge: WorldProjector, rows: stitch.Rows) -> Tensor:
    return bridge.float().read(*rows)


def test_a_stitched_bridge_reads_what_it_read_before(lab: Path, model: Path) -> None:
    """Where the other encoder's features hold the old ones, as they are."""
    world = VJEPA2World.from_pretrained(lab / "encoder", taps=MORE)
    trainee, before = fresh(lab, world), load(model, str(lab / "llm")).bridge
    assert before.config.magnify and before.config.imagined_tokens, "there is an intake that nothing tests"
    seam = stitch.behind(world, model, trainee.model.bridge, [lab / "data"], lab / "features")
    assert seam is not None and seam.explained > 0.99
    new, old = (
        stitch.watched([lab / "data"], one, lab / "features", 24) for one in (world, stitch.encoder_beside(model))
    )
    wanted, apart = read(before, old), read(trainee.model.bridge, new)
    assert fit.start_from(trainee.model, model, seam.weights) == []
    told = read(trainee.model.bridge, new)
    assert (told - wanted).norm() < 0.02 * wanted.norm() < 0.2 * (apart - wanted).norm()


def test_a_magnifier_opens_the_same_patches(lab: Path, model: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder", taps=MORE)
    bridge, before = fresh(lab, world).model.bridge, load(model, str(lab / "llm")).bridge
    seam = stitch.behind(world, model, bridge, [lab / "data"], lab / "features")
    assert seam is not None
    (new, _), (old, _) = (
        stitch.watched([lab / "data"], one, lab / "features", 24) for one in (world, stitch.encoder_beside(model))
    )
    width = before.config.magnify_channels
    weight, bias = (seam.weights[f"magnifier.open.{part}"] for part in ("weight", "bias"))
    assert weight.shape[1] == width == bridge.config.magnify_channels
    with torch.no_grad():
        wanted = before.float().magnifier.open(before.seen.standard(old[..., :width]))
        told = torch.nn.functional.linear(bridge.seen.standard(new[..., :width]), weight, bias)
    assert (told - wanted).norm() < 0.02 * wanted.norm()


def test_what_another_encoder_does_not_tell_is_said(lab: Path, model: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    VJEPA2Model(tiny_config()).save_pretrained(tmp_path / "encoder")
    world = VJEPA2World.from_pretrained(tmp_path / "encoder", taps=(0, 2, 3))
    seam = stitch.behind(world, model, fresh(lab, world).model.bridge, [lab / "data"], lab / "features")
    assert seam is not None and 0 < seam.explained < 0.99


def test_the_same_encoder_in_half_precision_is_the_same(lab: Path, model: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    assert stitch.behind(world, model, fresh(lab, world).model.bridge, [lab / "data"], lab / "features") is None
    other = VJEPA2World.from_pretrained(lab / "encoder")
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.1)
    assert stitch.same(world, world) and not stitch.same(world, other)
    assert not stitch.same(world, VJEPA2World.from_pretrained(lab / "encoder", taps=MORE))


def test_another_grid_is_refused(lab: Path, model: Path, tmp_path: Path) -> None:
    config = tiny_config()
    config.crop_size *= 2
    VJEPA2Model(config).save_pretrained(tmp_path / "encoder")
    world = VJEPA2World.from_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"grid of \(.*\) .* makes .*lora folder"):
        stitch.behind(world, model, fresh(lab, world).model.bridge, [lab / "data"], lab / "features")


def test_training_tells_how_it_began(
    lab: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(tiny(), imagined_tokens=3, taps=MORE)
    again = fit.run(
        lab / "data", lab / "data", lab / "encoder", tmp_path, recipe, str(lab / "llm"), lab / "features", init=model
    )
    assert "has read another encoder: 100% of the variance" in capsys.readouterr().err
    told = json.loads((again / "training.json").read_text())["init"]
    assert told["explained"] > 0.99 and told["train_clips"] == 24


def test_pairs_are_shown_to_both_encoders(lab: Path, tmp_path: Path) -> None:
    data, world = lab / "data", VJEPA2World.from_pretrained(lab / "encoder")
    clips = load_clips(data).clips[:3]
    rows = [{"video": str(data / clip["video"]), "question": "Will it fall?", "answer": "yes"} for clip in clips]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *rows]))
    seen, imagined = stitch.watched([tmp_path / "pairs.jsonl", data], world, tmp_path / "features", 2)
    assert len(seen) == len(imagined) == 4, "two of each set"
    cache, keys = cache_features(load_clips(data), world, tmp_path / "features")
    torch.testing.assert_close(seen[2:], cache.rows(keys[:2])[0].float())


def test_too_few_clips_are_refused(lab: Path, model: Path, tmp_path: Path) -> None:
    clips = load_clips(lab / "data").clips[:3]
    rows = [{"video": str(lab / "data" / clip["video"]), "question": "?", "answer": "yes"} for clip in clips]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    world = VJEPA2World.from_pretrained(lab / "encoder", taps=MORE)
    with pytest.raises(ValueError, match=r"3 clips can be shown .* wants 16"):
        stitch.behind(world, model, fresh(lab, world).model.bridge, [tmp_path / "few.jsonl"], lab / "features")
