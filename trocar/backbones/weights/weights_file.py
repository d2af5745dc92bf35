"""Tensors as a safetensors file, in one pass: each is written and hashed as it comes, and none is copied on a CPU.

The library's own writer wants all tensors in host memory, apart from each other, and leaves the hash to a second
reading of the file. The bytes are the library's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocar.core.files import HashedFile
from trocar.errors import TrocarError

_ALIGNMENT = 8
# As the format names them, and in the library's order: what is aligned to more bytes comes first in a file.
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {kind: place for place, kind in enumerate(_TYPES)}


def write_weights(tensors: Mapping[str, Tensor], path: Path, go_on: Callable[[], None] = lambda: None) -> str:
    """Write `tensors` (on any device) to `path` as safetensors; returns the file's sha256 in hex. Nothing is fsynced.

    `go_on` is called before each MiB, and what it raises ends the writing. Raises OSError, and TrocarError for a type
    of numbers that such files cannot hold.
    """
    unknown = sorted({str(t.dtype) for t in tensors.values() if t.dtype not in _TYPES})
    if unknown:
        raise TrocarError(f"{path.name} cannot hold {', '.join(unknown)}")
    names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as raw:
        file = HashedFile(raw, go_on)
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes_of(tensors[name]))
    return file.sha256()


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
