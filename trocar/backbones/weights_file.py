"""Weight files: read without running anything in them, checked to be numbers, and written in one pass.

The library's own writer wants all tensors in host memory, apart from each other, and leaves the hash to a second
reading of the file. The bytes are the library's.
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from trocar.core.files import HashedFile
from trocar.errors import ConfigError, TrocarError

NOT_FINITE = "NaN or infinity among its values"
SHOWN = 12


def require_finite(state: Mapping[str, Tensor], origin: str) -> None:
    """Raises TrocarError that names every tensor of `state` with NaN or infinity among its values; `origin` says whose.

    One such value makes all features NaN, and what is fitted on them still gets a score. A scalar may be infinite: it
    is a bound that is not set (the clipped layers of timm's gemma4 have such).
    """
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if not wrong:
        return
    lines = [f"  {name}: {NOT_FINITE}" for name in wrong[:SHOWN]]
    lines += [f"  ... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    raise TrocarError(f"{origin}: weights that are not finite cannot be used:\n" + "\n".join(lines))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    return not bool(tensor.isnan()) if tensor.ndim == 0 else bool(torch.isfinite(tensor).all())


# Training scripts keep their arguments in one; it holds values and runs nothing.
HARMLESS: list[Any] = [argparse.Namespace]
SUFFIXES = (".pth", ".pt", ".bin", ".torch", ".tar", ".ckpt", ".safetensors")
"""Endings of weight files."""
CONVERT = """python - <<'END'
import torch
def keep(x):
    return {k: keep(v) for k, v in x.items() if isinstance(v, (dict, torch.Tensor))} if isinstance(x, dict) else x
torch.save(keep(torch.load(%r, map_location="cpu", weights_only=False)), %r)
END"""


def read_checkpoint(path: Path, *, data: bool = True, ending: str | None = None) -> dict[str, Any]:
    """The content of a weight file: tensors by name, for torch files possibly in nested dictionaries, on the CPU.

    The format follows from the name's ending, or from `ending` for a file that does not have its final name yet.
    With `data=False` tensors are on the device meta: names, shapes and types, nothing else is read. Raises ConfigError
    if there is no such file, TrocarError for one that is damaged, is no weight file, or needs code to be run.
    """
    if not path.is_file():
        raise ConfigError(f"no file {str(path)!r}")
    _refuse_lookalikes(path)
    content = _safetensors(path, data) if (ending or path.suffix) == ".safetensors" else _torch(path, data)
    if not isinstance(content, Mapping):
        raise TrocarError(
            f"{path} holds a {type(content).__name__}, not named tensors; save model.state_dict() instead"
        )
    return dict(content)


def _safetensors(path: Path, data: bool) -> dict[str, Any]:
    try:
        if data:
            return dict(load_file(path))
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: torch.empty(s.get_shape(), device="meta") for key, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise TrocarError(f"{path} cannot be read: {error}; fetch it again") from None


def _torch(path: Path, data: bool) -> Any:
    where = "cpu" if data else "meta"
    try:
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=where, weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise TrocarError(_refusal(path)) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrocarError(
            f"{path} cannot be read as a torch file ({reason}); it may be cut off: fetch it again"
        ) from None


def _refusal(path: Path) -> str:
    try:
        needed = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:
        needed = []
    if not needed:
        return f"{path} is no torch or safetensors file, or a damaged one"
    target = path.with_name(f"{path.stem}.tensors.pth")
    return (
        f"{path} needs {', '.join(needed[:4])}{' ...' if len(needed) > 4 else ''}, and whatever a file names as code "
        f"can do anything on this machine. If you trust where it comes from, keep its tensors in a new file, once:\n\n"
        f"{CONVERT % (str(path), str(target))}\n\nand use {target}"
    )


def _refuse_lookalikes(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(200)
    if not head:
        raise TrocarError(f"{path} is empty; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise TrocarError(
            f"{path} is a Git LFS pointer, not the file it stands for; run `git lfs pull` where it came from"
        )
    if head.lstrip()[:1] == b"<":
        raise TrocarError(f"{path} is a web page, not weights: the download asked for a login or a confirmation")


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
