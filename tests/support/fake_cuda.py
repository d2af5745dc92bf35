"""A GPU that isn't there: tensors with a shape, a dtype and the device "cuda", but without data.

What mixes devices fails on them as it would on a real GPU. What they can't show: values, streams, the memory that is
needed, and everything that waits for a value on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within, `torch.empty(..., device=CUDA)` makes tensors without data, and autocast believes in the GPU."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        patch("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        patch("torch.cuda.get_device_capability", lambda _=None: (9, 0)),
        patch.object(Tensor, "pin_memory", lambda x: x),
    ):
        yield
