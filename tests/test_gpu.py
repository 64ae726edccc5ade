"""Claims about an accelerator: everything that computes does so there, to what a CPU would say but for rounding.

`pytest -m gpu tests/test_gpu.py` on a machine with one.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foretell.bridge.cache import watch
from foretell.eval import probe
from foretell.perception.encoder import VJEPA2World, open_model, resize
from foretell.reasoner.answer import Foretell
from foretell.train import fit, pretrain
from foretell.train.data import live_encoder, load_clips
from foretell.train.flops import gemm_peak
from foretell.train.learner import OBJECTIVES, build, train_device, train_dtype
from foretell.train.recipes import tiny, tiny_encoder

from .fit_lab import losses, make_lab

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a CUDA device"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def model(lab: Path) -> Path:
    """A bridge and a LoRA, trained through all stages."""
    return fit.run(lab / "data", lab / "data", lab / "encoder", lab / "run", tiny(), str(lab / "llm"), lab / "features")


def test_a_bridge_trains_there(lab: Path, model: Path) -> None:
    assert {stage for stage, _, _ in losses(lab / "run")} == {"warm", "align", "tune"}
    assert all(0 < loss < 100 for _, _, loss in losses(lab / "run"))


def test_an_answer_is_the_same_there(lab: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = load_clips(lab / "data").frames[0, :8]
    there = Foretell.load(model, str(lab / "llm"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = Foretell.load(model, str(lab / "llm"))
    assert next(there.model.parameters()).device.type == "cuda" and next(here.model.parameters()).device.type == "cpu"
    one, other = (each.answer(frames, "Will the tower fall?").probabilities for each in (there, here))
    assert one is not None and other is not None
    assert one["yes"] == pytest.approx(other["yes"], abs=0.02)


def test_features_are_the_same_there(lab: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    packed = load_clips(lab / "data")
    frames = [np.asarray(resize(torch.from_numpy(packed.shown(row, 0.5, 8.0, 8)), 16)) for row in range(4)]
    there = watch(live_encoder(world), frames)
    here = watch(world, frames)
    for one, other in zip(there, here, strict=True):
        assert one.device.type == train_device().type
        assert (one.float().cpu() - other).std() < 0.02 * other.std()


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if not OBJECTIVES[name].pictures])
def test_every_objective_of_videos_learns_there(objective: str, lab: Path, tmp_path: Path) -> None:
    recipe, teacher = replace(tiny_encoder(), objective=objective), None
    if OBJECTIVES[objective].teacher == "frozen":
        teacher = tmp_path / "teacher"
        build(replace(recipe, objective="vjepa"), None).encoder.save_pretrained(teacher)
    np.save(tmp_path / "clips.npy", np.random.default_rng(0).integers(0, 256, (40, 12, 16, 16, 3), dtype=np.uint8))
    folder = pretrain.run(tmp_path / "clips.npy", tmp_path / "run", recipe, teacher=teacher)
    assert open_model(folder).config.hidden_size == 48


def test_probes_are_trained_there(lab: Path, tmp_path: Path) -> None:
    how = probe.Training(batch=8, every=4, patience=1, most=8, width=48)
    found = probe.run(
        lab / "encoder", lab / "data", lab / "data", tmp_path / "probe.json",
        probes=("ridge", "attentive1", "finetune"), layers=(3,), variables=("y",), how=how,
    )  # fmt: skip
    assert len(found["figures"]) == 8 and all(-50 < one["value"] <= 1 for one in found["figures"])


def test_peak_is_measured_on_what_fills_it() -> None:
    assert gemm_peak(train_dtype(), train_device()) > 2 * gemm_peak(train_dtype(), train_device(), size=512)
