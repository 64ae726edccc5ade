"""What a training would take, before anything is loaded: parameters, memory a rank, operations and time a step.

A recipe's model is built on the meta device by the code that trains it, and one step of every stage is rehearsed there:
shapes flow through `fit.gradients`, nothing is computed, and a ledger keeps what would be held. Sharding is arithmetic
on top. Counted are tensors, the batch included; the next one waits in the host's memory. The allocator's gaps and
libraries that were not measured are what a cluster's reserve is for; that ranks wait for each other is part of its
efficiency.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit
from rich.console import Group
from rich.table import Column, Table
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, VJEPA2Model
from transformers.initialization import no_init_weights
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from ..perception.encoder import VJEPA2World
from ..reasoner.llm import four_bit, keep_trainable
from ..reasoner.processing import collate, pack
from .facts import MEASURES
from .fit import TOGETHER, Batch, Trainee, assemble, check_fresh, check_shares, gradients, in_rows, shares, trained
from .flops import Operations, watching
from .recipes import FitRecipe, Stage
from .shapes import encoder_shape, language_shape
from .worlds.scene import COLOURS

WEIGHTS, PACKED, ROUNDED = "weights", "4-bit weights", "weights rounded for a step"
GRADIENTS, OPTIMIZER, GATHERED = "gradients", "optimizer state", "weights gathered from other ranks"
ACTIVATIONS, LOGITS, FEATURES, LIBRARIES = "activations", "logits", "cached features", "libraries"
FIXED = (WEIGHTS, PACKED, ROUNDED, GATHERED, GRADIENTS, OPTIMIZER, LIBRARIES)
GROWING = (ACTIVATIONS, LOGITS, FEATURES)
"""Kinds of memory; those that grow with the clips of a step."""


PREFIX, QUESTION, ANSWER = 3, 15, 3
"""Tokens of a prompt around its video, of a question with what ends it, of an answer: means over 3,000 questions of the
worlds with SmolLM2's tokenizer (3, 15.0, 3.0)."""


@dataclass(frozen=True)
class Cluster:
    """Machines to train on. memory: bytes a device; peak: its dense bf16 operations a second; efficiency: the share of
    them that a training step is taken to reach; reserve: the share of memory left to the allocator and to libraries;
    libraries: bytes that these are known to hold."""

    nodes: int
    devices: int
    memory: float
    peak: float
    efficiency: float
    reserve: float = 0.1
    libraries: float = 0.0

    @property
    def ranks(self) -> int:
        return self.nodes * self.devices


H100 = {"memory": 80e9, "peak": 989e12, "efficiency": 0.4}  # SXM5, NVIDIA's datasheet, without sparsity
A100 = {"memory": 80e9, "peak": 312e12, "efficiency": 0.5}  # SXM4 80 GB, likewise
CLUSTERS = {
    # One process on two cores with AVX512-BF16. Efficiency: the embedded model's own tuning, validation included.
    # Reserve: glibc keeps what is freed, 1.3 bytes for each that such a step holds. Libraries: tokenizer, code that is
    # read late, oneDNN's workspace (measured).
    "cpu2": Cluster(1, 1, memory=24e9, peak=0.9e12, efficiency=0.2, reserve=0.3, libraries=0.13e9),
    "a100x8": Cluster(1, 8, **A100),
    "h100x8": Cluster(1, 8, **H100),
    "2xh100x8": Cluster(2, 8, **H100),
}


@dataclass(frozen=True)
class StagePlan:
    """One stage. clips: asked about, a rank and step; trainable: parameters; memory: bytes a rank at the worst moment,
    by kind; tokens, flops: a step, over all ranks; seconds: a step; largest: the most such clips a rank that fit (0:
    not even one)."""

    clips: int
    trainable: int
    memory: dict[str, int]
    tokens: int
    flops: int
    seconds: float
    largest: int

    @property
    def total(self) -> int:
        return sum(self.memory.values())


@dataclass(frozen=True)
class Plan:
    """A training, planned. parameters: by part; clip_flops: what the frozen features of one clip cost, once."""

    cluster: Cluster
    sharding: str
    parameters: dict[str, int]
    clip_flops: int
    stages: dict[str, StagePlan]


def plan(
    recipe: FitRecipe,
    cluster: str = "cpu2",
    sharding: str = "ddp",
    dtype: torch.dtype = torch.bfloat16,
) -> Plan:
    """Plan every stage of a recipe. dtype: what the cluster computes in.

    Raises ValueError for a cluster or a sharding that is not known, and for clips that do not divide among the ranks.
    """
    if cluster not in CLUSTERS:
        raise ValueError(f"no cluster {cluster!r}; there are: {', '.join(CLUSTERS)}")
    if sharding not in SHARDED:
        raise ValueError(f"no sharding {sharding!r}; there are: {', '.join(SHARDED)}")
    where, trainee = CLUSTERS[cluster], blueprint(recipe, dtype)
    stages = {name: plan_stage(trainee, name, recipe, where, sharding, dtype) for name in recipe.stages}
    return Plan(where, sharding, parameters(trainee), watching(trainee.model.encoder), stages)


def blueprint(recipe: FitRecipe, dtype: torch.dtype) -> Trainee:
    """What `fit.build` makes, on the meta device and without a tokenizer."""
    with torch.device("meta"), no_init_weights():
        encoder = VJEPA2Model._from_config(encoder_shape(recipe.encoder), attn_implementation="sdpa")
        llm = AutoModelForCausalLM.from_config(language_shape(recipe.llm), dtype=dtype)
        llm.tie_weights()
    if recipe.four_bit:
        quantise(llm, dtype)
    with torch.device("meta"), no_init_weights():
        return assemble(recipe, VJEPA2World(encoder, **recipe.watching), llm, 1, recipe.llm or None, dtype)


def quantise(llm: Any, dtype: torch.dtype) -> None:
    """Put a language model's linears into 4 bits as `load_llm` does, in place and by bitsandbytes itself."""
    config = four_bit(dtype)
    replace_with_bnb_linear(llm, modules_to_not_convert=config.llm_int8_skip_modules, quantization_config=config)
    nn.Module.to(llm, dtype)
    # It keeps one table of 8-bit values for the whole process, made on whatever device first wants it.
    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())  # type: ignore[no-untyped-call]
    for module in llm.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            weight._quantize(torch.device("meta"))
    llm.is_loaded_in_4bit = True  # what peft asks for
    keep_trainable(llm)


def parameters(trainee: Trainee) -> dict[str, int]:
    """How many parameters each part has; of packed 4-bit weights, how many they stand for."""
    llm = list(trainee.model.language_model.named_parameters())
    parts = {
        "encoder": trainee.model.encoder.encoder.parameters(),
        "predictor": trainee.model.encoder.predictor.parameters(),
        "bridge": trainee.model.bridge.parameters(),
        "direct heads": trainee.heads.parameters(),
        "LoRA": (p for name, p in llm if "lora_" in name),
        "language model": (p for name, p in llm if "lora_" not in name),
    }
    return {name: sum(map(size, part)) for name, part in parts.items()}


def size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def stand_ins(trainee: Trainee, recipe: FitRecipe, stage: Stage, ranks: int, device: str) -> list[Batch]:
    """The parts of the first rank's batch."""
    parts = shares(0, ranks, recipe.accumulate)
    counts = [[len(range(clips)[part]) for clips in (stage.batch, stage.extra)] for part in parts]
    return [stand_in(trainee, recipe, stage, asked, extra, device) for asked, extra in counts]


def stand_in(trainee: Trainee, recipe: FitRecipe, stage: Stage, asked: int, extra: int, device: str) -> Batch:
    """A batch as `fit.batch_of` makes it, of ones: its questions all have the same lengths."""
    bridge, clips, questions = trainee.model.config.bridge_config, asked + extra, stage.questions
    batch: Batch = {
        "features": torch.ones(clips, math.prod(bridge.grid), bridge.feature_width, device=device),
        "imagined": None,
        "counts": dict.fromkeys(("words", "measures", "places", "shapes", "answers"), 1.0),
        "words": torch.zeros(clips, len(bridge.slots), dtype=torch.int64, device=device),
        "classes": torch.zeros(clips, len(MEASURES), dtype=torch.int64, device=device),
        "places": torch.ones(clips, len(COLOURS), trainee.heads.places.out_features, device=device),
    }
    if recipe.imagined_tokens:
        shape = (clips, math.prod(bridge.imagined_grid), bridge.imagined_width)
        batch["imagined"] = torch.ones(shape, device=device)
    if questions:
        placeholder = trainee.model.config.video_token_id
        prefix = [placeholder + 1] * PREFIX + [placeholder] * bridge.tokens
        question, answer = [placeholder + 1] * QUESTION, [placeholder + 1] * ANSWER
        packs, _ = in_rows([pack(prefix, [(question, [answer])] * questions)] * asked)
        laid = collate(packs)
        batch |= {"asked": asked, "packs": packs, "input_ids": laid.pop("input_ids")}  # on the CPU: places are read
        batch |= {name: tensor.to(device) for name, tensor in laid.items()}
        batch["told"] = batch["words"][:asked]
    return batch


def fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention by a kernel that keeps no scores, as CPUs and GPUs have it; the meta device would take the plain one.

    Arguments: those of torch's scaled_dot_product_attention.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed: Tensor = kernel(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return mixed


class Ledger(Operations):
    """Bytes that are held while operations run, by kind, and the operations themselves.

    worst: bytes by kind at the moment when most were held in all; front: (fixed, growing) bytes of each moment that no
    other exceeds in both: for any number of clips one of them is the worst. A new tensor is an activation, logits where
    it is as wide as the vocabulary, or, copied from weights, a rounded copy of them.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.held: Counter[str] = Counter()
        self.worst: dict[str, int] = {}
        self.front: list[tuple[int, int]] = []
        self.known: dict[int, tuple[str, weakref.ref[Any]]] = {}  # storages by their address

    def hold(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Note what is held already, or change its kind."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if known := self.known.get(storage._cdata):
                self.held[known[0]] -= storage.nbytes()
            self._enter(kind, storage)

    def _enter(self, kind: str, storage: torch.UntypedStorage) -> None:
        address, count = storage._cdata, storage.nbytes()
        self.known[address] = kind, weakref.ref(storage, lambda _: self._leave(address, count))
        self.held[kind] += count
        growing = sum(self.held[one] for one in GROWING)
        moment = self.held.total() - growing, growing
        if any(moment[0] <= fixed and moment[1] <= more for fixed, more in self.front):
            return
        self.front = [one for one in self.front if one[0] > moment[0] or one[1] > moment[1]] + [moment]
        if sum(moment) > sum(self.worst.values()):
            self.worst = dict(self.held)

    def _leave(self, address: int, count: int) -> None:
        kind, _ = self.known.pop(address)
        self.held[kind] -= count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in [out] if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self._enter(self._kind(func, args, tensor), storage)
        return out

    def _kind(self, func: Any, args: Any, tensor: Tensor) -> str:
        if func is torch.ops.aten._to_copy.default:
            source, _ = self.known.get(args[0].untyped_storage()._cdata, ("", None))
            if source == WEIGHTS:
                return ROUNDED
        return LOGITS if tensor.ndim and tensor.shape[-1] == self.vocabulary else ACTIVATIONS


def rehearse(trainee: Trainee, name: str, recipe: FitRecipe, batches: list[Batch], dtype: torch.dtype) -> Ledger:
    """What one step of a stage holds, its batches one after the other, uncomputed where they and the trainee are on the
    meta device; the optimizer's state is there as after an earlier step."""
    ledger = Ledger(trainee.model.config.text_config.vocab_size)
    mine = [p for part in trained(trainee, name).values() for p in part if p.requires_grad]
    ledger.hold(WEIGHTS, [*trainee.parameters(), *trainee.buffers()])
    for parameter in trainee.parameters():
        if state := getattr(parameter, "quant_state", None):
            ledger.hold(PACKED, [parameter, *constants(state)])
    moments = [torch.empty_like(p) for p in (*mine, *mine)]  # AdamW's
    ledger.hold(OPTIMIZER, moments)
    ledger.hold(FEATURES, [t for batch in batches for t in batch.values() if isinstance(t, Tensor)])
    hooks = [p.register_post_accumulate_grad_hook(lambda p: ledger.hold(GRADIENTS, [p.grad])) for p in mine]
    with patch.object(nn.functional, "scaled_dot_product_attention", fused), ledger:
        for batch in batches:
            gradients(trainee, batch, recipe.stages[name], dtype)
    for hook in hooks:
        hook.remove()
    trainee.zero_grad(set_to_none=True)
    return ledger


def constants(state: Any) -> list[Tensor]:
    """What bitsandbytes keeps beside packed weights: a scale for 64 of them, itself in 8 bits where quantised twice."""
    nested = [] if state.state2 is None else [state.offset, state.state2.absmax, state.state2.code]
    return [state.absmax, state.code, *nested]


def replicated(memory: dict[str, int], trainee: Trainee, ranks: int, accumulate: int) -> dict[str, int]:
    """A rank's memory where every rank holds everything: DDP keeps buckets for all gradients, beside themselves."""
    buckets = sum(p.untyped_storage().nbytes() for p in trainee.parameters() if p.requires_grad)
    return memory | {GRADIENTS: memory[GRADIENTS] + buckets * (ranks > 1)}


def sharded(memory: dict[str, int], trainee: Trainee, ranks: int, accumulate: int) -> dict[str, int]:
    """A rank's memory where ranks share weights, gradients and optimizer state (FSDP2), and gather a layer at a time:
    the one that computes, the next one, and what lies outside the layers. The frozen encoder stays whole, and so do
    gradients that add up over several parts: they are shared out after the last."""
    encoder = held_bytes(trainee.model.encoder)
    kinds = (PACKED, ROUNDED, OPTIMIZER, GRADIENTS) if accumulate == 1 else (PACKED, ROUNDED, OPTIMIZER)
    shared = {kind: memory[kind] // ranks for kind in kinds}
    llm: nn.Module = trainee.model.language_model
    layers = [held_bytes(layer) for layer in next(one for one in llm.modules() if isinstance(one, nn.ModuleList))]
    outside = held_bytes(llm) - sum(layers)
    gathered = {GATHERED: (2 * max(layers) + outside) * (ranks > 1)}
    return memory | shared | {WEIGHTS: encoder + (memory[WEIGHTS] - encoder) // ranks} | gathered


SHARDED: dict[str, Callable[[dict[str, int], Trainee, int, int], dict[str, int]]] = {"ddp": replicated, "fsdp": sharded}


def held_bytes(module: nn.Module) -> int:
    return sum(p.untyped_storage().nbytes() for p in module.parameters())


def plan_stage(
    trainee: Trainee,
    name: str,
    recipe: FitRecipe,
    cluster: Cluster,
    sharding: str,
    dtype: torch.dtype,
) -> StagePlan:
    """Rehearse a stage on its share of a step's clips, then put it on the cluster."""
    stage, ranks = recipe.stages[name], cluster.ranks
    if stage.batch % ranks:
        raise ValueError(
            f"stage {name} has {stage.batch} clips a step for {ranks} ranks: set stages.{name}.batch to a multiple of "
            f"{ranks}, or plan for a smaller cluster"
        )
    check_shares(recipe, ranks)
    check_fresh(recipe)
    batches = stand_ins(trainee, recipe, stage, ranks, "meta")
    ledger = rehearse(trainee, name, recipe, batches, dtype)
    held = {kind: ledger.worst.get(kind, 0) for kind in (*FIXED, *GROWING)}
    memory = SHARDED[sharding](held, trainee, ranks, recipe.accumulate) | {LIBRARIES: int(cluster.libraries)}
    clips = stage.batch // ranks
    room = cluster.memory * (1 - cluster.reserve) - (sum(memory.values()) - sum(held.values()))
    most = max(0, min(int((room - fixed) * clips / growing) for fixed, growing in ledger.front if growing))
    watched = clips * watching(trainee.model.encoder) if stage.fresh else 0
    flops, rows = (ledger.flops + watched) * ranks, TOGETHER * recipe.accumulate
    return StagePlan(
        clips=clips,
        trainable=sum(p.numel() for part in trained(trainee, name).values() for p in part),
        memory=memory,
        tokens=ranks * sum(batch["input_ids"].numel() for batch in batches) if stage.questions else 0,
        flops=flops,
        seconds=flops / (ranks * cluster.peak * cluster.efficiency),
        largest=most - most % (recipe.accumulate if most < rows else rows),  # what is not whole costs as if it were
    )


def table(plan: Plan) -> Group:
    """A plan for people."""
    where, stages = plan.cluster, plan.stages.values()
    parts = Table("part", Column("parameters", justify="right"), box=None)
    for part, count in plan.parameters.items():
        parts.add_row(part, f"{count:,}")
    whole = sum(plan.parameters.values())
    steps = Table("", *(Column(name, justify="right") for name in plan.stages), box=None)
    rows: dict[str, Callable[[StagePlan], str]] = {
        "trained parameters": lambda stage: f"{stage.trainable:,}",
        "frozen parameters": lambda stage: f"{whole - stage.trainable:,}",
        "clips a rank and step": lambda stage: f"{stage.clips:,}",
        "tokens a step": lambda stage: f"{stage.tokens:,}",
        "operations a step": lambda stage: f"{stage.flops / 1e12:,.2f} TFLOP",
        "time a step": lambda stage: f"{stage.seconds:,.3f} s",
    }
    for name, say in rows.items():
        steps.add_row(name, *map(say, stages))
    steps.add_section()
    for kind in (*FIXED, *GROWING):
        if any(stage.memory[kind] for stage in stages):
            steps.add_row(kind, *(f"{stage.memory[kind] / 1e9:.2f} GB" for stage in stages))
    steps.add_row("memory a rank", *(f"{stage.total / 1e9:.2f} GB" for stage in stages), style="bold")
    steps.add_row(
        "most clips a rank that fit", *(f"{stage.largest:,}" if stage.largest else "none" for stage in stages)
    )
    stated = (
        f"{where.ranks} ranks ({where.nodes} x {where.devices}, {plan.sharding}) of {where.memory / 1e9:.0f} GB, "
        f"{where.reserve:.0%} of it left free; time at {where.efficiency:.0%} of {where.peak / 1e12:,.1f} TFLOP/s. "
        f"Features of a clip, once: {plan.clip_flops / 1e12:.3f} TFLOP."
    )
    return Group(parts, "", steps, "", stated)
