"""Claims about plans: what is rehearsed without memory is what a real step holds and does, at every size."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM, VJEPA2Config, VJEPA2Model

from foretell.__main__ import main
from foretell.perception.encoder import VJEPA2World, tiny_config
from foretell.reasoner.answer import NANO
from foretell.train import fit
from foretell.train import plan as planning
from foretell.train.learner import train_dtype
from foretell.train.plan import CLUSTERS, Cluster, blueprint, parameters, rehearse, size, stand_ins
from foretell.train.recipes import RECIPES, FitRecipe, nano, tiny

from .plan_steps import switched
from .reasoner_tiny import tiny_text_config, tiny_tokenizer

PUBLISHED = {
    "vjepa2_l_smollm2": (304e6, 1.71e9),
    "vjepa2_l_qwen3": (304e6, 8.19e9),
    "vjepa2_g_llama": (1.01e9, 8.03e9),
}
"""Encoder: V-JEPA 2 (arXiv 2506.09985), table of models; language models: their model cards."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> FitRecipe:
    """`tiny` with an encoder and a language model on disk, wide enough for matrix products to dominate."""
    root = tmp_path_factory.mktemp("parts")
    VJEPA2Model(VJEPA2Config(**tiny_config().to_diff_dict() | {"taps": [0, 2, 3]})).save_pretrained(root / "encoder")
    config = tiny_text_config()
    config.hidden_size, config.intermediate_size, config.head_dim = 256, 1024, 128
    LlamaForCausalLM(config).save_pretrained(root / "llm")
    tiny_tokenizer().save_pretrained(root / "llm")
    return replace(tiny(), encoder=str(root / "encoder"), llm=str(root / "llm"))


def real(recipe: FitRecipe) -> fit.Trainee:
    """The trainee with weights."""
    trainee, _ = fit.build(recipe, VJEPA2World.from_pretrained(recipe.encoder or NANO / "encoder"), recipe.llm or None)
    return trainee


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_real_sizes_are_planned_without_memory(name: str) -> None:
    recipe = RECIPES[name]()
    drawn = blueprint(recipe, torch.bfloat16)
    assert all(tensor.is_meta for tensor in [*drawn.parameters(), *drawn.buffers()])
    found = planning.plan(recipe, "2xh100x8")
    encoder, llm = PUBLISHED[name]
    assert found.parameters["encoder"] == pytest.approx(encoder, rel=0.01)
    assert found.parameters["language model"] == pytest.approx(llm, rel=0.003)
    for stage in found.stages.values():
        assert stage.clips <= stage.largest and stage.total < CLUSTERS["2xh100x8"].memory
    tune = found.stages["tune"]
    asked = 32 + 12  # tokens of the video: slots, cells, imagined
    assert tune.tokens >= 128 * (asked + 10 * (15 + 2))
    assert tune.flops > 4 * tune.tokens * llm  # forward, and backward to the inputs of frozen weights


def test_a_plan_counts_the_parameters_of_the_embedded_model() -> None:
    drawn, built = blueprint(nano(), torch.bfloat16), real(nano())
    assert parameters(drawn) == parameters(built)
    for stage in nano().stages:
        counts = [{part: sum(map(size, p)) for part, p in fit.trained(one, stage).items()} for one in (drawn, built)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("stage", "switches"),
    [
        *((stage, switches) for stage in ("warm", "align", "tune") for switches in ("", "four_bit")),
        ("align", "checkpointing"),
        ("tune", "checkpointing"),
        ("tune", "four_bit checkpointing"),
        ("tune", "dora"),
        ("align", "accumulate=2"),
        ("tune", "four_bit accumulate=2"),
    ],
)
def test_a_rehearsed_step_holds_and_does_what_a_real_one_does(recipe: FitRecipe, stage: str, switches: str) -> None:
    recipe = switched(recipe, switches.split())
    drawn, built = blueprint(recipe, train_dtype()), real(recipe)
    built.train()
    ledgers = [
        rehearse(one, stage, recipe, stand_ins(one, recipe, recipe.stages[stage], 1, device), train_dtype())
        for one, device in ((drawn, "meta"), (built, "cpu"))
    ]
    assert ledgers[0].flops == ledgers[1].flops > 0
    planned, held = (ledger.worst for ledger in ledgers)
    near = 0.03 if stage == "warm" else 0.01  # convolutions are laid out otherwise on the meta device
    assert sum(planned.values()) == pytest.approx(sum(held.values()), rel=near)
    for kind in (planning.PACKED, planning.LOGITS, planning.OPTIMIZER, planning.FEATURES):
        assert planned.get(kind) == held.get(kind)


def test_checkpointing_computes_again_what_it_does_not_keep(recipe: FitRecipe) -> None:
    plain, spare = (planning.plan(replace(recipe, checkpointing=on), "cpu2").stages["tune"] for on in (False, True))
    assert spare.memory[planning.ACTIVATIONS] < 0.7 * plain.memory[planning.ACTIVATIONS]
    assert spare.largest > plain.largest
    assert 1.2 * plain.flops < spare.flops < 1.5 * plain.flops  # frozen weights: forward is half of a step


def test_parts_one_after_the_other_hold_less_and_do_as_much(recipe: FitRecipe) -> None:
    recipe = replace(recipe, stages={"tune": replace(recipe.stages["tune"], batch=4, extra=4)})
    whole, parted = (planning.plan(replace(recipe, accumulate=n), "cpu2").stages["tune"] for n in (1, 2))
    assert parted.memory[planning.ACTIVATIONS] < 0.6 * whole.memory[planning.ACTIVATIONS]
    assert parted.memory[planning.FEATURES] == whole.memory[planning.FEATURES]
    assert (parted.clips, parted.tokens, parted.flops) == (whole.clips, whole.tokens, whole.flops)
    with pytest.raises(ValueError, match=r"4 clips cannot be computed in 1 \(ranks\) x 5 \(accumulate\) parts"):
        planning.plan(replace(recipe, accumulate=5), "cpu2")


def test_a_fresh_stage_pays_for_watching_in_every_step(recipe: FitRecipe) -> None:
    stages = [replace(recipe.stages["warm"], fresh=fresh) for fresh in (True, False)]
    plans = [planning.plan(replace(recipe, stages={"warm": stage}), "cpu2") for stage in stages]
    fresh, cached = (one.stages["warm"].flops for one in plans)
    assert fresh - cached == stages[0].batch * plans[0].clip_flops > 0


def test_counted_operations_are_torchs(recipe: FitRecipe) -> None:
    built, stage = real(recipe), recipe.stages["tune"]
    (batch,) = stand_ins(built, recipe, stage, 1, "cpu")
    counted = rehearse(built, "tune", recipe, [batch], torch.float32).flops
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        fit.gradients(built, batch, stage, torch.float32)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_optimizer_holds_what_was_planned(recipe: FitRecipe) -> None:
    built, stage = real(recipe), recipe.stages["tune"]
    (batch,) = stand_ins(built, recipe, stage, 1, "cpu")
    planned = rehearse(built, "tune", recipe, [batch], torch.float32).worst[planning.OPTIMIZER]
    optimizer = fit.optimizer_of(fit.trained(built, "tune"), stage)
    fit.gradients(built, batch, stage, torch.float32)
    optimizer.step()
    held = sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())
    assert planned == pytest.approx(held, rel=0.001)  # but for the count of steps


@pytest.mark.parametrize("accumulate", [1, 2])
def test_as_many_clips_fit_as_the_plan_says(
    recipe: FitRecipe, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    recipe = replace(recipe, accumulate=accumulate)
    monkeypatch.setitem(CLUSTERS, "small", Cluster(1, 1, memory=64e6, peak=1e12, efficiency=0.5, reserve=0.0))
    largest = planning.plan(recipe, "small").stages["tune"].largest

    def total(clips: int) -> int:
        tune = replace(recipe.stages["tune"], batch=clips, extra=clips)
        return planning.plan(replace(recipe, stages={"tune": tune}), "small").stages["tune"].total

    assert largest > 4
    assert total(largest) <= 64e6 < total(largest + 2 * accumulate)


def test_sharding_divides_what_is_trained_and_leaves_the_encoder_whole(recipe: FitRecipe) -> None:
    stages = {"tune": replace(recipe.stages["tune"], batch=16, extra=16)}
    each, shared = (planning.plan(replace(recipe, stages=stages), "2xh100x8", how) for how in ("ddp", "fsdp"))
    one, other = each.stages["tune"].memory, shared.stages["tune"].memory
    encoder = sum(p.nbytes for p in blueprint(recipe, torch.bfloat16).model.encoder.parameters())
    assert other[planning.OPTIMIZER] == one[planning.OPTIMIZER] // 16
    assert other[planning.WEIGHTS] == encoder + (one[planning.WEIGHTS] - encoder) // 16
    assert other[planning.ACTIVATIONS] == one[planning.ACTIVATIONS]
    assert one[planning.GRADIENTS] >= 4 * each.stages["tune"].trainable, "buckets of DDP"


def test_what_cannot_be_planned_says_what_can(recipe: FitRecipe) -> None:
    with pytest.raises(ValueError, match=r"no cluster 'h300'; there are: cpu2, a100x8, h100x8, 2xh100x8"):
        planning.plan(recipe, "h300")
    with pytest.raises(ValueError, match=r"no sharding 'zero'; there are: ddp, fsdp"):
        planning.plan(recipe, "cpu2", "zero")
    with pytest.raises(ValueError, match=r"4 clips a step for 8 ranks: set stages.warm.batch to a multiple of 8"):
        planning.plan(recipe, "h100x8")


def test_a_plan_is_told(recipe: FitRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", "tiny", "--plan", "--encoder", recipe.encoder, "--llm", recipe.llm]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("LoRA", "optimizer state", "memory a rank", "most clips a rank that fit"))
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"]["llm"] == recipe.llm and set(told["stages"]) == {"warm", "align", "tune"}
    assert told["stages"]["tune"]["memory"]["weights"] > 0


@cache
def embedded_steps(*switches: str) -> tuple[int, int]:
    """Bytes planned for tuning the embedded model, and held by three real steps in a process of their own, above its
    imports; glibc is told to give back what is freed."""
    command = [sys.executable, str(Path(__file__).with_name("plan_steps.py")), "nano", "tune", "3", *switches]
    settings = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    child = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    found = json.loads(child.stdout.splitlines()[-1])
    dtype = getattr(torch, found["dtype"].removeprefix("torch."))
    return planning.plan(switched(nano(), switches), "cpu2", dtype=dtype).stages["tune"].total, found["held"]


@pytest.mark.slow
@pytest.mark.parametrize("switches", [(), ("accumulate=1",)])
def test_the_embedded_model_trains_in_the_memory_that_was_planned(switches: tuple[str, ...]) -> None:
    planned, held = embedded_steps(*switches)
    assert planned == pytest.approx(held, rel=0.1)


@pytest.mark.slow
def test_checkpointing_the_embedded_model_saves_the_memory_that_was_planned() -> None:
    plain, spare = embedded_steps("accumulate=1"), embedded_steps("accumulate=1", "checkpointing")
    saved = [whole - less for whole, less in zip(plain, spare, strict=True)]
    assert saved[0] == pytest.approx(saved[1], rel=0.1)
    assert saved[1] > 0.4 * plain[1], "the bridge is not computed again"
