"""Claims about compute accounting: what is counted from modules is what torch counts while it computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import VJEPA2Config

from foretell.perception.encoder import grid_of, tiny_config
from foretell.train import learner
from foretell.train.flops import gemm_peak
from foretell.train.learner import FRESH, OBJECTIVES, build, gradients, objective_of, step_flops
from foretell.train.recipes import tiny_encoder


@pytest.mark.parametrize("name", OBJECTIVES)
def test_counted_flops_are_torchs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.float32)
    # Wide enough for matrix products to dominate, as in any real encoder.
    shape = {"hidden_size": 96, "crop_size": 32}
    picture = {"frames_per_clip": 1, "tubelet_size": 1} if OBJECTIVES[name].pictures else {}
    config = VJEPA2Config(**tiny_config().to_diff_dict() | shape | picture)
    torch.manual_seed(0)
    FRESH[OBJECTIVES[name].kind](config).save_pretrained(tmp_path)
    recipe = replace(tiny_encoder(), objective=name, batch=2)
    trainee = build(recipe, tmp_path, tmp_path if OBJECTIVES[name].teacher == "frozen" else None)
    for seed in range(2):
        mask = objective_of(recipe).draw(np.random.default_rng(seed), grid_of(config), recipe.batch, recipe)
        pixels = torch.randn(2, config.frames_per_clip, 3, 32, 32)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            gradients(trainee, 0, pixels, mask, recipe)
        assert step_flops(trainee.student, mask, recipe) == pytest.approx(counter.get_total_flops(), rel=0.02)
        trainee.optimizer.zero_grad()


def test_the_gemm_peak_is_a_rate_of_this_machine() -> None:
    peak = gemm_peak(torch.float32, torch.device("cpu"), size=256, seconds=0.05)
    assert 1e8 < peak < 1e14
