"""`torch.compile` of a backbone, block by block.

A transformer or a convolutional network is a chain of like blocks. Compiled one by one, they serve every way through
the network (also those past its `forward`, such as `forward_features`), equal blocks share a graph for each size of
view, and compiling takes a fraction of what the whole network's graph does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Backend = str | Callable[..., Any]

INDUCTOR: Backend = "inductor"
GRAPHS = 4096
"""Of one block's code. A network of 36 blocks, each with a rate of stochastic depth of its own, has a hundred."""


def compile_backbone(network: nn.Module, backend: Backend | None = None) -> list[nn.Module]:
    """Compile the blocks of a network in place, or the network as a whole where there are none; returns what it did.

    Keys of the state and hooks stay as they are. Compiling itself happens in the first pass of each size of view.
    """
    # Past the default of 8 graphs torch would go on uncompiled, with a line in its log.
    torch._dynamo.config.recompile_limit = GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = 4 * GRAPHS
    # DistributedDataParallel overlaps block by block as it is; its optimizer would cut the graphs of large blocks.
    torch._dynamo.config.optimize_ddp = False
    parts = repeated_blocks(network) or [network]
    for part in parts:
        # Shapes marked dynamic fail on the second size of view with channels last; each size gets its graph.
        part.compile(dynamic=False, backend=INDUCTOR if backend is None else backend)
    return parts


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that a network repeats, in order: a vision transformer's, those of ConvNeXt's stages, of ResNet's
    layers. Empty for a network that repeats none.

    A block stands in a `Sequential` or `ModuleList`, has at least two weights of more than one dimension, and holds no
    smaller block. At least one class of them has to occur twice.
    """
    lists = [module for module in network.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    found = list(dict.fromkeys(child for parent in lists for child in parent if _is_block(child)))
    known = set(found)
    smallest = [block for block in found if known.isdisjoint(inner for inner in block.modules() if inner is not block)]
    return smallest if max(Counter(map(type, smallest)).values(), default=0) > 1 else []


@contextmanager
def eagerly(network: nn.Module) -> Iterator[None]:
    """Within, what was compiled in `network` runs as it was written: no graph for a shape that is rare."""
    held = {m: m._compiled_call_impl for m in network.modules() if m._compiled_call_impl is not None}
    for module in held:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, compiled in held.items():
            module._compiled_call_impl = compiled


def _is_block(module: nn.Module) -> bool:
    own = not type(module).__module__.startswith("torch.nn.")
    return own and sum(weight.dim() > 1 for weight in module.parameters()) > 1
