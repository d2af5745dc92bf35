"""A run's checkpoints: copied between two steps, written and published while the next ones are computed.

Work beside the training, one piece at a time, in a thread that nothing outlives.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trocar.backbones.export import BackboneFiles
from trocar.backbones.weights.weights_file import require_finite
from trocar.errors import TrocarError
from trocar.ssl.checkpoints import checkpoint
from trocar.ssl.checkpoints.snapshot import NoRoomError, Snapshot, kinds_of
from trocar.ssl.run.stop import STOPPING

GoOn = Callable[[], None]
Work = Callable[[GoOn], None]


class GivenUpError(Exception):
    """Nobody waits for the work any more."""


class Background:
    """At most one piece of work, in a thread of its own. What it raises is kept for whoever calls `check`.

    The thread is no daemon: those are stopped where they stand when the interpreter ends, in the middle of a library.
    Signals stay with the main thread.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._ended.set()
        self._error: BaseException | None = None
        self._given_up = threading.Event()

    def start(self, work: Work, name: str) -> None:
        """Begin when the piece before has ended. Raises what that one raised; then this one is not begun.

        `work` is given a function that it has to call often, which raises when the work is given up.
        """
        self.wait()
        self.check()
        thread = threading.Thread(target=self._run, args=(work,), name=name)
        self._ended.clear()
        try:
            thread.start()
        except RuntimeError:  # the system has no thread for us
            self._ended.set()
            raise
        self._thread = thread

    def wait(self, give_up: bool = False) -> None:
        """Until nothing runs. `give_up`: it need not be finished. Signals are answered meanwhile."""
        if give_up:
            self._given_up.set()
        try:
            # Not `join`: a Ctrl-C in it makes Python 3.11 and 3.12 take the thread for ended, which goes on.
            self._ended.wait()
        except BaseException:  # a second Ctrl-C
            self._given_up.set()
            raise
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def trouble(self) -> BaseException | None:
        """What ended work has raised, once; None while it runs or if it went well."""
        if not self._ended.is_set():
            return None
        error, self._error = self._error, None
        return error

    def check(self) -> None:
        """Raises what ended work has raised."""
        error = self.trouble()
        if error is not None:
            raise error

    def _go_on(self) -> None:
        if self._given_up.is_set():
            raise GivenUpError

    def _run(self, work: Work) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in STOPPING])
        try:
            work(self._go_on)
        except BaseException as error:
            # What is given up fails in whatever words the libraries in between have for it.
            if not self._given_up.is_set():
                self._error = error
        finally:
            self._ended.set()


@dataclass(frozen=True)
class CheckpointContent:
    """What a checkpoint holds: `state` with the networks as "method", the exported backbone, and words about both."""

    state: checkpoint.State
    backbone: BackboneFiles
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Kept:
    """Which checkpoints of a run stay when a new one has been published."""

    last: int
    milestone_every: int | None


class CheckpointWriter:
    """Writes the checkpoints of the run folder `run`, one after the other.

    `confirm` raises when this process may publish no more; it is asked before anything is written and before the
    rename. `say` is told, once, why the training has to wait for its checkpoints.
    """

    def __init__(self, run: Path, kept: Kept, confirm: Callable[[], None], say: Callable[[str], None]) -> None:
        self._run, self._kept, self._confirm, self._say = run, kept, confirm, say
        self._snapshot, self._background = Snapshot(), Background()
        self._said = False

    def prepare(self, content: CheckpointContent) -> None:
        """Find the memory for copies of such a content, in the background; the first write waits for no other then."""
        kinds = kinds_of((content.state, content.backbone.state))
        self._background.start(partial(self._snapshot.find_room, kinds), name="trocar-checkpoint-memory")

    def write(self, step: int, content: CheckpointContent, *, wait: bool = False) -> None:
        """Publish the checkpoint after `step` steps: soon, or before this returns (`wait`, or no memory for a copy).

        Returns when `content` may change. The write before is waited for. Raises what that one raised and, for one that
        was waited for, TrocarError as `checkpoint.save` does, or for networks that are not finite.
        """
        self._background.wait()
        self._background.check()
        copied = None if wait else self._copied(content)
        if copied is None:
            self._publish(step, content, _never)
        else:
            self._background.start(partial(self._publish, step, copied), name=f"trocar-checkpoint-{step}")

    def check(self) -> None:
        """Raises what a write in the background has raised."""
        self._background.check()

    def close(self, give_up: bool = False) -> BaseException | None:
        """Wait for the write in the background, or end it (`give_up`); returns what it raised, if nobody heard yet."""
        self._background.wait(give_up)
        return self._background.trouble()

    def _copied(self, content: CheckpointContent) -> CheckpointContent | None:
        try:
            state, weights = self._snapshot.take((content.state, content.backbone.state))
        except NoRoomError as error:
            if not self._said:
                self._say(f"{error}: the training waits for its checkpoints to be written")
            self._said = True
            return None
        return replace(content, state=state, backbone=replace(content.backbone, state=weights))

    def _publish(self, step: int, content: CheckpointContent, go_on: GoOn) -> None:
        self._confirm()
        # They would replace the good ones before: only so many checkpoints are kept.
        last_good = f"the networks after step {step}; the checkpoint before is the last good one"
        require_finite(content.state["method"], last_good)
        try:
            checkpoint.save(
                self._run,
                step,
                content.state,
                lambda folder: content.backbone.write(folder, go_on),
                content.about,
                self._confirm,
                go_on,
            )
            checkpoint.prune(self._run, self._kept.last, self._kept.milestone_every)
        except (OSError, TrocarError):
            # Files that went away may be a successor's doing, and then the folder is not ours to mark as failed.
            with suppress(OSError):
                self._confirm()
            raise


def _never() -> None:
    """Nobody gives up what the training itself waits for."""
