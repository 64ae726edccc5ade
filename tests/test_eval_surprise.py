"""Claims about surprise: it rises where the world breaks, says when nothing did, and its metrics are the published."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import VJEPA2Model

from foretell.__main__ import main
from foretell.eval import readouts, violations
from foretell.eval.record import rounded
from foretell.eval.stats import auroc
from foretell.eval.surprise import (
    Floats,
    Surprise,
    Watcher,
    contexts_of,
    curve,
    errors_of,
    open_watcher,
    sentence,
    sliding,
    watch_video,
)
from foretell.eval.violations import absolute_accuracy, by_context, figures_of, pairs_of, rows_of, run, table
from foretell.perception.encoder import picture_config, tiny_config
from foretell.perception.video import Clip
from foretell.train import learner, pretrain
from foretell.train.recipes import tiny_encoder
from foretell.train.worlds import Spec, generate_violations


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model") / "encoder"
    VJEPA2Model(tiny_config()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("violations") / "data"
    generate_violations(out, 16, 5, Spec(("inertia", "permanence")), progress=False)
    return out


def planted(above: dict[int, float] | None = None, count: int = 12) -> Floats:
    """Errors [W, C, T] of a video of `count` + 3 tubelets that depend on context and distance only, and are larger at
    some tubelets; NaN in the context."""
    errors = np.full((count, 3, 4), np.nan)
    for window in range(count):
        for context in range(3):
            for place in range(context + 1, 4):
                errors[window, context, place] = (
                    0.5 + 0.1 * place - 0.2 * context + (above or {}).get(window + place, 0.0)
                )
    return errors


def found(values: list[float]) -> Surprise:
    frames = np.zeros((2 * len(values), 8, 8, 3), np.uint8)
    times = np.arange(len(frames)) / 8
    clip = Clip(frames, times, float(times[-1]), float(times[-1]))
    return Surprise(clip, times[::2], np.array(values), np.ones((1, 1, 1)))


def test_windows_slide_by_a_tubelet() -> None:
    frames = torch.arange(12)[:, None, None, None].expand(-1, 2, 2, 3)
    assert sliding(frames, 8, 2)[:, :, 0, 0, 0].tolist() == [list(range(start, start + 8)) for start in (0, 2, 4)]


def test_what_depends_on_context_and_distance_alone_is_no_surprise() -> None:
    values = curve(planted())
    assert len(values) == 14  # the first tubelet is never foretold
    assert np.ptp(values) < 1e-12


@pytest.mark.parametrize("tubelet", [1, 5, 14])
def test_the_curve_rises_by_what_is_more_wrong_and_where_it_is(tubelet: int) -> None:
    flat, values = curve(planted()), curve(planted({tubelet: 0.3}))
    assert values.argmax() == tubelet - 1
    assert values.max() - flat[0] == pytest.approx(0.3)


def test_one_that_stands_out_broke_and_one_of_many_did_not() -> None:
    broken, calm = found([1.0, 1.1, 0.9, 1.0, 2.0, 1.05]), found([1.0, 1.1, 0.9, 1.0, 1.12, 1.05])
    assert broken.broke and broken.break_at == 4 and "1.00 s" in sentence(broken) and "broke" in sentence(broken)
    assert not calm.broke and "nothing stands out" in sentence(calm)
    assert found([0.5] * 6).z == 0


def test_an_untrained_twin_has_the_shape_and_none_of_the_weights(encoder: Path) -> None:
    watcher = open_watcher(encoder)
    twin = watcher.untrained()
    assert watcher.window == twin.window and twin.student.head is None
    windows = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    one, two = (errors_of(taker, windows, (1, 2)) for taker in (watcher, twin))
    assert np.array_equal(np.isnan(one), np.isnan(two)) and not np.allclose(one, two, equal_nan=True)
    assert np.array_equal(two, errors_of(watcher.untrained(), windows, (1, 2)), equal_nan=True)


@pytest.mark.parametrize(
    ("window", "context", "told"),
    [
        (8, None, [1, 2, 3]),
        (8, 6, [3]),
        (4, None, [1]),
        (7, None, "multiples of 2"),
        (16, None, "up to 8"),
        (2, None, "a window of 2"),
        (8, 8, "2, 4, 6 are allowed"),
        (4, 4, "of 4 frames: 2 are"),
    ],
)
def test_contexts_are_told_in_frames(encoder: Path, window: int, context: int | None, told: Any) -> None:
    watcher = open_watcher(encoder)
    if isinstance(told, list):
        assert contexts_of(watcher, window, context) == told
    else:
        with pytest.raises(ValueError, match=told):
            contexts_of(watcher, window, context)


def test_a_damaged_encoder_is_refused_by_its_folder(tmp_path: Path) -> None:
    VJEPA2Model(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=f"^{tmp_path}: its weights are damaged.*copy the model anew.*git lfs pull"):
        open_watcher(tmp_path)


def test_an_encoder_of_single_frames_expects_nothing(tmp_path: Path) -> None:
    VJEPA2Model(picture_config()).save_pretrained(tmp_path / "picture")
    with pytest.raises(ValueError, match="sees single frames"):
        open_watcher(tmp_path / "picture")


def pixel_watcher(folder: Path, objective: str, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    """What a pretraining run of two steps leaves behind."""
    monkeypatch.setattr(learner, "train_dtype", lambda: torch.float32)
    monkeypatch.setattr(pretrain, "gemm_peak", lambda dtype, device: 1e9)
    np.save(folder / "clips.npy", np.random.default_rng(0).integers(0, 256, (24, 8, 16, 16, 3), dtype=np.uint8))
    pretrain.run(folder / "clips.npy", folder / "run", replace(tiny_encoder(), objective=objective, steps=2))
    return open_watcher(folder / "run")


def test_a_masked_autoencoder_is_held_to_its_own_trained_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = pixel_watcher(tmp_path, "videomae", monkeypatch)
    windows = torch.randint(0, 256, (2, 8, 16, 16, 3), dtype=torch.uint8)
    told = errors_of(watcher, windows, (1, 3))
    assert np.isnan(told[0]).tolist() == [[True, False, False, False], [True, True, True, False]]
    assert watcher.student.head is not None
    watcher.student.head.weight.zero_()  # what the published code does to predictions
    watcher.student.head.bias.zero_()
    assert not np.allclose(errors_of(watcher, windows, (1, 3)), told, equal_nan=True)


def test_an_autoregressive_model_tells_the_next_tubelet_from_the_past_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = pixel_watcher(tmp_path, "pixel_ar", monkeypatch)
    windows = torch.randint(0, 256, (1, 8, 16, 16, 3), dtype=torch.uint8)
    told = errors_of(watcher, windows, (1, 2, 3))
    assert np.isnan(told[0]).tolist() == [
        [True, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]
    changed = windows.clone()
    changed[:, 6:] = 255 - changed[:, 6:]
    again = errors_of(watcher, changed, (1, 2, 3))
    assert again[0, :2] == pytest.approx(told[0, :2], rel=1e-5, nan_ok=True) and again[0, 2, 3] != told[0, 2, 3]
    with pytest.raises(ValueError, match="a model of pixels"):
        contexts_of(watcher, 4, None)


def test_a_video_is_watched_to_its_end_or_until(encoder: Path, tiny_video: Path) -> None:
    watcher = open_watcher(encoder)
    whole, part = watch_video(tiny_video, watcher), watch_video(tiny_video, watcher, until=1.0)
    assert whole.seconds.tolist() == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert part.seconds[-1] < 1.0 and len(part.clip.frames) == 9
    short = watch_video(tiny_video, watcher, until=0.25)
    assert len(short.clip.frames) == 8 and len(short.values) == 3 and short.z == 0


def test_the_command_tells_a_curve_and_draws_it(tiny_video: Path, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "plot.png"
    assert main(["surprise", str(tiny_video), "--save-plot", str(picture), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [point["seconds"] for point in told["curve"]] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert told["most_surprising"]["surprise"] == max(point["surprise"] for point in told["curve"])
    assert told["maximum"] >= told["average"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def published_absolute(real: Floats, fake: Floats) -> float:
    """As the published code computes it."""
    threshold = np.sort(real)[int(np.ceil(0.9 * len(real)))]
    return float(((real < threshold).sum() + (fake > threshold).sum()) / (len(real) + len(fake)))


def test_absolute_accuracy_and_auroc_are_the_published_ones_and_resample_as_repeated_clips() -> None:
    rng = np.random.default_rng(0)
    score, possible = rng.normal(size=60), np.arange(60) % 2 == 0
    score[~possible] += 1
    ones = np.ones((1, 60))
    accuracy, area = absolute_accuracy(score, possible), auroc(score, ~possible)
    assert accuracy(ones)[0] == pytest.approx(published_absolute(score[possible], score[~possible]))
    assert area(ones)[0] == pytest.approx(roc_auc_score(~possible, score))
    weights = np.repeat(rng.integers(0, 3, 30), 2)
    repeated, kind = np.repeat(score, weights), np.repeat(possible, weights)
    assert area(weights[None].astype(float))[0] == pytest.approx(roc_auc_score(~kind, repeated))
    assert accuracy(weights[None].astype(float))[0] == pytest.approx(
        published_absolute(repeated[kind], repeated[~kind])
    )


def fake_clips(count: int) -> list[dict[str, Any]]:
    """Rows of `count` quadruplets, in the order in which they are written."""
    return [
        {"quadruplet": f"q{number}", "pair": f"q{number}-{first}", "possible": first == last, "property": "gravity"}
        for number in range(count)
        for first, last in ("aa", "bb", "ab", "ba")
    ]


def test_pairs_share_their_first_part() -> None:
    assert pairs_of(fake_clips(2)) == [(0, 2), (1, 3), (4, 6), (5, 7)]
    with pytest.raises(ValueError, match="q0-a"):
        pairs_of(fake_clips(1)[:3][1:])


def test_one_more_surprised_by_every_impossible_clip_scores_all_and_one_never_surprised_scores_one_half() -> None:
    clips = fake_clips(6)
    scores = np.ones((24, 5))
    scores[[not clip["possible"] for clip in clips], 2] = 2.0
    told, blank = figures_of(scores, clips), figures_of(np.ones((24, 5)), clips)
    for metric in ("relative accuracy", "quadruplet accuracy", "AUROC"):
        for name in (f"{metric}, average", f"{metric}, maximum"):
            assert told[name].value == 1.0 and blank[name].value == 0.5


def test_looks_make_one_pair_right_and_one_wrong_and_cancel_in_a_quadruplet() -> None:
    """Whatever ends like tale b surprises, and what is impossible surprises a little more."""
    scores = np.tile([1.0, 2.0, 2.1, 1.1], 6)[:, None]  # aa, bb, ab, ba
    told = figures_of(scores, fake_clips(6))
    assert told["relative accuracy, average"].value == 0.5
    assert told["quadruplet accuracy, average"].value == 1.0 and told["quadruplet accuracy, average"].n == 6


def test_the_least_surprised_context_comes_first() -> None:
    scores = np.array([[[3.0, 1.0], [2.0, 5.0]]])  # [N, C, W]
    named = by_context(scores, (1, 2), 2)
    assert list(named) == ["least", "2 frames", "4 frames"] and named["least"].tolist() == [[2.0, 1.0]]


def test_a_model_is_measured_beside_its_untrained_twin_and_twice_the_same(
    encoder: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(encoder, world, tmp_path / "one.json", command="foretell eval surprise")
    cells = {(row["model"], row["property"], row["context"]) for row in found["figures"]}
    contexts = ("least", "2 frames", "4 frames", "6 frames")
    assert cells == {
        (model, name, context)
        for model in ("trained", "random init")
        for name in ("all", "inertia", "permanence")
        for context in contexts
    }
    assert {row["n"] for row in found["figures"] if row["metric"].startswith("relative")} == {8, 4}
    assert {row["n"] for row in found["figures"] if row["metric"].startswith("quadruplet")} == {4, 2}
    assert found["data"]["quadruplets"] == 4 and found["command"] == "foretell eval surprise"
    assert len(table(found).splitlines()) == 2 + 3
    assert len((tmp_path / "one.clips.jsonl").read_text().splitlines()) == 2 * 16
    monkeypatch.setattr(violations, "CLIPS_AT_ONCE", 3)
    again = run(encoder, world, tmp_path / "two.json", command="foretell eval surprise")
    assert again["figures"] == found["figures"]
    monkeypatch.setattr(violations, "scores_of", lambda *_: pytest.fail("measured again"))
    assert run(encoder, world, tmp_path / "one.json")["figures"] == found["figures"]


def test_other_weights_are_measured_anew(
    encoder: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(encoder, world, tmp_path / "one.json")
    before = (tmp_path / "one.clips.jsonl").read_text().splitlines()
    asked = []
    measured = violations.scores_of

    def counted(*parts: Any) -> Any:
        asked.append(parts)
        return measured(*parts)

    monkeypatch.setattr(violations, "scores_of", counted)
    model = VJEPA2Model.from_pretrained(encoder)
    with torch.no_grad():
        for part in model.predictor.parameters():
            part.mul_(3)
    model.save_pretrained(tmp_path / "other")
    run(tmp_path / "other", world, tmp_path / "one.json")
    after = (tmp_path / "one.clips.jsonl").read_text().splitlines()
    assert len(asked) == 1 and len(after) == len(before)  # the untrained twin is the same
    assert len(set(before) & set(after)) == len(before) // 2


def test_an_exam_tells_what_surprises_a_model_and_its_rivals_by_name(
    encoder: Path, world: Path, tmp_path: Path
) -> None:
    found = readouts.surprise_of({"foretell": encoder, "a rival": encoder}, world, tmp_path / "r.json", "foretell eval")
    assert list(found) == ["foretell", "a rival"] and found["foretell"]["figures"] == found["a rival"]["figures"]
    assert not found["foretell"].keys() & set(readouts.SOURCE)
    beside = json.loads((tmp_path / "r-surprise-a-rival.json").read_text())
    assert beside["command"] == "foretell eval" and beside["figures"] == rounded(found["a rival"]["figures"])
    head, *rows = rows_of(found["foretell"])
    assert head[:3] == ["property", "pairs", "chance"] and [row[0] for row in rows] == ["all", "permanence", "inertia"]
