"""Claims about bridge training: the frozen stays frozen, a cut run goes on to the same losses, the result answers."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from foretell.bridge.cache import FeatureCache
from foretell.bridge.projector import word_embeddings
from foretell.perception.encoder import VJEPA2World
from foretell.perception.video import last_shown
from foretell.reasoner.answer import Answer, Foretell
from foretell.reasoner.model import load, save_parts
from foretell.reasoner.processing import ForetellProcessor, Pack
from foretell.train import checks, data, fit
from foretell.train.data import Row, Split, load_clips, questions_by_clip
from foretell.train.facts import (
    MISSING,
    SLOTS,
    WORDS,
    FactHeads,
    Targets,
    closest,
    fact_counts,
    measures_of,
    slot_words,
    word_loss,
    word_weights,
    words_of,
)
from foretell.train.flops import Operations
from foretell.train.moves import Moves
from foretell.train.pairs import Source
from foretell.train.recipes import FitRecipe, Stage, tiny
from foretell.train.worlds import generate
from foretell.train.worlds.questions import family
from foretell.train.worlds.scene import COLOURS, SHAPES
from foretell.train.worlds.sight import count_seen, in_sight

from .fit_lab import losses, make_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of 24 clips, an untrained encoder and an untrained language model on disk."""
    return make_lab(tmp_path_factory.mktemp("lab"))


def train(lab: Path, out: Path, recipe: FitRecipe, stages: tuple[str, ...] | None = None) -> Path:
    parts = lab / "data", lab / "data", lab / "encoder"
    return fit.run(*parts, out, recipe, str(lab / "llm"), lab / "features", stages)


@pytest.fixture(scope="module")
def model(lab: Path) -> Path:
    return train(lab, lab / "run", tiny())


def first_batch(split: Split, stage: Stage, processor: ForetellProcessor) -> fit.Batch:
    """All of what a stage learns from in its first step."""
    prompts = fit.Prompts(processor)
    return fit.batch_of(fit.draw(0, stage, split, prompts, seed=0), slice(None), split, prompts, imagination=True)


def test_the_result_answers_with_an_option_and_a_calibrated_confidence(lab: Path, model: Path) -> None:
    packed = load_clips(lab / "data")
    answer = Foretell.load(model, str(lab / "llm")).answer(packed.frames[0, :8], "Will the tower fall?")
    assert answer.probabilities is not None and set(answer.probabilities) == {"yes", "no"}
    assert answer.confidence == max(answer.probabilities.values())
    calibration = json.loads((model / "calibration.json").read_text())
    assert set(calibration) == {"temperature", "threshold", "written_temperature", "written_threshold"}
    assert calibration["written_temperature"] != 1.0 and calibration["temperature"] != 1.0


def test_texts_are_right_that_say_the_answer_and_calibrated_by_how_likely_they_are(
    lab: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split.open(lab / "data", VJEPA2World.from_pretrained(lab / "encoder"), lab / "features")
    foretell, rng = Foretell.load(model, str(lab / "llm")), np.random.default_rng(0)
    rows = [row for rows in split.asked(24) for row in rows if row["options"] != ["yes", "no"]]

    def calibrated(text: Callable[[str], str]) -> dict[str, float]:
        asked = iter(rows)

        def write(features: Any, imagined: Any, questions: Sequence[str], limit: int) -> list[Answer]:
            each = list(islice(asked, len(questions)))
            assert [row["question"] for row in each] == questions, "a yes/no question was to be written to"
            return [Answer(text(row["answer"]), float(rng.uniform(0.2, 0.6)), False) for row in each]

        monkeypatch.setattr(foretell, "generate_features", write)
        return checks.calibrate(foretell, split, clips=24)

    wrong = calibrated(lambda answer: f"Not {answer}")
    assert wrong["written_threshold"] == 1.0 and wrong["written_temperature"] < 0.1
    right = calibrated(lambda answer: f"{answer.upper()}.")
    assert right["written_temperature"] > 50 and right["temperature"] == wrong["temperature"]


def test_the_encoder_stays_bit_equal_up_to_its_storage(lab: Path, model: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (lab / "encoder", model / "encoder"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].half(), after[name]) for name in before)


def test_every_stage_changes_its_own_parts_only(lab: Path, model: Path) -> None:
    def weights(stage: str, part: str) -> dict[str, torch.Tensor]:
        newest = sorted((lab / "run" / stage / "checkpoints").glob("step-*"))[-1]
        return {n: t for n, t in load_file(newest / "tensors.safetensors").items() if n.startswith(part)}

    def same(part: str, one: str, other: str) -> bool:
        a, b = weights(one, part), weights(other, part)
        return all(torch.equal(a[name], b[name]) for name in a)

    assert same("bridge.magnifier", "warm", "align") and not same("bridge.magnifier", "align", "tune")
    assert not weights("warm", "lora") and not weights("align", "lora")
    assert any(t.any() for n, t in weights("tune", "lora").items() if "lora_B" in n)
    assert same("bridge.blocks", "warm", "align") and not same("bridge.blocks", "align", "tune")
    assert not same("bridge.out", "warm", "align") and not same("bridge.out", "align", "tune")
    assert same("heads", "warm", "align") and not same("heads", "align", "tune")


def fresh(lab: Path, stage: Stage) -> tuple[fit.Draw, Split, fit.Watcher]:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features", mirror=True)
    watcher = fit.Watcher(world, split.stock(world, torch.device("cpu")))
    _, processor = fit.build(tiny(), world, str(lab / "llm"))
    return fit.draw(0, stage, split, fit.Prompts(processor), seed=0), split, watcher


def test_a_fresh_stage_sees_each_clip_in_another_way_and_is_told_what_is_true_of_that(lab: Path, model: Path) -> None:
    stage = replace(tiny().stages["warm"], batch=24)
    drawn, split, watcher = fresh(lab, stage)
    batch = watcher.features(fit.fresh_batch(drawn, slice(None), split), imagination=True)
    assert drawn.moves is not None and sorted(drawn.asked) == list(range(24)), "mirror images are drawn from, too"
    kept, _ = split.cache.rows([split.keys[row] for row in drawn.asked])
    assert batch["features"].shape == kept.shape and not torch.allclose(batch["features"], kept, atol=0.1)
    still = Moves(
        *(part * 0 + rest for part, rest in zip(vars(drawn.moves).values(), (1, 0, 1, 0, 1, 1, 0, 0, 0), strict=True))
    )
    plain = fit.fresh_batch(replace(drawn, moves=still), slice(None), split)
    torch.testing.assert_close(watcher.features(plain, imagination=True)["features"], kept, atol=0.02, rtol=0.02)
    truth = split.targets.batch(drawn.asked)
    direction, sides = list(SLOTS).index("direction"), [WORDS.index(" left"), WORDS.index(" right")]
    turned = batch["words"] != truth["words"]
    assert torch.equal(
        turned[:, direction], drawn.moves.mirrored & torch.isin(truth["words"][:, direction], torch.tensor(sides))
    )
    assert not turned[:, torch.arange(len(SLOTS)) != direction].any()
    torch.testing.assert_close(batch["places"], drawn.moves.places(truth["places"]), equal_nan=True)
    assert batch["counts"] == fact_counts(batch) | {"answers": 0.0}


def test_parts_of_a_fresh_batch_see_what_the_whole_would(lab: Path, model: Path) -> None:
    drawn, split, watcher = fresh(lab, tiny().stages["warm"])
    whole = watcher.features(fit.fresh_batch(drawn, slice(None), split), imagination=True)
    for part in fit.shares(0, 1, 2):
        mine = watcher.features(fit.fresh_batch(drawn, part, split), imagination=True)
        for name in ("features", "imagined", "words", "places"):
            torch.testing.assert_close(mine[name], whole[name][part], equal_nan=True)


def test_frames_that_do_not_fit_in_memory_are_refused(lab: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features")
    assert data.room(torch.device("cpu")) > 1e6
    monkeypatch.setattr(data, "room", lambda device: 2 * 24 * 8 * 16 * 16 * 3 - 1)
    with pytest.raises(ValueError, match=r"24 clips take 0.0 GB, .*: take fewer clips, or .*stages.warm.fresh=false"):
        split.stock(world, torch.device("cpu"))


def test_fresh_stages_alone_cache_no_more_features_than_statistics_need(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "STATISTICS", 5)
    generate(tmp_path / "few", 4, seed=90, progress=False)
    stages = {"warm": replace(tiny().stages["warm"], steps=1)}
    recipe = replace(tiny(), stages=stages, save_every=1)
    fit.run(
        lab / "data",
        tmp_path / "few",
        lab / "encoder",
        tmp_path / "out",
        recipe,
        str(lab / "llm"),
        tmp_path / "features",
    )
    assert len(FeatureCache.open(tmp_path / "features").place) == 5 + 4


def test_shapes_told_by_patches_are_validated_where_patches_are_looked_into(lab: Path, model: Path) -> None:
    rows = [json.loads(line) for line in (lab / "run" / "warm" / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= rows[-1]["val_shapes"] <= 1 and rows[-1]["shapes"] > 0
    train(lab, lab / "deep", replace(tiny(), stages={"warm": tiny().stages["warm"]}, taps=(2, 3)))
    rows = [json.loads(line) for line in (lab / "deep" / "warm" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["val_words"] >= 0 and not {"val_shapes", "shapes"} & set(rows[-1])


def test_what_tells_no_facts_cannot_warm_a_bridge_up(lab: Path, model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    split = Split.open(lab / "data", VJEPA2World.from_pretrained(lab / "encoder"), lab / "features")
    assert fit.teachable(tiny(), ("warm", "tune"), split) == ("warm", "tune")
    unknown = replace(split, targets=Targets.unknown(len(split.keys)))
    assert fit.teachable(tiny(), ("warm", "tune"), unknown) == ("tune",)
    assert "no set tells facts as worlds do, so left out: warm" in capfd.readouterr().err


def test_a_cut_run_goes_on_to_bit_identical_losses(lab: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = fit.Run._step

    def power_cut(self: fit.Run, optimizer: object, number: int, *rest: object) -> object:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, optimizer, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fit.Run, "_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train(lab, lab / "cut", tiny())
    monkeypatch.setattr(fit.Run, "_step", step)
    train(lab, lab / "cut", tiny())
    assert losses(lab / "cut") == losses(lab / "run")


def test_the_language_model_keeps_its_attention(lab: Path, model: Path) -> None:
    assert Foretell.load(model, str(lab / "llm")).model.language_model.config._attn_implementation == "sdpa"
    world = VJEPA2World.from_pretrained(lab / "encoder")
    trainee, _ = fit.build(tiny(), world, str(lab / "llm"))
    language_model: Any = trainee.model.language_model
    parts = (language_model.get_base_model(), trainee.model.encoder)
    assert [part.config._attn_implementation for part in parts] == ["sdpa", "sdpa"]


def test_losses_do_not_depend_on_the_live_type_much(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 copies of fp32 masters: near to fp32, and the masters stay fp32."""
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features")
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(fit, "train_dtype", lambda: dtype)  # noqa: B023
        trainee, processor = fit.build(tiny(), world, str(lab / "llm"))
        fit.trained(trainee, "tune")
        stage = tiny().stages["tune"]
        batch = first_batch(split, stage, processor)
        loss = fit.gradients(trainee, batch, stage)["loss"]
        assert {p.grad.dtype for p in trainee.parameters() if p.grad is not None} == {torch.float32}
        found[dtype] = loss.item()
    assert found[torch.bfloat16] == pytest.approx(found[torch.float32], rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_changes_no_loss_and_no_gradient(
    lab: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Nor does counting operations."""
    monkeypatch.setattr(fit, "train_dtype", lambda: dtype)
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features")
    stage, losses, grads = tiny().stages["tune"], [], []
    for checkpointing in (False, True):
        trainee, processor = fit.build(replace(tiny(), checkpointing=checkpointing), world, str(lab / "llm"))
        learned = [p for part in fit.trained(trainee, "tune").values() for p in part if p.numel()]
        torch.manual_seed(1)
        for name, parameter in trainee.named_parameters():
            if "lora_B" in name:  # zero, so that nothing would reach A
                nn.init.normal_(parameter, std=0.1)
        with Operations() if checkpointing else nullcontext():
            losses.append(fit.gradients(trainee.train(), first_batch(split, stage, processor), stage))
        grads.append([p.grad for p in learned])
    assert losses[0].keys() == losses[1].keys()
    for one, other in zip([*losses[0].values(), *grads[0]], [*losses[1].values(), *grads[1]], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_dora_trains_lengths_too_and_goes_on_from_them(lab: Path, tmp_path: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features")
    recipe = replace(tiny(), dora=True, rslora=True)
    trainee, processor = fit.build(recipe, world, str(lab / "llm"))
    stage, lora = recipe.stages["tune"], fit.trained(trainee, "tune")["lora"]
    fit.gradients(trainee.train(), first_batch(split, stage, processor), stage)
    lengths = [p for p in lora if p.ndim == 1]
    assert len(lengths) == 2 * 7 and all(p.grad is not None and p.grad.any() for p in lengths)
    fit.optimizer_of(fit.trained(trainee, "tune"), stage).step()
    save_parts(trainee.model, tmp_path)
    twin, _ = fit.build(recipe, world, str(lab / "llm"))
    assert fit.start_from(twin.model, tmp_path) == []
    assert all(torch.equal(a, b) for a, b in zip(lora, fit.trained(twin, "tune")["lora"], strict=True))
    plain, _ = fit.build(tiny(), world, str(lab / "llm"))
    assert fit.start_from(plain.model, tmp_path) == ["lora"]


def test_the_log_holds_speed_beside_loss(lab: Path, model: Path) -> None:
    def rows(stage: str) -> list[dict[str, float]]:
        return [json.loads(row) for row in (lab / "run" / stage / "metrics.jsonl").read_text().splitlines()]

    rates = {"flops", "seconds", "gemm_share", "peak_bytes"}
    assert rates <= rows("warm")[0].keys() and "tokens" not in rows("warm")[0]
    first, last = rows("tune")
    assert rates | {"tokens", "tokens_per_second", "loss", "lr"} <= last.keys()
    assert 0 < first["flops"] < last["flops"] and 0 < first["tokens"] < last["tokens"]
    assert json.loads((lab / "run" / "tune" / "recipe.json").read_text())["width"] == 32
    facts = json.loads((model / "training.json").read_text())
    assert facts["flops"]["tune"] == last["flops"]


def test_clips_that_share_a_row_have_the_losses_they_have_alone(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features")
    monkeypatch.setattr(fit, "train_dtype", lambda: torch.float32)
    trainee, processor = fit.build(tiny(), world, str(lab / "llm"))
    stage = replace(tiny().stages["tune"], batch=5, extra=0)
    found = {}
    for together in (1, 2, 5):
        monkeypatch.setattr(fit, "TOGETHER", together)
        batch = first_batch(split, stage, processor)
        assert len(batch["input_ids"]) == -(-5 // together)
        found[together] = fit.gradients(trainee, batch, stage)["answers"].item()
    assert found[2] == pytest.approx(found[1], rel=1e-5) and found[5] == pytest.approx(found[1], rel=1e-5)


def test_a_share_of_the_clips_is_told_what_is_true(lab: Path) -> None:
    split = Split.open(lab / "data", VJEPA2World.from_pretrained(lab / "encoder"), lab / "features")
    _, processor = fit.build(tiny(), VJEPA2World.from_pretrained(lab / "encoder"), str(lab / "llm"))
    shares = {}
    for share in (0.0, 0.5, 1.0):
        stage = replace(tiny().stages["tune"], batch=16, told=share)
        batch = first_batch(split, stage, processor)
        told, words = batch["told"], batch["words"][: batch["asked"]]
        assert ((told == words) | (told == MISSING)).all()
        shares[share] = (told != MISSING).any(1).float().mean().item()
    assert shares[0.0] == 0 and shares[1.0] == 1 and 0.2 < shares[0.5] < 0.8


def test_another_recipe_does_not_resume_a_run(lab: Path, model: Path) -> None:
    with pytest.raises(ValueError, match=r"another recipe .*seed 0 -> 1"):
        train(lab, lab / "run", replace(tiny(), seed=1))


def test_a_training_goes_on_with_what_it_began_with(lab: Path, model: Path) -> None:
    parts = (lab / "data", lab / "data", lab / "encoder", lab / "run", tiny(), str(lab / "llm"), lab / "features")
    with pytest.raises(ValueError, match=r"warm holds a run .* something else \(init's bridge none -> \w{12}\)"):
        fit.run(*parts, init=model)
    with pytest.raises(ValueError, match=r"tune holds a run .* something else \(init none -> \w{12}\)"):
        fit.run(*parts, init=model / "lora")


def test_a_stage_goes_on_with_the_data_that_it_began_with(lab: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "run", tmp_path / "run")
    parts = (lab / "data", lab / "encoder", tmp_path / "run", tiny(), str(lab / "llm"), lab / "features")
    twice = [Source(lab / "data"), Source(lab / "data", 2.0)]
    fit.run(twice, *parts)  # every stage has ended: nothing is drawn any more
    half, end = sorted((tmp_path / "run" / "warm" / "checkpoints").glob("step-*"))
    shutil.rmtree(end)
    with pytest.raises(ValueError, match=r"warm holds a run .* something else \(data \w{12} -> \w{12}\)"):
        fit.run(twice, *parts)
    one = Split.open(lab / "data", VJEPA2World.from_pretrained(lab / "encoder"), lab / "features")
    assert Split.mix([one, one], [1, 2]).mark != Split.mix([one, one], [2, 1]).mark
    fit.run([Source(lab / "data")], *parts, stages=("warm",))  # no other view of the clips is opened: the same ones
    assert end.is_dir() and half.is_dir()


def test_a_non_finite_loss_stops_before_the_optimizer_and_names_its_clips(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def spoilt(logits: torch.Tensor, one: Pack) -> torch.Tensor:
        calls.append(len(calls))
        return answer_loss(logits, one) * (float("nan") if len(calls) in (2, 3, 4) else 1)

    answer_loss = fit.answer_loss
    monkeypatch.setattr(fit, "answer_loss", spoilt)
    parted = replace(tiny(), accumulate=2)
    named = r"clips/[a-z]+-\d+.mp4"
    with pytest.raises(FloatingPointError, match=rf"step 0: .*answers is nan.*; clips: {named}; nothing of this step"):
        train(lab, lab / "nan", parted, stages=("align",))
    with pytest.raises(FloatingPointError, match=rf"step 0: .*; clips: {named}, {named}; .*lower lr"):
        train(lab, lab / "nan", parted, stages=("align",))
    assert not list((lab / "nan").rglob("step-*"))


def test_words_are_read_off_the_metadata(lab: Path) -> None:
    packed = load_clips(lab / "data")
    targets = Targets.of(packed.clips)
    slots = list(SLOTS)
    for n, clip in enumerate(packed.clips):
        told = {slot: WORDS[k] for slot, k in zip(slots, targets.words[n].tolist(), strict=True) if k != MISSING}
        assert told == words_of(clip)
        assert told.get("count") == (None if count_seen(clip) is None else str(count_seen(clip)))
        assert {slot for slot in told if slot.endswith(" shape") and told[slot] != " none"} == {
            f"{one['colour']} shape" for one in in_sight(clip)
        }
        falls = {f"{key.split('/')[1]} falls": fell for key, fell in clip["facts"].items() if key.startswith("falls/")}
        assert {slot: told[slot] == " fall" for slot in told if slot.endswith(" falls")} == falls
        assert (~targets.places[n].isnan().all(-1)).sum() == len(clip["objects"])


def test_shapes_are_told_by_the_patches_that_objects_lie_in(lab: Path) -> None:
    """Patches that say each object's shape where it is, and nothing else does."""
    clips = load_clips(lab / "data").clips
    batch = Targets.of(clips).batch(np.arange(len(clips)))
    found, inside = torch.zeros(len(clips), 4 * 4, 8), 0
    for n, clip in enumerate(clips):
        frame = min(last_shown(clip["until"], clip["fps"]), clip["frames"] - 1)
        cells = [(int(4 * state[8]), int(4 * state[7])) for state in clip["states"][frame]]
        for one, (row, column) in zip(clip["objects"], cells, strict=True):
            if one in in_sight(clip) and row in range(4) and column in range(4):
                inside += 1
                found[n, 4 * row + column, list(SHAPES).index(one["shape"])] = 1
    heads = FactHeads(8, 2).requires_grad_(False)
    heads.shapes.load_state_dict({"1.weight": 50 * torch.eye(3, 8), "1.bias": torch.zeros(3)}, strict=False)
    sure, blind = (heads.shapes_loss(one, batch).item() for one in (found, torch.zeros_like(found)))
    assert fact_counts(batch)["shapes"] == pytest.approx(inside, abs=2)  # rounded states on a border
    assert blind == pytest.approx(fact_counts(batch)["shapes"] * np.log(3), rel=1e-4)
    assert sure < 0.3 * blind  # some share a cell


def test_what_is_moved_lies_where_its_place_says() -> None:
    moves = Moves.draw(np.random.default_rng(1), 40)
    frames = torch.zeros(40, 2, 64, 64, 3, dtype=torch.uint8)
    frames[:, :, 30:34, 38:42] = 200  # its middle at (.625, .5)
    moves = replace(moves, bars=0 * moves.bars, noise=0 * moves.noise)
    places = moves.places(torch.tensor([0.625, 0.5, 0.2, -0.1]).expand(40, 1, 4))
    light = moves.frames(frames)[:, 1].float().sum(-1)  # [B, S, S]
    light = (light - light.flatten(1).median(1).values[:, None, None]).clamp_min(0)
    middles = torch.stack([(light.sum(axis) * (torch.arange(64) + 0.5) / 64).sum(1) for axis in (1, 2)], dim=1)
    torch.testing.assert_close(middles / light.sum((1, 2))[:, None], places[:, 0, :2], atol=0.01, rtol=0)
    assert places[:, 0, 0].std() > 0.08 and moves.mirrored.any() and not moves.mirrored.all()
    there = moves.places(torch.tensor([0.825, 0.4]).expand(40, 1, 2))
    torch.testing.assert_close(places[..., 2:], there - places[..., :2], msg="moves are not those of the new picture")
    part = moves.part(slice(1, None, 3))
    assert torch.equal(part.frames(frames[1::3]), moves.frames(frames)[1::3])
    assert Moves.draw(np.random.default_rng(1), 40).places(places).isfinite().all()


def test_what_a_mirror_moves_stays_off_the_edge() -> None:
    places, edge = torch.tensor([[0.12, 0.5], [0.8, 0.85], [1.3, 0.5]]), 0.06
    seeds = [np.random.default_rng(seed) for seed in range(50)]

    def kept(moves: Moves) -> list[bool]:
        there, hidden = moves.places(places[None])[0], edge + torch.from_numpy(moves.bars[0])
        return ((there > hidden) & (there < 1 - hidden)).all(-1).tolist()

    careless = [kept(Moves.keeping(rng, places[None], sides=(-1.0,), tries=1)) for rng in seeds]
    careful = [Moves.keeping(rng, places[None], sides=(-1.0,), tries=40) for rng in seeds]
    assert all((moves.scale[:, 0] < 0).all() and kept(moves)[:2] == [True, True] for moves in careful)
    assert any(one[:2] != [True, True] for one in careless)


def test_every_word_of_a_clip_is_one_that_its_slot_may_say(lab: Path) -> None:
    for clip in load_clips(lab / "data").clips:
        assert all(word in SLOTS[slot] for slot, word in words_of(clip).items())


def test_two_outcomes_of_a_scenario_are_said_in_two_words(lab: Path) -> None:
    said: dict[str, set[tuple[bool, str]]] = {}
    for clip in load_clips(lab / "data").clips:
        said.setdefault(clip["scenario"], set()).add((clip["outcome"]["value"], words_of(clip)["outcome"]))
    assert len(said) == 6
    assert all(
        len(pairs) == len({word for _, word in pairs}) == len({value for value, _ in pairs}) for pairs in said.values()
    )


def test_a_mirror_exchanges_left_and_right_in_what_is_told(lab: Path) -> None:
    packed = load_clips(lab / "data")
    mirrored = packed.mirror()
    swap = {" left": " right", " right": " left"}
    for clip, image in zip(packed.clips, mirrored.clips, strict=True):
        assert words_of(image) == {slot: swap.get(word, word) for slot, word in words_of(clip).items()}
        assert measures_of(image) == measures_of(clip)
    ours, theirs = Targets.of(packed.clips).places, Targets.of(mirrored.clips).places
    assert mirrored.mirrored is not None and (mirrored.mirrored.scale[:, 0] < 0).all()
    there = ~ours[..., 0].isnan() & ((ours[..., :2] > 0) & (ours[..., :2] < 1)).all(-1)
    scale = torch.from_numpy(mirrored.mirrored.scale)[:, None]
    assert torch.allclose(theirs[..., :2], mirrored.mirrored.places(ours)[..., :2], atol=1e-3, equal_nan=True)
    assert torch.allclose((theirs[..., 2:4] * scale)[there], ours[..., 2:4][there], atol=4e-3), "moves grow and turn"
    pairs = [
        (row, image)
        for rows, images in zip(questions_by_clip(packed), questions_by_clip(mirrored), strict=True)
        for row, image in zip(rows, images, strict=True)
    ]
    sided = [(row, image) for row, image in pairs if row != image]
    assert sided and all(row["type"] == "direction" for row, _ in sided)
    assert all({row["answer"], image["answer"]} == {"left", "right"} for row, image in sided)


def test_what_a_family_asks_is_true(lab: Path) -> None:
    packed, seen = load_clips(lab / "data"), set()
    for clip, rows in zip(packed.clips, questions_by_clip(packed), strict=True):
        for row in rows:
            first, *more = family(row, clip, np.random.default_rng(clip["seed"]))
            assert first is row and all((one["type"], one["video"]) == (row["type"], row["video"]) for one in more)
            for one in (first, *more):
                assert "{" not in one["question"] and one["answer"] in one["options"]
                assert _true(one, clip)
            if more and row["type"] != "shape":
                polarity = row["negated"]
                assert [one["negated"] for one in more] == [not polarity, polarity, not polarity]
                assert {row["answer"], more[0]["answer"]} == {"yes", "no"} == {one["answer"] for one in more[1:]}
            if row["type"] == "present":
                assert more[1]["answer"] != row["answer"], "another colour, one that is absent for one that is there"
            seen |= {row["type"]} if more else set()
    assert seen >= {"falls", "present", "touches", "shape"}


def _true(row: Row, clip: Row) -> bool:
    """Whether a question's answer is right, read off the clip's metadata and the question's wording."""
    named = [colour for colour in COLOURS if re.search(rf"\b{colour}\b", row["question"])]
    shapes = {one["colour"]: one["shape"] for one in clip["objects"]}
    if row["options"] != ["yes", "no"]:
        return row["type"] != "shape" or bool(shapes[named[0]] == row["answer"])
    if row["type"] == "present":
        fact = named[0] in shapes
    elif row["type"].endswith(("block_falls", "domino_falls")):
        fact = clip["facts"][f"falls/{named[0]}"]
    else:
        fact = clip["outcome"]["value"]
    return bool(row["answer"] == ("no" if fact == row["negated"] else "yes"))


def test_a_mirrored_clip_has_features_of_its_own(lab: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    split = Split.open(lab / "data", world, lab / "features", mirror=True)
    (one, image), _ = split.cache.rows([split.keys[0], split.keys[24]])
    frames = torch.from_numpy(load_clips(lab / "data").mirror().shown(0, 0.0, world.rate, world.frames).copy())
    assert len(split.keys) == len(set(split.keys)) == 48 and split.videos[0] == split.videos[24]
    assert not torch.allclose(one, image)
    assert frames.shape[0] == world.frames


def test_another_light_is_mild_and_the_same_each_time(lab: Path) -> None:
    packed = load_clips(lab / "data")
    mirror = packed.mirror()
    plain, image = packed.shown(0, 1.0, 8.0, 8), mirror.shown(0, 1.0, 8.0, 8)
    again = packed.mirror().shown(0, 1.0, 8.0, 8)
    assert image.dtype == np.uint8 and image.shape == plain.shape and np.array_equal(image, again)
    moves = mirror.mirrored
    assert moves is not None
    frames = torch.stack([torch.from_numpy(packed.shown(row, 1.0, 8.0, 8)) for row in range(24)])
    dull = replace(
        moves, noise=0 * moves.noise, bars=0 * moves.bars, contrast=moves.contrast**0, saturation=moves.saturation**0
    )
    lit = replace(dull, gain=dull.gain**0, lift=0 * dull.lift)
    changed = (moves.frames(frames).float() - lit.frames(frames).float()).abs().mean((1, 2, 3, 4))
    assert changed.max() < 60 and changed.mean() > 2 and (changed < 0.01).any(), "some are lit as they were"
    alike = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(moves.frames(frames), lit.frames(frames), strict=True)
    ]
    assert np.median(alike) > 0.9


def test_bars_are_black_and_hide_nothing_that_is_asked_about() -> None:
    moves = replace(Moves.draw(np.random.default_rng(0), 2), bars=np.array([[0.125, 0], [0, 0.25]], np.float32))
    across, down = moves.frames(torch.full((2, 2, 16, 16, 3), 128, dtype=torch.uint8))
    assert not across[:, :, :2].any() and not across[:, :, -2:].any() and across[:, :, 2:-2].all()
    assert not down[:, :4].any() and not down[:, -4:].any() and down[:, 4:-4].all()


def test_margins_and_gaps_are_told_in_classes() -> None:
    ball = {"colour": "red", "shape": "ball", "half": [0.1]}
    still, moving = [0.0] * 9, [[x, *[0.0] * 8] for x in (0.2, 1.0, 0.6)]
    clip = {
        "scenario": "collide", "until": 0.125, "fps": 8.0, "notes": {"margins": [-0.1, 0.01]},
        "objects": [ball, {**ball, "colour": "yellow"}], "states": [[still, m] for m in moving],
    }  # fmt: skip
    assert closest(clip, 0, 1) == pytest.approx(3.0)  # the first frame, where they touched, was shown
    assert measures_of(clip) == {"margin/0": 0, "margin/1": 3, "gap": 3}
    assert closest({**clip, "fps": 6.0}, 0, 1) == pytest.approx(1.0)  # the second frame comes later than `until`


def test_the_outcome_counts_four_times() -> None:
    said = torch.full((1, len(SLOTS), len(WORDS)), -torch.inf)
    words = torch.full((1, len(SLOTS)), MISSING)
    scene, outcome = (list(SLOTS).index(slot) for slot in ("scene", "outcome"))
    for slot, places in enumerate(slot_words()):
        said[0, slot, places] = 0.0
    said[0, outcome, WORDS.index(" fall")] = 2.0
    apart = []
    for slot in (scene, outcome):
        one = torch.full_like(words, MISSING)
        one[0, slot] = slot_words()[slot][0]
        words[0, slot] = slot_words()[slot][0]
        apart.append(word_loss(said, one).item() / word_weights(one).sum().item())
    assert apart[0] == pytest.approx(np.log(len(SLOTS["scene"])), rel=1e-5)
    assert word_weights(words).sum() == 5
    assert word_loss(said, words).item() / 5 == pytest.approx(0.2 * apart[0] + 0.8 * apart[1], rel=1e-5)


def test_training_goes_on_from_an_earlier_bridge_where_its_parts_fit(lab: Path, model: Path, tmp_path: Path) -> None:
    world = VJEPA2World.from_pretrained(lab / "encoder")
    trainee, _ = fit.build(replace(tiny(), imagined_tokens=3, seed=5), world, str(lab / "llm"))
    bridge, theirs = trainee.model.bridge, load_file(model / "bridge.safetensors")
    fresh = fit.start_from(trainee.model, model)
    assert fresh == ["imagined_queries"]
    assert torch.equal(bridge.seen.project.weight, theirs["seen.project.weight"].float())
    lora = load_file(model / "lora" / "adapter_model.safetensors")
    known = trainee.model.language_model.state_dict()
    assert lora
    for name, tensor in lora.items():
        assert torch.equal(known[name.replace(".weight", ".default.weight")], tensor.to(torch.float32)), name
    higher, _ = fit.build(replace(tiny(), lora_rank=4), world, str(lab / "llm"))
    assert fit.start_from(higher.model, model) == ["lora"]
    wider, _ = fit.build(replace(tiny(), width=64), world, str(lab / "llm"))
    bridge_before = {name: t.clone() for name, t in wider.model.bridge.state_dict().items()}
    assert fit.start_from(wider.model, model / "lora") == ["bridge"]
    known = wider.model.language_model.state_dict()
    assert all(
        torch.equal(known[name.replace(".weight", ".default.weight")], t.to(torch.float32)) for name, t in lora.items()
    )
    assert all(torch.equal(t, bridge_before[name]) for name, t in wider.model.bridge.state_dict().items())
    with pytest.raises(ValueError, match="of another width"):
        fit.start_from(wider.model, model)
    with pytest.raises(ValueError, match=r"holds no bridge.safetensors"):
        fit.start_from(trainee.model, tmp_path)


def test_words_of_an_outcome_carry_a_verdict(lab: Path, model: Path, tmp_path: Path) -> None:
    trainee, processor = fit.build(tiny(), VJEPA2World.from_pretrained(lab / "encoder"), str(lab / "llm"))
    llm, said = trainee.model.language_model, trainee.model.bridge.slots.words
    table: Any = llm.get_input_embeddings()
    each = [[fit.token_ids(text, processor.tokenizer)] for text in (*WORDS, "Yes", "No")]
    *alone, yes, no = word_embeddings(table, each)
    carried = {word: said[place] - alone[place] for place, word in enumerate(WORDS)}
    verdicts = {" fall": yes, " touch": yes, " box": yes, " stand": no, " hidden": no, " none": no, " left": 0 * no}
    for word, verdict in verdicts.items():
        torch.testing.assert_close(carried[word], verdict, msg=word)
    earlier, before = load_file(model / "bridge.safetensors"), said.clone()
    assert "slots.words" not in earlier, "the language model has them"
    assert torch.equal(load(model, str(lab / "llm")).bridge.slots.words, before)
    save_file(earlier | {"slots.words": before + 7}, tmp_path / "bridge.safetensors")
    assert fit.start_from(trainee.model, tmp_path) == ["lora"]
    assert torch.equal(trainee.model.bridge.slots.words, before), "an earlier model's words were taken over"


def test_the_model_folder_tells_how_it_came_to_be(model: Path) -> None:
    facts = json.loads((model / "training.json").read_text())
    assert facts["train_clips"] == 24 and set(facts["wall_seconds"]) == {"warm", "align", "tune"}


def test_what_came_before_a_model_is_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "training.json").write_text(json.dumps({"encoder": {"steps_done": 7}, "train_clips": 9, "recipe": {}}))
    assert fit.history(tmp_path / "encoder", None) == {"encoder": {"steps_done": 7}}
    assert fit.history(tmp_path / "encoder", tmp_path)["init"] == {"train_clips": 9}
    (tmp_path / "encoder" / "training.json").write_text(json.dumps({"steps_done": 8}))
    assert fit.history(tmp_path / "encoder", None) == {"encoder": {"steps_done": 8}}


def test_shown_frames_end_at_until(lab: Path) -> None:
    packed = load_clips(lab / "data")
    shown = packed.shown(0, 0.25, rate=8.0, count=8)
    assert np.array_equal(shown[-3:], packed.frames[0, :3]) and np.array_equal(shown[0], packed.frames[0, 0])


def test_a_question_about_an_unknown_video_is_named(lab: Path, tmp_path: Path) -> None:
    packed = replace(load_clips(lab / "data"), root=tmp_path)
    (tmp_path / "questions.jsonl").write_text(json.dumps({"id": "q7", "video": "clips/none.mp4"}) + "\n")
    with pytest.raises(ValueError, match=r"q7 names clips/none.mp4"):
        questions_by_clip(packed)
