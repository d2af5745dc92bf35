"""A rate finder that means it: short runs that differ in a few keys, compared by a probe over the same cases."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trocar.core.config import load
from trocar.core.messages import Say
from trocar.errors import ConfigError, StoppedError, TrocarError
from trocar.jobs.pretrain import pretrain
from trocar.jobs.sweep_result import SweepResult, SweptArm, arm_name
from trocar.runs.run_folder import run_progress
from trocar.slurm import job_states
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.probe import ProbeCurve
from trocar.ssl.engine.trainer import AfterStop, Stop, never, shell_code
from trocar.ssl.ranks.distributed import World
from trocar.ssl.ranks.rendezvous import Passing
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.probe_config import ProbeConfig

FOLDER = "sweep"
CHOSEN = "chosen.yaml"
KEPT_KEYS = ("probe", "keep", "keep_by", "patience", "run.out", "run.seed")
"""What is the same in all arms: they are compared by one probe, from one start."""
Configured = Callable[[Mapping[str, Any]], PretrainConfig]
"""The configuration with some keys, dotted, changed. Raises ConfigError."""


@dataclass(frozen=True)
class PlannedArm:
    """One combination of values, and the configuration of its run."""

    settings: Mapping[str, Any]
    config: PretrainConfig

    @property
    def name(self) -> str:
        """Its settings in one line."""
        return arm_name(self.settings)


@dataclass(frozen=True)
class PlannedSweep:
    """All arms of a sweep, its folder, and the probe that they are compared by."""

    out: Path
    probe: ProbeConfig
    arms: Sequence[PlannedArm]

    def result(self, arms: Sequence[SweptArm]) -> SweepResult:
        """What they came to. Raises TrocarError where none has a value."""
        defined = [arm for arm in arms if not np.isnan(arm.value)]
        if not defined:
            raise TrocarError(
                f"no arm below {self.out} has a value of probe {self.probe.name}: {arms[0].failed or 'undefined'}"
            )
        return SweepResult(self.probe.name, arms, max(defined, key=lambda arm: arm.value), self.out / CHOSEN)


def plan_sweep(configured: Configured, keys: Mapping[str, Sequence[Any]]) -> PlannedSweep:
    """An arm for every combination of values, below RUN/sweep. Raises ConfigError for what is wrong with one of them,
    and for keys that all arms have to share.
    """
    base = configured({})
    probe = _judge(base)
    for key in keys:
        if any(key == kept or key.startswith(f"{kept}.") for kept in KEPT_KEYS):
            raise ConfigError(f"--sweep {key}: arms are compared by one probe, from one start; sweep another key")
    out = base.run.out / FOLDER
    combinations = [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]
    arms = [PlannedArm(one, configured({**one, "run.out": str(out / arm_name(one))})) for one in combinations]
    return PlannedSweep(out, probe, arms)


def sweep(
    configured: Configured,
    keys: Mapping[str, Sequence[Any]],
    say: Say,
    *,
    whole: Configured | None = None,
    stop: Stop = never,
    after_stop: AfterStop = shell_code,
    passing: Passing = lambda send: nullcontext(),
) -> SweepResult:
    """Run an arm for every combination of values, one after another below RUN/sweep, and choose by the probe.

    `configured` gives the configuration of an arm, `whole` that of the run which the choice is for (None: the arms'),
    whose `run.out` is RUN; it is written to RUN/sweep/chosen.yaml, and the table to sweep.json. The same call goes on
    where it was stopped; `stop`, `after_stop` and `passing` are those of `pretrain`. Raises ConfigError before any arm
    runs for what is wrong with one of them, or while jobs work on them, TrocarError where no arm has a value.
    """
    planned = plan_sweep(configured, keys)
    if job_states.in_folder(folder := job_states.folder_of(planned.out)):
        from trocar.slurm.submit import refuse_second  # submitit, which a sweep on this machine needs not

        refuse_second(folder, planned.out)
    arms = []
    for number, arm in enumerate(planned.arms, start=1):
        if signal := stop():
            raise StoppedError(after_stop(signal, World()))
        say(f"arm {number} of {len(planned.arms)}: {arm.name}")
        try:
            pretrain(arm.config, say, stop=stop, after_stop=after_stop, passing=passing)
        except ConfigError:
            raise
        except TrocarError as error:  # such as a rate at which no step counts: that is an answer too
            say(f"arm {arm.name} failed: {error}")
            arms.append(SweptArm(arm.settings, arm.config.run.out, failed=str(error).splitlines()[0]))
        else:
            arms.append(_read(arm, planned.probe))
    result = planned.result(arms)
    result.write((whole or configured)(result.best.settings))
    return result


def collect(
    configured: Configured, keys: Mapping[str, Sequence[Any]], *, whole: Configured | None = None
) -> SweepResult:
    """The result of `sweep` by the arms that have ended, here or as jobs; none is run.

    While some have not ended it has no choice, and says of each what is known. Raises ConfigError for an arm that was
    run with another configuration, TrocarError where no arm has a value.
    """
    planned = plan_sweep(configured, keys)
    result = planned.result([swept(arm, planned) for arm in planned.arms])
    result.write((whole or configured)(result.best.settings))
    return result


def swept(arm: PlannedArm, planned: PlannedSweep) -> SweptArm:
    """What has become of an arm, by what it and its job left behind. Raises ConfigError as `collect`."""
    out = arm.config.run.out
    if (out / "finished.json").exists():
        _require_same(arm)
        return _read(arm, planned.probe)
    progress = run_progress(out)
    reached = f"it is at step {progress.step or 0} of {progress.total}" if progress.total else "it has not begun"
    job = _job(planned.out, arm.name)
    if job is None:
        return SweptArm(arm.settings, out, failed=f"no result: {reached}", ended=False)
    submission, number = job
    code = job_states.exit_code(Path(submission.folder), number)
    if code == TrocarError.exit_code:
        return SweptArm(arm.settings, out, failed=_last_words(submission.log(number)))
    how = "" if code is None else f" ended with exit code {code}"
    return SweptArm(arm.settings, out, failed=f"no result: {reached}; job {number}{how}", ended=False)


def _judge(config: PretrainConfig) -> ProbeConfig:
    """The probe that arms are compared by. Raises ConfigError where it is not named."""
    if config.chooser is not None:
        return config.chooser
    if len(config.probe) != 1:
        names = ", ".join(probe.name for probe in config.probe) or "none"
        raise ConfigError(
            f"a sweep is judged by one probe, and there are: {names}; add a probe, or say keep: best and keep_by"
        )
    return config.probe[0]


def _read(arm: PlannedArm, probe: ProbeConfig) -> SweptArm:
    """The last look of an arm that is finished."""
    out = arm.config.run.out
    step = json.loads((out / "finished.json").read_text(encoding="utf-8"))["step"]
    curve = ProbeCurve.of(checkpoint.load(checkpoint.path_of(out, step)).state["probe"][probe.name])
    first, last = curve.points[0], curve.points[-1]
    return SweptArm(arm.settings, out, last.value, curve.last, (last.value - first.value, last.low, last.high))


def _require_same(arm: PlannedArm) -> None:
    """Raises ConfigError for an arm whose folder has a run of another recipe.

    By the configurations alone: this machine need not be one that resolves `auto` as the arm's did.
    """
    out = arm.config.run.out
    before, now = load(PretrainConfig, out / "config.yaml").recipe(), arm.config.recipe()
    checkpoint.check_same({"recipe": before}, {"recipe": now}, arm.config.resume.allow, out)


def _job(out: Path, name: str) -> tuple[job_states.Submission, str] | None:
    """The newest job of an arm, with its id; None where none was submitted."""
    for submission in reversed(job_states.in_folder(job_states.folder_of(out))):
        for index, stage in submission.elements.items():
            if stage == name:
                return submission, f"{submission.job}_{index}"
    return None


def _last_words(log: Path) -> str:
    """What the command said last before it ended with an error, and where more stands."""
    said = [line for line in _lines(log) if line.startswith("trocar pretrain: ")]
    return f"{said[-1].removeprefix('trocar pretrain: ')} ({log})" if said else f"it failed; its log is {log}"


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
