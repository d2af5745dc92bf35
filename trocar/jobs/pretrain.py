"""Pretraining: one rank in this process, several as processes of their own, or only a description."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from trocar.errors import StoppedError, TrocarError
from trocar.leakage.run_guard import RunGuard
from trocar.ssl.ranks.distributed import World
from trocar.ssl.ranks.launch import launch
from trocar.ssl.ranks.machine import ranks_to_start
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.stop import STOPPING, AfterStop, Stop, never, shell_code

Say = Callable[[str], None]


def pretrain(
    config: PretrainConfig,
    say: Say,
    *,
    world: World | None = None,
    stop: Stop = never,
    after_stop: AfterStop = shell_code,
) -> Path:
    """Pretrain, or resume, to the end; returns the run folder, whose `backbone/` is the result.

    Without `world` it is one rank in this process, or as many processes of their own as `run.ranks` says. `stop` is
    polled at each step boundary (`trocar.ssl.run.stop`). Raises ConfigError for a bad configuration, TrocarError for
    what fails at run time, StoppedError after a stop that `stop` asked for or that ranks were sent.
    """
    if world is None and (ranks := ranks_to_start(config)) > 1:
        _on_ranks(config, ranks, say)
    else:
        run(config, world or World(), say, RunGuard(say), after_stop, stop)
    return config.run.out


def describe(config: PretrainConfig, say: Say, world: World | None = None) -> list[str]:
    """What the run would do and what a step of it costs, in lines; nothing is written.

    Raises ConfigError as `pretrain`.
    """
    from trocar.ssl.run.describe import describe_at_length  # a run that starts has no use for what this imports

    return describe_at_length(Pretraining(config, world or World(), say, RunGuard(say)))


def _on_ranks(config: PretrainConfig, ranks: int, say: Say) -> None:
    with tempfile.TemporaryDirectory(prefix="trocar-ranks-") as folder:
        path = Path(folder) / "config.yaml"
        # The folder is the user's alone, as a password in a tracking URI has to be.
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
        code = launch(["pretrain", str(path)], ranks, say)
    if code - 128 in {getattr(signal, name) for name in STOPPING}:
        raise StoppedError(code)
    if code:
        raise TrocarError(f"one of {ranks} ranks ended with exit code {code}; its message is above")
