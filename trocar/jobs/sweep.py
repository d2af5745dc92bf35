"""A rate finder that means it: short runs that differ in a few keys, compared by a probe over the same cases."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table
from torch import Tensor

from trocar.core.files import write_atomic, write_json_atomic
from trocar.core.messages import Say
from trocar.errors import ConfigError, TrocarError
from trocar.jobs.pretrain import pretrain
from trocar.privacy.redaction import redact_tree
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.probe import ProbeCurve, paired_interval
from trocar.ssl.engine.trainer import Stop, never
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.probe_config import ProbeConfig

FOLDER = "sweep"
CHOSEN = "chosen.yaml"
KEPT_KEYS = ("probe", "keep", "keep_by", "patience", "run.out", "run.seed")
"""What is the same in all arms: they are compared by one probe, from one start."""
Configured = Callable[[Mapping[str, Any]], PretrainConfig]
"""The configuration with some keys, dotted, changed. Raises ConfigError."""


@dataclass(frozen=True)
class SweptArm:
    """One short run: its `settings`, and the last look of the probe, or why there is none (`failed`).

    `draws` float64[D] of the value over cases, the same draws in every arm; `gain` to the first weights with its paired
    interval, where there are three cases and more.
    """

    settings: Mapping[str, Any]
    folder: Path
    value: float = float("nan")
    draws: Tensor | None = None
    gain: tuple[float, float | None, float | None] = (float("nan"), None, None)
    failed: str = ""

    @property
    def name(self) -> str:
        """Its settings in one line."""
        return arm_name(self.settings)


@dataclass(frozen=True)
class SweepResult:
    """All arms, the one with the highest value, and the file that its configuration is in."""

    probe: str
    arms: Sequence[SweptArm]
    best: SweptArm
    chosen: Path

    @property
    def verdict(self) -> str:
        """What the choice rests on."""
        return (
            f"{self.best.name} was chosen on the validation cases of probe {self.probe}, as the highest of "
            f"{len(self.arms)} arms with one run each: its value here flatters it, so judge it on other cases"
        )

    def behind(self, arm: SweptArm) -> tuple[float, float | None, float | None]:
        """An arm's value minus the best one's, with the paired interval over cases."""
        if arm.draws is None or self.best.draws is None:
            return float("nan"), None, None
        return (arm.value - self.best.value, *paired_interval(arm.draws, self.best.draws))

    def table(self) -> Table:
        """For the terminal: an arm a line."""
        table = Table(title=f"probe {self.probe} after each arm's last step", caption=self.verdict)
        for title in ("arm", "value", "to the first weights", "to the chosen arm"):
            table.add_column(title, justify="left" if title == "arm" else "right", overflow="fold")
        for arm in self.arms:
            if arm.failed:
                table.add_row(arm.name, "–", arm.failed, "")
                continue
            behind = "chosen" if arm is self.best else _with_interval(self.behind(arm))
            table.add_row(arm.name, f"{arm.value:.3f}", _with_interval(arm.gain), behind)
        return table

    def to_json(self) -> dict[str, Any]:
        """What sweep.json holds; values that are not defined are null."""
        rows = [
            {
                "settings": dict(arm.settings),
                "folder": str(arm.folder),
                "value": None if np.isnan(arm.value) else arm.value,
                "gain": [_defined(value) for value in arm.gain],
                "to_chosen": [_defined(value) for value in self.behind(arm)],
                "failed": arm.failed,
            }
            for arm in self.arms
        ]
        return {"probe": self.probe, "chosen": dict(self.best.settings), "note": self.verdict, "arms": rows}


def sweep(
    configured: Configured,
    keys: Mapping[str, Sequence[Any]],
    say: Say,
    *,
    whole: Configured | None = None,
    stop: Stop = never,
) -> SweepResult:
    """Run an arm for every combination of values, one after another below RUN/sweep, and choose by the probe.

    `configured` gives the configuration of an arm, `whole` that of the run which the choice is for (None: the arms'),
    whose `run.out` is RUN; it is written to RUN/sweep/chosen.yaml, and the table to sweep.json. The same call goes on
    where it was stopped. Raises ConfigError before any arm runs for what is wrong with one of them, TrocarError where
    no arm has a value.
    """
    base = configured({})
    probe = _judge(base)
    for key in keys:
        if any(key == kept or key.startswith(f"{kept}.") for kept in KEPT_KEYS):
            raise ConfigError(f"--sweep {key}: arms are compared by one probe, from one start; sweep another key")
    out = base.run.out / FOLDER
    combinations = [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]
    planned = [(one, configured({**one, "run.out": str(out / arm_name(one))})) for one in combinations]
    arms = []
    for number, (settings, config) in enumerate(planned, start=1):
        say(f"arm {number} of {len(planned)}: {arm_name(settings)}")
        arms.append(_run(settings, config, probe, say, stop))
    defined = [arm for arm in arms if not np.isnan(arm.value)]
    if not defined:
        raise TrocarError(f"no arm below {out} has a value of probe {probe.name}: {arms[0].failed or 'undefined'}")
    best = max(defined, key=lambda arm: arm.value)
    result = SweepResult(probe.name, arms, best, out / CHOSEN)
    _write(result, (whole or configured)(best.settings), out)
    return result


def arm_name(settings: Mapping[str, Any]) -> str:
    """`optim.lr=0.001,train.batch=64`; also its folder's name."""
    return ",".join(f"{key}={value}" for key, value in settings.items()).replace("/", "_")


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


def _run(settings: Mapping[str, Any], config: PretrainConfig, probe: ProbeConfig, say: Say, stop: Stop) -> SweptArm:
    out = config.run.out
    try:
        pretrain(config, say, stop=stop)
    except ConfigError:
        raise
    except TrocarError as error:  # such as a rate at which no step counts: that is an answer too
        say(f"arm {arm_name(settings)} failed: {error}")
        return SweptArm(settings, out, failed=str(error).splitlines()[0])
    step = json.loads((out / "finished.json").read_text(encoding="utf-8"))["step"]
    curve = ProbeCurve.of(checkpoint.load(checkpoint.path_of(out, step)).state["probe"][probe.name])
    first, last = curve.points[0], curve.points[-1]
    return SweptArm(settings, out, last.value, curve.last, (last.value - first.value, last.low, last.high))


def _write(result: SweepResult, config: PretrainConfig, out: Path) -> None:
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    text = yaml.safe_dump(redact_tree(tree), sort_keys=False, allow_unicode=True)
    write_atomic(result.chosen, f"# {result.verdict}.\n{text}")
    write_json_atomic(out / "sweep.json", result.to_json())


def _with_interval(found: tuple[float, float | None, float | None]) -> str:
    value, low, high = found
    return f"{value:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _defined(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value
