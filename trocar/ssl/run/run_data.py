"""What a run trains on: catalog, selection, length and order, what of it weights will have seen, and the shards on this
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trocar.backbones.source import KEY, Record
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading import shard_files
from trocar.data.selection.neighbours import NeighbourRule, resolve_neighbours
from trocar.data.selection.plan import Plan
from trocar.data.selection.selection import Selection
from trocar.privacy.private_data import Private, private_of_catalog
from trocar.ssl.blocks.teachers import FrozenConfig
from trocar.ssl.engine.method import MethodConfig
from trocar.ssl.pool_guard import PoolGuard, TrainingData
from trocar.ssl.ranks.distributed import World, gather_words, wait_for_all
from trocar.ssl.ranks.machine import machine_name
from trocar.ssl.run.auto_values import DataSize
from trocar.ssl.run.pretrain_config import PretrainConfig

STAGING_S = 12 * 3600.0
"""For the slowest machine to copy its shards: 12 TB from a file server that gives it 300 MB/s."""


@dataclass
class RunData:
    """The data of a run that has not started: catalog opened, selection resolved, nothing written yet.

    `guard` keeps test cases out of the selection (`trocar.leakage.guard`). `staged`: the shards that lie on this
    machine's own disk.
    """

    config: PretrainConfig
    world: World
    say: Say
    guard: PoolGuard
    staged: Mapping[int, Path] = field(default_factory=dict)

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

    def leaks(self) -> dict[str, Any] | None:
        """The record of the leak guard, for the run folder; None where nothing was compared."""
        return {**self.guard.report(self.training_data), KEY: self.exposure}

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

    @property
    def _teachers(self) -> tuple[str, ...]:
        return tuple(value.name for _, value in self.method_config if isinstance(value, FrozenConfig))

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
