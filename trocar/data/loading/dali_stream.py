"""The crops of consecutive steps from a DALI pipeline, through frames that DALI can't decode.

Such a frame ends a pipeline. The step it belongs to is then made by the torch backend, whose decoder decides what is
bad, and a new pipeline goes on behind it: so the rows are those that the torch backend would have delivered.

The outputs of a DALI pipeline as torch tensors, and for how long DALI's memory behind them has to be held.

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

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from trocar.data.loading.batch import Crops
from trocar.data.loading.dali_pipeline import build_pipeline, inputs, is_decodable, require, tags, usual_frame
from trocar.data.loading.prefetch import to_device
from trocar.data.loading.reader import ReadAhead
from trocar.data.loading.steps import Delivered, Steps, torch_crops
from trocar.data.media.still import Jpeg
from trocar.data.views.recipe import ViewParams
from trocar.errors import TrocarError

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


log = logging.getLogger(__name__)

MAX_FAILURES = 5
"""Steps in a row at which DALI may fail without a bad frame in them. One is usual: a pipeline works ahead, and what
ends it may be in the step behind."""


class DaliStream(Iterator[Crops]):
    """Crops of steps start..stop-1 in order, on `device`.

    All calls come from one thread, on a GPU with one and the same current stream. Raises ConfigError without DALI,
    TrocarError where the data can't be read.
    """

    def __init__(
        self, steps: Steps, start: int, stop: int, device: torch.device, threads: int, hw_decoder_load: float
    ) -> None:
        require()
        self.steps, self.device, self.threads, self.load = steps, device, threads, hw_decoder_load
        self._next, self._read, self._stop = start, start, stop
        self._inside: deque[Delivered] = deque()
        self._failed: TrocarError | None = None
        self._held, self._ahead = Held(device), ReadAhead()
        self._pipeline: Any = None
        self._reason, self._failures = "", 0

    def __next__(self) -> Crops:
        if self._next >= self._stop:
            self.close()
            raise StopIteration
        crops = self._from_pipeline()
        if crops is None:
            crops = self._from_torch(self._next)
        self._next += 1
        return crops

    def close(self) -> None:
        """Let go of the pipeline and its threads.

        It refers to this object, so it would live until the garbage collector comes by: in whichever process that
        happens, and in a forked child, where the threads are not, destroying a pipeline is a segmentation fault.
        """
        self._drop()
        self._ahead.close()
        self._next = self._stop

    def _drop(self) -> None:
        self._held.close()
        self._pipeline = None

    def _from_pipeline(self) -> Crops | None:
        """The next step, or None if the pipeline broke on it (or on one that it works on at the same time)."""
        try:
            tag, *groups = self._run()
        except StopIteration:
            raise self._failed or TrocarError(f"the DALI pipeline ended before step {self._next}") from None
        except RuntimeError as error:
            self._reason = _cause(error)
            log.warning("step %d: DALI gave up (%s); decoding it with torch", self._next, self._reason)
            return None
        done = self._inside.popleft()
        # An external source runs ahead of the outputs: only this says that pixels and parameters belong together.
        if done.step != self._next or not np.array_equal(np.asarray(tag.as_tensor()), tags(done)):
            raise AssertionError(f"DALI delivered other frames than those of step {self._next}")
        self._failures = 0
        names = self.steps.recipe.groups
        crops = dict(zip(names, self._held.crops(groups), strict=True))
        return Crops(done.step, done.frames, done.params, crops, done.bad)

    def _run(self) -> Any:
        if self._pipeline is None:
            self._inside.clear()
            self._read, self._failed = self._next, None
            frame = usual_frame(self.steps.plan.selection, self.steps.reader.catalog)
            self._pipeline = build_pipeline(
                self.steps.recipe, self.steps.batch, self._feed, self.device, self.threads, frame, self.load
            )
        if self.device.type == "cpu":
            return self._pipeline.run()
        return self._pipeline.run(torch.cuda.current_stream(self.device))

    def _feed(self) -> list[Any]:
        if self._read >= self._stop or self._failed is not None:
            raise StopIteration
        jpegs: list[list[Jpeg]] = [[]] * self.steps.batch

        def as_it_is(row: int, jpeg: Jpeg) -> Jpeg:
            return jpeg

        def use(index: int, frames: list[Jpeg], params: ViewParams) -> None:
            jpegs[index] = frames

        try:
            done = self.steps.deliver(self._read, as_it_is, use, self._ahead)
        except TrocarError as error:
            # The steps before this one are still inside; they come out first, as they do with the torch backend.
            self._failed = error
            raise StopIteration from None
        self._read += 1
        self._inside.append(done)
        return inputs(self.steps.recipe, jpegs, done)

    def _from_torch(self, step: int) -> Crops:
        self._drop()
        crops = torch_crops(self.steps, step)
        if crops.bad:
            # Known from here on, so that the frame does not end another pipeline one epoch later.
            self._failures = 0
            self.steps = replace(self.steps, reader=self.steps.reader.knowing({bad.row for bad in crops.bad}))
        else:
            self._dispute(crops)
        if self.device.type == "cuda":
            crops = to_device(crops.pin_memory(), self.device)
        return crops

    def _dispute(self, crops: Crops) -> None:
        self._failures += 1
        if self._failures > MAX_FAILURES:
            raise TrocarError(
                f"DALI failed at {self._failures} steps in a row in which every frame is sound ({self._reason}); go on "
                f"with data.backend=torch, or see what `trocar doctor` says of DALI"
            )
        catalog, reader = self.steps.reader.catalog, self.steps.reader
        rows = [row for row in np.unique(crops.frames).tolist() if not is_decodable(reader.read(row), self.device)]
        places = ", ".join(f"{place['video']} row {place['row']}" for place in map(catalog.place, rows))
        log.warning(
            "step %d: the torch backend decodes every frame, DALI does not (%s); delivered from torch",
            crops.step,
            places or "and takes each alone",
        )


def _cause(error: RuntimeError) -> str:
    """The line that says what happened; DALI puts the pipeline's end behind it."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and line != "Current pipeline object is no longer valid."]
    return said[-1] if said else "without a reason"
