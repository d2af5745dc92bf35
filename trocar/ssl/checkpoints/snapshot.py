"""A copy of a run's state as it is after a step, in host memory, for a writer that the next steps don't wait for."""

from __future__ import annotations

import copy
import ctypes
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage

from trocar.core import resources

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
