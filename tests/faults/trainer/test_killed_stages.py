"""SIGKILL between a border of stages, or an anchor's copy, and the next checkpoint: the same command ends the same."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from fault_trainer import finish, pretrain, results, write_config
from run_factory import logged

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.ssl.engine import checkpoint
from trocar.ssl.run.run_hooks import RunHooks

pytestmark = [pytest.mark.slow, pytest.mark.faults]

EVERY, FROZEN, RAMP = (
    5,
    7,
    6,
)  # a checkpoint after steps 5, 10 ...; the backbone learns from step 7, wholly from step 13
FIRST_COPY, COPIES = 2, 6  # the anchor is copied before steps 2, 8, 14 and 20


def kill_after(done_at: int) -> None:
    """The process is gone after step `done_at`, once the checkpoint before is there and before another is begun."""
    saving, before = RunHooks.save, done_at - done_at % EVERY

    def save_or_die(hooks: RunHooks, done: int) -> None:
        if done == done_at:
            while max(checkpoint.steps(hooks.setup.config.run.out), default=0) < before:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        saving(hooks, done)

    RunHooks.save = save_or_die  # type: ignore[method-assign]


def staged(shards: Path, weights: Path, out: Path) -> Path:
    return write_config(
        shards,
        out,
        backbone={"name": str(weights)},
        adapt={"frozen": f"{FROZEN} steps", "ramp": f"{RAMP} steps"},
        anchor={
            "kind": "features",
            "weight": 3.0,
            "teacher": "ema",
            "start": f"{FIRST_COPY} steps",
            "refresh": f"{COPIES} steps",
        },
        run={"checkpoint_every": EVERY},
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First weights of a network with batch norms."""
    folder = tmp_path_factory.mktemp("weights") / "first"
    model = load_backbone("random:test_byobnet", seed=5)
    save_backbone(model, folder, extra={}, preprocessing=describe_backbone(model))
    return folder


@pytest.fixture(scope="module")
def undisturbed_stages(shards: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run."""
    out = tmp_path_factory.mktemp("undisturbed-stages") / "run"
    finish(staged(shards, weights, out))
    return out


def test_the_run_has_the_borders_and_copies_that_it_is_killed_between(undisturbed_stages: Path) -> None:
    rows = logged(undisturbed_stages)
    factors = [row["backbone_lr_factor"] for row in rows]
    assert factors[:FROZEN] == [0.0] * FROZEN
    assert factors[FROZEN : FROZEN + RAMP] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ["anchor_loss" in row for row in rows[: FIRST_COPY + 1]] == [False] * FIRST_COPY + [True]
    state = checkpoint.load(checkpoint.path_of(undisturbed_stages, len(rows))).state["method"]
    assert [key for key in state if ".copy." in key]


@pytest.mark.parametrize(
    "done",
    [
        pytest.param(FROZEN, id="before the border"),
        pytest.param(FROZEN + 1, id="after the border"),
        pytest.param(FROZEN + 2, id="after the border and a copy"),
        pytest.param(FROZEN + RAMP + 1, id="after the ramp"),
        pytest.param(19, id="between copies"),  # the newest one is in the checkpoint, from before it
    ],
)
def test_a_run_killed_between_a_border_or_a_copy_and_its_checkpoint_ends_in_the_same_bits(
    shards: Path, weights: Path, undisturbed_stages: Path, tmp_path: Path, done: int
) -> None:
    config = staged(shards, weights, tmp_path / "run")
    killed = pretrain(config, fault=partial(kill_after, done))
    assert killed.end() == -signal.SIGKILL, killed.said()
    before = done - done % EVERY
    assert max(checkpoint.steps(tmp_path / "run")) == before
    assert f"after step {before} of" in finish(config)
    assert results(tmp_path / "run") == results(undisturbed_stages)
