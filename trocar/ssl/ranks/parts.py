"""Tensors of which ranks hold parts: their own part, norms, and the whole for a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor this rank holds: a part of it, or all of one that is whole. No copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """float64[n], on the device: the Euclidean norm of each tensor, of which ranks may hold parts.

    In float64, so that it is the same however many parts there are.
    """
    found = torch.stack(list(torch._foreach_norm([own_part(t) for t in tensors], 2, dtype=torch.float64)))
    mesh = next((t.device_mesh for t in tensors if isinstance(t, DTensor)), None)
    if mesh is None:
        return found
    squares = found.square()
    dist.all_reduce(squares, group=mesh.get_group("shard"))
    return squares.sqrt()


@torch.no_grad()
def gathered(tree: T, keep: bool, known: dict[int, Tensor] | None = None) -> T:
    """Nested dicts, lists and tuples with each tensor that lies in parts put together, in host memory.

    All ranks take part. Where `keep` is false the tensors are handed on and dropped, and empty ones stand for them.
    `known` holds what was put together before, by where its part lies.
    """
    known = {} if known is None else known
    if isinstance(tree, DTensor):
        key = tree.to_local().untyped_storage()._cdata
        if key not in known:
            whole = tree.full_tensor()
            known[key] = whole.cpu() if keep else torch.empty(0)
        return known[key]  # type: ignore[return-value]
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True) if keep else torch.empty(0)  # type: ignore[return-value]
    if isinstance(tree, Mapping):
        return type(tree)((key, gathered(value, keep, known)) for key, value in tree.items())  # type: ignore[call-arg]
    if isinstance(tree, (list, tuple)):
        return type(tree)(gathered(value, keep, known) for value in tree)
    return tree


def part_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor that every rank has, laid out as `like`; the whole where that is whole.

    Also in memory: a part that lies with channels last is taken for one that doesn't, and optimizers are slow with
    state that lies otherwise than its parameter.
    """
    if isinstance(like, DTensor):
        return distribute_tensor(
            whole.to(like.device).contiguous(), like.device_mesh, like.placements, src_data_rank=None
        )
    return whole if whole.stride() == like.stride() else torch.empty_like(like, dtype=whole.dtype).copy_(whole)


def load_method(method: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`load_state_dict` of whole tensors, also into a method that lies in parts."""
    own = method.state_dict()
    method.load_state_dict({key: part_like(value, own[key]) if key in own else value for key, value in state.items()})


def parts_of_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer with whole tensors -> with parts as its parameters have them."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        **state,
        "state": {
            index: {
                name: part_like(value, parameters[index])
                if isinstance(value, Tensor) and value.shape == parameters[index].shape
                else value
                for name, value in values.items()
            }
            for index, values in state["state"].items()
        },
    }
