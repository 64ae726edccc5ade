"""Bridge and LoRA training on frozen features: warm up on facts, align, tune; resumable.

encoder -> feature cache -> bridge -> language model -> report
"""

import json
import math
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.func import functional_call
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from ..bridge.cache import encoder_digest, observe, statistics
from ..bridge.projector import BridgeConfig, word_embeddings
from ..perception.encoder import VJEPA2World, grid_of, normalise
from ..reasoner.answer import Foretell, answer_text
from ..reasoner.llm import load_llm, load_tokenizer
from ..reasoner.model import ForetellConfig, ForetellForConditionalGeneration, add_lora, load, save_parts
from ..reasoner.processing import ForetellProcessor, Pack, collate, id_of, join, level, pack, video_token
from . import checkpoint, stitch
from .checks import calibrate, check_answers, check_shapes, check_words
from .data import Row, Split, live_encoder
from .facts import MISSING, SLOTS, VERDICTS, WORDS, FactHeads, fact_counts, slot_words, turned, word_loss
from .flops import Operations, gemm_peak
from .learner import ranked, refuse_nonfinite, share, train_dtype
from .monitor import Log, Spent, check_tracker, progress_bar
from .moves import Moves
from .pairs import Quarantine, Source, is_worlds
from .pretrain import check_origin, differences, prefetched
from .provenance import machine, weights_mark
from .recipes import TRAINABLE, FitRecipe, Stage, plain
from .shard import opened, put, shard, whole

Batch = dict[str, Any]
FACT_WEIGHTS = {"words": 1.0, "measures": 0.3, "places": 1.0, "shapes": 0.5}
"""How much each part of the facts' loss counts."""
ADAPTER = "adapter_model.safetensors"
TOGETHER = 2
"""Clips in one row of the language model: less padding and fewer needless logits, for a little more attention."""


def bridge_config(recipe: FitRecipe, encoder: VJEPA2World, llm: nn.Module) -> BridgeConfig:
    """The bridge between this encoder and this language model; sizes come from the parts themselves."""
    time, y, x = grid_of(encoder.model.config)  # of one window
    told = (time - time // 2) * (2 if recipe.surprise else 1)
    hidden = int(encoder.model.config.hidden_size)
    magnify = recipe.magnify if encoder.taps[0] == 0 else 0  # it looks into patches
    embeddings: Any = llm.get_input_embeddings()  # type: ignore[operator]
    return BridgeConfig(
        feature_width=encoder.width,
        grid=encoder.grid,
        imagined_width=hidden,
        imagined_grid=(told, y, x),
        surprise=recipe.surprise,
        sharp_tubelets=recipe.sharp_tubelets,
        magnify=magnify,
        magnified=min(recipe.magnified, encoder.grid[0]),
        magnify_width=recipe.width // 4,
        magnify_channels=hidden if magnify else 0,
        width=recipe.width,
        depth=recipe.depth,
        heads=recipe.heads,
        cells=recipe.cells,
        global_tokens=recipe.global_tokens,
        imagined_tokens=recipe.imagined_tokens,
        llm_width=embeddings.weight.shape[1],
        token_scale=token_scale(llm),
        words=len(WORDS),
        slots=slot_words(),
    )


def token_scale(llm: nn.Module) -> float:
    """Standard deviation of the token embeddings; without weights (meta device) the one that they begin with."""
    weight: Tensor = llm.get_input_embeddings().weight.detach()  # type: ignore[operator]
    if weight.is_meta:
        config: Any = llm.config
        return float(config.initializer_range)
    return round(float(weight.float().std()), 5)


def token_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A text's tokens and nothing beside them."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def word_tokens(tokenizer: PreTrainedTokenizerBase) -> list[list[list[int]]]:
    """The tokens of the slots' words, and of the verdicts that some carry."""
    texts = [[word, VERDICTS[word]] if word in VERDICTS else [word] for word in WORDS]
    return [[token_ids(text, tokenizer) for text in each] for each in texts]


class Trainee(nn.Module):
    """What is trained, as one module: the hybrid and the direct heads. `forward`: the loss of a batch, its parts."""

    def __init__(self, model: ForetellForConditionalGeneration, heads: FactHeads) -> None:
        super().__init__()
        self.model, self.heads = model, heads

    def forward(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Sums over these clips, divided by the counts of the whole batch: over all its parts they add up to means."""
        bridge = self.model.bridge
        taken = bridge.take_in(batch["features"])  # [B, N, width]
        pooled = bridge.pool(taken, batch["imagined"])  # [B, K, width]
        sums = {"words": word_loss(bridge.said(pooled), batch["words"]), **self.heads.loss(pooled, batch)}
        if bridge.config.magnify:
            sums["shapes"] = self.heads.shapes_loss(bridge.last_tubelet(taken), batch)
        if "packs" in batch:
            asked = pooled[: batch["asked"]]  # the rest is for words and heads alone
            sums["answers"] = self.answers(batch, self.model.bridge.embed(asked, batch["told"]))
        parts = {name: total / max(batch["counts"][name], 1) for name, total in sums.items()}
        facts = sum(weight * parts[name] for name, weight in FACT_WEIGHTS.items() if name in parts) * stage.facts_weight
        return {"loss": facts + parts["answers"] if "packs" in batch else facts, **parts}

    def answers(self, batch: Batch, video: Tensor) -> Tensor:
        """Sum of the cross-entropy of the answers' tokens."""
        rows: list[Pack] = batch["packs"]
        embeds = self.model.embed(batch["input_ids"], video)
        kept = torch.cat([one.sources for one in rows]).unique().to(embeds.device)
        output = self.model(
            inputs_embeds=embeds, attention_mask=batch["attention_mask"], position_ids=batch["position_ids"],
            logits_to_keep=kept, use_cache=False,
        )  # fmt: skip
        losses = [
            answer_loss(logits[torch.searchsorted(kept, one.sources.to(kept.device))], one)
            for logits, one in zip(output.logits, rows, strict=True)
        ]
        return torch.stack(losses).sum()


def answer_loss(logits: Tensor, one: Pack) -> Tensor:
    """Sum of the cross-entropy of a packed row's answer tokens: logits [n, V]."""
    return nn.functional.cross_entropy(logits.float(), one.targets.to(logits.device), reduction="sum")


class Prompts:
    """Tokenised questions and answers, once each; packs of a clip's questions behind its video."""

    def __init__(self, processor: ForetellProcessor) -> None:
        self.processor = processor
        self.known: dict[tuple[str, str], tuple[list[int], list[int], list[int]]] = {}

    def parts(self, question: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        """Ids of the prefix with the video, of the question, of the answer."""
        key = question, answer
        if key not in self.known:
            prefix, rest = self.processor.split(self.processor.prompt_ids(question))
            self.known[key] = prefix, rest, self.processor.answer_ids(answer_text(answer))
        return self.known[key]

    def pack(self, rows: list[Row]) -> Pack:
        each = [self.parts(row["question"], row["answer"]) for row in rows]
        return pack(each[0][0], [(question, [answer]) for _, question, answer in each])


def draw_questions(rng: np.random.Generator, rows: list[Row], most: int) -> list[Row]:
    """At most so many questions of a clip, in any order; those that were set aside are drawn and left out."""
    return [rows[int(i)] for i in rng.permutation(len(rows))[:most] if rows[int(i)]]


@dataclass(frozen=True)
class Draw:
    """The batch of a step as all ranks draw it alike: a function of seed and step, so that resuming needs no position.

    asked: clips that are asked questions, as rows of the split, and those questions; told: which of them are told what
    is true; extra: clips for words and heads alone. counts: what the parts of the loss are divided by. moves: what is
    done to the frames, where these are looked at themselves.
    """

    asked: NDArray[np.int64]
    questions: list[list[Row]]
    told: NDArray[np.bool_]
    extra: NDArray[np.int64]
    counts: dict[str, float]
    moves: Moves | None


def draw(step: int, stage: Stage, split: Split, prompts: Prompts, seed: int) -> Draw:
    """The batch of a step, still without features and token ids: each rank makes those of its own clips alone.

    What was set aside is drawn as well and then left out, so that all others are drawn as they would be beside it.
    """
    rng = np.random.default_rng([seed, step])
    clips = split.asked_about if stage.questions else split.plain if stage.fresh else split.known
    asked = split.draw(rng, clips, stage.batch)
    extra = split.draw(rng, split.known, stage.extra)
    told = rng.random(len(asked)) < stage.told
    questions = [draw_questions(rng, split.questions[row], stage.questions) for row in asked]
    if stage.questions:
        kept = [place for place, rows in enumerate(questions) if rows]
        asked, told, questions = asked[kept], told[kept], [questions[place] for place in kept]
    tokens = sum(len(prompts.parts(one["question"], one["answer"])[2]) for rows in questions for one in rows)
    targets = split.targets.batch(np.concatenate([asked, extra]))
    moves = Moves.keeping(rng, targets["places"]) if stage.fresh else None
    if moves is not None:
        targets = seen_so(targets, moves)
    return Draw(asked, questions, told, extra, fact_counts(targets) | {"answers": float(tokens)}, moves)


def seen_so(targets: dict[str, Tensor], moves: Moves) -> dict[str, Tensor]:
    """What is true of clips that are moved."""
    words, places = turned(targets["words"], moves.mirrored), moves.places(targets["places"])
    return targets | {"words": words, "places": places}


def shares(rank: int, ranks: int, accumulate: int) -> list[slice]:
    """Which clips of a batch a rank computes, part by part."""
    return [slice(rank + ranks * part, None, ranks * accumulate) for part in range(accumulate)]


def batch_of(drawn: Draw, mine: slice, split: Split, prompts: Prompts, imagination: bool) -> Batch:
    """Every so many clips of a drawn batch, as the trainee reads them."""
    asked, extra, told = drawn.asked[mine], drawn.extra[mine], drawn.told[mine]
    packs: list[Pack] = []
    if any(drawn.questions):
        packs, order = in_rows([prompts.pack(rows) for rows in drawn.questions[mine]])
        asked, told = asked[order], told[order]
    rows = np.concatenate([asked, extra])
    features, imagined = split.cache.rows([split.keys[row] for row in rows])
    batch: Batch = {"features": features, "imagined": imagined if imagination else None, "counts": drawn.counts}
    batch |= split.targets.batch(rows)
    if packs:
        batch |= {"asked": len(asked), "packs": packs, **collate(packs, torch.float32)}
        batch["told"] = batch["words"][: len(asked)].where(torch.from_numpy(told)[:, None], MISSING)
    return batch


def fresh_batch(drawn: Draw, mine: slice, split: Split) -> Batch:
    """Every so many clips of a drawn batch that are to be moved and watched: which of the stock, and how."""
    assert drawn.moves is not None
    rows, moves = drawn.asked[mine], drawn.moves.part(mine)
    targets = seen_so(split.targets.batch(rows), moves)
    return {
        "clips": torch.from_numpy(np.searchsorted(split.plain, rows)),
        "moves": moves,
        "counts": drawn.counts,
    } | targets


@dataclass
class Watcher:
    """Moves clips, and watches them as they are then; stock: their frames, uint8 [N, T, S, S, 3]."""

    encoder: VJEPA2World
    stock: Tensor

    def features(self, batch: Batch, imagination: bool) -> Batch:
        """A fresh batch as the trainee reads it."""
        frames = self.stock[batch["clips"].to(self.stock.device)].to(self.encoder.model.device)
        frames = batch["moves"].frames(frames)
        features, imagined = observe(self.encoder, normalise(frames).to(self.encoder.model.dtype))
        return batch | {"features": features, "imagined": imagined if imagination else None}


def in_rows(each: list[Pack]) -> tuple[list[Pack], list[int]]:
    """Packs of clips joined to rows of about the same length, and which clips these are, row by row."""
    shared = level([len(one.ids) for one in each], -(-len(each) // TOGETHER))
    packs = [join([each[place] for place in places]) for places in shared]
    return packs, [place for places in shared for place in places]


def tokens_of(batch: Batch) -> int:
    """Tokens that the language model reads, padding left out."""
    return sum(len(one.ids) for one in batch.get("packs", ()))


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def trained(trainee: Trainee, stage: str) -> dict[str, list[nn.Parameter]]:
    """The parameters that a stage changes, by part; all others are frozen."""
    bridge = trainee.model.bridge
    out = [*bridge.out.parameters(), *bridge.out_norm.parameters(), bridge.slots.names]
    known = {id(p) for p in out}
    parts = {
        "bridge": [p for p in bridge.parameters() if id(p) not in known],
        "out": out,
        "heads": list(trainee.heads.parameters()),
        "lora": [p for name, p in trainee.model.language_model.named_parameters() if "lora_" in name],
    }
    trainee.requires_grad_(False)
    chosen = {name: parts[name] for name in TRAINABLE[stage]}
    for parameters in chosen.values():
        for parameter in parameters:
            parameter.requires_grad_(parameter.numel() > 0)  # one without elements has no gradient to share
    return chosen


def optimizer_of(parts: dict[str, list[nn.Parameter]], stage: Stage) -> torch.optim.Optimizer:
    """AdamW; biases, norms and codes of one dimension are not decayed."""
    groups = []
    for name, parameters in parts.items():
        lr = {"lora": stage.lora_lr, "out": stage.out_lr}.get(name, stage.lr)
        groups += [
            {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": stage.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98), fused=True)


def weights_of(trainee: Trainee, stage: str) -> dict[str, Tensor]:
    """Everything that was trained up to this stage, the bridge's statistics included; all ranks must ask at once."""
    lora = {n: t for n, t in trainee.model.language_model.state_dict().items() if "lora_" in n}
    parts = {"bridge": trainee.model.bridge.state_dict(), "heads": trainee.heads.state_dict()}
    parts |= {"lora": lora} if "lora" in TRAINABLE[stage] else {}
    return {n: whole(t) for part, tensors in parts.items() for n, t in checkpoint.prefixed(part, tensors).items()}


def load_weights(trainee: Trainee, stage: str, tensors: dict[str, Tensor]) -> None:
    """Put weights of `weights_of` back."""
    put(trainee.model.bridge, checkpoint.under("bridge", tensors))
    put(trainee.heads, checkpoint.under("heads", tensors))
    if "lora" in TRAINABLE[stage]:
        put(trainee.model.language_model, checkpoint.under("lora", tensors), strict=False)


class Lesson(nn.Module):
    """Forward and backward of a trainee in one call: what backward computes again sees the weights that forward saw."""

    def __init__(self, trainee: nn.Module) -> None:
        super().__init__()
        self.trainee = trainee

    def forward(self, batch: Batch, stage: Stage, scale: float) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.trainee(batch, stage)
        (parts["loss"] * scale).backward()
        return {name: part.detach() for name, part in parts.items()}


def gradients(
    trainee: nn.Module, batch: Batch, stage: Stage, dtype: torch.dtype | None = None, scale: float = 1.0
) -> dict[str, Tensor]:
    """The losses of a batch, computed in dtype (None: `train_dtype`); leaves their gradients, times `scale`, on the
    fp32 parameters that the optimizer holds.

    Each parameter is rounded once a step. autocast would round them in every operation, at twice the time. A sharded
    trainee does so itself, while it gathers its weights. The encoder's are left out: its features were computed before.
    So are the language model's where no question is asked of it.
    """
    dtype, lesson = dtype or train_dtype(), Lesson(trainee)
    rounded: dict[str, Tensor] = {}
    idle = ("trainee.model.encoder.", *(() if "packs" in batch else ("trainee.model.language_model.",)))
    if not isinstance(trainee, FSDPModule):
        wanted = (named for named in lesson.named_parameters() if not named[0].startswith(idle))
        rounded = {name: p.to(dtype) for name, p in wanted if p.dtype == torch.float32}
    losses: dict[str, Tensor] = functional_call(lesson, rounded, (batch, stage, scale))
    return losses


@dataclass
class Run:
    """One training run: what it trains, on what, and where it writes."""

    trainee: Trainee
    world: VJEPA2World
    processor: ForetellProcessor
    train: Split
    val: Split
    out: Path
    recipe: FitRecipe
    accelerator: Accelerator
    peak: float  # operations a second that matrix products reach, over all ranks
    origin: dict[str, str]  # as origin_of tells it
    track: str = "tensorboard"
    spent: dict[str, Spent] = field(default_factory=dict)  # by each stage

    @cached_property
    def watcher(self) -> Watcher:
        """For fresh stages: the frames of all clips, held only once one of them is trained."""
        return Watcher(live_encoder(self.world), self.train.stock(self.world, self.accelerator.device))

    def stage(self, name: str) -> None:
        """Train one stage from its newest checkpoint, or from where the stage before ended."""
        stage, folder, main = self.recipe.stages[name], self.out / name, self.accelerator.is_main_process
        optimizer = optimizer_of(trained(self.trainee, name), stage)
        schedule = get_cosine_schedule_with_warmup(optimizer, stage.warmup, stage.steps)
        folder.mkdir(parents=True, exist_ok=True)
        start = self._resume(name, folder, optimizer, schedule)
        if start == stage.steps:
            return
        spent, prompts = self.spent[name], Prompts(self.processor)
        began = time.monotonic() - spent.seconds
        drawn = prefetched(lambda step: self._draw(step, stage, prompts), start, stage.steps, ahead=1)
        self.trainee.train()
        with progress_bar(shown=main) as bar, self._log(folder, start) as log:
            task = bar.add_task(name, total=stage.steps, completed=start, speed="")
            for step, (batch, parts) in drawn:
                stepped = time.monotonic()
                values = self._step(optimizer, step, batch, parts, stage, spent)
                schedule.step()
                spent.learning += time.monotonic() - stepped
                spent.seconds = time.monotonic() - began
                label = f"{name} loss {values['loss']:.3f}" if values else None
                bar.update(task, completed=step + 1, description=label, speed=spent.speed(self.peak))
                self._after(step + 1, name, folder, optimizer, schedule, values, log)

    def _log(self, folder: Path, start: int) -> AbstractContextManager[Log | None]:
        """What this stage writes down; of several ranks the first does."""
        main = self.accelerator.is_main_process
        return closing(Log(folder, start, self.recipe, self.track)) if main else nullcontext()

    def _draw(self, step: int, stage: Stage, prompts: Prompts) -> tuple[Draw, list[Batch]]:
        """The batch of a step, and the parts of it that this rank computes; none where too much was set aside."""
        drawn, imagination = draw(step, stage, self.train, prompts, self.recipe.seed), self.recipe.imagined_tokens > 0
        if len(drawn.asked) < self.accelerator.num_processes * self.recipe.accumulate:
            return drawn, []
        mine = shares(self.accelerator.process_index, self.accelerator.num_processes, self.recipe.accumulate)
        if stage.fresh:
            return drawn, [fresh_batch(drawn, part, self.train) for part in mine]
        return drawn, [batch_of(drawn, part, self.train, prompts, imagination) for part in mine]

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        step: int,
        drawn: Draw,
        batches: list[Batch],
        stage: Stage,
        spent: Spent,
    ) -> dict[str, float]:
        """Learn from one batch; returns the loss, its parts and the norm of the gradient, the same on every rank.

        Counting operations takes time, so it is done in one step of `log_every`, for all of them.
        """
        if not batches:
            return {}
        with Operations() if step % self.recipe.log_every == 0 else nullcontext() as counter:
            told = [self._learn(batch, stage, last=batch is batches[-1]) for batch in batches]
        learned = [p for p in self.trainee.parameters() if p.requires_grad]
        sums = {name: sum(values[name] for values in told) for name in told[0]}
        sums |= {"tokens": sum(map(tokens_of, batches)), "flops": 0 if counter is None else counter.flops}
        values = share([] if isinstance(self.trainee, FSDPModule) else learned, sums)
        spent.add(len(drawn.asked) + len(drawn.extra), round(values.pop("tokens")), round(values.pop("flops")))
        values["grad_norm"] = float(whole(nn.utils.clip_grad_norm_(learned, self.recipe.clip_grad)))
        refuse_nonfinite(step, values, lambda: self._suspects(drawn, told))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return values

    def _learn(self, batch: Batch, stage: Stage, last: bool) -> dict[str, float]:
        """Gradients of a part of this rank's share; after the last one shards are added up over the ranks, as means."""
        scale = 1
        if isinstance(self.trainee, FSDPModule):
            self.trainee.set_requires_gradient_sync(last)
            scale = self.accelerator.num_processes
        batch = to_device(batch, self.accelerator.device)
        if stage.fresh:
            batch = self.watcher.features(batch, self.recipe.imagined_tokens > 0)
        parts = gradients(self.trainee, batch, stage, scale=scale)
        return {name: float(part) for name, part in parts.items()}

    def _suspects(self, drawn: Draw, told: list[dict[str, float]]) -> list[str]:
        """The clips of those parts, of all ranks, whose own losses are not finite; all clips where none is alone."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        flags = dict.fromkeys(map(str, range(ranks * self.recipe.accumulate)), 0.0)
        flags |= {str(rank + ranks * n): float(not math.isfinite(one["loss"])) for n, one in enumerate(told)}
        wrong = [int(part) for part, flag in share([], flags).items() if flag]
        rows = [rows[part :: len(flags)] for part in wrong or range(len(flags)) for rows in (drawn.asked, drawn.extra)]
        return [self.train.videos[row] for row in np.concatenate(rows)]

    def _after(
        self,
        done: int,
        name: str,
        folder: Path,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        values: dict[str, float],
        log: Log | None,
    ) -> None:
        """Validate, log and save where they are due."""
        stage = self.recipe.stages[name]
        last = done == stage.steps
        seen = self._check(stage) if done % self.recipe.check_every == 0 or last else {}
        if log is not None and (seen or done % self.recipe.log_every == 0):
            rates = self.spent[name].rates(self.peak)
            log.write(done, values | seen | {"lr": schedule.get_last_lr()[0]} | rates)
        if done % self.recipe.save_every == 0 or last:
            self._save(done, name, folder, optimizer, schedule)

    def _check(self, stage: Stage) -> dict[str, float]:
        """Validation, by every rank: the language model of a sharded trainee needs them all."""
        self.trainee.eval()
        with opened(self.trainee):
            seen = check_words(self.trainee.model, self.val) | check_shapes(
                self.trainee.model, self.trainee.heads, self.val
            )
            if stage.questions:
                seen |= check_answers(Foretell(self.trainee.model, self.processor), self.val)
        self.trainee.train()
        return seen

    def _save(self, done: int, name: str, folder: Path, optimizer: torch.optim.Optimizer, schedule: Any) -> None:
        """One checkpoint of everything that resuming needs, on any number of ranks; the first rank writes it."""
        packed, optimizer_state = checkpoint.pack_optimizer(optimizer)
        rng, rng_state = checkpoint.pack_rng()
        tensors = weights_of(self.trainee, name) | checkpoint.prefixed("optimizer", packed)
        tensors |= checkpoint.prefixed("rng", rng)
        state: dict[str, Any] = {"optimizer": optimizer_state, "rng": rng_state, "schedule": plain_schedule(schedule)}
        state |= {"recipe": plain(self.recipe), "spent": asdict(self.spent[name])}
        state["origin"] = begun_with(name, self.origin)
        if self.accelerator.is_main_process:
            checkpoint.save(folder / "checkpoints", done, tensors, state)

    def _resume(self, name: str, folder: Path, optimizer: torch.optim.Optimizer, schedule: Any) -> int:
        saved = checkpoint.latest(folder / "checkpoints")
        self.spent[name] = Spent()
        if saved is None:
            return 0
        known = plain(FitRecipe()) | saved.state["recipe"]  # a field that came later had its default
        if changes := differences(concerning(name, known), concerning(name, plain(self.recipe))):
            raise ValueError(
                f"{folder} holds a run of another recipe ({changes}): keep it, or train into another folder"
            )
        ended = saved.step == self.recipe.stages[name].steps
        check_origin(folder, saved, begun_with(name, self.origin, ended))
        before = {"seconds": saved.state.get("seconds", 0.0)}  # of runs begun before all of it was kept
        self.spent[name] = Spent(**saved.state.get("spent", before))
        load_weights(self.trainee, name, saved.tensors)
        if ended:
            return saved.step
        checkpoint.unpack_optimizer(optimizer, checkpoint.under("optimizer", saved.tensors), saved.state["optimizer"])
        schedule.load_state_dict(saved.state["schedule"])
        if "rng" in saved.state:  # runs begun before it was kept draw nothing from it
            checkpoint.unpack_rng(checkpoint.under("rng", saved.tensors), saved.state["rng"])
        return saved.step


def plain_schedule(schedule: Any) -> dict[str, Any]:
    """A schedule's state without its functions, which JSON cannot hold and the recipe says anyway."""
    return {name: value for name, value in schedule.state_dict().items() if name != "lr_lambdas"} | {
        "lr_lambdas": [None] * len(schedule.lr_lambdas)
    }


def concerning(stage: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The part of a recipe that decides one stage; what only later stages use, or memory, may be changed after it."""
    free = {"accumulate", "checkpointing"}
    free |= set() if "lora" in TRAINABLE[stage] else {"lora_rank", "lora_alpha", "rslora", "dora"}
    return {k: v for k, v in {**recipe, "stages": recipe["stages"][stage]}.items() if k not in free}


def origin_of(train: Split, encoder: VJEPA2World, llm: str | None, init: Path | None) -> dict[str, str]:
    """What a training begins with besides its recipe, in short: a resumed one must be given the same."""
    bridge = None if init is None or (init / ADAPTER).is_file() else init / "bridge.safetensors"
    return {
        "data": train.mark,
        "encoder": encoder_digest(encoder)[:12],
        "llm": weights_mark(llm),
        "init's bridge": weights_mark(bridge),
        "init": weights_mark(init),
    }


def begun_with(stage: str, origin: dict[str, str], ended: bool = False) -> dict[str, str]:
    """The part of an origin that a stage depends on: a LoRA may be chosen after the stages that train none, and other
    data for those after one that has ended."""
    free = {"data"} if ended else set()
    free |= set() if "lora" in TRAINABLE[stage] else {"init"}
    return {name: mark for name, mark in origin.items() if name not in free}


def build(recipe: FitRecipe, encoder: VJEPA2World, llm: str | None) -> tuple[Trainee, ForetellProcessor]:
    """The hybrid with a fresh bridge, a fresh LoRA and fresh direct heads."""
    torch.manual_seed(recipe.seed)
    language_model, tokenizer = load_llm(llm, load_in_4bit=recipe.four_bit), load_tokenizer(llm)
    placeholder = id_of(tokenizer, video_token(tokenizer))
    trainee = assemble(recipe, encoder, language_model, placeholder, llm, train_dtype())
    words, names = word_tokens(tokenizer), [[token_ids(name, tokenizer)] for name in SLOTS]
    table: Any = language_model.get_input_embeddings()
    trainee.model.config.bridge_config.word_tokens = words
    trainee.model.bridge.slots.learn(word_embeddings(table, words), word_embeddings(table, names))
    return trainee, ForetellProcessor.for_model(trainee.model.config, tokenizer)


def assemble(
    recipe: FitRecipe,
    encoder: VJEPA2World,
    language_model: PreTrainedModel,
    placeholder: int,
    llm: str | None,
    dtype: torch.dtype,
) -> Trainee:
    """The parts put together, on whatever device they are; what the slots say is still to be learned.

    placeholder: id of the token that stands for a video's; llm: what the language model was loaded from; dtype: of its
    frozen weights.
    """
    config = ForetellConfig(
        vision_config=encoder.model.config,
        bridge_config=bridge_config(recipe, encoder, language_model),
        text_config=language_model.config,
        video_token_id=placeholder,
        taps=encoder.taps,
        rate=encoder.rate,
        frames=encoder.frames,
        llm=llm,
        # Without it every part falls back to eager attention.
        attn_implementation=language_model.config._attn_implementation,  # type: ignore[call-arg]
    )
    model = ForetellForConditionalGeneration(config, encoder.model, language_model)
    nn.Module.to(language_model, dtype)  # frozen; the LoRA on it stays in fp32
    if recipe.lora_rank:
        add_lora(model, recipe.lora_rank, recipe.lora_alpha, rslora=recipe.rslora, dora=recipe.dora)
    if recipe.checkpointing:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        model.language_model.disable_input_require_grads()  # reentrant checkpoints alone need it
    return Trainee(model, FactHeads(recipe.width, recipe.heads))


def start_from(
    model: ForetellForConditionalGeneration, folder: Path, bridge: dict[str, Tensor] | None = None
) -> list[str]:
    """Take over what fits of an earlier model's bridge and LoRA; returns what stays fresh: parts of the bridge, "lora".

    bridge: its weights as they are stitched to another encoder (None: as the folder has them).

    A model's lora folder alone gives the LoRA: how to read slots does not depend on the encoder, so a bridge of another
    encoder can begin afresh under a language model that reads.

    Parts of another shape stay fresh, so that the pooling can change while what reads the features is kept. The slots'
    words are the language model's own and are never taken over. Raises ValueError where there is no bridge, or where
    not even the intake of features fits.
    """
    alone = (folder / ADAPTER).is_file()
    path, lora = folder / "bridge.safetensors", folder / ADAPTER if alone else folder / "lora" / ADAPTER
    if not alone and not path.is_file():
        raise ValueError(f"{folder} holds no bridge.safetensors: name a model folder, such as OUT/model of a training")
    mine = model.bridge.state_dict()
    mine.pop("slots.words", None)
    kept = {} if alone else _fitting(mine, bridge or load_file(path), path)
    model.bridge.load_state_dict(kept, strict=False)
    known, saved = model.language_model.state_dict(), load_file(lora) if lora.is_file() else {}
    updates = {f"{name.removesuffix('.weight')}.default.weight": t for name, t in saved.items()}
    shapes = {name: t.shape for name, t in known.items() if "lora_" in name}
    fits = bool(updates) and {name: t.shape for name, t in updates.items()} == shapes
    if fits:
        model.language_model.load_state_dict(updates, strict=False)
    fresh = ["bridge"] if alone else sorted(mine.keys() - kept.keys())
    return fresh + ([] if fits else ["lora"])


def _fitting(mine: dict[str, Tensor], saved: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    kept = {name: t for name, t in saved.items() if name in mine and mine[name].shape == t.shape}
    if "seen.project.weight" not in kept:
        raise ValueError(
            f"{path} is a bridge of another width, or of an encoder that is not beside it: start without --init, or "
            "name the model's lora folder to take that alone"
        )
    return kept


def check_shares(recipe: FitRecipe, ranks: int) -> None:
    """Raises ValueError where a stage has fewer clips a step than there are parts to compute."""
    least = min(stage.batch for stage in recipe.stages.values())
    if recipe.accumulate < 1 or ranks * recipe.accumulate > least:
        raise ValueError(
            f"a batch of {least} clips cannot be computed in {ranks} (ranks) x {recipe.accumulate} (accumulate) parts: "
            "set a larger batch, fewer ranks or a smaller accumulate (1 or more)"
        )


def check_fresh(recipe: FitRecipe) -> None:
    """Raises ValueError where a fresh stage has questions or extra clips, of which only cached features are read."""
    for name, stage in recipe.stages.items():
        if stage.fresh and (stage.questions or stage.extra):
            raise ValueError(
                f"stage {name} is fresh and has {stage.questions} questions and {stage.extra} extra clips: fresh clips "
                f"teach facts alone, so set stages.{name}.questions=0 and .extra=0, or .fresh=false"
            )


def run(
    data: Path | Sequence[Source],
    val: Path,
    encoder: str | Path,
    out: Path,
    recipe: FitRecipe,
    llm: str | None = None,
    features: Path | None = None,
    stages: tuple[str, ...] | None = None,
    init: Path | None = None,
    max_bad: float = 0.05,
    sharded: bool = False,
    track: str = "tensorboard",
) -> Path:
    """Train a bridge and a LoRA; returns `out/model`, a folder that `ask --model` takes.

    data: a worlds folder, a set of paired data (pairs.py), or several of them with weights; val: one more to validate
    on. encoder: `VJEPA2Model` folder or hub id; features: folder of the cache (default out/features); init: model
    folder whose bridge and LoRA to go on from, where they fit (or its lora folder, to take that alone); a bridge that
    has read another encoder is stitched to this one (stitch.py); what does not fit is told on stderr. max_bad: the
    share of a set's samples that may be set aside, into out/quarantine.jsonl.
    Resumes by itself. Under `accelerate launch` the ranks share each batch, to the losses of one process but for
    rounding; sharded: they share the weights, too. A run may go on with other ranks than it began. track: one of
    monitor.TRACKERS. Raises ValueError for data or a folder that does not fit or a tracker that is missing,
    FloatingPointError at the first non-finite loss.
    """
    check_tracker(track)
    accelerator = ranked()
    check_shares(recipe, accelerator.num_processes)
    check_fresh(recipe)
    world, folder = encoder_of(encoder, recipe), features or out / "features"
    quarantine = Quarantine(out / "quarantine.jsonl" if accelerator.is_main_process else None, max_bad)
    sources = [Source(data)] if isinstance(data, Path) else data
    chosen = {name: recipe.stages[name] for name in stages or recipe.stages if recipe.stages[name].steps}
    sets = [open_set(one.path, world, folder, quarantine, recipe, chosen.values()) for one in sources]
    train, held_out = Split.mix(sets, [one.weight for one in sources]), open_set(val, world, folder, quarantine)
    trainee, processor = build(recipe, world, llm)
    seen, imagined = statistics(train.cache, [key for one in sets for key in one.shown(-(-STATISTICS // len(sets)))])
    trainee.model.bridge.standardise(seen, imagined if recipe.imagined_tokens else None)
    before = history(Path(encoder), init)
    if init is not None:
        seam = stitch.behind(world, init, trainee.model.bridge, [one.path for one in sources], folder)
        if seam is not None:
            before.setdefault("init", {})["explained"] = round(seam.explained, 3)
            print(f"the bridge of {init} has read another encoder: {seam.explained:.0%} of the variance that it read "
                  "there is told from this one's features", file=sys.stderr)  # fmt: skip
        if fresh := start_from(trainee.model, init, None if seam is None else seam.weights):
            print(f"not in {init}, or of another shape there, so starting afresh: {', '.join(fresh)}", file=sys.stderr)
    if sharded or accelerator.is_fsdp2:
        shard(trainee, trainee.model.language_model, trainee.model.encoder, accelerator, train_dtype())
    else:
        trainee.to(accelerator.device)
    peak = accelerator.num_processes * gemm_peak(train_dtype(), accelerator.device)
    job = Run(
        trainee, world, processor, train, held_out, out, recipe, accelerator, peak,
        origin_of(train, world, llm, init), track,
    )  # fmt: skip
    for name in teachable(recipe, tuple(stages or recipe.stages), train):
        job.stage(name)
    weights = weights_of(trainee, "tune")
    if accelerator.is_main_process:
        if isinstance(trainee, FSDPModule):
            job.trainee, _ = build(recipe, world, llm)
            load_weights(job.trainee, "tune", weights)
        report(job, {**before, "set_aside": quarantine.count})
    accelerator.wait_for_everyone()
    return out / "model"


def encoder_of(source: str | Path, recipe: FitRecipe) -> VJEPA2World:
    """The frozen encoder as a recipe shows it videos. Raises ValueError where a bridge would imagine without it, and
    for surprise that no token tells."""
    if recipe.surprise and not recipe.imagined_tokens:
        raise ValueError("surprise is told by imagined tokens: --set imagined_tokens=4, or without surprise")
    world = VJEPA2World.from_pretrained(source, **recipe.watching)
    if recipe.imagined_tokens and grid_of(world.model.config)[0] == 1:
        raise ValueError(f"{source} sees single pictures and expects nothing next: --set imagined_tokens=0")
    return world


STATISTICS = 512
"""Clips from which the standardisation of features is told."""


def open_set(
    path: Path,
    world: VJEPA2World,
    features: Path,
    quarantine: Quarantine,
    recipe: FitRecipe | None = None,
    stages: Collection[Stage] = (),
) -> Split:
    """A worlds folder or a user's paired data; with a recipe as these stages of a training see it, else as validation
    does."""
    if is_worlds(path):
        if recipe is not None and all(stage.fresh for stage in stages):
            return Split.open(path, world, features, most=STATISTICS)
        return Split.open(
            path, world, features, mirror=recipe is not None and recipe.mirror, families=recipe is not None
        )
    return Split.pairs(path, world, features, quarantine)


def teachable(recipe: FitRecipe, stages: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """The stages that this data can teach: those without questions learn from a world's facts alone."""
    kept = tuple(name for name in stages if recipe.stages[name].questions or len(split.known))
    if left := [name for name in stages if name not in kept]:
        print(f"no set tells facts as worlds do, so left out: {', '.join(left)}; --init goes on from a bridge that was "
              "taught them", file=sys.stderr)  # fmt: skip
    return kept


def history(encoder: Path, init: Path | None) -> dict[str, Any]:
    """How the encoder came to be, as its folder or the model folder around it tells, and the model gone on from."""
    around = told(encoder.parent)
    found = {"encoder": told(encoder) or around.get("encoder", {})}
    if init is not None:
        found["init"] = {
            k: v
            for k, v in (told(init) or told(init.parent)).items()
            if k in ("train_clips", "machine", "wall_seconds")
        }
    return {name: facts for name, facts in found.items() if facts}


def told(folder: Path) -> dict[str, Any]:
    """What a model's folder tells of its training; empty where it tells nothing."""
    path = folder / "training.json"
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return facts


def report(job: Run, before: dict[str, Any]) -> None:
    """Calibrate on validation and write the model folder with how it came to be (before: of what came before it)."""
    folder, trainee = job.out / "model", job.trainee
    trainee.eval()
    save_parts(trainee.model, folder, dtype=torch.float16)
    fitted = calibrate(Foretell(load(folder), job.processor), job.val, clips=400)
    (folder / "calibration.json").write_text(json.dumps(fitted) + "\n")
    facts = before | {
        "train_clips": len({video for video, key in zip(job.train.videos, job.train.keys, strict=True) if key}),
        "machine": machine(),
        "recipe": asdict(job.recipe),
        "wall_seconds": {name: round(spent.seconds) for name, spent in job.spent.items()},
        "flops": {name: spent.flops for name, spent in job.spent.items()},
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
