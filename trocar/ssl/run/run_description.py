"""What a run will do, in lines for people, and what a step of it will cost, found without computing anything:
parameters, FLOPs, memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from trocar.backbones.source import origin_of, resolve
from trocar.data.views.recipe import ViewRecipe
from trocar.errors import TrocarError
from trocar.ssl.blocks.teachers import frozen_networks
from trocar.ssl.engine.method import Method, Progress, Views
from trocar.ssl.engine.optimizer import OptimConfig
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.ranks.distributed import is_distributed
from trocar.ssl.ranks.machine import idle_gpus, ranks_of
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.probe_config import LONG, POINTS, SHARE

MakeViews = Callable[[int, torch.device], Any]
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepCost:
    """Parameters are counts, `flops` is per step of the global batch, the rest is bytes per rank; `parts` is into how
    many the weights, gradients and optimizer state are divided, each rank holding one.

    A multiply-add is 2 FLOPs; matrix products, convolutions and attention are counted, forward and backward, and the
    teacher's forward; attention's backward with the scores that its kernels compute again. `anchor_flops` are those of
    `flops` that an anchor adds. Memory is what stands at
    the end of the forward pass, gradients and optimizer included. Not in it: what one layer needs while it runs
    (gradients of activations, workspaces, with gradient checkpointing the block that is computed again), views waiting
    to be used, the program itself, and in rank 0's host memory the copy (weights and optimizer) that checkpoints are
    written from.
    """

    trainable: int
    parameters: int
    flops: float
    weights: int
    gradients: int
    optimizer: int
    activations: int
    micro_batch: int
    parts: int = 1
    anchor_flops: float = 0.0

    @property
    def memory(self) -> int:
        """Bytes per rank, all parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def lines(self) -> list[str]:
        """The estimate for people."""
        gib = [f"{n / 2**30:.2f}" for n in (self.weights, self.gradients, self.optimizer, self.activations)]
        share = f"           {100 * self.anchor_flops / self.flops:.0f} % of it for the anchor's forward pass and loss"
        divided = f"; a part in {self.parts} of all but activations, blocks whole while they compute"
        return [
            f"parameters {self.trainable / 1e6:.2f} M that train, {self.parameters / 1e6:.2f} M in all",
            f"step       {self.flops / 1e12:.3g} TFLOP over all ranks, forward and backward, a multiply-add being 2",
            *([share] if self.anchor_flops else []),
            f"memory     about {self.memory / 2**30:.1f} GiB per rank: weights {gib[0]}, gradients {gib[1]}, "
            f"optimizer {gib[2]}, activations {gib[3]} for a micro-batch of {self.micro_batch}"
            f"{divided if self.parts > 1 else ''}",
        ]


def cost_lines(
    method: Method, make_views: MakeViews, train: TrainConfig, optim: OptimConfig, ranks: int, progress: Progress
) -> list[str]:
    """`estimate` for people; a method that can't be estimated says so and spoils nothing."""
    try:
        return estimate(method, make_views, train, optim, ranks, progress).lines()
    except (RuntimeError, NotImplementedError) as error:
        return [f"step       cost unknown: {str(error).splitlines()[0]}"]


def estimate(
    method: Method, make_views: MakeViews, train: TrainConfig, optim: OptimConfig, ranks: int, progress: Progress
) -> StepCost:
    """The cost of one step at `progress`, from a forward and backward pass of one micro-batch over fake tensors.

    Fake tensors have shape, dtype and device but no data; unlike plain `meta` tensors they know autocast and choose the
    attention kernel that a real device would. `make_views(batch, device)` makes the method's views, with torch's
    own factories alone, so that they are fake as well. `method` is not changed.

    Raises TrocarError inside a process group, and what torch raises for a method whose shapes depend on values.
    """
    if is_distributed():
        raise TrocarError("an estimate inside a process group would talk to the other ranks")
    micro = train.batch // (ranks * train.accumulate)
    with FakeTensorMode(allow_non_fake_inputs=True):
        empty, views = without_data(method), make_views(micro, _CPU)
        flops, activations = _one_pass(empty, views, train.precision, progress)
        plain = flops
        if empty.feature_anchor is not None:
            empty.feature_anchor = None
            plain, _ = _one_pass(empty, views, train.precision, progress)
    parameters, buffers = _held(method)
    trained = [p for p in parameters if p.requires_grad]
    parts = 1 if train.shard == "none" else ranks  # hybrid: as if all ranks were on one machine
    gradients = -(-_bytes(trained) // parts)
    moments = 2 if optim.name == "adamw" else int(optim.momentum > 0)
    return StepCost(
        trainable=sum(p.numel() for p in trained),
        parameters=sum(p.numel() for p in parameters),
        flops=flops * train.batch / micro,
        weights=-(-_bytes(parameters) // parts) + _bytes(buffers),
        gradients=gradients,  # once: they lie in the buckets that DistributedDataParallel reduces
        optimizer=gradients * moments,
        activations=activations,
        micro_batch=micro,
        parts=parts,
        anchor_flops=(flops - plain) * train.batch / micro,
    )


def _one_pass(method: Method, views: Any, precision: str, progress: Progress) -> tuple[float, int]:
    """FLOPs of forward and backward, and the bytes that the forward pass keeps for the backward pass."""
    saved = _Saved(method)
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    method.train()
    with counter, saved_tensors_hooks(saved.pack, lambda x: x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = method(views, progress)["loss"]
        kept = saved.bytes
        loss.backward()
    return float(counter.get_total_flops()), kept


class _Saved:
    """Counts storages that autograd keeps, each once; parameters and buffers stand elsewhere."""

    def __init__(self, module: nn.Module) -> None:
        self.bytes = 0
        # The storages are held, or a new one could come at the address of a freed one and not be counted.
        self._seen = {t.untyped_storage()._cdata: t for t in (*module.parameters(), *module.buffers())}

    def pack(self, x: Tensor) -> Tensor:
        key = x.untyped_storage()._cdata
        if key not in self._seen:
            self._seen[key] = x.detach()
            self.bytes += x.untyped_storage().nbytes()
        return x


def without_data(method: Method, device: torch.device = _CPU) -> Method:
    """A copy whose tensors have no data and are said to be on `device`; to be called under FakeTensorMode."""

    def fake(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)

    memo: dict[int, Any] = {}
    for module in method.modules():
        for x in vars(module).values():  # such as the weight that weight normalisation computed in the last forward
            if isinstance(x, Tensor):
                memo[id(x)] = fake(x)
    parameters, buffers = _held(method)
    for buffer in buffers:
        memo[id(buffer)] = fake(buffer)
    for p in parameters:
        memo[id(p)] = nn.Parameter(fake(p), p.requires_grad)
    return copy.deepcopy(method, memo)


def _held(method: Method) -> tuple[list[nn.Parameter], list[Tensor]]:
    """Parameters and buffers, a frozen teacher's included: it is no submodule, but takes memory."""
    modules = [method, *frozen_networks(method)]
    return [p for m in modules for p in m.parameters()], [b for m in modules for b in m.buffers()]


def _bytes(tensors: list[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _convolution_backward(grad_out: list[int], x: list[int], weight: list[int], *args: Any, **_: Any) -> int:
    """The gradients of input and weight take as many multiply-adds as the forward pass, each.

    torch's own formula takes the channels of a grouped convolution for those of a full one: 90 times too much for a
    depthwise convolution of 96 channels.
    """
    transposed, mask = args[4], args[7]
    return conv_flop_count(x, weight, grad_out, transposed) * int(mask[0] + mask[1])


def _attention(q: list[int], k: list[int], v: list[int], *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]


def _attention_backward(grad_out: list[int], q: list[int], k: list[int], v: list[int], *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out, q, k, v))  # type: ignore[no-untyped-call]


FORMULAS = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    # torch counts attention for the kernels of GPUs only.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What `FlopCounterMode` needs to be told, as its `custom_mapping`."""


def describe(setup: Pretraining) -> list[str]:
    """What the run will do, and what of it makes no sense for this much data."""
    config = setup.config
    method = setup.method
    count = sum(p.numel() for p in method.exported.parameters())
    groups = setup.method_config.recipe().groups
    lines = [
        *setup.data_lines(),
        f"method     {setup.method_config.name}",
        f"backbone   {config.backbone.name}, {count / 1e6:.2f} M parameters{_started_from(method)}",
        f"views      {', '.join(f'{g.count} x {g.size} px {n}' for n, g in groups.items())}",
        *_neighbours(setup),
        *(method.feature_anchor.lines(method) if method.feature_anchor is not None else ()),
        f"length     {setup.total} steps of {config.train.batch} frames ({setup.total / setup.epoch_steps:.1f} epochs)",
        f"optimizer  {config.optim.label}, peak learning rate {setup.schedule.peak_lr:.3g} after "
        f"{setup.schedule.warmup_steps} steps",
        *setup.stage_lines(),
        f"runs on    {setup.device} in {setup.resolved.train.precision}, {setup.world.size} rank(s), "
        f"{torch.get_num_threads()} thread(s), "
        f"{setup.loading}",
        *_probes(setup),
        f"run folder {config.run.out}",
    ]
    warnings = setup.warnings() + idle_gpus(setup.world, setup.device) + _random_anchor(setup)
    warnings += [
        f"probe {probe.name}: {100 * when.share:.0f} % of the time for {when.looks} looks; take fewer frames"
        for probe, when in setup.probes
        if setup.total > LONG and (when.share > 1.01 * SHARE or when.looks <= POINTS)
    ]
    return lines + [f"warning    {line}" for line in warnings]


def describe_at_length(setup: Pretraining) -> list[str]:
    """The configuration with all defaults, what the run will do, and what a step of it costs."""
    config = setup.resolved.model_dump(mode="json", by_alias=True)
    config["method"] = setup.method_config.model_dump(mode="json", by_alias=True)
    recipe = setup.method_config.recipe()
    # Past what is frozen or warmed up at first.
    late = Progress(setup.total - 1, setup.total, setup.epoch_steps)
    cost = cost_lines(
        setup.method,
        lambda batch, device: empty_views(recipe, batch, device),
        setup.resolved.train,
        setup.config.optim,
        setup.world.size if setup.world.size > 1 else ranks_of(setup.config),
        late,
    )
    return [yaml.safe_dump(config, sort_keys=False, allow_unicode=True), *describe(setup), *cost]


def empty_views(recipe: ViewRecipe, batch: int, device: torch.device) -> Views:
    """Views of `batch` samples for counting what they cost; their masks are those of some seeds."""
    crops = {
        name: torch.zeros(batch, group.count, 3, group.size, group.size, device=device)
        for name, group in recipe.groups.items()
    }
    seeds = np.random.default_rng(0).integers(0, 2**32, (batch, recipe.count), dtype=np.uint32)
    return Views(crops, torch.arange(batch, device=device), seeds)


def _neighbours(setup: Pretraining) -> list[str]:
    """Where other frames come from. Raises ConfigError for an index that can't be used, also in a dry run."""
    if setup.neighbours is None:
        return []
    rule = setup.neighbours.config
    near = "" if rule.index is None else f"index {rule.index}, else "
    return [f"neighbours {near}{', '.join(f'{s:+g}' for s in rule.offsets_s)} s from the anchor"]


def _random_anchor(setup: Pretraining) -> list[str]:
    to_first = setup.config.anchor is not None and setup.config.anchor.teacher == "first"
    if not to_first or setup.model is not None or resolve(setup.config.backbone.name).kind != "random":
        return []
    return ["anchor: the first weights are random, and features are kept as they are; start from weights, or leave it"]


def _probes(setup: Pretraining) -> list[str]:
    """What is scored while it trains, when, and what that costs. Raises ConfigError for what cannot be scored."""
    lines = []
    for probe, when in setup.probes:
        chooses = ", chooses" if probe.name == setup.watch.chooser else ""
        lines.append(
            f"probe      {probe.name}: {probe.about}; every {when.every} steps, {when.looks} looks with the one at the "
            f"first weights, about {100 * when.share:.1f} % of the time{chooses}"
        )
    return lines


def _started_from(method: Method) -> str:
    origin = origin_of(method.exported)
    return "" if origin is None else f", from the weights of {origin.name} (licence {origin.licence})"
