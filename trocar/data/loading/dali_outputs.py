"""The outputs of a DALI pipeline as torch tensors, and for how long DALI's memory behind them has to be held.

On a GPU a copy is only queued when it has been asked for. By the source of DALI's dynamic executor, what an iteration
delivers stays bound to DALI's own stream: `Executor2::Outputs` asks `PopOutputs(order, set_output_order=false)`
(dali/pipeline/executor/executor2/exec2.cc), which lets the consumer's stream wait for the output and doesn't hand the
memory over to it, and `__dlpack__` shares the pointer once the ready event has been waited for (`ToDLMTensor`,
dali/python/backend_impl.cc). What is let go of then returns to DALI's pool in the order of DALI's stream, which knows
nothing of a reader in ours, and may become the output of a later iteration before our copy has run: frames of one step
would land in the views of another, and no check of rows or tags could see it.

DALI's own iterator for PyTorch shares outputs in the same way and copies nothing
(dali/python/nvidia/dali/plugin/pytorch/__init__.py), so the executor may be safer than it reads. `Held` is right under
either reading: nothing goes back before an event behind our copy has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

MOST_HELD = 4
"""Steps whose outputs wait for their copies. One more, and the thread that feeds DALI waits for the oldest: the device
is that far behind, and holding on would only take more of its memory."""


class Held:
    """Makes crops of DALI's outputs and keeps these until the device has copied them. For one thread and one stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._waiting: deque[tuple[torch.cuda.Event, list[Any]]] = deque()

    def crops(self, outputs: Sequence[Any]) -> list[Tensor]:
        """Outputs of one step as uint8[b, n, 3, S, S] each, in torch's own memory; on a GPU in the current stream.

        Doesn't wait for the device, unless the outputs of more than `MOST_HELD` steps would be held.
        """
        shared = [from_dlpack(output.as_tensor()) for output in outputs]
        # A copy in torch's own memory and order of axes: what follows rounds as it does for the torch backend.
        crops = [frames.permute(0, 1, 4, 2, 3).contiguous() for frames in shared]
        if self.device.type == "cuda":
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self.device))
            self._waiting.append((copied, [*outputs, *shared]))
            while self._waiting and (len(self._waiting) > MOST_HELD or self._passed()):
                self._let_go()
        return crops

    def close(self) -> None:
        """Wait for the copies that are queued and let go of all outputs: before their pipeline is dropped."""
        while self._waiting:
            self._let_go()

    def _passed(self) -> bool:
        return bool(self._waiting[0][0].query())  # type: ignore[no-untyped-call]

    def _let_go(self) -> None:
        self._waiting[0][0].synchronize()
        self._waiting.popleft()
