"""Pretraining: one rank in this process, several as processes of their own, or only a description."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import yaml
from torch import nn

from trocar.backbones.source import MODULE
from trocar.core.messages import Say
from trocar.errors import ConfigError, StoppedError, TrocarError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine.probe import Probe
from trocar.ssl.engine.trainer import STOPPING, AfterStop, Stop, never, shell_code
from trocar.ssl.ranks.distributed import World
from trocar.ssl.ranks.machine import ranks_to_start
from trocar.ssl.ranks.rendezvous import Passing, launch
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.own_batches import NO_CATALOG, Batches, OwnBatchesRun
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig


def pretrain(
    config: PretrainConfig,
    say: Say,
    *,
    world: World | None = None,
    stop: Stop = never,
    after_stop: AfterStop = shell_code,
    model: nn.Module | None = None,
    batches: Batches | None = None,
    passing: Passing = lambda send: nullcontext(),
) -> Path:
    """Pretrain, or resume, to the end; returns the run folder, whose `backbone/` is the result.

    Without `world` it is one rank in this process, or as many processes of their own as `run.ranks` says. `stop` is
    polled at each step boundary, by the trainer; `passing` hands signals on to ranks that are processes of their own
    (`trocar.ssl.ranks.rendezvous.launch`). `model` is a backbone of one's own, `batches` are data of one's own
    (`trocar.ssl.run.own_batches`); both stay in this process. Raises ConfigError for a bad configuration,
    TrocarError for what fails at run time, StoppedError after a stop that `stop` asked for or that ranks were sent.
    """
    require_own(config, model, batches)
    ranks = world.size if world is not None else ranks_to_start(config)
    if ranks > 1 and (model is not None or batches is not None):
        raise ConfigError(
            f"run.ranks={ranks}: a module or batches of your own stay in the process that made them; use run.ranks=1"
        )
    guard, probes = RunGuard(say, config.probe, config.chooser), partial(_open_probes, config)
    if world is None and ranks > 1:
        _on_ranks(config, ranks, say, passing)
    elif batches is None:
        run(Pretraining(config, world or World(), say, guard, model=model, make_probes=probes), after_stop, stop)
    else:
        own = OwnBatchesRun(config, world or World(), say, guard, model=model, make_probes=probes, own=batches)
        run(own, after_stop, stop)
    return config.run.out


def require_own(config: PretrainConfig, model: nn.Module | None = None, batches: Batches | None = None) -> None:
    """Raises ConfigError for a configuration of a run on a module or batches of one's own where they are not at hand.

    They are in the process that made them and nowhere else: not on the command line, not in a job on a cluster.
    """
    lacking = [f"model ({config.backbone.name})"] if config.backbone.name.startswith(MODULE) and model is None else []
    lacking += ["batches"] if str(config.data.catalog) == NO_CATALOG and batches is None else []
    if lacking:
        raise ConfigError(
            f"this run has {' and '.join(lacking)} of its own, which a file cannot hold: hand them in from Python, "
            "trocar.pretrain(..., model=..., batches=...). On a cluster, register them from a package of your own"
        )


def describe(config: PretrainConfig, say: Say, world: World | None = None) -> list[str]:
    """What the run would do and what a step of it costs, in lines; nothing is written.

    Raises ConfigError as `pretrain`.
    """
    from trocar.ssl.run.run_description import describe_at_length  # a run that starts has no use for what this imports

    require_own(config)
    probes = partial(_open_probes, config)
    return describe_at_length(
        Pretraining(config, world or World(), say, RunGuard(say, config.probe, config.chooser), make_probes=probes)
    )


def _open_probes(config: PretrainConfig) -> Sequence[Probe]:
    """What the configuration's probes score with; nothing of labelled data is imported where there are none."""
    if not config.probe:
        return ()
    from trocar.jobs.probes import open_probes

    return open_probes(config.probe)


def _on_ranks(config: PretrainConfig, ranks: int, say: Say, passing: Passing) -> None:
    with tempfile.TemporaryDirectory(prefix="trocar-ranks-") as folder:
        path = Path(folder) / "config.yaml"
        # The folder is the user's alone, as a password in a tracking URI has to be.
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
        code = launch(["pretrain", str(path)], ranks, say, passing)
    if code - 128 in {getattr(signal, name) for name in STOPPING}:
        raise StoppedError(code)
    if code:
        raise TrocarError(f"one of {ranks} ranks ended with exit code {code}; its message is above")
