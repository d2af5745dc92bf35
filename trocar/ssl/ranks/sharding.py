"""Training whose weights, gradients and optimizer state lie in parts: each rank holds a part of every tensor, by
torch's `fully_shard` (Zhao et al., arXiv 2304.11277; stage 3 of Rajbhandari et al., arXiv 1910.02054).

A block's weights are put together before it computes and taken apart behind it. Gradients are averaged over ranks as
they are without, but summed in another order where there are more than two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from trocar.errors import ConfigError
from trocar.ssl.blocks.networks import repeated_blocks
from trocar.ssl.blocks.teachers import frozen_networks

Sharding = Literal["none", "full", "hybrid"]


def mesh_of(sharding: Sharding, machines: Sequence[str], device: torch.device) -> DeviceMesh:
    """Which ranks hold parts of one whole: all of them (`full`), or those of each machine (`hybrid`), which then hold
    copies of one another's.

    `machines` names the machine of each rank. Raises ConfigError for `hybrid` where machines have different numbers of
    ranks, or ranks that do not follow each other.
    """
    if sharding == "full":
        return init_device_mesh(device.type, (len(machines),), mesh_dim_names=("shard",))
    names = list(dict.fromkeys(machines))
    each = len(machines) // len(names)
    if [name for name in names for _ in range(each)] != list(machines):
        counts = ", ".join(str(machines.count(name)) for name in names)
        raise ConfigError(
            f"train.shard=hybrid: each machine has to have as many ranks as the others, one behind the other, and here "
            f"{len(names)} machines have {counts} of {len(machines)}; take as many tasks on each node in blocks "
            f"(sbatch --distribution=block), or train.shard=full"
        )
    return init_device_mesh(device.type, (len(names), each), mesh_dim_names=("replicate", "shard"))


def shard(method: nn.Module, backbones: Sequence[nn.Module], mesh: DeviceMesh) -> None:
    """Take a method's weights apart, in place: block by block, head by head, and what is left as one.

    What is left is whole for the length of the method's `forward` and `embed`, so the loss may read it: parameters of
    the method, single layers, and what a backbone has around its blocks. Blocks and heads are whole while they are
    called, and are not to be read. Build the optimizer afterwards: the parameters are new ones.
    """
    for network in [*backbones, *frozen_networks(method)]:
        for convolution in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
            # Weights lie in parts row by row, so it is the picture that says channels last.
            convolution.register_forward_pre_hook(_channels_last)
        for block in repeated_blocks(network):
            fully_shard(block, mesh=mesh)
    for child in method.children():
        if child not in backbones and any(True for _ in child.children()):
            fully_shard(child, mesh=mesh)
    for network in frozen_networks(method):
        fully_shard(network, mesh=mesh, reshard_after_forward=True)
    fully_shard(method, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(method, "embed")


def _channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(_as_channels_last(x) for x in inputs)


def _as_channels_last(x: Tensor) -> Tensor:
    if x.shape[2:] != (1, 1):
        return x.contiguous(memory_format=torch.channels_last)
    # A map of one place is contiguous either way, and its strides then say which kernels are behind: only a copy has
    # those of channels last.
    return x.clone(memory_format=torch.channels_last)


def synchronise(method: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass averages gradients over ranks, or keeps its own for a later pass to add to."""
    if isinstance(method, FSDPModule):
        method.set_requires_gradient_sync(wanted)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has taken the module apart."""
    return isinstance(module, FSDPModule)
