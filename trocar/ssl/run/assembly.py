"""A pretraining run set up from its configuration: the method on its data, batches, identity."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from trocar import __version__
from trocar.backbones import own_module
from trocar.backbones.device import choose_device, cpu_model, dali_version, gpu_facts, resolved
from trocar.backbones.export import BackboneFiles, backbone_files
from trocar.backbones.source import modules_behind
from trocar.core.plugins import plugins_in
from trocar.core.registry import modules_of
from trocar.data.loading.batch import Batch
from trocar.data.loading.dali_pipeline import decoder_identity, is_available, require
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.remote.ranges import blocks_of
from trocar.data.views.recipe import ViewPlan
from trocar.ssl.adapt import AdaptLines
from trocar.ssl.blocks.heads import OwnNetworks
from trocar.ssl.blocks.networks import TimmNetworks
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.optimizer import Schedule
from trocar.ssl.engine.probe import Point, Probe, Watch
from trocar.ssl.ranks.machine import (
    MachineShare,
    fitting_workers,
    gpu_of,
    handed_over,
    require_shared_memory,
    workers_on,
)
from trocar.ssl.run.bad_rows import bad_rows
from trocar.ssl.run.method_parts import build_method, place, require_maps, stages_of, watch_with, with_cadence
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.probe_config import Cadence
from trocar.ssl.run.run_data import RunData

CHOSEN_BY_IT = "chosen by it: the highest of several looks, so better than this backbone is on new cases"
"""Stands beside the value of the probe that chose a backbone."""


@dataclass
class Pretraining(RunData):
    """A run that is set up but has not started: its data, its method, what it computes on and how it is told apart.

    `neighbouring`: ranks that share this one's cores and memory. `model`: a backbone of somebody's own, in place of the
    one that the configuration names. `make_probes` opens what `config.probe` names, in its order.
    """

    neighbouring: MachineShare = field(default_factory=MachineShare)
    model: nn.Module | None = None
    make_probes: Callable[[], Sequence[Probe]] = tuple

    @cached_property
    def plugins(self) -> dict[str, dict[str, str]]:
        """The plugins whose code takes part in the training, as `plugins_in` gives them."""
        own = (self.config.backbone.name,) if self.model is None else ()
        names = (*own, *self._teachers)
        return plugins_in({*modules_of(self.method_config), *(m for name in names for m in modules_behind(name))})

    @cached_property
    def schedule(self) -> Schedule:
        """Learning rate and weight decay."""
        return Schedule(self.config.optim, self.config.train.batch, self.total, self.epoch_steps, self.stages)

    @cached_property
    def stages(self) -> BackboneStages | None:
        """Those in which the backbone begins to train, None without `adapt`. Raises ConfigError for random weights."""
        return stages_of(self.config.adapt, self.data_size, self.config.backbone.name if self.model is None else None)

    def stage_lines(self) -> list[str]:
        """The stages for people, none without any."""
        if self.stages is None:
            return []
        return AdaptLines(self.stages, self.schedule, self.total).lines(self.method.backbones[0])

    def warnings(self) -> list[str]:
        """A line for each length or size that makes no sense for this run."""
        lines = self.config.method.warnings(self.data_size) + self.schedule.warnings(self.data_size)
        return lines + ([] if self.config.adapt is None else self.config.adapt.warnings(self.data_size))

    @cached_property
    def device(self) -> torch.device:
        """Where this rank trains. Raises ConfigError for GPUs that torch doesn't see, or too few of them."""
        if choose_device(self.config.run.device, "run.device") == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", gpu_of(self.world.local_rank, torch.cuda.device_count()))

    @property
    def workers(self) -> int:
        """Loader workers of this rank, `auto` resolved for this machine."""
        wanted = self.config.run.workers
        if wanted != "auto":
            return wanted
        found = workers_on(self.device.type, self.neighbouring.cores)
        fitting = fitting_workers(self._handed_over, self.neighbouring.memory) if self.backend == "torch" else None
        # None at all would be another way to load, and no faster: one that finds no room is an error of its own.
        return found if fitting is None else max(1, min(found, fitting))

    @property
    def _handed_over(self) -> int:
        """Bytes of a batch of this rank on its way from a loader worker."""
        return handed_over(self.method_config.recipe(), self.config.train.batch // self.world.size, self.device.type)

    @cached_property
    def backend(self) -> Backend:
        """What decodes: `auto` resolved for this rank's device. Raises ConfigError for DALI that can't be imported."""
        wanted = self.config.data.backend
        if wanted == "dali":
            require()
            return "dali"
        return "dali" if wanted == "auto" and self.device.type == "cuda" and is_available() else "torch"

    @cached_property
    def resolved(self) -> PretrainConfig:
        """The configuration with what this rank's device computes in for `train.precision: auto`.

        Raises ConfigError for a precision that the device doesn't have.
        """
        return self.config.computing_in(resolved(self.config.train.precision, self.device, "train.precision"))

    @cached_property
    def networks(self) -> TimmNetworks | OwnNetworks:
        """What the method is built from."""
        sizes = [group.size for group in self.method_config.recipe().groups.values()]
        config = self.config
        if self.model is not None:
            return OwnNetworks(self.model, config.backbone, config.run.seed, sizes, config.train.grad_checkpointing)
        return TimmNetworks(config.backbone, config.run.seed, sizes, config.train.grad_checkpointing)

    @cached_property
    def method(self) -> Method:
        """The method with freshly built networks and perhaps an anchor; everything random follows from run.seed.

        Raises ConfigError for a backbone that the method can't use, TrocarError for other weights than are pinned and
        for a backbone that could not be exported after the training.
        """
        self.networks.check_weights()
        return build_method(self.config, self.method_config, self.networks, self.stages)

    @cached_property
    def probes(self) -> list[tuple[Probe, Cadence]]:
        """What is scored while the run trains, and when. Raises ConfigError for what cannot be scored."""
        recipe = self.method_config.recipe()
        return with_cadence(self.config, list(self.make_probes()), recipe, self.total, self.epoch_steps)

    @cached_property
    def watch(self) -> Watch:
        """Who looks at the probes, and remembers what they saw."""
        require_maps(self.config)
        shape, precision = self.networks.preprocessing, self.resolved.train.precision
        return watch_with(self.probes, self.config, shape, precision, self.world, self.say)  # type: ignore[arg-type]

    def placed(self) -> Method:
        """The method where it trains: on its device, channels last, compiled if asked for."""
        return place(self.method, self.config.train, self.device, self.world.size)

    def loader(self, known_bad: frozenset[int] = frozenset()) -> Loader:
        """This rank's data path; `known_bad` rows are replaced without a look."""
        views = ViewPlan(self.method_config.recipe(), self.config.run.seed)
        data = self.config.data
        blocks = None
        if self.catalog.store is not None and data.shuffle == "window":
            blocks = blocks_of(data.cache_to, self.catalog.fingerprint, data.cache_gib)
        reader = Reader(self.catalog, known_bad, self.staged, blocks)
        shape, workers = self.networks.preprocessing, self.workers
        if workers and self.backend == "torch":
            require_shared_memory(self._handed_over, workers, self.neighbouring.memory)
        return Loader(
            self.plan,
            views,
            reader,
            shape.mean,
            shape.std,
            self.world.rank,
            self.world.size,
            workers,
            self.backend,
            self.device,
            data.hw_decoder_load,
            self.neighbours,
            self.config.run.data_timeout_s,
        )

    def batches(self, start: int) -> Generator[Batch]:
        """This rank's batches from step `start` to the end of the run."""
        return self.loader(bad_rows(self.config.run.out, self.catalog)).iterate(start, self.total)

    @property
    def loading(self) -> str:
        """Who makes the views, for people."""
        return f"{self.workers} loader worker(s) each, frames decoded by {self.backend}"

    def identity(self) -> dict[str, Any]:
        """Data and recipe: equal for two attempts of one run."""
        # `auto` as resolved: decoders and precisions round differently, and a resume on another machine must not change
        # them unseen.
        method = self.method_config.model_dump(mode="json", by_alias=True)
        recipe = {**self.resolved.recipe(), "method": method, "steps": self.total, "backend": self.backend}
        recipe |= self.method.identity()
        if self.method.feature_anchor is not None:
            recipe |= self.method.feature_anchor.identity()
        if self.backend == "dali" and self.device.type == "cuda":
            recipe["decoder"] = decoder_identity(
                self.config.data.hw_decoder_load, self.world.size, lambda: torch.cuda.get_device_name(self.device)
            )
        if self.neighbours is not None:
            recipe["neighbours"] = self.neighbours.identity()
        if self.plugins:
            recipe["plugins"] = self.plugins
        if self.model is not None:
            recipe["own_backbone"] = self._own_backbone
        return {"data": self.data_identity, "recipe": recipe}

    @cached_property
    def _own_backbone(self) -> dict[str, str]:
        # Of the first weights: the method trains copies.
        assert self.model is not None
        return own_module.identity(self.model)

    def environment(self) -> dict[str, Any]:
        """What may differ between attempts, and is logged when it does."""
        return {
            "ranks": self.world.size,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "compile": self.config.train.compile,
            "shard": self.config.train.shard,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": cpu_model(),
            **gpu_facts(self.device),
            **({"dali": dali_version()} if self.backend == "dali" else {}),
        }


def exported_backbone(setup: Pretraining, method: Method, step: int, best: Point | None = None) -> BackboneFiles:
    """The exported backbone of `step` as files of a timm local-dir folder; its tensors are the method's own.

    `best` is the look of a probe that chose it: its value is then said to be that of what was chosen by it.
    """
    # A run that patience may end was stopped by the probe's labels: its last weights are chosen by them as well.
    chosen = best is not None or setup.config.patience is not None
    extra = {
        "trocar": __version__,
        "method": setup.config.method.name,
        "step": step,
        "steps": setup.total,
        "seed": setup.config.run.seed,
        "data": setup.data_identity,
        **(setup.chosen_history if chosen else setup.history),
    }
    if best is not None:
        extra["chosen"] = {"by": f"probe {setup.watch.chooser}", "value": best.value, "note": CHOSEN_BY_IT}
    return backbone_files(method.exported, extra=extra, preprocessing=setup.networks.preprocessing)
