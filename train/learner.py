"""One learner for every pretraining objective: what it trains, what it computes with, one step of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import VideoMAEForPreTraining, ViTMAEForPreTraining, VJEPA2Config, VJEPA2Model

from ..perception.encoder import (
    Eyes,
    VJEPA2World,
    grid_of,
    mini_config,
    nano_config,
    open_model,
    picture_config,
    small_config,
    tiny_config,
)
from ..perception.published import mae, settled, videomae
from .flops import block_flops, latent_flops, pixel_flops, published_flops, regularised_flops
from .masks import SCATTERED, TUBES, Grid, Mask, MaskRecipe, ahead, multiblock, sample, tubes
from .objectives import (
    Parts,
    Student,
    Weights,
    ijepa,
    lejepa,
    pixels_hidden,
    pixels_next,
    pixels_of,
    published,
    ranks,
    sketch,
    vjepa,
)
from .recipes import PretrainRecipe

CONFIGS = {
    "nano": nano_config,
    "small": small_config,
    "mini": mini_config,
    "nano_picture": picture_config,
    "tiny": tiny_config,
}
FRESH: dict[type[Eyes], Callable[[VJEPA2Config], Eyes]] = {
    VJEPA2Model: VJEPA2Model,
    VideoMAEForPreTraining: videomae,
    ViTMAEForPreTraining: mae,
}
"""How a model of each class is made in the shape of one of CONFIGS."""
PATIENCE = timedelta(minutes=5)
"""How long a rank that stops waits for the others: the first may have an encoder to write."""
Draw = Callable[[np.random.Generator, Grid, int, "PretrainRecipe"], Mask]
Loss = Callable[["Learner", Tensor, Mask, "PretrainRecipe", int], Parts]
Cost = Callable[[Student, Mask, "PretrainRecipe"], int]


@dataclass
class Learner:
    """What a run changes: the student, its slow copy where there is one, and the optimizer, all fp32; and the two that
    compute, the student and its teacher (the slow copy's, or a frozen one), in `train_dtype`."""

    student: Student
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    live_student: Student
    live_teacher: VJEPA2Model | None

    @property
    def encoder(self) -> Eyes:
        """The encoder that is measured and kept: the slow copy's, or the student's own."""
        return self.student.model if self.average is None else self.teacher

    @property
    def teacher(self) -> VJEPA2Model:
        """The slow copy."""
        assert self.average is not None, "this objective has no slow copy"
        module = self.average.module
        assert isinstance(module, Student)
        return module.jepa


@dataclass(frozen=True)
class Objective:
    """One way to learn: its name in words, the masks it draws, its loss, what one clip of it costs; "slow", "frozen" or
    no teacher; whether it tells pixels rather than features; whether it is for encoders of single frames; the class of
    its model."""

    words: str
    draw: Draw
    loss: Loss
    cost: Cost
    teacher: Literal["slow", "frozen"] | None = None
    pixels: bool = False
    pictures: bool = False
    kind: type[Eyes] = VJEPA2Model

    @property
    def collapses(self) -> bool:
        """Whether features that say the same of everything would satisfy it: what is told moves with what tells."""
        return not self.pixels and self.teacher != "frozen"


def block_masks(rng: np.random.Generator, grid: Grid, batch: int, recipe: PretrainRecipe) -> Mask:
    return sample(rng, grid, batch, MaskRecipe(recipe.short_share, recipe.causal_share, recipe.max_target))


def picture_blocks(rng: np.random.Generator, grid: Grid, batch: int, recipe: PretrainRecipe) -> Mask:
    return multiblock(rng, grid, batch)


def scattered(rng: np.random.Generator, grid: Grid, batch: int, recipe: PretrainRecipe, share: float) -> Mask:
    return tubes(rng, grid, batch, share)


def all_but_last(rng: np.random.Generator, grid: Grid, batch: int, recipe: PretrainRecipe) -> Mask:
    return ahead(grid, batch)


def latent(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int, dense: bool) -> Parts:
    """V-JEPA, from the last layer or, dense, from several and on context places too."""
    assert learner.live_teacher is not None
    levels = recipe.target_levels if dense else (learner.student.model.config.num_hidden_layers,)
    weights = Weights(recipe.dense_weight if dense else 0.0, recipe.variance_weight, recipe.covariance_weight)
    return vjepa(learner.live_student, learner.live_teacher, pixels, mask, levels, weights)


def dense_flops(student: Student, mask: Mask, recipe: PretrainRecipe) -> int:
    return latent_flops(student, mask, recipe, len(recipe.target_levels))


def latent_blocks(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    assert learner.live_teacher is not None
    weights = Weights(variance=recipe.variance_weight, covariance=recipe.covariance_weight)
    return ijepa(learner.live_student, learner.live_teacher, pixels, mask, weights)


def regularised(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    width = learner.student.model.config.hidden_size
    directions = sketch(width, recipe.slices, recipe.seed, step).to(pixels.device)
    return lejepa(learner.live_student, pixels, mask, recipe.sigreg_weight, directions)


def hidden(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    return pixels_hidden(learner.live_student, pixels, mask)


def following(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    return pixels_next(learner.live_student, pixels, mask)


def following_raw(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    return pixels_next(learner.live_student, pixels, mask, pixels_of)


def theirs(learner: Learner, pixels: Tensor, mask: Mask, recipe: PretrainRecipe, step: int) -> Parts:
    return published(learner.live_student, pixels, mask)


PLAIN = partial(latent, dense=False), partial(latent_flops, levels=1)
OBJECTIVES = {
    "vjepa": Objective("V-JEPA", block_masks, *PLAIN, "slow"),
    "vjepa_dense": Objective(
        "V-JEPA, dense, several levels", block_masks, partial(latent, dense=True), dense_flops, "slow"
    ),
    "salt": Objective("SALT, from a frozen teacher", block_masks, *PLAIN, "frozen"),
    "lejepa": Objective("LeJEPA", block_masks, regularised, regularised_flops),
    "ijepa": Objective("I-JEPA", picture_blocks, latent_blocks, block_flops, "slow", pictures=True),
    "videomae": Objective(
        "VideoMAE", partial(scattered, share=TUBES), hidden, partial(pixel_flops, blank=True), pixels=True
    ),
    "mae": Objective(
        "MAE", partial(scattered, share=SCATTERED), hidden, partial(pixel_flops, blank=True), pixels=True, pictures=True
    ),
    "pixel_ar": Objective(
        "Pixels, autoregressive", all_but_last, following, partial(pixel_flops, blank=False), pixels=True
    ),
    "pixel_ar_raw": Objective(
        "Pixels as they are, autoregressive",
        all_but_last,
        following_raw,
        partial(pixel_flops, blank=False),
        pixels=True,
    ),
    "videomae_published": Objective(
        "VideoMAE, as published",
        partial(scattered, share=TUBES),
        theirs,
        published_flops,
        pixels=True,
        kind=VideoMAEForPreTraining,
    ),
    "mae_published": Objective(
        "MAE, as published",
        partial(scattered, share=SCATTERED),
        theirs,
        published_flops,
        pixels=True,
        pictures=True,
        kind=ViTMAEForPreTraining,
    ),
}
"""Each by its name in recipes. What differs between two of them stands here; encoder, order of the data and optimizer
are the same."""


def objective_of(recipe: PretrainRecipe) -> Objective:
    """The objective that a recipe names. Raises ValueError for an unknown one."""
    if recipe.objective not in OBJECTIVES:
        raise ValueError(f"objective {recipe.objective!r} is not one of {', '.join(OBJECTIVES)}: choose one of these")
    return OBJECTIVES[recipe.objective]


def step_flops(student: Student, mask: Mask, recipe: PretrainRecipe) -> int:
    """Operations of one step on the batch that `mask` was drawn for."""
    return len(mask.context) * objective_of(recipe).cost(student, mask, recipe)


def train_device() -> torch.device:
    """Where this process computes: of several on a machine, each has an accelerator of its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def ranked() -> Accelerator:
    """This process among its fellows. On CPU accelerate must be told, or ranks of torchrun would each think they are
    alone."""
    return Accelerator(cpu=train_device().type == "cpu")


def meeting() -> dist.ProcessGroup | None:
    """Where all ranks may meet besides sharing gradients; None for a process that is alone. All must ask at once."""
    if ranks() == 1:
        return None
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup), group
    return group


def meet(group: dist.ProcessGroup | None) -> None:
    """Wait for the others, since a launcher kills those that go on after one has left; for those that never come, for
    PATIENCE."""
    if group is not None:
        with suppress(RuntimeError):
            dist.monitored_barrier(group, PATIENCE)


def train_dtype() -> torch.dtype:
    """The type that pretraining computes in: bf16 where the machine multiplies it natively (else 100x slower)."""
    if train_device().type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def build(recipe: PretrainRecipe, init: Path | None, teacher: Path | None = None) -> Learner:
    """A fresh learner, or one that starts from a folder of its objective's model; teacher: the folder of a frozen one.

    Raises ValueError where objective, encoder and teacher do not fit each other.
    """
    objective = objective_of(recipe)
    torch.manual_seed(recipe.seed)
    model = encoder_for(recipe, init)
    student = Student(model, objective.pixels)
    student.train().float()
    nn.Module.to(student, train_device())
    frozen = frozen_teacher(recipe, model, teacher)
    average = None
    if objective.teacher == "slow":
        average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_start))
        average.requires_grad_(False)
    groups = [
        {"params": [p for p in student.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in student.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    live_teacher = frozen if average is None else live_copy(average.module).jepa
    return Learner(student, average, optimizer, live_copy(student), live_teacher)


def encoder_for(recipe: PretrainRecipe, init: Path | None) -> Eyes:
    """The model that a run starts from, an encoder and its predictor or a published one; its config says what a
    predictor will tell."""
    if init is None and recipe.encoder not in CONFIGS:
        raise ValueError(f"encoder {recipe.encoder!r} is not one of {', '.join(CONFIGS)}: choose one, or pass init")
    objective = objective_of(recipe)
    model = FRESH[objective.kind](CONFIGS[recipe.encoder]()) if init is None else open_model(init)
    if not isinstance(model, objective.kind):
        raise ValueError(
            f"{init} holds a {type(model).__name__}, objective {recipe.objective} trains a {objective.kind.__name__}: "
            "start from another folder, or leave init out"
        )
    if objective.pictures and grid_of(model.config)[0] != 1:
        raise ValueError(
            f"objective {recipe.objective} learns from single frames, but encoder {recipe.encoder} sees several: "
            "set encoder=nano_picture"
        )
    if objective.draw is block_masks and recipe.causal_share > 0 and grid_of(model.config)[0] == 1:
        raise ValueError(
            f"objective {recipe.objective} hides the future (causal_share {recipe.causal_share:g}), but "
            f"{init or f'encoder {recipe.encoder}'} sees single frames: set objective=ijepa or causal_share=0, or "
            "choose an encoder of several frames"
        )
    model.config.rate = recipe.rate
    if not isinstance(model, VJEPA2Model):
        return settled(model)
    dense = recipe.objective == "vjepa_dense"
    model.config.target_levels = list(recipe.target_levels) if dense else [model.config.num_hidden_layers]
    return model


def frozen_teacher(recipe: PretrainRecipe, model: Eyes, folder: Path | None) -> VJEPA2Model | None:
    """The teacher that salt learns from, None for other objectives."""
    wanted = objective_of(recipe).teacher == "frozen"
    if (folder is not None) != wanted:
        given = (
            "needs a frozen teacher: pass --teacher DIR" if wanted else "takes no frozen teacher: leave --teacher out"
        )
        raise ValueError(f"objective {recipe.objective} {given}")
    if folder is None:
        return None
    frozen = VJEPA2World.from_pretrained(folder, rate=recipe.rate).model
    ours, theirs = (
        (one.config.hidden_size, one.config.num_hidden_layers, grid_of(one.config)) for one in (model, frozen)
    )
    if theirs != ours:
        raise ValueError(
            f"{folder} has width, layers and grid {theirs}, the encoder that learns {ours}: its last features cannot "
            "be told, so choose an encoder of the same shape"
        )
    return nn.Module.to(frozen, train_device(), train_dtype())


def live_copy(master: nn.Module) -> Student:
    """The module that computes for an fp32 master: itself in fp32, a copy where `train_dtype` is smaller."""
    live = master if train_dtype() == torch.float32 else deepcopy(master).to(train_dtype())
    assert isinstance(live, Student)
    return live


@torch.no_grad()
def refresh(live: nn.Module, master: nn.Module) -> None:
    """Round the master's weights into its live copy."""
    if live is not master:
        torch._foreach_copy_([*live.parameters()], [*master.parameters()])


@torch.no_grad()
def hand_gradients(live: nn.Module, master: nn.Module) -> None:
    """Move the live copy's gradients to the master, in fp32."""
    if live is master:
        return
    given, wide = [], []
    for small, exact in zip(live.parameters(), master.parameters(), strict=True):
        exact.grad = None if small.grad is None else torch.empty_like(exact)
        if small.grad is not None and exact.grad is not None:
            given.append(small.grad)
            wide.append(exact.grad)
        small.grad = None
    torch._foreach_copy_(wide, given)


def gradients(learner: Learner, step: int, pixels: Tensor, mask: Mask, recipe: PretrainRecipe) -> dict[str, float]:
    """The loss and its parts for a batch; leaves their gradients on the student."""
    refresh(learner.live_student, learner.student)
    if learner.average is not None and learner.live_teacher is not None:
        refresh(learner.live_teacher, learner.teacher)
    place = learner.live_student.model
    dtype = place.dtype if isinstance(place, VJEPA2Model) else pixels.dtype  # a published one narrows its own
    pixels, mask = pixels.to(place.device, dtype), mask.to(place.device)
    parts = objective_of(recipe).loss(learner, pixels, mask, recipe, step)
    parts["loss"].backward()
    hand_gradients(learner.live_student, learner.student)
    return {name: float(part.detach()) for name, part in parts.items()}


def learn(
    learner: Learner,
    step: int,
    pixels: Tensor,
    mask: Mask,
    recipe: PretrainRecipe,
    clips: Callable[[], Iterable[object]] = tuple,
) -> dict[str, float]:
    """One step of the student and its teacher; returns the loss and its parts. clips: as in refuse_nonfinite."""
    for group in learner.optimizer.param_groups:
        group["lr"] = learning_rate(step, recipe)
    values = share(learner.student.parameters(), gradients(learner, step, pixels, mask, recipe), 1 / ranks())
    values["grad_norm"] = float(nn.utils.clip_grad_norm_(learner.student.parameters(), recipe.clip_grad))
    refuse_nonfinite(step, values, clips)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.average is not None:
        learner.average.multi_avg_fn = get_ema_multi_avg_fn(momentum(step, recipe))
        learner.average.update_parameters(learner.student)
    return values


@torch.no_grad()
def share(parameters: Iterable[nn.Parameter], values: dict[str, float], weight: float = 1.0) -> dict[str, float]:
    """Add up over the ranks, times `weight`: gradients in place, and the loss and its parts, which are returned."""
    if ranks() == 1:
        return values
    held = [p.grad for p in parameters if p.grad is not None]
    numbers = torch.tensor(list(values.values()), device=train_device())
    flat = torch.cat([*(grad.flatten() for grad in held), numbers])
    dist.all_reduce(flat)
    *sums, numbers = (flat * weight).split([*(grad.numel() for grad in held), len(values)])
    for grad, total in zip(held, sums, strict=True):
        grad.copy_(total.view_as(grad))
    return dict(zip(values, numbers.tolist(), strict=True))


def refuse_nonfinite(step: int, values: dict[str, float], clips: Callable[[], Iterable[object]]) -> None:
    """Stop before the optimizer spreads it. clips: names those that the step learned from, asked only then."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise FloatingPointError(
            f"step {step}: {', '.join(wrong)}; clips: {', '.join(map(str, clips()))}; nothing of this step was kept: "
            "look at these clips, or try a lower lr in a new folder"
        )


def learning_rate(step: int, recipe: PretrainRecipe) -> float:
    """Linear warm-up, then a cosine down to `final_lr`: a function of the step alone, so that it has no state."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + math.cos(math.pi * progress)) / 2


def momentum(step: int, recipe: PretrainRecipe) -> float:
    """The teacher's decay, linear from `ema_start` to `ema_end`."""
    return recipe.ema_start + (recipe.ema_end - recipe.ema_start) * step / recipe.steps
