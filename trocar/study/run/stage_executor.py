"""Where the stages of a study run: all that `study run` and `study status` know of a machine or a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from trocar.study.stage_store import LOG, Store
from trocar.study.stages import Stage


@dataclass
class EndedStages:
    """Names of stages by what became of them; `blocked` wait for one that failed, `failed` -> exit code."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StageFailure:
    """Why a stage failed, in words, and the log that says more, with its last lines."""

    reason: str
    log: Path
    lines: list[str]


class StageExecutor(Protocol):
    """Runs stages, each behind those that it depends on.

    All executors run `trocar study stage FOLDER` and leave the same records in the store, so a study may be begun by
    one and finished by another. `detached`: the stages go on when the process that submitted them ends.
    """

    store: Store
    detached: ClassVar[bool]

    def script(self, stages: Mapping[str, Stage]) -> str:
        """The exact commands or scripts of all stages that are not done, for a dry run."""

    def submit(self, stages: Mapping[str, Stage], labels: Mapping[str, str]) -> int:
        """Take over all `stages` (name -> stage, parents first) that are not done and don't wait or run already.

        `labels` say in words what each is. Returns the number that is not done. Raises ConfigError or TrocarError where
        that can't be; then nothing of this call runs.
        """

    def watch(self) -> EndedStages:
        """What became of the submitted stages: waits for those of this process, and not for detached ones.

        After `stop` raises KeyboardInterrupt for SIGINT, StoppedError for any other signal, when the stages have ended.
        """

    def stop(self, number: int) -> None:
        """Ask the submitted stages to save and stop, because of the signal `number`; a second time kills them."""

    def states(self, names: Iterable[str]) -> dict[str, str]:
        """State of each stage: done, running, failed, stopped (begun and then interrupted) or waiting."""
        return {name: self.store.state(name) for name in names}

    def failure(self, name: str) -> StageFailure:
        """Why a stage failed that `states` calls failed."""
        failed = self.store.failure(name)
        code = failed.code if failed is not None else 1  # begun again meanwhile
        return StageFailure(f"exit code {code}", self.store.folder(name) / LOG, self.store.log_tail(name))
