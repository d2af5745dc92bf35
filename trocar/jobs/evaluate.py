"""Evaluation: backbones and their baselines on labelled frames, by one process or by several ranks that share the work.

Rank 0 is the process that was asked, and has the results. The others are started by it, or are the other tasks of a
SLURM step or of torchrun.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]
from torch import nn

from trocar.backbones.device import choose_device
from trocar.core.messages import Say
from trocar.core.resources import torch_threads, usable_cores
from trocar.downstream.datasets.folder import LabelTable
from trocar.downstream.evaluation import evaluate as comparison
from trocar.downstream.evaluation.contenders import own_contender
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.downstream.work_share import WorkShare
from trocar.errors import ConfigError
from trocar.leakage import judge

if TYPE_CHECKING:  # what knows of ranks takes a second to import, which one process has no use for
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.ranks.rendezvous import Meeting

PATIENCE_S = 7 * 24 * 3600.0
"""How long ranks wait for the one with the longest training, where nobody tells them that it has died."""
STARTED = "file://"
"""Where ranks meet that this program has started: whatever ends rank 0 ends the others, and nobody need be told."""


def evaluate(
    config: EvaluateConfig,
    say: Say = lambda line: None,
    *,
    modules: Mapping[str, Sequence[nn.Module]] | None = None,
    labels: LabelTable | None = None,
    world: World | None = None,
) -> EvaluationResults:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `modules` are backbones of one's own by label, whose leak verdict is unknown; `labels` are labels of one's own, in
    place of those in `config.data`. Without `world` there are as many ranks as `config.ranks` says, this process and
    others that it starts; with it this is rank 0 of those that are there, and the others call `take_part`.
    `say` gets a line for every step that takes long. Raises ConfigError for a bad configuration before anything is
    decoded, TrocarError for data that cannot be read, or where another rank ends before its time.
    """
    own = [own_contender(label, seeds, config.size) for label, seeds in (modules or {}).items()]
    ranks = ranks_of(config) if world is None else world.size
    if ranks == 1:
        return comparison.evaluate(config, judge, say, own=own, labels=labels)
    _require_sharable(config, ranks, own or labels)
    return comparison.evaluate(config, judge, say, together=partial(_together, config, ranks, world))


def take_part(config: EvaluateConfig, world: World) -> None:
    """What a rank other than 0 does; it writes no results. Raises as `evaluate`."""
    from trocar.ssl.ranks.distributed import meeting_place
    from trocar.ssl.ranks.machine import gpu_of
    from trocar.ssl.ranks.rendezvous import STARTED_BY, end_with

    _require_sharable(config, world.size)
    if STARTED_BY in os.environ:
        end_with(int(os.environ[STARTED_BY]))
    device = choose_device(config.device)
    if device == "cuda":
        number = gpu_of(world.local_rank, torch.cuda.device_count())
        torch.cuda.set_device(number)
        device = f"cuda:{number}"
    assert config.out is not None
    with _share(world, meeting_place(world, config.out), device) as share:
        comparison.take_part(config, share, device)


def ranks_of(config: EvaluateConfig) -> int:
    """`ranks` with a number for `auto`, for a start on this machine. Raises ConfigError for more than it has GPUs, or
    on a CPU cores.
    """
    if config.ranks == 1:
        return 1
    on_gpu = choose_device(config.device) == "cuda"
    found = torch.cuda.device_count() if on_gpu else usable_cores()
    if config.ranks == "auto":
        return max(1, found) if on_gpu else 1
    if config.ranks > found:
        what = f"{found} GPU(s) are visible" if on_gpu else f"this process may run on {found} core(s)"
        raise ConfigError(f"ranks={config.ranks}, but {what}, and each rank takes one; take ranks={max(1, found)}")
    return config.ranks


def describe(config: EvaluateConfig, ranks: int | None = None) -> list[str]:
    """What would be evaluated, in lines, by the labels alone; by `ranks` of a job, None: by those of this machine.

    Raises ConfigError as `evaluate`.
    """
    ranks = ranks_of(config) if ranks is None else ranks
    if ranks == 1:
        return comparison.planned(config)
    _require_sharable(config, ranks)
    return [*comparison.planned(config), f"{ranks} ranks share the features and what is learned from them"]


def _require_sharable(config: EvaluateConfig, ranks: int, own: object = None) -> None:
    if own:
        raise ConfigError(
            f"ranks={ranks}: modules or labels of your own stay in the process that made them; use ranks=1"
        )
    if config.out is None:
        raise ConfigError(f"ranks={ranks}: give out, the folder that ranks share their work in; or use ranks=1")


@contextmanager
def _together(config: EvaluateConfig, ranks: int, world: World | None) -> Iterator[WorkShare]:
    """The share of rank 0, while the other ranks have theirs."""
    from trocar.ssl.ranks.distributed import World, meeting_place
    from trocar.ssl.ranks.rendezvous import helpers

    device = choose_device(config.device)
    assert config.out is not None
    if world is not None:
        with _share(world, meeting_place(world, config.out), device) as share:
            yield share
        return
    with tempfile.TemporaryDirectory(prefix="trocar-ranks-") as folder:
        path, store = Path(folder) / "config.yaml", Path(folder) / "store"
        # The folder is the user's alone, as a password in a tracking URI has to be.
        path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)), encoding="utf-8")
        with (
            helpers(["evaluate", str(path)], ranks, store) as check,
            _share(World(size=ranks), f"{STARTED}{store}", device, check) as share,
        ):
            yield share


@contextmanager
def _share(world: World, where: str, device: str, check: Callable[[], None] = lambda: None) -> Iterator[WorkShare]:
    """The share of one of the ranks that meet at `where`; `check` raises where one has ended that this process started.

    They meet when the first of them waits, since rank 0 has frames to decode while others still import; from then on
    each has its part of the cores.
    """
    from trocar.ssl.ranks.machine import default_threads
    from trocar.ssl.ranks.rendezvous import meet

    met: list[Meeting] = []
    sharing = [1]
    limits: list[threadpool_limits] = []

    def wait(name: str) -> None:
        if met:
            met[0].wait(name, PATIENCE_S)
            return
        met.append(meet(where, world.rank, world.size, PATIENCE_S, check))
        met[0].wait(name, PATIENCE_S)
        sharing[0] = _settle(met[0], device)
        torch.set_num_threads(default_threads(sharing[0]))
        limits.append(threadpool_limits(torch.get_num_threads(), user_api="blas"))

    def look() -> None:
        check()
        for meeting in met:
            meeting.refuse_failed()

    with torch_threads(torch.get_num_threads()):
        try:
            yield WorkShare(world.rank, world.size, wait, look, lambda: sharing[0])
            wait("all done")
            met[0].leave()
        except Exception:  # a stop comes to all ranks alike
            if not where.startswith(STARTED):
                for meeting in met:
                    meeting.fail()
            raise
        finally:
            for limit in limits:
                limit.restore_original_limits()


def _settle(meeting: Meeting, device: str) -> int:
    """How many ranks run on the cores of this one. Raises ConfigError where two of them took one GPU."""
    from trocar.ssl.ranks.machine import MachineShare, name_of, refuse_shared

    if device != "cpu":
        refuse_shared(meeting.gather("gpu", name_of(torch.device(device))))
    return MachineShare.found(meeting.gather).cores
