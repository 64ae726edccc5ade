"""Recipes are functions that return frozen dataclasses; a bigger one is `replace(nano(), ...)`."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

TRAINABLE: dict[str, tuple[str, ...]] = {
    "warm": ("bridge", "heads"),
    "align": ("out",),
    "tune": ("bridge", "out", "heads", "lora"),
}
"""Which parts a stage changes ("out": the bridge's MLP into the language model's space and its slots' names, "bridge":
all before it).

The encoder is in none of them: it stays frozen. Align leaves the warm bridge alone: the first gradients through an
untrained MLP would undo it (LOG.md).
"""


@dataclass(frozen=True)
class Stage:
    """One stage of training: steps of `batch` clips each; lr of bridge and heads, out_lr of the bridge's MLP, lora_lr.

    facts_weight: how much the slots' words and the direct heads count beside the language model's loss; questions: at
    most so many a clip; extra: so many clips more a step, for words and heads alone; told: the share of clips whose
    slots say what is true instead of what the bridge sees, so that reading is learned apart from seeing; fresh: clips
    of worlds are moved and lit in another way each time (moves.Moves) and watched anew, with no cached features.
    """

    steps: int
    batch: int
    lr: float
    out_lr: float = 0.0
    lora_lr: float = 0.0
    warmup: int = 50
    weight_decay: float = 0.05
    facts_weight: float = 0.0
    questions: int = 0
    extra: int = 0
    told: float = 0.0
    fresh: bool = False


@dataclass(frozen=True)
class FitRecipe:
    """Everything that decides a bridge training besides its data.

    encoder, llm: folder or hub id ("": the embedded ones); rate, frames: how many a second, and how many at all, the
    encoder is shown (0: what its folder says, and one window of it); taps: which of its layers are read (none: what its
    folder says); four_bit: the language model's frozen weights in NF4 (QLoRA, Dettmers et al. 2023).
    sharp_tubelets, magnify, magnified, width, depth, heads, cells, global_tokens, imagined_tokens: the bridge
    (BridgeConfig), with the slots of the worlds (facts.SLOTS) beside them; surprise: whether imagined tokens are told
    how what was seen last was not as expected, too (predictor.watched); lora_rank 0 trains no LoRA; rslora: scaled
    by alpha / sqrt(rank), for high ranks (Kalajdzievski 2023); dora: lengths of weights are trained apart from it (Liu
    et al. 2024). mirror: learn from every clip's mirror image, moved and in another light, too. accumulate: in how many
    parts, one after the other, a rank computes its share of a batch; checkpointing: keep only what enters each layer of
    the language model, and compute the rest again in backward (Chen et al. 2016), up to half as many operations more.
    Like the number of ranks, both change what fits in memory, and nothing that is learned.
    """

    stages: dict[str, Stage] = field(
        default_factory=lambda: {
            "warm": Stage(steps=3600, batch=64, lr=1.2e-3, warmup=100, facts_weight=1.0),
            "align": Stage(steps=20, batch=8, lr=0.0, out_lr=1e-3, warmup=10, questions=6),
            "tune": Stage(
                steps=1200,
                batch=6,
                extra=4,
                lr=1e-4,
                out_lr=5e-4,
                lora_lr=6e-4,
                warmup=20,
                facts_weight=1.0,
                questions=10,
                told=0.5,
            ),
        }
    )
    encoder: str = ""
    rate: float = 0.0
    frames: int = 0
    taps: tuple[int, ...] = ()
    llm: str = ""
    four_bit: bool = False
    sharp_tubelets: int = 2
    magnify: int = 0
    magnified: int = 1
    width: int = 192
    depth: int = 2
    heads: int = 6
    cells: tuple[int, int, int] = (1, 2, 2)
    global_tokens: int = 0
    imagined_tokens: int = 4
    surprise: bool = False
    mirror: bool = True
    lora_rank: int = 16
    lora_alpha: int = 32
    rslora: bool = False
    dora: bool = False
    clip_grad: float = 1.0
    accumulate: int = 1
    checkpointing: bool = False
    log_every: int = 20
    check_every: int = 300
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(self, ("log_every", "check_every", "save_every"))

    @property
    def watching(self) -> dict[str, Any]:
        """How the encoder is opened: what is left to its folder is None."""
        left = {name: getattr(self, name) or None for name in ("taps", "rate", "frames")}
        return {**left, "surprise": self.surprise}


def nano() -> FitRecipe:
    """The embedded model's bridge and LoRA. Tuning reads its 6 clips in three rows: one after the other they take half
    the memory of all at once, for a twentieth more time. What the predictor imagines is not read: it won nothing on
    validation (LOG.md)."""
    stages = FitRecipe().stages
    warm = replace(stages["warm"], fresh=True)
    return FitRecipe(
        {**stages, "warm": warm}, accumulate=3, magnify=4, magnified=4, sharp_tubelets=0, width=256, depth=4, heads=8,
        imagined_tokens=0,
    )  # fmt: skip


def nano_rivals() -> FitRecipe:
    """The same short training for every encoder that is compared: no layer of pixels is read, and at most 10,000
    questions go through the language model."""
    stages = {
        "warm": Stage(steps=1000, batch=64, lr=1.2e-3, warmup=100, facts_weight=1.0),
        "align": Stage(steps=1, batch=8, lr=0.0, questions=6),
        "tune": replace(nano().stages["tune"], steps=200, batch=5, lora_lr=4e-4),
    }
    return FitRecipe(stages, taps=(2, 4, 6), mirror=False, accumulate=3)


def tiny() -> FitRecipe:
    """A run of seconds for tests."""
    stages = {
        "warm": Stage(steps=4, batch=4, lr=1e-3, warmup=1, facts_weight=1.0, fresh=True),
        "align": Stage(steps=2, batch=2, lr=0.0, out_lr=1e-3, warmup=1, questions=3),
        "tune": Stage(
            steps=2,
            batch=2,
            extra=2,
            lr=1e-3,
            out_lr=1e-3,
            lora_lr=1e-3,
            warmup=1,
            facts_weight=0.3,
            questions=3,
            told=0.5,
        ),
    }
    return FitRecipe(
        stages, magnify=4, width=32, depth=1, heads=2, lora_rank=2, lora_alpha=4, log_every=1, check_every=2,
        save_every=2,
    )  # fmt: skip


def large() -> FitRecipe:
    """What the real sizes share: V-JEPA 2 ViT-L at its pretraining's 4 frames a second, a wider bridge, clips for up to
    64 devices a step. Rates are lowered from `nano` for the greater width; nothing of this size was trained yet."""
    stages = {
        "warm": Stage(steps=4000, batch=256, lr=4e-4, warmup=200, facts_weight=1.0),
        "align": Stage(steps=100, batch=64, lr=0.0, out_lr=5e-4, warmup=10, questions=6),
        "tune": replace(nano().stages["tune"], steps=4000, batch=128, extra=64, lr=5e-5, out_lr=2e-4, lora_lr=2e-4),
    }
    return replace(
        FitRecipe(), stages=stages, encoder="facebook/vjepa2-vitl-fpc64-256", rate=4.0, width=768, depth=4, heads=12,
        cells=(1, 4, 4), imagined_tokens=8, checkpointing=True,
    )  # fmt: skip


def vjepa2_l_smollm2() -> FitRecipe:
    """ViT-L and a language model of 1.7B parameters."""
    return replace(large(), llm="HuggingFaceTB/SmolLM2-1.7B-Instruct")


def vjepa2_l_qwen3() -> FitRecipe:
    """ViT-L and a language model of 8B parameters in 4 bits."""
    return replace(large(), llm="Qwen/Qwen3-8B", four_bit=True)


def vjepa2_g_llama() -> FitRecipe:
    """ViT-g and another language model of 8B parameters, in bf16."""
    return replace(
        large(), encoder="facebook/vjepa2-vitg-fpc64-256", llm="meta-llama/Llama-3.1-8B-Instruct", width=1024, heads=16
    )


RECIPES = {
    "nano": nano,
    "nano_rivals": nano_rivals,
    "vjepa2_l_smollm2": vjepa2_l_smollm2,
    "vjepa2_l_qwen3": vjepa2_l_qwen3,
    "vjepa2_g_llama": vjepa2_g_llama,
    "tiny": tiny,
}


@dataclass(frozen=True)
class PretrainRecipe:
    """Everything that decides a pretraining run besides its data; objective: one of learner.OBJECTIVES.

    The slow teacher (EMA .998 -> 1), the small rate and the variance and covariance terms hold the features
    apart; faster teachers collapsed onto the background. `target_levels` are the layers that are predicted; `rate` is
    the data's, in frames per second; `early_share` of the windows begin before their clip. What is neither short
    nor causal in the masks is long. sigreg_weight, slices: LeJEPA's share of SIGReg (its .05 of a
    statistic that grows with 256 samples is .93 of ours, which does not), and its directions a step.
    clips: learn from so many of the data's only (0: all). snapshots: steps after which the encoder is kept.
    """

    objective: str = "vjepa_dense"
    encoder: str = "nano"
    steps: int = 20_000
    batch: int = 32
    lr: float = 5e-4
    final_lr: float = 1e-5
    warmup: int = 500
    weight_decay: float = 0.04
    clip_grad: float = 1.0
    ema_start: float = 0.998
    ema_end: float = 1.0
    target_levels: tuple[int, ...] = (2, 4, 6)
    dense_weight: float = 0.5
    variance_weight: float = 1.0
    covariance_weight: float = 0.04
    sigreg_weight: float = 0.93
    slices: int = 256
    short_share: float = 0.35
    causal_share: float = 0.4
    max_target: float = 0.5
    rate: float = 8.0
    early_share: float = 0.25
    brightness: float = 0.15
    contrast: float = 0.15
    colour: float = 0.08
    noise: float = 0.02
    clips: int = 0
    held_out: int = 512
    snapshots: tuple[int, ...] = ()
    log_every: int = 100
    probe_every: int = 500
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        _check_counts(self, ("held_out", "log_every", "probe_every", "save_every"))
        if not 0 < self.max_target <= 1:
            raise ValueError(f"max_target {self.max_target} is the share of a clip's tokens told: above 0, at most 1")


def nano_encoder() -> PretrainRecipe:
    """The embedded encoder's pretraining."""
    return PretrainRecipe(
        steps=2400,
        lr=6e-4,
        warmup=150,
        ema_start=0.995,
        short_share=0.4,
        causal_share=0.3,
        max_target=0.35,
        save_every=200,
    )


def tiny_encoder() -> PretrainRecipe:
    """A run of seconds on a model of thousands of parameters, for tests."""
    return PretrainRecipe(
        encoder="tiny",
        steps=6,
        batch=4,
        warmup=2,
        target_levels=(1, 2, 3),
        held_out=8,
        log_every=1,
        probe_every=6,
        save_every=3,
    )


ENCODERS = {"nano": nano_encoder, "tiny": tiny_encoder}
"""Pretraining recipes by name, as RECIPES are those of the bridge."""


def _check_counts(recipe: Any, names: tuple[str, ...]) -> None:
    """Raises ValueError where one of these fields is below 1."""
    if wrong := [f"{name} {getattr(recipe, name)}" for name in names if getattr(recipe, name) < 1]:
        raise ValueError(f"{', '.join(wrong)}: whole numbers of 1 or more are allowed")


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as it reads back from JSON."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return values
