"""Read a weight file without running anything in it: safetensors, or torch's format with `weights_only`."""

from __future__ import annotations

import argparse
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from trocar.errors import ConfigError, TrocarError

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
