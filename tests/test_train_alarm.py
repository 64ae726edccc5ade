"""Claims about the alarm: planted collapses stop within 50 steps, healthy runs never do, and nothing good is lost."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import VJEPA2Config, VJEPA2Model

from foretell.__main__ import main
from foretell.perception.encoder import gather, tapped, tiny_config
from foretell.perception.predictor import FUTURE, complete, expected_form
from foretell.train import checkpoint, learner, pretrain
from foretell.train.alarm import Alarm, Unhealthy
from foretell.train.learner import OBJECTIVES, Learner
from foretell.train.masks import Mask
from foretell.train.recipes import PretrainRecipe, tiny_encoder


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred clips at 16x16: a square of any colour moves over a ground of patches."""
    rng = np.random.default_rng(0)
    frames = np.empty((300, 12, 16, 16, 3), dtype=np.uint8)
    for clip in frames:
        clip[:] = rng.integers(0, 256, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
        row, side, speed, paint = rng.integers(0, 11), rng.integers(2, 6), rng.integers(-3, 4), rng.integers(0, 256, 3)
        for index, frame in enumerate(clip):
            left = (speed * index) % 12
            frame[row : row + side, left : left + side] = paint
    path = tmp_path_factory.mktemp("alarm") / "clips.npy"
    np.save(path, frames)
    return path


def recipe(**changes: Any) -> PretrainRecipe:
    """A run that learns fast enough for 50 steps to matter."""
    base = replace(tiny_encoder(), steps=50, batch=24, lr=2e-3, warmup=10, log_every=1000, probe_every=1000)
    return replace(base, save_every=20, **changes)


def no_teacher_no_stop(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Any:
    """V-JEPA as one would write it by mistake: the student's own features are the target, gradients and all."""
    student, depth = learner.live_student.jepa, learner.student.model.config.num_hidden_layers
    wanted = expected_form(tapped(student, pixels, recipe.target_levels))
    (known,) = tapped(student, pixels, (depth,), keep=mask.context)
    told = complete(student, known, mask.context, mask.target, FUTURE)[:, known.shape[1] :]
    return {"loss": F.l1_loss(told, gather(wanted, mask.target))}


def plant_no_stop(monkeypatch: pytest.MonkeyPatch) -> PretrainRecipe:
    wrong = replace(OBJECTIVES["vjepa_dense"], loss=no_teacher_no_stop, teacher=None)
    monkeypatch.setitem(OBJECTIVES, "vjepa_dense", wrong)
    return recipe()


def plant_no_average(monkeypatch: pytest.MonkeyPatch) -> PretrainRecipe:
    return recipe(ema_start=0.0, ema_end=0.0, variance_weight=0.0, covariance_weight=0.0)


def plant_high_rate(monkeypatch: pytest.MonkeyPatch) -> PretrainRecipe:
    return recipe(lr=0.2)


PLANTS = {
    "no teacher, no stop-gradient": (plant_no_stop, "features collapsed.*raise variance_weight"),
    "EMA 0": (plant_no_average, r"features collapsed.*ema_start, now 0\)"),
    "learning rate x100": (plant_high_rate, r"the weights grew.*lower lr \(now 0.2\)"),
}


@pytest.mark.parametrize(("plant", "fault"), PLANTS.values(), ids=PLANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_collapse_is_stopped_within_50_steps(
    plant: Callable[[pytest.MonkeyPatch], PretrainRecipe],
    fault: str,
    seed: int,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sick = replace(plant(monkeypatch), seed=seed)
    with pytest.raises(Unhealthy, match=fault) as caught:
        pretrain.run(clips, tmp_path, sick)
    assert int(str(caught.value).split()[1].rstrip(":")) < 50


def wide() -> VJEPA2Config:
    return VJEPA2Config(**tiny_config().to_diff_dict() | {"hidden_size": 96, "num_hidden_layers": 3})


HEALTHY = [
    *({"seed": seed} for seed in range(3)),
    *({"seed": seed, "encoder": "wide", "lr": 1e-3} for seed in range(2)),
    {"lr": 5e-4},
    {"objective": "vjepa"},
    {"objective": "lejepa", "lr": 1e-3},
    {"objective": "videomae"},
    {"objective": "pixel_ar"},
]


@pytest.mark.parametrize("changes", HEALTHY, ids=str)
def test_a_healthy_run_is_never_stopped(
    changes: dict[str, Any], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(learner.CONFIGS, "wide", wide)
    pretrain.run(clips, tmp_path, recipe(**changes))
    assert VJEPA2Model.from_pretrained(tmp_path / "encoder").config.hidden_size in (48, 96)


def test_a_stopped_run_gives_back_its_last_healthy_encoder(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = replace(plant_no_stop(monkeypatch), save_every=4, lr=1e-3)
    with pytest.raises(Unhealthy, match=r"encoder of step (\d+), from before.*--init"):
        pretrain.run(clips, tmp_path, sick)
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    exported = VJEPA2Model.from_pretrained(tmp_path / "encoder")
    name = "encoder.layer.0.mlp.fc1.weight"
    assert torch.equal(exported.get_parameter(name), newest.tensors[f"student.model.{name}"])


def test_a_resumed_run_remembers_what_it_was(clips: Path, tmp_path: Path) -> None:
    short = recipe(steps=20)
    pretrain.run(clips, tmp_path, short)
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None
    alarm = Alarm(short, collapses=True)
    alarm.restore(saved.state["alarm"])
    assert len(alarm.losses) == 20
    assert alarm.rank > 10
    with pytest.raises(Unhealthy, match="features collapsed"):
        alarm.look(21, torch.ones(64, 48))


def test_a_leap_of_the_loss_is_told_from_noise() -> None:
    alarm = Alarm(recipe(), collapses=True)
    noisy = np.random.default_rng(0).uniform(0.5, 1.5, 60)
    for step, loss in enumerate(noisy):
        alarm.hear(step, float(loss))
    with pytest.raises(Unhealthy, match=r"step 60: the loss leapt to 4.*set a lower lr \(now 0.002\)"):
        alarm.hear(60, 4.0)


def test_the_command_line_says_what_to_change_in_one_line(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"--set={name}" for name in ("steps=30", "lr=0.2", "warmup=1", "save_every=8")]
    status = main(["pretrain", "tiny", "--data", str(clips), "--out", str(tmp_path / "run"), *settings])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert status == 1
    assert len(told) == 1
    assert "set a lower lr (now 0.2)" in told[0]
    assert "begin anew in another folder" in told[0]
