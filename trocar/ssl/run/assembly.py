"""A pretraining run set up from its configuration: catalog, selection, plan, method, identity."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trocar import __version__
from trocar.backbones import own_module
from trocar.backbones.depthwise import use_fast_gradients
from trocar.backbones.device import choose_device, cpu_model, dali_version, gpu_facts, resolved
from trocar.backbones.export import BackboneFiles, backbone_files, require_exportable
from trocar.backbones.source import KEY, Record, modules_behind
from trocar.core.messages import Say
from trocar.core.plugins import plugins_in
from trocar.core.registry import modules_of
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading import shard_files
from trocar.data.loading.batch import Batch
from trocar.data.loading.dali_pipeline import decoder_identity, is_available, require
from trocar.data.loading.loader import Backend, Loader
from trocar.data.loading.reader import Reader
from trocar.data.remote.ranges import blocks_of
from trocar.data.selection.neighbours import NeighbourRule, resolve_neighbours
from trocar.data.selection.plan import Plan
from trocar.data.selection.selection import Selection
from trocar.data.views.recipe import ViewPlan
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.private_data import Private, private_of_catalog
from trocar.ssl.adapt import AdaptLines, add_factors, require_learners, require_weights
from trocar.ssl.blocks.anchor import build_anchor
from trocar.ssl.blocks.heads import OwnNetworks
from trocar.ssl.blocks.networks import TimmNetworks, compile_backbone
from trocar.ssl.blocks.teachers import FrozenConfig
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method, MethodConfig
from trocar.ssl.engine.optimizer import Schedule
from trocar.ssl.engine.probe import Point, Probe, Watch, WatchedProbe
from trocar.ssl.pool_guard import PoolGuard, TrainingData
from trocar.ssl.ranks.batch_norm import convert
from trocar.ssl.ranks.distributed import World, gather_words, wait_for_all
from trocar.ssl.ranks.machine import (
    MachineShare,
    fitting_workers,
    gpu_of,
    handed_over,
    machine_name,
    require_shared_memory,
    workers_on,
)
from trocar.ssl.ranks.sharding import mesh_of, shard
from trocar.ssl.run.auto_values import DataSize
from trocar.ssl.run.bad_rows import bad_rows
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.probe_config import Cadence, cadence

CHOSEN_BY_IT = "chosen by it: the highest of several looks, so better than this backbone is on new cases"
"""Stands beside the value of the probe that chose a backbone."""
STAGING_S = 12 * 3600.0
"""For the slowest machine to copy its shards: 12 TB from a file server that gives it 300 MB/s."""


@dataclass
class Pretraining:
    """A run that is set up but has not started: catalog opened, selection resolved, nothing written yet.

    `guard` keeps test cases out of the selection (`trocar.leakage.guard`). `neighbouring`: ranks that share this
    one's cores and memory. `model`: a backbone of somebody's own, in place of the one that the configuration names.
    `make_probes` opens what `config.probe` names, in its order.
    """

    config: PretrainConfig
    world: World
    say: Say
    guard: PoolGuard
    staged: Mapping[int, Path] = field(default_factory=dict)
    neighbouring: MachineShare = field(default_factory=MachineShare)
    model: nn.Module | None = None
    make_probes: Callable[[], Sequence[Probe]] = tuple

    @cached_property
    def catalog(self) -> Catalog:
        """The opened catalog."""
        return Catalog.open(self.config.data.catalog)

    @cached_property
    def private(self) -> Private:
        """The names that nothing of this run may show: of the catalog, and of the data the leak guard compares with."""
        if self.config.privacy.share_frames:
            return Private()
        return Private.join([private_of_catalog(self.catalog), self.guard.private(self.config.data.composition)])

    @cached_property
    def selection(self) -> Selection:
        """What the composition resolves to."""
        steps, batch = self.config.train.steps, self.config.train.batch
        samples = steps * batch if steps is not None else None
        return self.guard.resolve(self.config.data.composition, self.catalog, samples)

    @cached_property
    def training_data(self) -> TrainingData:
        """All that reaches the weights."""
        return TrainingData(
            self.config.run.out,
            self.config.data.composition,
            self.catalog,
            self.selection,
            self.config.backbone.name,
            self._teachers,
            self.neighbours.table if self.neighbours is not None else None,
        )

    @cached_property
    def exposure(self) -> Record:
        """What the trained weights will have seen, through their first weights, teachers and neighbour index too."""
        return self.guard.seen(self.training_data)

    @cached_property
    def plugins(self) -> dict[str, dict[str, str]]:
        """The plugins whose code takes part in the training, as `plugins_in` gives them."""
        own = (self.config.backbone.name,) if self.model is None else ()
        names = (*own, *self._teachers)
        return plugins_in({*modules_of(self.method_config), *(m for name in names for m in modules_behind(name))})

    @property
    def _teachers(self) -> tuple[str, ...]:
        return tuple(value.name for _, value in self.method_config if isinstance(value, FrozenConfig))

    def leaks(self) -> dict[str, Any] | None:
        """The record of the leak guard, for the run folder; None where nothing was compared."""
        return {**self.guard.report(self.training_data), KEY: self.exposure}

    @cached_property
    def total(self) -> int:
        """Length of the run in steps."""
        return self.config.total_steps(len(self.selection))

    @cached_property
    def epoch_steps(self) -> int:
        """Steps of one epoch of the selection, at least 1 (the reference drops the last, partial batch)."""
        return max(1, len(self.selection) // self.config.train.batch)

    @cached_property
    def plan(self) -> Plan:
        """The order of the frames."""
        return Plan(self.selection, self.config.train.batch, self.config.run.seed, self.config.data.shuffle)

    @cached_property
    def schedule(self) -> Schedule:
        """Learning rate and weight decay."""
        return Schedule(self.config.optim, self.config.train.batch, self.total, self.epoch_steps, self.stages)

    @cached_property
    def stages(self) -> BackboneStages | None:
        """Those in which the backbone begins to train, None without `adapt`. Raises ConfigError for random weights."""
        adapt = self.config.adapt
        if adapt is None:
            return None
        stages = adapt.stages(self.data_size)
        if self.model is None:  # of a module of somebody's own its first weights are all that is known
            require_weights(adapt, stages, self.config.backbone.name)
        return stages

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
    def data_size(self) -> DataSize:
        """How much there is to learn from."""
        return DataSize(len(self.selection), self.config.train.batch, self.total, self.epoch_steps)

    @cached_property
    def method_config(self) -> MethodConfig:
        """The method's configuration with a number for each `auto`."""
        return self.config.method.resolved(self.data_size)

    @cached_property
    def neighbours(self) -> NeighbourRule | None:
        """Which other frames belong to a sample. Raises ConfigError for an index that can't be used."""
        source = self.method_config.neighbour_source()
        return resolve_neighbours(source, self.catalog, self.selection, self.config.run.seed)

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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.run.seed)
            method = self.method_config.build(self.networks)
        if self.config.adapt is not None and self.config.adapt.lora is not None:
            add_factors(method, self.config.adapt.lora, self.config.run.seed, self.networks.preprocessing.size[0])
        if self.stages is not None:
            require_learners(method, self.stages)
        require_exportable(method.exported, self.networks.preprocessing)
        if self.config.anchor is not None:
            method.feature_anchor = build_anchor(self.config.anchor, method, self.networks)
        return method

    @cached_property
    def probes(self) -> list[tuple[Probe, Cadence]]:
        """What is scored while the run trains, and when. Raises ConfigError for what cannot be scored."""
        config, made = self.config, list(self.make_probes())
        if len(made) != len(config.probe):
            raise TrocarError(f"{len(config.probe)} probe(s) are configured, and {len(made)} were handed in")
        recipe, batch = self.method_config.recipe(), config.train.batch
        return [
            (probe, cadence(wanted, recipe, batch, self.total, self.epoch_steps, len(made)))
            for probe, wanted in zip(made, config.probe, strict=True)
        ]

    @cached_property
    def watch(self) -> Watch:
        """Who looks at the probes, and remembers what they saw."""
        if self.config.train.shard != "none" and any(probe.protocol == "dense" for probe in self.config.probe):
            raise ConfigError(
                f"probe: protocol dense asks a network for maps, which train.shard: {self.config.train.shard} does not "
                f"allow; take knn or linear, or train.shard: none"
            )
        chooser = self.config.chooser
        return Watch(
            [WatchedProbe(probe, when.is_due) for probe, when in self.probes],
            self.networks.preprocessing,
            self.resolved.train.precision,  # type: ignore[arg-type]
            self.world,
            self.say,
            None if chooser is None else chooser.name,
            self.config.patience,
        )

    def placed(self) -> Method:
        """The method where it trains: on its device, channels last, compiled if asked for."""
        if self.config.train.sync_batch_norm and self.world.size > 1:
            convert(self.method, self.device)
        sharding = self.config.train.shard if self.world.size > 1 else "none"
        # Depthwise and strided convolutions are faster with channels last, on CPU as on tensor cores.
        layout = {"memory_format": torch.channels_last} if sharding == "none" else {}
        self.method.to(device=self.device, **layout)  # type: ignore[call-overload]
        if self.device.type == "cpu" and not self.config.train.compile:
            use_fast_gradients(self.method.backbones[0])
        if self.config.train.compile:
            anchor = self.method.feature_anchor
            for backbone in [*self.method.backbones, *(anchor.compilable(self.method) if anchor is not None else ())]:
                compile_backbone(backbone)
        if sharding != "none":
            mesh = mesh_of(sharding, gather_words("machine of a part", machine_name()), self.device)
            shard(self.method, self.method.backbones, mesh)
        return self.method

    def stage(self, start: int, stop: Callable[[], object] = lambda: False) -> None:
        """Copy the shards that the ranks of this machine read from step `start` on to its own disk, once per machine,
        if `data.stage_to` says so; until `stop` asks to end it.
        """
        if self.config.data.stage_to is None:
            return
        place = shard_files.place(self.config.data.stage_to, self.catalog)
        machines = np.array(gather_words("machine that stages", machine_name()))
        if self.world.local_rank == 0:
            share = self.plan.batch // self.world.size
            slots = np.flatnonzero(np.repeat(machines == machine_name(), share))
            shards = shard_files.in_order_of_use(self.catalog, self.plan, slots, range(start, self.total))
            if self.neighbours is not None:  # of whom any frame of the selection may be one
                shards = list(dict.fromkeys([*shards, *shard_files.shards_of(self.catalog, self.selection)]))
            shard_files.copy(self.catalog, shards, place, self.say, stop=stop)
        wait_for_all("staging", STAGING_S)
        self.staged = shard_files.present(self.catalog, place)

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

    def data_lines(self) -> list[str]:
        """What the run trains on, for people."""
        epochs, selection = self.plan.epochs(self.total), self.selection
        return [
            f"data       {len(selection)} frames of {len(selection.cases)} cases, fingerprint {selection.fingerprint}",
            *(
                f"           {s}: {n} frames, seen {epochs[s]:.1f} times"
                for s, n in selection.source_rows.items()
                if s in epochs
            ),
            *(f"           {note}" for note in selection.notes),
        ]

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

    @property
    def data_identity(self) -> str:
        """By which two attempts of one run train on the same data."""
        return self.selection.fingerprint

    @property
    def history(self) -> dict[str, Any]:
        """What the exported weights will have seen, for the `trocar` section of their config.json."""
        return {KEY: self.exposure}

    @property
    def chosen_history(self) -> dict[str, Any]:
        """The same of weights that a probe chose among many: its labels had a part in them."""
        return {KEY: self.guard.seen(replace(self.training_data, chosen=True))}

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
