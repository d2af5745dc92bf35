"""A run's checkpoints: its state is copied to host memory between two steps, and written and published while the next
steps are computed, by a thread that does one piece of work at a time and that nothing outlives.
"""

from __future__ import annotations

import copy
import ctypes
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage

from trocar.backbones.export import BackboneFiles
from trocar.backbones.weights_file import require_finite
from trocar.core import resources
from trocar.core.messages import Say
from trocar.errors import TrocarError
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.trainer import STOPPING

T = TypeVar("T")
_SHARE = 0.8
"""Of what is free: the rest is for the file system, which holds what was written until the disk has it."""
_PIECE = 64 << 20
"""Bytes of memory that are written to in one go."""
_THREADS = 4
"""At most for a copy: a few fill the memory's bandwidth."""

Kind = tuple[int, bool]
"""Of a block of memory: its bytes, and whether it is page-locked."""


class NoRoomError(Exception):
    """There is not enough memory for a copy; says how much is needed and how much there is."""


class Snapshot:
    """The memory of one copy. It is kept for the next one, so that a run needs no more later than at its first."""

    def __init__(self) -> None:
        self._held: dict[Kind, list[UntypedStorage]] = {}

    def find_room(self, kinds: list[Kind], go_on: Callable[[], None]) -> None:
        """Find the memory for a copy of what has these `kinds_of`, so that the first one takes no longer than others.

        The system clears memory when it is first written to, which takes several times as long as a copy. May run in a
        thread beside anything but `take`. `go_on` is called often, and what it raises ends it. Where there is no room
        nothing happens: `take` says so.
        """
        with suppress(NoRoomError):
            for storage in self._room_for(dict(enumerate(kinds))).values():
                for start in range(0, storage.nbytes(), _PIECE):
                    go_on()
                    ctypes.memset(storage.data_ptr() + start, 0, min(_PIECE, storage.nbytes() - start))

    def take(self, tree: T) -> T:
        """A copy of nested dicts, lists and tuples of detached tensors and numbers; the one before is overwritten.

        What is written of it is the same to the byte as of the original on a CPU: tensors keep their strides, share
        memory where they did, and are on the CPU. When this returns, the original may change. Raises NoRoomError if the
        host has no memory for it; then nothing is held.
        """
        tensors = list(_tensors(tree))
        originals = _storages(tree)
        copies = self._room_for({key: _kind(storage) for key, storage in originals.items()})
        on_the_host = []
        for key, original in originals.items():
            if original.device.type == "cpu":
                on_the_host.append((copies[key], original))
            else:  # into page-locked memory, queued behind the step that has just been taken
                copies[key].copy_(original, non_blocking=True)
        _copy(on_the_host)
        for device in {storage.device for storage in originals.values()}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        # deepcopy keeps all else as it is, down to what is the same object twice, which decides about a pickle's bytes.
        return copy.deepcopy(tree, {id(t): _over(copies[t.untyped_storage()._cdata], t) for t in tensors})

    def _room_for(self, kinds: Mapping[int, Kind]) -> dict[int, UntypedStorage]:
        held, self._held = self._held, {}
        found: dict[int, UntypedStorage] = {}
        missing: dict[int, Kind] = {}
        for key, kind in kinds.items():
            if held.get(kind):
                found[key] = held[kind].pop()
            else:
                missing[key] = kind
        held.clear()
        needed, free = sum(bytes_of(*kind) for kind in missing.values()), resources.available()
        if needed and free is not None and needed > _SHARE * free:
            raise NoRoomError(
                f"a copy of the state needs {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free"
            )
        try:
            for key, (size, pinned) in missing.items():
                found[key] = torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
        except RuntimeError as error:  # a limit that only shows when it is reached
            why = str(error).splitlines()[0]
            raise NoRoomError(f"a copy of the state needs {needed / 2**30:.2f} GiB: {why}") from None
        kept = defaultdict(list)
        for key, kind in kinds.items():
            kept[kind].append(found[key])
        self._held = dict(kept)
        return found


def kinds_of(tree: Any) -> list[Kind]:
    """The memory that a copy of nested dicts, lists and tuples of tensors needs."""
    return [_kind(storage) for storage in _storages(tree).values()]


def bytes_of(size: int, pinned: bool) -> int:
    """What a block of `size` bytes takes: torch's allocator of page-locked memory rounds up to powers of two."""
    return 1 << (size - 1).bit_length() if pinned and size else size


def _kind(storage: UntypedStorage) -> Kind:
    return storage.nbytes(), storage.device.type == "cuda"


def _storages(tree: Any) -> dict[int, UntypedStorage]:
    return {t.untyped_storage()._cdata: t.untyped_storage() for t in _tensors(tree)}


def _copy(pairs: list[tuple[UntypedStorage, UntypedStorage]]) -> None:
    """Bytes from the second to the first of each pair, by a few threads that never wait for each other.

    Not torch's copy: its threads meet after each of a thousand pieces, which takes several times as long where
    something else is on the cores. `memmove` runs without Python's lock.
    """
    pieces = [
        (to.data_ptr() + start, original.data_ptr() + start, min(_PIECE, original.nbytes() - start))
        for to, original in pairs
        for start in range(0, original.nbytes(), _PIECE)
    ]
    with ThreadPoolExecutor(min(resources.granted_cores(), _THREADS)) as threads:
        list(threads.map(lambda piece: ctypes.memmove(*piece), pieces))  # raises what a thread raised


def _over(storage: UntypedStorage, like: Tensor) -> Tensor:
    """A tensor with this memory and the place, shape and strides of another in its own."""
    empty = torch.empty(0, dtype=like.dtype)
    return empty.set_(storage, like.storage_offset(), like.size(), like.stride())


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)


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
    """What a checkpoint holds: `state` with the networks as "method", the exported backbone, and words about both.

    `best` is the backbone that a probe chose so far; its tensors lie in host memory and never change.
    """

    state: checkpoint.State
    backbone: BackboneFiles
    about: Mapping[str, Any]
    best: BackboneFiles | None = None


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

    def __init__(self, run: Path, kept: Kept, confirm: Callable[[], None], say: Say) -> None:
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
                None if content.best is None else partial(content.best.write, go_on=go_on),
            )
            checkpoint.prune(self._run, self._kept.last, self._kept.milestone_every)
        except (OSError, TrocarError):
            # Files that went away may be a successor's doing, and then the folder is not ours to mark as failed.
            with suppress(OSError):
                self._confirm()
            raise


def _never() -> None:
    """Nobody gives up what the training itself waits for."""
