"""Weights, gradients and optimizer state in shards over the ranks (FSDP2), and whole again where that is wanted.

accelerate starts the ranks and gives each its device. It shards on GPUs alone, and on CPU drops the wish in silence;
so the wrapping is ours, the same on both: what the tests run over gloo is what GPUs run.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(
    module: nn.Module, language_model: Any, outside: nn.Module, accelerator: Accelerator, dtype: torch.dtype
) -> None:
    """Leave every rank a share of each parameter under `module`, in place; `outside`, a part of it, stays as it is.

    Gathered while they compute: the blocks of the language model one by one, all else with the module itself. They
    compute in `dtype`; shares and the sum of gradients are fp32. Offloading and reshard_after_forward are those of
    accelerate's FSDP configuration, where it has one. Raises ValueError in a process without fellow ranks, and
    where ranks have not read the weights.
    """
    if not torch.distributed.is_initialized():
        raise ValueError(
            "weights are sharded over several processes, and this is the only one: start them with "
            "`accelerate launch --num_processes N -m foretell train ... --shard`, or leave --shard out"
        )
    device, plugin = accelerator.device, accelerator.state.fsdp_plugin if accelerator.is_fsdp2 else None
    if plugin and plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "with fsdp_cpu_ram_efficient_loading only the first rank reads the language model, but each takes its "
            "share of what it has read: set that to false in accelerate's configuration, as train/fsdp2.yaml does"
        )
    empty = {p for p in module.parameters() if not p.numel()}  # nothing to share, and FSDP2 fails on their gradients
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (accelerator.num_processes,)),
        "mp_policy": MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False),
        "offload_policy": plugin.cpu_offload if plugin else OffloadPolicy(),
        "ignored_params": empty.union(outside.parameters()),
    }
    for parameter in empty:
        parameter.data = parameter.to(device)
    for unit in units(language_model):
        fully_shard(unit, **options, reshard_after_forward=plugin.reshard_after_forward if plugin else True)
    fully_shard(module, **options)


def units(language_model: Any) -> list[nn.Module]:
    """What is gathered by itself: each block; embeddings and head too, unless they are one tensor."""
    names = set(language_model._no_split_modules or ())
    blocks = [module for module in language_model.modules() if type(module).__name__ in names]
    ends = [language_model.get_input_embeddings(), language_model.get_output_embeddings()]
    return blocks if ends[0].weight is ends[1].weight else [*blocks, *ends]


@contextmanager
def opened(module: nn.Module) -> Iterator[None]:
    """Whole weights of what is gathered with the module itself, for calls that do not enter by its forward."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards; all ranks must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def alike(tensor: Tensor, held: Tensor) -> Tensor:
    """This rank's share of a whole tensor, sharded as `held` is; a tensor of another shape stays whole."""
    if not isinstance(held, DTensor) or tensor.shape != held.shape:
        return tensor
    return distribute_tensor(tensor.to(held.device), held.device_mesh, held.placements, src_data_rank=None)


def put(module: nn.Module, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
    """`load_state_dict` of whole tensors into a module whose own may be sharded."""
    held = module.state_dict()
    shares = {name: alike(tensor, held.get(name, tensor)) for name, tensor in tensors.items()}
    module.load_state_dict(shares, strict=strict)
