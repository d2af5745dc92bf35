"""A run on batches of somebody's own: any iterable of views, in place of a catalog.

Nothing is known of such data. They have no identity that a resume could compare, the weights' history says nothing of
them, so that every leak verdict is unknown, and they stay in the process that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trocar.core.random import make_key, philox
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.batch import Batch
from trocar.data.selection.neighbours import NeighbourRule
from trocar.data.views.recipe import ViewParams, ViewRecipe
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.private_data import Private
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.auto_values import DataSize

OwnBatch = Mapping[str, Any]
"""`views` {group: float32 [b, n, 3, S, S]}, normalised, with the method's groups; `ids` int [b], by which equal
pictures are told; perhaps `mask_seeds` uint32 [b, V], a number for each view that masks are drawn from."""
Batches = Iterable[OwnBatch] | Callable[[int], Iterable[OwnBatch]]
"""An iterable, which begins again when a run resumes, or a function of the first step, which can go on from there."""

NO_CATALOG = "own batches"
"""Stands in `data.catalog` of a run on such batches."""


@dataclass
class OwnBatchesRun(Pretraining):
    """As `Pretraining`, on `own`: `train.steps` batches of `train.batch` samples, by one rank."""

    own: Batches = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.world.size > 1 or self.config.run.ranks not in (1, "auto"):
            raise ConfigError("batches of your own stay in the process that makes them: run.ranks must be 1")
        if self.config.train.steps is None:
            raise ConfigError("batches of your own have no epochs: give train.steps")

    @property
    def catalog(self) -> Catalog:
        """There is none."""
        raise TrocarError("this run was trained on batches of somebody's own: it has no catalog")

    @cached_property
    def private(self) -> Private:
        """Nothing is known that must not be shown."""
        return Private()

    @property
    def data_identity(self) -> str:
        """Not known."""
        return NO_CATALOG

    @property
    def history(self) -> dict[str, Any]:
        """Nothing: what the weights have seen is not recorded."""
        return {}

    @property
    def chosen_history(self) -> dict[str, Any]:
        """Nothing either: a part of a history would be taken for all of it."""
        return {}

    def leaks(self) -> dict[str, Any] | None:
        """Nothing was compared."""
        return None

    @cached_property
    def total(self) -> int:
        """Length of the run in steps."""
        assert self.config.train.steps is not None
        return self.config.train.steps

    @cached_property
    def epoch_steps(self) -> int:
        """The whole run: nobody knows when a picture comes again."""
        return self.total

    @cached_property
    def data_size(self) -> DataSize:
        """As if each sample were another picture."""
        return DataSize(self.total * self.config.train.batch, self.config.train.batch, self.total, self.epoch_steps)

    @cached_property
    def neighbours(self) -> NeighbourRule | None:
        """Other frames of a sample are among its views already."""
        return None

    def data_lines(self) -> list[str]:
        """What the run trains on, for people."""
        return ["data       batches of your own: no identity, and verdicts on test data are unknown"]

    @property
    def loading(self) -> str:
        """Who makes the views, for people."""
        return "views of your own"

    def stage(self, start: int, stop: Callable[[], object] = lambda: False) -> None:
        """There are no shards."""

    def batches(self, start: int) -> Generator[Batch]:
        """Batches from step `start` on. Raises ConfigError for one that does not fit the method, TrocarError where they
        end before the run does.
        """
        if start and not callable(self.own):
            self.say(
                f"the batches are your own and begin again with their first, as step {start}: whether that goes on "
                "where the run stopped is not known; a function of the first step can"
            )
        recipe = self.method_config.recipe()
        source = iter(self.own(start) if callable(self.own) else self.own)
        for step in range(start, self.total):
            given = next(source, None)
            if given is None:
                raise TrocarError(f"the batches ended before step {step} of {self.total}; lower train.steps")
            yield _checked(given, recipe, self.config.train.batch, self.config.run.seed, step)


def _checked(given: OwnBatch, recipe: ViewRecipe, samples: int, seed: int, step: int) -> Batch:
    """Raises ConfigError, which says what of the batch is wrong and what is expected."""
    wanted = {name: (samples, group.count, 3, group.size, group.size) for name, group in recipe.groups.items()}
    views = given.get("views")
    if not isinstance(views, Mapping) or {*views} != {*wanted}:
        found = ", ".join(map(str, views)) if isinstance(views, Mapping) else type(views).__name__
        raise ConfigError(f"batch of step {step}: views: expected the groups {', '.join(wanted)}, got {found}")
    for name, shape in wanted.items():
        view = views[name]
        if not isinstance(view, Tensor) or view.dtype != torch.float32 or tuple(view.shape) != shape:
            got = f"{view.dtype} {list(view.shape)}" if isinstance(view, Tensor) else type(view).__name__
            raise ConfigError(f"batch of step {step}: views of {name}: expected torch.float32 {list(shape)}, got {got}")
    ids = np.asarray(given.get("ids"))
    if ids.shape != (samples,) or not np.issubdtype(ids.dtype, np.integer):
        raise ConfigError(f"batch of step {step}: ids: expected {samples} integers, got {ids.dtype} {list(ids.shape)}")
    seeds = given.get("mask_seeds")
    masks = _mask_seeds(samples, recipe.count, seed, step) if seeds is None else np.asarray(seeds)
    if masks.shape != (samples, recipe.count):
        raise ConfigError(f"batch of step {step}: mask_seeds: expected [{samples}, {recipe.count}], got {masks.shape}")
    params = _without_parameters(masks.astype(np.uint32))
    return Batch(step, ids.astype(np.int64), {name: views[name] for name in wanted}, params)


def _mask_seeds(samples: int, views: int, seed: int, step: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    counter = np.zeros((samples, views, 4), np.uint32)
    counter[..., 0], counter[..., 1] = np.arange(samples)[:, None], np.arange(views)
    return philox(counter, make_key(seed, "own masks", step))[..., 0]


def _without_parameters(mask_seed: np.ndarray[Any, np.dtype[np.uint32]]) -> ViewParams:
    """Parameters of views that were made elsewhere: none but the seeds of masks."""
    b, count = mask_seed.shape
    return ViewParams(
        frame=np.zeros(count, np.int8),
        boxes=np.zeros((b, count, 4), np.int32),
        flip=np.zeros((b, count), bool),
        colour=np.ones((b, count, 4), np.float32),
        order=np.zeros((b, count, 4), np.int8),
        grey=np.zeros((b, count), bool),
        sigma=np.zeros((b, count), np.float32),
        solarize=np.zeros((b, count), bool),
        rand_op=np.zeros((b, count, 0), np.int8),
        rand_level=np.zeros((b, count, 0), np.float32),
        erase=np.zeros((b, count, 4), np.int32),
        mask_seed=mask_seed,
    )
