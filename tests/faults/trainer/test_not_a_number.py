"""NaN in the loss, of all ranks or of one: the step is skipped by all together, or the run stops; no rank waits."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_record import Injector
from fault_trainer import finish, fork_ranks, fresh_seeds, pretrain, results, saved, write_config

from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import Trainer

PLACES = {"loss of all ranks": (0, 1), "loss of rank 0": (0,), "loss of rank 1": (1,)}


def poison(steps: tuple[int, ...], ranks: tuple[int, ...]) -> None:
    """Frames of NaN in these steps of these ranks, as a broken decoder might make them."""
    fork_ranks()
    backward = Trainer._backward

    def poisoned(trainer: Trainer, batch: Any, progress: Any) -> Any:
        if progress.step in steps and int(os.environ["RANK"]) in ranks:
            for views in batch.views.values():
                views.fill_(torch.nan)
        return backward(trainer, batch, progress)

    Trainer._backward = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_may_skip_no_step_stops_with_the_checkpoint_from_before(
    shards: Path, undisturbed_on_two: Path, tmp_path: Path, inject: Injector, place: str
) -> None:
    out = tmp_path / "run"
    config = write_config(shards, out, run={"ranks": 2}, train={"max_skipped": 0})
    (seed,) = fresh_seeds(1)
    step = random.Random(seed).randrange(3, 10)
    promise = "no rank hangs; the checkpoint before is whole, and resumed it ends equal to the bit"
    with inject("NaN", place, promise, seed=seed, at=f"step {step}") as injection:
        run = pretrain(config, fault=partial(poison, (step,), PLACES[place]))
        assert run.end() == 1, run.said()
        assert "1 steps had a non-finite loss or gradient" in run.said()
        assert "Traceback" not in run.said()
        assert sorted(path.name for path in out.glob("broken-*")) == [f"broken-step-{step}-rank-{r}.pt" for r in (0, 1)]
        (*_, last) = checkpoint.steps(out)
        assert last == step // 2 * 2
        injection.compare(saved(undisturbed_on_two, last), saved(out, last))
        finish(config, fault=fork_ranks)
        injection.compare(results(undisturbed_on_two), results(out))


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_by_both(
    shards: Path, tmp_path: Path, inject: Injector
) -> None:
    (seed,) = fresh_seeds(1)
    draw = random.Random(seed)
    steps, rank = tuple(draw.sample(range(20), 3)), draw.randrange(2)
    everywhere = write_config(shards, tmp_path / "everywhere", run={"ranks": 2})
    finish(everywhere, fault=partial(poison, steps, (0, 1)))
    config = write_config(shards, tmp_path / "run", run={"ranks": 2})
    promise = "the step is skipped by all ranks, and the run ends as if all had met it"
    with inject("NaN, skipped", f"loss of rank {rank}", promise, seed=seed, at=f"steps {steps}") as injection:
        finish(config, fault=partial(poison, steps, (rank,)))
        found = results(tmp_path / "run")
        assert found["step 24 skipped"] == "3"
        injection.compare(results(tmp_path / "everywhere"), found)
