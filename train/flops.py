"""What a training step costs in floating-point operations: of pretraining counted from the modules, on the tokens that
are kept; of any other as they run.

Matrix products only, two operations a multiply-add; all else is below 2% of them. A trained product counts three times
(forward, and backward to its input and its weight), a teacher's once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import VideoMAEForPreTraining, VJEPA2Model

from ..perception.encoder import Eyes, grid_of
from ..perception.published import entry, projection, told, trunk
from .masks import Mask
from .objectives import STRIDE, Student
from .recipes import PretrainRecipe


def packed_product(rows: Tensor, packed: Tensor, shape: list[int], *_: Any, **__: Any) -> int:
    """rows [..., in] times 4-bit weights of shape [out, in]."""
    return 2 * rows.numel() * shape[0]


FORMULAS: dict[str, Callable[..., int]] = {
    **{str(operation): formula for operation, formula in flop_counter.flop_registry.items()},
    "aten._scaled_dot_product_flash_attention_for_cpu": flop_counter.sdpa_flop,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": flop_counter.sdpa_backward_flop,
    "bitsandbytes.gemm_4bit": packed_product,
}
"""torch's own count of each operation that FlopCounterMode knows, of the attention that CPUs use, and of 4-bit layers.
By name, since bitsandbytes registers its operations when it is imported."""


class Operations(TorchDispatchMode):
    """Counts the operations that run inside it, those of backward and what is computed again included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := FORMULAS.get(str(func.overloadpacket)):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def linear(module: nn.Module, tokens: int) -> int:
    """A linear layer on so many tokens."""
    assert isinstance(module, nn.Linear), type(module)
    return 2 * tokens * module.in_features * module.out_features


def transformer(layers: Iterable[nn.Module], tokens: int) -> int:
    """Transformer layers on so many tokens that all see each other."""
    total = 0
    for layer in layers:
        dense = [module for module in layer.modules() if isinstance(module, nn.Linear)]
        total += sum(linear(one, tokens) for one in dense)
        total += 2 * 2 * tokens**2 * dense[0].out_features  # scores, then values: the first makes queries
    return total


def embedding(model: Eyes) -> int:
    """The patch embedding of a whole clip; all of it is embedded, whatever is kept."""
    if isinstance(model, VJEPA2Model):
        weight = model.get_parameter("encoder.embeddings.patch_embeddings.proj.weight")
    else:
        weight = projection(model).get_parameter("weight")
    return 2 * whole(model) * weight.numel()


def encoding(model: VJEPA2Model, kept: int, trained: bool) -> int:
    """The encoder on so many kept tokens of a clip. Nothing is differentiated by pixels."""
    layers = transformer(model.encoder.layer, kept)
    return 2 * embedding(model) + 3 * layers if trained else embedding(model) + layers


def prediction(model: VJEPA2Model, shown: int, told: int) -> int:
    """The predictor, or the decoder that it is for pixels, trained: so many tokens shown, so many more told."""
    return 3 * expectation(model, shown, told)


def expectation(model: VJEPA2Model, shown: int, told: int) -> int:
    """The predictor's forward alone."""
    predictor, both = model.predictor, shown + told
    entry = linear(predictor.embeddings.predictor_embeddings, shown)
    return entry + transformer(predictor.layer, both) + linear(predictor.proj, both)


def watching(model: VJEPA2Model) -> int:
    """The frozen features of one clip: all of it is encoded, and the predictor tells as much as it is shown."""
    past = whole(model) // 2
    return encoding(model, whole(model), trained=False) + expectation(model, past, past)


def whole(model: Eyes) -> int:
    """Tokens of a whole clip."""
    time_, height, width = grid_of(model.config)
    return time_ * height * width


def latent_flops(student: Student, mask: Mask, recipe: PretrainRecipe, levels: int) -> int:
    """Of `vjepa` on one clip: a teacher that sees all, a covariance matrix for each level."""
    model, shown, told = student.jepa, mask.context.shape[1], mask.target.shape[1]
    known = encoding(model, whole(model), trained=False) + encoding(model, shown, trained=True)
    return known + prediction(model, shown, told) + levels * spreading(model, shown)


def spreading(model: VJEPA2Model, shown: int) -> int:
    """A trained covariance matrix of so many tokens a clip."""
    return int(3 * 2 * shown * model.config.hidden_size**2)


def block_flops(student: Student, mask: Mask, recipe: PretrainRecipe) -> int:
    """Of `ijepa` on one picture: the predictor runs for every block."""
    model, shown, told = student.jepa, mask.context.shape[1], mask.target.shape[1]
    known = encoding(model, whole(model), trained=False) + encoding(model, shown, trained=True)
    return known + mask.blocks * prediction(model, shown, told // mask.blocks) + spreading(model, shown)


def regularised_flops(student: Student, mask: Mask, recipe: PretrainRecipe) -> int:
    """Of `lejepa` on one clip: both views are trained; SIGReg's directions are not."""
    model, shown, told = student.jepa, mask.context.shape[1], mask.target.shape[1]
    sketches = 2 * 2 * (1 + whole(model) // STRIDE) * model.config.hidden_size * recipe.slices
    known = encoding(model, whole(model), trained=True) + encoding(model, shown, trained=True)
    return known + prediction(model, shown, told) + sketches


def pixel_flops(student: Student, mask: Mask, recipe: PretrainRecipe, blank: bool) -> int:
    """Of `pixels_hidden`, whose decoder gets a blank token for each that it tells, and of `pixels_next` on one clip."""
    model, shown, told = student.jepa, mask.context.shape[1], mask.target.shape[1]
    assert student.head is not None
    decoding = prediction(model, shown, told if blank else 0) + 3 * linear(student.head, told)
    return encoding(model, shown, trained=True) + decoding


def published_flops(student: Student, mask: Mask, recipe: PretrainRecipe) -> int:
    """Of a published model on one clip: MAE's decoder tells every patch, VideoMAE's those that are hidden."""
    model, shown, hidden = student.model, mask.context.shape[1], mask.target.shape[1]
    assert not isinstance(model, VJEPA2Model)
    layers, _, extra = trunk(model)
    shown, both = shown + extra, shown + hidden + extra
    told_ = hidden if isinstance(model, VideoMAEForPreTraining) else both
    dense = linear(entry(model), shown) + linear(told(model), told_)
    mixing = transformer(layers, shown) + transformer(model.decoder.decoder_layers, both)
    return 2 * embedding(model) + 3 * (dense + mixing)


def gemm_peak(dtype: torch.dtype, device: torch.device, size: int | None = None, seconds: float = 0.3) -> float:
    """Operations a second that this machine reaches on square matrix products: the most of several short runs.

    size: rows; None: 1,024 on CPUs, and 8,192 on GPUs, which launch 1,024 no faster than they multiply them.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    one = torch.full((size, size), 0.5, dtype=dtype, device=device)  # no random numbers: a run draws its own
    torch.mm(one, one)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(one, one)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
