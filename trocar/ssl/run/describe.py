"""What a run will do, in lines for people: before it starts, and at length for a dry run."""

from __future__ import annotations

import numpy as np
import torch
import yaml

from trocar.backbones.origin import origin_of
from trocar.data.views.recipe import ViewRecipe
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.step import Progress, Views
from trocar.ssl.ranks.machine import idle_gpus, ranks_of
from trocar.ssl.run.assembly import Pretraining


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
        f"length     {setup.total} steps of {config.train.batch} frames ({setup.total / setup.epoch_steps:.1f} epochs)",
        f"optimizer  {config.optim.label}, peak learning rate {setup.schedule.peak_lr:.3g} after "
        f"{setup.schedule.warmup_steps} steps",
        f"runs on    {setup.device} in {setup.resolved.train.precision}, {setup.world.size} rank(s), "
        f"{torch.get_num_threads()} thread(s), "
        f"{setup.loading}",
        f"run folder {config.run.out}",
    ]
    warnings = config.method.warnings(setup.data_size) + setup.schedule.warnings(setup.data_size)
    warnings += idle_gpus(setup.world, setup.device)
    return lines + [f"warning    {line}" for line in warnings]


def describe_at_length(setup: Pretraining) -> list[str]:
    """The configuration with all defaults, what the run will do, and what a step of it costs."""
    from trocar.ssl.run.cost import cost_lines  # a run that starts has no use for what this imports

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


def _started_from(method: Method) -> str:
    origin = origin_of(method.exported)
    return "" if origin is None else f", from the weights of {origin.name} (licence {origin.licence})"
