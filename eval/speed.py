"""How fast and how large, beside what a user would write: `python -m foretell.eval.speed [SECTION ...]`.

Everything is measured in turn, ours, theirs, ours, theirs, in one process, so that a machine that slows down slows
both: figures are medians of the ratio of neighbours, with the least and the most, in eval/results/training.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    Trainer,
    TrainingArguments,
    VJEPA2Config,
    VJEPA2Model,
    get_cosine_schedule_with_warmup,
)
from transformers.utils import logging

from ..perception.encoder import EMBEDDED, VJEPA2World, World, dot_product_attention, normalise
from ..perception.video import Clip
from ..reasoner.answer import NANO, Foretell
from ..train import fit
from ..train.data import Split, cache_features, live_encoder, load_clips
from ..train.flops import gemm_peak
from ..train.learner import build, learn, objective_of, step_flops, train_device, train_dtype
from ..train.plan import stand_ins
from ..train.recipes import FitRecipe, PretrainRecipe, Stage, nano, nano_encoder
from ..train.worlds import Spec, generate
from .record import provenance, rounded, write

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "training.json"
REPEATS = 5
OPEN = (
    "What happens next?",
    "What do you see?",
    "Describe the tower.",
    "Which block falls first?",
    "Where is the red block?",
    "What would make it fall?",
    "How many blocks are there?",
    "What is in front of the camera?",
)


def seconds(what: Callable[[], Any]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def duel(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int = REPEATS, warm: bool = True) -> Row:
    """Seconds of both and how many times faster ours is. warm: once each before it counts."""
    if warm:
        ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratios = [slow / fast for fast, slow in pairs]
    told = {"ours_seconds": median(a for a, _ in pairs), "theirs_seconds": median(b for _, b in pairs)}
    return {**told, "ratio": median(ratios), "low": min(ratios), "high": max(ratios), "repeats": repeats}


def attention() -> Row:
    """Ours against torch's own, forward and backward, at the sizes of pretraining steps."""
    found = {}
    for shape in ((32, 6, 256, 32), (32, 6, 128, 32), (32, 3, 217, 32), (32, 6, 52, 32)):
        parts = [torch.randn(shape, dtype=train_dtype(), requires_grad=True) for _ in range(3)]
        ours, theirs = (
            partial(forth_and_back, how, parts) for how in (dot_product_attention, F.scaled_dot_product_attention)
        )
        found["x".join(map(str, shape))] = duel(ours, theirs)
    return found


def forth_and_back(attend: Callable[..., Tensor], parts: Sequence[Tensor]) -> None:
    attend(*parts).sum().backward()


def pretraining() -> Row:
    """Steps of the embedded size: clips a second and the share of the machine's matrix-product peak."""
    peak, found = gemm_peak(train_dtype(), train_device()), {}
    for objective, encoder in (
        ("vjepa", "nano"),
        ("videomae", "nano"),
        ("ijepa", "nano_picture"),
        ("mae", "nano_picture"),
    ):
        recipe = replace(nano_encoder(), objective=objective, encoder=encoder)
        took, done = stepped(recipe)
        found[objective] = {"clips_a_second": recipe.batch / took, "share_of_peak": done / took / peak}
    return {"peak_gflops": peak / 1e9, **found}


def stepped(recipe: PretrainRecipe, steps: int = 10) -> tuple[float, float]:
    """Seconds of a step (median) and its operations (mean)."""
    learner = build(recipe, None)
    config, rng = learner.student.model.config, np.random.default_rng(0)
    grid = World(learner.student.model, rate=recipe.rate).grid
    pixels = torch.rand(recipe.batch, config.frames_per_clip, 3, config.crop_size, config.crop_size)
    took, flops = [], []
    for step in range(steps + 2):
        mask = objective_of(recipe).draw(rng, grid, recipe.batch, recipe)
        took.append(seconds(partial(learn, learner, step, pixels, mask, recipe)))
        flops.append(step_flops(learner.student, mask, recipe))
    return median(took[2:]), float(np.mean(flops[2:]))


class Endless(Foretell):
    """Says as many tokens as it may, whatever they are."""

    @property
    def ends(self) -> set[int]:
        return set()


def questions() -> Row:
    """Eight open questions about one clip, in fp32: side by side behind one video against transformers' `generate` for
    each, from pixels and from features that were computed before; answers as long as they come, and of 16 tokens."""
    foretell = Foretell.load(NANO, dtype=torch.float32)
    clip = foretell.read(NANO / "examples" / "towers.mp4", until=0.25)
    asked = [foretell.ask(question).prompt for question in OPEN]
    endless = Endless(foretell.model, foretell.processor)
    return {
        "questions": len(OPEN),
        "as_they_come": side_by_side(foretell, clip, asked, 64, {}),
        "sixteen_tokens_each": side_by_side(endless, clip, asked, 16, {"eos_token_id": -1}),
    }


def side_by_side(foretell: Foretell, clip: Clip, asked: list[list[int]], limit: int, ends: dict[str, int]) -> Row:
    """Whether both say the same tokens, and the two duels. ends: what makes `generate` stop where we do."""
    model: Any = foretell.model
    frames = np.concatenate([clip.frames[:1].repeat(foretell.frames - len(clip.frames), axis=0), clip.frames])
    pixels = foretell.processor.video_processor(videos=[frames], return_tensors="pt")["pixel_values_videos"]
    features, imagined = foretell.watch(clip)

    def generated(**video: Any) -> list[list[int]]:
        said = []
        for ids in map(torch.tensor, asked):
            seen = {"attention_mask": torch.ones_like(ids)[None]}  # else an end in the prompt may pass for padding
            made = model.generate(ids[None], max_new_tokens=limit, do_sample=False, **seen, **ends, **video)
            said.append(made[0, len(ids) :].tolist())
        return said

    def together() -> list[list[int]]:
        said: list[list[int]] = [[] for _ in asked]
        for step in foretell.greedy(asked, *foretell.watch(clip), limit):
            for place, (token, _) in step.items():
                said[place].append(token)
        return said

    from_pixels = partial(generated, pixel_values_videos=pixels)
    from_features = partial(generated, world_features=features, imagined_features=imagined)
    said = together()
    return {
        "tokens": [len(one) for one in said],
        "same_tokens": said == from_pixels() == from_features(),
        "generate_each": duel(together, from_pixels),
        "generate_each_on_features": duel(together, from_features),
    }


class Straightforward(nn.Module):
    """The hybrid as a user would put it together for transformers' Trainer: the encoder runs in every step, every
    question is a row of its own with its video before it, and the loss is the language model's own."""

    def __init__(self, trainee: fit.Trainee, encoder: VJEPA2Model) -> None:
        super().__init__()
        model = deepcopy(trainee.model)
        self.bridge, self.language_model, self.embed = model.bridge, model.language_model, model.embed
        self.encoder, self.taps = encoder.requires_grad_(False), model.config.taps

    @torch.no_grad()
    def watch(self, pixels: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, N, C]"""
        seen = self.encoder(pixels.to(self.encoder.dtype), skip_predictor=True, output_hidden_states=True)
        states = (*seen.hidden_states[:-1], seen.last_hidden_state)
        return torch.cat([states[tap] for tap in self.taps], dim=-1)

    def forward(self, pixels: Tensor, rows: Tensor, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Any:
        """pixels: of the videos that are encoded; rows: which of them each question is about."""
        video = self.bridge(self.watch(pixels), None)[rows]
        embeds = self.embed(input_ids, video)
        return self.language_model(inputs_embeds=embeds, attention_mask=attention_mask, labels=labels)


class Kept(Trainer):
    """A Trainer that keeps its losses."""

    losses: list[float]

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self.losses.append(float(loss))
        return loss


@dataclass
class Epoch:
    """The same clips, questions, weights and batches for both programs."""

    recipe: FitRecipe
    world: VJEPA2World
    data: Path
    features: Path

    @property
    def stage(self) -> Stage:
        return self.recipe.stages["tune"]

    def split(self) -> Split:
        """Clips with questions enough, so that all batches have as many rows."""
        split, least = Split.open(self.data, self.world, self.features, families=True), self.stage.questions
        return replace(split, questions=[rows if len(rows) >= least else [] for rows in split.questions])

    def start(self) -> tuple[fit.Trainee, fit.Prompts]:
        """Fresh weights, the same every time."""
        trainee, processor = fit.build(self.recipe, self.world, None)
        fit.trained(trainee, "tune")
        return trainee, fit.Prompts(processor)

    def ours(self, trainee: fit.Trainee, prompts: fit.Prompts, split: Split) -> list[float]:
        """An epoch of `foretell train`: features from the cache, a clip's questions behind one video."""
        optimizer = fit.optimizer_of(fit.trained(trainee, "tune"), self.stage)
        schedule = get_cosine_schedule_with_warmup(optimizer, self.stage.warmup, self.stage.steps)
        trainee.train()
        losses = []
        for step in range(self.stage.steps):
            drawn = fit.draw(step, self.stage, split, prompts, self.recipe.seed)
            batch = fit.batch_of(drawn, slice(None), split, prompts, imagination=False)
            loss = fit.gradients(trainee, batch, self.stage)["loss"]
            nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], self.recipe.clip_grad)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(float(loss.detach()))
        return losses

    def rows(self, prompts: fit.Prompts, split: Split) -> list[Row]:
        """Every question of an epoch in our order: its clip, its ids, where its answer begins."""
        drawn = [fit.draw(step, self.stage, split, prompts, self.recipe.seed) for step in range(self.stage.steps)]
        found = []
        for clip, asked in ((clip, rows) for one in drawn for clip, rows in zip(one.asked, one.questions, strict=True)):
            for question in asked:
                prefix, rest, answer = prompts.parts(question["question"], question["answer"])
                ids = [*prefix, *rest, *answer]
                found.append({"clip": int(clip), "ids": ids, "asked": len(ids) - len(answer)})
        return found

    def theirs(self, model: Straightforward, rows: list[Row], once: bool) -> list[float]:
        """The same epoch by Trainer. once: a video is encoded once a batch, however many rows ask about it."""
        bf16 = train_dtype() == torch.bfloat16
        with tempfile.TemporaryDirectory() as out:
            arguments = TrainingArguments(
                out, use_cpu=True, bf16=bf16, num_train_epochs=1, learning_rate=self.stage.lr, report_to="none",
                per_device_train_batch_size=len(rows) // self.stage.steps, lr_scheduler_type="cosine",
                warmup_steps=self.stage.warmup, weight_decay=self.stage.weight_decay, adam_beta2=0.98,
                max_grad_norm=self.recipe.clip_grad, optim="adamw_torch_fused", save_strategy="no",
                logging_strategy="no", remove_unused_columns=False, disable_tqdm=True,
                train_sampling_strategy="sequential",
            )  # fmt: skip
            trainer = Kept(model, arguments, data_collator=partial(self.collate, once=once), train_dataset=rows)
            trainer.losses = []
            trainer.train()
        return trainer.losses

    def collate(self, rows: Sequence[Row], once: bool) -> dict[str, Tensor]:
        """Rows padded on the right, and their videos; frames lie decoded for both."""
        packed, clips = load_clips(self.data), [row["clip"] for row in rows]
        shown = list(dict.fromkeys(clips)) if once else clips
        frames = [packed.shown(one, packed.clips[one]["until"], self.world.rate, self.world.frames) for one in shown]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row["ids"]) for row in rows], batch_first=True)
        lengths = torch.tensor([[len(row["ids"])] for row in rows])
        places, asked = torch.arange(ids.shape[1]), torch.tensor([[row["asked"]] for row in rows])
        return {
            "pixels": normalise(torch.from_numpy(np.stack(frames))),
            "rows": torch.tensor([shown.index(clip) for clip in clips]) if once else torch.arange(len(rows)),
            "input_ids": ids,
            "attention_mask": (places < lengths).long(),
            "labels": ids.masked_fill((places < asked) | (places >= lengths), -100),
        }

    def measure(self) -> Row:
        """A warm epoch against Trainer's, with every row's video encoded and with each once a batch; features too."""
        trainee, prompts = self.start()
        split = self.split()
        rows = self.rows(prompts, split)
        plain = Straightforward(trainee, live_encoder(self.world).model)
        losses = self.ours(trainee, prompts, split), self.theirs(plain, rows, once=True)
        ours = partial(self.ours, trainee, prompts, split)
        found: Row = {
            name: duel(ours, partial(self.theirs, plain, rows, once=once), warm=False)
            for name, once in (("every_row_encodes", False), ("each_video_encoded_once_a_batch", True))
        }
        with tempfile.TemporaryDirectory() as folder:
            everything = load_clips(self.data)
            cold = seconds(lambda: cache_features(everything, self.world, Path(folder)))
            cold *= self.stage.steps * self.stage.batch / len(everything.clips)
        warm, slow = (found["every_row_encodes"][name] for name in ("ours_seconds", "theirs_seconds"))
        found["three_epochs_with_the_cold_one"] = 3 * slow / (cold + 3 * warm)
        gap = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
        sizes = {"clips": self.stage.steps * self.stage.batch, "rows": len(rows), "steps": self.stage.steps}
        return {**sizes, "features_seconds": cold, "largest_relative_gap_of_losses": gap, **found}


@contextmanager
def epoch_of(world: VJEPA2World, clips: int, steps: int, batch: int, questions: int, size: int) -> Iterator[Epoch]:
    """Steps over freshly rendered towers and collisions: so many that balancing leaves them questions enough."""
    stage = Stage(
        steps=steps, batch=batch, lr=1e-4, out_lr=1e-4, lora_lr=1e-4, warmup=1, questions=questions
    )  # fmt: skip
    recipe = replace(nano(), stages={"tune": stage}, mirror=False)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        generate(data, clips, seed=0, spec=Spec(("towers", "collide"), size=size), progress=False)
        yield Epoch(recipe, world, data, Path(folder) / "features")


def epoch() -> Row:
    """Bridge and LoRA of the embedded model."""
    with epoch_of(
        VJEPA2World.from_pretrained(NANO / "encoder"), clips=120, steps=2, batch=4, questions=8, size=64
    ) as one:
        return one.measure()


def large_epoch() -> Row:
    """The same with V-JEPA 2 ViT-L in the embedded encoder's place, 16 frames of 256 x 256, its weights random."""
    torch.manual_seed(0)
    model = VJEPA2Model(VJEPA2Config(frames_per_clip=16, **EMBEDDED)).eval().requires_grad_(False)
    with epoch_of(VJEPA2World(model), clips=24, steps=1, batch=2, questions=4, size=256) as one:
        return one.measure()


def memory() -> Row:
    """The most memory above that of the imports, in processes of their own: bytes."""
    return {"training_embedded": held("training"), "nf4_1b": held("nf4")}


def held(what: str) -> int:
    told = subprocess.run(
        [sys.executable, "-c", f"from foretell.eval import speed; speed.{what}()"], capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return int(told.stdout.split()[-1])


def status(field: str) -> int:
    """A figure of this process, in bytes: VmRSS (now), VmHWM (the most so far, or since `forget`)."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(field))
    return int(line.split()[1]) * 1024


def forget() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def steps_held(recipe: FitRecipe, name: str, steps: int = 3) -> int:
    """The most memory that steps of one stage of the embedded model hold above what is held now: bytes.

    What loading took for a moment is no part of a step.
    """
    imported, stage = status("VmRSS"), recipe.stages[name]
    trainee, _ = fit.build(recipe, VJEPA2World.from_pretrained(NANO / "encoder"), None)
    optimizer = fit.optimizer_of(fit.trained(trainee, name), stage)
    batches = stand_ins(trainee, recipe, stage, 1, "cpu")
    trainee.train()
    forget()
    for _ in range(steps):
        for batch in batches:
            fit.gradients(trainee, batch, stage)
        nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return status("VmHWM") - imported


def training() -> None:
    """Prints what steps of the embedded model's tune stage hold."""
    import peft  # noqa: F401  # imports are not counted

    print(steps_held(nano(), "tune"))


def nf4() -> None:
    """Prints what loading a language model of a billion random parameters in 4 bits holds."""
    import bitsandbytes  # noqa: F401

    from ..reasoner.llm import load_llm

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
        vocab_size=32000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", RANDOM_LLAMA, folder, config.to_json_string()], check=True)
        forget()
        imported = status("VmRSS")
        model = load_llm(folder, load_in_4bit=True)
        assert sum(p.numel() for p in model.parameters()) > 5e8
        print(status("VmHWM") - imported)


RANDOM_LLAMA = """
import json, sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.set_default_dtype(torch.bfloat16)
LlamaForCausalLM(LlamaConfig(**json.loads(sys.argv[2]))).save_pretrained(sys.argv[1])
"""

SECTIONS: dict[str, Callable[[], Row]] = {
    "attention": attention,
    "pretraining": pretraining,
    "questions": questions,
    "epoch": epoch,
    "large_epoch": large_epoch,
    "memory": memory,
}


def main(
    sections: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(SECTIONS)}; else all.")] = None,
) -> None:
    """Measure and write eval/results/training.json; sections that are not asked for keep what was measured before."""
    if wrong := [name for name in sections or () if name not in SECTIONS]:
        raise typer.BadParameter(f"{', '.join(wrong)}: choose from {', '.join(SECTIONS)}")
    logging.set_verbosity_error()  # that an answer of 16 tokens has no end is on purpose
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    told = {
        name: provenance(f"python -m foretell.eval.speed {name}") for name in sections or SECTIONS
    }  # before it writes
    for name, source in told.items():
        found[name] = rounded({**source, **SECTIONS[name]()})
        print(json.dumps({name: found[name]}, indent=1), flush=True)
        write(RESULTS, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
