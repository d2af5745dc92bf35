"""A copy of a run's state as it is after a step, in host memory, for a writer that the next steps don't wait for."""

from __future__ import annotations

import copy
import ctypes
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, UntypedStorage

from trocar import memory

T = TypeVar("T")
_SHARE = 0.8
"""Of what is free: the rest is for the file system, which holds what was written until the disk has it."""


class NoRoomError(Exception):
    """There is not enough memory for a copy; says how much is needed and how much there is."""


class Snapshot:
    """The memory of one copy. It is kept for the next one, so that a run needs no more later than at its first."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, bool], list[UntypedStorage]] = {}

    def take(self, tree: T) -> T:
        """A copy of nested dicts, lists and tuples of detached tensors and numbers; the one before is overwritten.

        What is written of it is the same to the byte as of the original on a CPU: tensors keep their strides, share
        memory where they did, and are on the CPU. When this returns, the original may change. Raises NoRoomError if the
        host has no memory for it; then nothing is held.
        """
        tensors = list(_tensors(tree))
        originals = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}
        copies = self._room_for(originals)
        for key, original in originals.items():
            _copy(copies[key], original)
        for device in {storage.device for storage in originals.values()}:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        # deepcopy keeps all else as it is, down to what is the same object twice, which decides about a pickle's bytes.
        return copy.deepcopy(tree, {id(t): _over(copies[t.untyped_storage()._cdata], t) for t in tensors})

    def _room_for(self, originals: Mapping[int, UntypedStorage]) -> dict[int, UntypedStorage]:
        held, self._held = self._held, {}
        found: dict[int, UntypedStorage] = {}
        missing: dict[int, tuple[int, bool]] = {}
        kinds = {key: (storage.nbytes(), storage.device.type == "cuda") for key, storage in originals.items()}
        for key, kind in kinds.items():
            if held.get(kind):
                found[key] = held[kind].pop()
            else:
                missing[key] = kind
        held.clear()
        needed, free = sum(bytes_of(*kind) for kind in missing.values()), memory.available()
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


def bytes_of(size: int, pinned: bool) -> int:
    """What a block of `size` bytes takes: torch's allocator of page-locked memory rounds up to powers of two."""
    return 1 << (size - 1).bit_length() if pinned and size else size


def _copy(to: UntypedStorage, original: UntypedStorage) -> None:
    if original.device.type == "cpu":
        # Not torch's copy: its threads meet after each of a thousand pieces, which takes several times as long where
        # something else is on the cores.
        ctypes.memmove(to.data_ptr(), original.data_ptr(), original.nbytes())
    else:
        # Into page-locked memory, queued behind the step that has just been taken.
        to.copy_(original, non_blocking=True)


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
