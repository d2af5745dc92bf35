"""What a sweep came to: its arms, the one that is chosen, the table, and the two files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table
from torch import Tensor

from trocar.core.files import write_atomic, write_json_atomic
from trocar.privacy.redaction import redact_tree
from trocar.ssl.engine.probe import paired_interval
from trocar.ssl.run.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class SweptArm:
    """One short run: its `settings`, and the last look of the probe, or why there is none (`failed`).

    `draws` float64[D] of the value over cases, the same draws in every arm; `gain` to the first weights with its paired
    interval, where there are three cases and more. An arm that has not `ended` may still get a value; one that diverged
    has ended without.
    """

    settings: Mapping[str, Any]
    folder: Path
    value: float = float("nan")
    draws: Tensor | None = None
    gain: tuple[float, float | None, float | None] = (float("nan"), None, None)
    failed: str = ""
    ended: bool = True

    @property
    def name(self) -> str:
        """Its settings in one line."""
        return arm_name(self.settings)


@dataclass(frozen=True)
class SweepResult:
    """All arms, the one with the highest value, and the file for its configuration, once all arms have ended."""

    probe: str
    arms: Sequence[SweptArm]
    best: SweptArm
    chosen: Path

    @property
    def missing(self) -> list[SweptArm]:
        """Arms that have not ended; as long as there are some, nothing is chosen."""
        return [arm for arm in self.arms if not arm.ended]

    @property
    def verdict(self) -> str:
        """What the choice rests on, or why there is none."""
        if self.missing:
            return (
                f"{len(self.missing)} of {len(self.arms)} arms have not ended, so none is chosen yet; highest of the "
                f"others is {self.best.name}"
            )
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
        best = "highest so far" if self.missing else "chosen"
        against = "to the highest" if self.missing else "to the chosen arm"
        for title in ("arm", "value", "to the first weights", against):
            table.add_column(title, justify="left" if title == "arm" else "right", overflow="fold")
        for arm in self.arms:
            if arm.failed:
                table.add_row(arm.name, "–", arm.failed, "")
                continue
            behind = best if arm is self.best else _with_interval(self.behind(arm))
            table.add_row(arm.name, f"{arm.value:.3f}", _with_interval(arm.gain), behind)
        return table

    def to_json(self) -> dict[str, Any]:
        """What sweep.json holds; values that are not defined are null, and so is the choice while arms are missing."""
        rows = [
            {
                "settings": dict(arm.settings),
                "folder": str(arm.folder),
                "value": None if np.isnan(arm.value) else arm.value,
                "gain": [_defined(value) for value in arm.gain],
                "to_chosen": [_defined(value) for value in self.behind(arm)],
                "failed": arm.failed,
                "ended": arm.ended,
            }
            for arm in self.arms
        ]
        chosen = None if self.missing else dict(self.best.settings)
        return {"probe": self.probe, "chosen": chosen, "note": self.verdict, "arms": rows}

    def write(self, config: PretrainConfig) -> None:
        """The table as sweep.json, and `config`, the one that was chosen, beside it; no choice while arms are missing.

        An older choice is taken away then: it was one among other arms.
        """
        if self.missing:
            self.chosen.unlink(missing_ok=True)
        else:
            tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
            text = yaml.safe_dump(redact_tree(tree), sort_keys=False, allow_unicode=True)
            write_atomic(self.chosen, f"# {self.verdict}.\n{text}")
        write_json_atomic(self.chosen.with_name("sweep.json"), self.to_json())


def arm_name(settings: Mapping[str, Any]) -> str:
    """`optim.lr=0.001,train.batch=64`; also its folder's name, and that of its job."""
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    return "".join("_" if letter in "/|" or letter.isspace() else letter for letter in text)


def _with_interval(found: tuple[float, float | None, float | None]) -> str:
    value, low, high = found
    return f"{value:+.3f}" + ("" if low is None else f" [{low:+.3f}, {high:+.3f}]")


def _defined(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value
