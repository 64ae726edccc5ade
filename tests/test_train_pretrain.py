"""Claims about pretraining: what is hidden stays hidden, what is frozen stays frozen, a resumed run is the same run."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from foretell.__main__ import main
from foretell.perception.encoder import IMAGENET_STD, VJEPA2World, normalise, tiny_config
from foretell.perception.predictor import imagine, target_levels
from foretell.train import checkpoint, learner, recipes
from foretell.train.learner import build, learn, learning_rate, momentum
from foretell.train.masks import MaskRecipe, sample
from foretell.train.objectives import Weights, covariance, spread, variance, vjepa
from foretell.train.pretrain import augment, draw, draw_windows, open_clips, prefetched, run, split_rows
from foretell.train.recipes import tiny_encoder as tiny

GRID = (4, 8, 8)
SHORT, LONG, CAUSAL = MaskRecipe(1, 0), MaskRecipe(0, 0), MaskRecipe(0, 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty clips of 12 frames at 16x16: a bright square that moves at a speed of its own."""
    rng = np.random.default_rng(0)
    clips = rng.integers(40, 60, (40, 12, 16, 16, 3), dtype=np.uint8)
    for clip in clips:
        row, speed = rng.integers(0, 12), rng.integers(1, 4)
        for index, frame in enumerate(clip):
            left = speed * index % 12
            frame[row : row + 4, left : left + 4] = 220
    path = tmp_path_factory.mktemp("pretrain") / "clips.npy"
    np.save(path, clips)
    return path


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of equality are made in fp32."""
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.float32)


def losses(out: Path) -> dict[int, float]:
    rows = [json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


@pytest.mark.parametrize("recipe", [SHORT, LONG, CAUSAL], ids=["short", "long", "causal"])
@pytest.mark.parametrize("grid", [GRID, (4, 4, 4), (2, 14, 14)])
def test_masks_are_disjoint_sorted_and_inside_the_grid(recipe: MaskRecipe, grid: tuple[int, int, int]) -> None:
    size = grid[0] * grid[1] * grid[2]
    for seed in range(20):
        mask = sample(np.random.default_rng(seed), grid, 5, recipe)
        places = torch.cat([mask.context, mask.target], dim=1)
        assert places.dtype == torch.int64
        assert 0 <= int(places.min()) <= int(places.max()) < size
        assert all(len(row.unique()) == len(row) for row in places)
        assert (mask.context.diff(dim=1) > 0).all()
        assert 1 <= mask.target.shape[1] <= size // 2
        assert mask.context.shape[1] >= recipe.min_context * size


def test_causal_context_precedes_its_target_and_half_time_is_commonest() -> None:
    starts = []
    for seed in range(200):
        mask = sample(np.random.default_rng(seed), GRID, 2, CAUSAL)
        assert mask.future
        assert int(mask.context.max()) < int(mask.target.min())
        starts.append(int(mask.context.max() + 1) // 64)
    counts = np.bincount(starts, minlength=4)
    assert counts[0] == 0
    assert counts[2] > counts[1] > 0
    assert counts[2] > counts[3] > 0


@pytest.mark.parametrize("recipe", [SHORT, LONG], ids=["short", "long"])
def test_blocks_hide_a_place_through_all_time(recipe: MaskRecipe) -> None:
    mask = sample(np.random.default_rng(0), GRID, 6, recipe)
    assert not mask.future
    for context, target in zip(mask.context, mask.target, strict=True):
        assert not set((context % 64).tolist()) & set((target % 64).tolist())


def test_mask_kinds_come_in_their_shares() -> None:
    future = [sample(np.random.default_rng(seed), GRID, 1, MaskRecipe(0.35, 0.4)).future for seed in range(600)]
    assert 0.33 < np.mean(future) < 0.47


def test_shares_beyond_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        MaskRecipe(short_share=0.7, causal_share=0.4)


def test_a_grid_too_coarse_for_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="causal masks alone"):
        sample(np.random.default_rng(0), (4, 1, 1), 2, LONG)


def test_windows_are_consecutive_and_a_share_begins_before_the_clip() -> None:
    windows = draw_windows(np.random.default_rng(0), 2000, 16, 8, 0.25)
    assert windows.min() == 0
    assert windows.max() == 15
    assert set(np.diff(windows, axis=1).ravel()) == {0, 1}
    repeated = windows[:, 0] == windows[:, 1]
    assert 0.2 < repeated.mean() < 0.3
    assert (windows[repeated][:, 0] == 0).all()


def test_without_jitter_augmenting_only_mirrors_and_normalises() -> None:
    recipe = replace(tiny(), brightness=0, contrast=0, colour=0, noise=0)
    frames = np.random.default_rng(0).integers(0, 256, (8, 4, 16, 16, 3), dtype=np.uint8)
    seen = augment(np.random.default_rng(1), frames, recipe)
    plain = normalise(torch.from_numpy(frames))
    mirrored = [torch.allclose(s, p.flip(-1), atol=1e-5) for s, p in zip(seen, plain, strict=True)]
    same = [torch.allclose(s, p, atol=1e-5) for s, p in zip(seen, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert any(mirrored)
    assert any(same)


def test_noise_is_another_for_every_pixel_as_strong_as_its_clip_draws_and_the_same_from_the_same_seed() -> None:
    recipe = replace(tiny(), brightness=0, contrast=0, colour=0, noise=0.1)
    frames = np.full((8, 4, 16, 16, 3), 128, dtype=np.uint8)
    noisy, again, clean = (
        augment(np.random.default_rng(0), frames, replace(recipe, noise=noise)) for noise in (0.1, 0.1, 0.0)
    )
    assert torch.equal(noisy, again)
    noise = ((noisy - clean) * torch.tensor(IMAGENET_STD)[:, None, None]).flatten(1)  # of pixels in 0..1
    strengths = noise.std(1)
    assert noise.unique().numel() > 0.9 * noise.numel() and noise.mean().abs() < 0.002
    assert strengths.min() > 0 and strengths.max() < 0.11 and strengths.unique().numel() == 8


def test_jitter_is_one_draw_a_clip_and_stays_in_range() -> None:
    frames = np.full((4, 4, 16, 16, 3), 128, dtype=np.uint8)
    seen = augment(np.random.default_rng(0), frames, replace(tiny(), noise=0))
    assert torch.equal(seen[:, :1].expand_as(seen), seen)
    assert len({round(float(clip.mean()), 4) for clip in seen}) == 4


def test_a_step_draws_the_same_batch_whenever_it_is_asked(data: Path) -> None:
    clips, rows = np.load(data, mmap_mode="r"), np.arange(40)
    first, again = (draw(7, clips, rows, tiny_config(), tiny()) for _ in range(2))
    other, _ = draw(8, clips, rows, tiny_config(), tiny())
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1].target, again[1].target)
    assert not torch.equal(first[0], other)


@pytest.mark.parametrize("ahead", [1, 3, 9])
def test_batches_come_in_order_however_many_are_drawn_at_once(ahead: int) -> None:
    def slow_when_even(step: int) -> int:
        time.sleep(0.01 * (step % 2 == 0))
        return 10 * step

    assert list(prefetched(slow_when_even, 2, 7, ahead)) == [(step, 10 * step) for step in range(2, 7)]


def test_held_out_rows_are_never_trained_on() -> None:
    split = split_rows(100, 512, 0)
    assert len(split.held_out) == 10
    assert sorted([*split.train, *split.held_out]) == list(range(100))


def test_rate_warms_up_then_falls_and_the_teacher_slows_down() -> None:
    recipe = replace(tiny(), steps=100, warmup=10)
    rates = [learning_rate(step, recipe) for step in range(100)]
    assert rates[9] == recipe.lr == max(rates)
    assert sorted(rates[:10]) == rates[:10]
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert momentum(0, recipe) == 0.998
    assert momentum(100, recipe) == 1.0


def test_variance_and_covariance_are_zero_on_white_features_alone() -> None:
    white = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) * 1.1
    assert float(variance(spread(white))) == 0
    assert float(covariance(spread(white))) < 0.05
    assert float(variance(spread(torch.ones(100, 8)))) == pytest.approx(0.99, abs=0.01)
    assert float(covariance(spread(white[:, :1].repeat(1, 8)))) > 5
    torch.testing.assert_close(spread(white[:, :3]), torch.cov(white[:, :3].T))


def test_the_teacher_gets_no_gradient_and_the_student_does(data: Path) -> None:
    learner = build(tiny(), None)
    pixels, mask = draw(0, np.load(data, mmap_mode="r"), np.arange(40), tiny_config(), tiny())
    parts = vjepa(learner.student, learner.teacher, pixels, mask, (1, 2, 3), Weights())
    parts["loss"].backward()
    assert all(p.grad is None for p in learner.encoder.parameters())
    assert all(p.grad is not None for p in learner.student.jepa.encoder.parameters())
    expected = parts["predict"] + 0.5 * parts["dense"] + parts["variance"] + 0.04 * parts["covariance"]
    torch.testing.assert_close(parts["loss"], expected)


def test_the_student_does_not_see_what_it_must_tell(data: Path) -> None:
    """With the teacher's targets fixed, pixels under the target change nothing that the student computes."""
    learner = build(tiny(), None)
    clips = np.load(data, mmap_mode="r")
    pixels, mask = draw(0, clips, np.arange(40), tiny_config(), replace(tiny(), causal_share=1.0, short_share=0.0))
    weights = Weights(dense=0, variance=1, covariance=1)
    first = int(mask.target.min()) // 16 * 2
    changed = pixels.clone()
    changed[:, first:] = 0
    before, after = (vjepa(learner.student, learner.teacher, p, mask, (1, 2, 3), weights) for p in (pixels, changed))
    assert torch.equal(before["variance"], after["variance"])
    assert torch.equal(before["covariance"], after["covariance"])
    assert not torch.equal(before["predict"], after["predict"])


def test_the_teacher_is_the_slow_mean_of_the_student(data: Path) -> None:
    recipe = replace(tiny(), ema_start=0.9, ema_end=0.9)
    learner = build(recipe, None)
    clips, name = np.load(data, mmap_mode="r"), "encoder.layer.0.mlp.fc1.weight"
    expected = None
    for step in range(3):
        learn(learner, step, *draw(step, clips, np.arange(40), tiny_config(), recipe), recipe)
        student = learner.student.model.get_parameter(name).detach().clone()
        expected = student if expected is None else 0.9 * expected + 0.1 * student
    torch.testing.assert_close(learner.encoder.get_parameter(name), expected)


def test_a_few_steps_reduce_the_loss(data: Path) -> None:
    recipe = replace(tiny(), steps=40, lr=5e-3, warmup=5, causal_share=1.0, short_share=0.0)
    learner = build(recipe, None)
    clips = np.load(data, mmap_mode="r")
    told = [
        learn(learner, step, *draw(step % 4, clips, np.arange(40), tiny_config(), recipe), recipe)["predict"]
        for step in range(recipe.steps)
    ]
    assert np.mean(told[-4:]) < 0.85 * np.mean(told[:4])


def test_smaller_floats_follow_the_same_losses(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = np.load(data, mmap_mode="r")

    def two_steps() -> list[float]:
        learner = build(tiny(), None)
        batches = [draw(step, clips, np.arange(40), tiny_config(), tiny()) for step in range(2)]
        told = [learn(learner, step, *batch, tiny())["loss"] for step, batch in enumerate(batches)]
        assert all(p.dtype == torch.float32 for p in learner.student.parameters())
        return told

    full = two_steps()
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.bfloat16)
    assert two_steps() == pytest.approx(full, rel=0.02)


def test_a_non_finite_loss_stops_at_once_and_names_its_step(data: Path) -> None:
    learner = build(tiny(), None)
    pixels, mask = draw(0, np.load(data, mmap_mode="r"), np.arange(40), tiny_config(), tiny())
    before = learner.student.model.get_parameter("predictor.proj.weight").detach().clone()
    with pytest.raises(FloatingPointError, match=r"step 17: loss is nan"):
        learn(learner, 17, pixels * float("nan"), mask, tiny())
    assert torch.equal(learner.student.model.get_parameter("predictor.proj.weight"), before)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner, "train_dtype", lambda: torch.float32)
        run(data, out, tiny())
    return out


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "same", tiny())
    run(data, tmp_path / "other", replace(tiny(), seed=1))
    assert losses(tmp_path / "same") == losses(finished)
    assert losses(tmp_path / "other") != losses(finished)


def test_resuming_gives_the_same_run_to_the_bit(data: Path, finished: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(finished, half)
    shutil.rmtree(half / "checkpoints" / "step-00000006")
    shutil.rmtree(half / "encoder")
    run(data, half, tiny())
    assert losses(half) == losses(finished)
    for name in ("encoder/model.safetensors", "checkpoints/step-00000006/tensors.safetensors"):
        assert (half / name).read_bytes() == (finished / name).read_bytes()


def test_the_encoder_is_an_ordinary_folder_of_teacher_and_predictor(finished: Path) -> None:
    model = VJEPA2Model.from_pretrained(finished / "encoder")
    saved = checkpoint.latest(finished / "checkpoints")
    assert saved is not None
    average = checkpoint.under("average.module.model", saved.tensors)
    student = checkpoint.under("student.model", saved.tensors)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, (average if name.startswith("encoder.") else student)[name]), name
    world = VJEPA2World(model)
    assert (world.rate, target_levels(model)) == (8.0, (1, 2, 3))
    assert imagine(model, torch.zeros(1, 64, 48)).shape == (1, 32, 48)


def test_the_log_holds_health_beside_loss(finished: Path) -> None:
    last = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    wanted = {"loss", "predict", "dense", "variance", "covariance", "lr", "ema"}
    wanted |= {"std", "rank", "rank_centred", "decay", "lidar", "flops", "clips", "seconds", "gemm_share", "peak_bytes"}
    assert wanted | {"l1_predictor", "l1_copy_last", "l1_mean"} <= last.keys()
    rows = [json.loads(row) for row in (finished / "metrics.jsonl").read_text().splitlines()]
    assert np.all(np.diff([row["flops"] for row in rows]) > 0) and last["clips"] == 6 * 4
    assert json.loads((finished / "recipe.json").read_text())["encoder"] == "tiny"
    assert list((finished / "tensorboard").iterdir())


def test_labels_are_probed_on_held_out_clips(data: Path, tmp_path: Path, capsys: Any) -> None:
    clips = np.repeat(np.load(data), 6, axis=0)
    np.save(tmp_path / "clips.npy", clips)
    bright = clips[..., 0].mean((1, 2, 3))
    np.save(tmp_path / "labels.npy", np.stack([bright, np.arange(240) % 2], axis=1).astype(np.float32))
    recipe = replace(tiny(), steps=1, held_out=24)
    run(tmp_path / "clips.npy", tmp_path / "run", recipe, probe_labels=tmp_path / "labels.npy")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"probe_0", "probe_1"} <= last.keys()
    np.save(tmp_path / "short.npy", np.zeros((3, 1)))
    places = ["--data", str(tmp_path / "clips.npy"), "--out", str(tmp_path / "other")]
    assert main(["pretrain", "tiny", *places, "--probe-labels", str(tmp_path / "short.npy")]) == 2
    assert "one row a clip" in capsys.readouterr().err


def test_a_run_may_start_from_a_folder(data: Path, finished: Path) -> None:
    started = build(tiny(), finished / "encoder").student
    again = VJEPA2Model.from_pretrained(finished / "encoder")
    assert all(torch.equal(a, b) for a, b in zip(started.parameters(), again.parameters(), strict=True))


def test_a_folder_with_another_run_is_refused(data: Path, finished: Path) -> None:
    with pytest.raises(ValueError, match=r"lr 0.0005 -> 0.1"):
        run(data, finished, replace(tiny(), lr=0.1))
    with pytest.raises(ValueError, match="step 6"):
        run(data, finished, tiny(), resume=False)


def test_a_run_goes_on_with_the_data_and_the_start_that_it_began_with(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "other.npy", np.load(data)[::-1])
    with pytest.raises(ValueError, match=r"data 40 x 12 x 16 x 16 x 3 from \w+ -> 40 x 12 x 16 x 16 x 3 from"):
        run(tmp_path / "other.npy", finished, tiny())
    with pytest.raises(ValueError, match=r"learned from something else \(init none -> \w{12}\)"):
        run(data, finished, tiny(), init=finished / "encoder")
    shutil.copytree(finished, tmp_path / "old")
    for path in (tmp_path / "old").glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in state.items() if name != "origin"}))
    run(tmp_path / "other.npy", tmp_path / "old", tiny())


def test_clips_that_do_not_fit_and_unknown_encoders_are_refused(data: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.zeros((4, 7, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="at least 8 frames"):
        run(tmp_path / "short.npy", tmp_path / "run", tiny())
    with pytest.raises(ValueError, match="nano, small, mini, nano_picture, tiny"):
        run(data, tmp_path / "run", replace(tiny(), encoder="giant"))


@pytest.mark.parametrize(
    ("field", "value"), [("held_out", 0), ("log_every", 0), ("probe_every", -1), ("save_every", 0), ("max_target", 0.0)]
)
def test_settings_with_which_nothing_is_learned_or_kept_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} {value}.* 1"):
        replace(tiny(), **{field: value})  # type: ignore[arg-type]
    if field in ("log_every", "save_every"):
        with pytest.raises(ValueError, match=rf"{field} {value}: whole numbers of 1 or more"):
            replace(recipes.tiny(), **{field: value})  # type: ignore[arg-type]


def test_files_that_are_no_one_array_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "clips.npz", clips=np.zeros((4, 8, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "empty.npy").touch()
    for name, told in {"clips.npz": "an .npz of named arrays: save the one", "empty.npy": "is empty"}.items():
        with pytest.raises(ValueError, match=told):
            open_clips(tmp_path / name, 8, 16)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from foretell.train import checkpoint, learner, pretrain
from foretell.train.recipes import tiny_encoder
synced = []

def sync_or_die(path):
    synced.append(path)
    if len(synced) == 6:  # the second save: its tensors are on disk, its state is not, nothing is renamed
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.sync = sync_or_die
learner.train_dtype = lambda: torch.float32
pretrain.run(Path(sys.argv[1]), Path(sys.argv[2]), tiny_encoder())
"""


def test_killed_while_saving_and_resumed_is_the_run_that_was_never_killed(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED, str(data), str(tmp_path)], stdout=subprocess.DEVNULL)
    assert child.returncode == -signal.SIGKILL
    left = checkpoint.latest(tmp_path / "checkpoints")
    assert left is not None
    assert left.step == 3
    run(data, tmp_path, tiny())
    # One process's sums may run on another number of threads than the other's.
    assert losses(tmp_path) == pytest.approx(losses(finished), rel=1e-5)
    assert (tmp_path / "encoder" / "model.safetensors").exists()


RANK = """
import sys
from pathlib import Path
import torch
from foretell.train import learner, pretrain
from foretell.train.recipes import tiny_encoder

learner.train_dtype = lambda: torch.float32
pretrain.run(Path(sys.argv[1]), Path(sys.argv[2]), tiny_encoder())
"""


def two_ranks(script: Path, *words: str) -> tuple[int, str]:
    """Exit status, and what was said on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    told = subprocess.run([sys.executable, "-m", *launch, str(script), *words], capture_output=True, text=True)
    return told.returncode, told.stderr


def test_two_ranks_learn_as_one(data: Path, finished: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    status, told = two_ranks(script, str(data), str(tmp_path / "run"))
    assert status == 0, told
    alone, together = losses(finished), losses(tmp_path / "run")
    assert alone.keys() == together.keys()
    assert [together[step] for step in alone] == pytest.approx(list(alone.values()), rel=1e-4)
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()


STOPPED = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from foretell.train import learner, pretrain
from foretell.train.alarm import Unhealthy
from foretell.train.recipes import tiny_encoder

export, learner.PATIENCE = pretrain.export, timedelta(seconds=float(sys.argv[3]))

def slowly(*given):
    time.sleep(4)
    return export(*given)

def listen(alarm, done, *rest):
    if done == 4 and os.environ["RANK"] in sys.argv[4:]:
        raise Unhealthy("it went wrong")

pretrain.export, pretrain.listen = slowly, listen
pretrain.run(Path(sys.argv[1]), Path(sys.argv[2]), tiny_encoder())
"""


@pytest.mark.parametrize(
    "ranks",
    [pytest.param(("0", "1"), id="all at once"), pytest.param(("0",), id="the first alone", marks=pytest.mark.slow)],
)
def test_a_run_of_two_ranks_that_is_stopped_gives_back_its_last_healthy_encoder(
    data: Path, tmp_path: Path, ranks: tuple[str, ...]
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(STOPPED)
    status, told = two_ranks(script, str(data), str(tmp_path / "run"), "20" if len(ranks) > 1 else "1", *ranks)
    assert status != 0 and "it went wrong" in told and "is the encoder of step 3" in told, told
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()


def test_a_batch_that_does_not_divide_among_ranks_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(ValueError, match="does not divide among 3"):
        run(data, tmp_path, tiny())
