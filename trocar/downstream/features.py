"""Frozen features of a backbone: pooled timm features in eval mode, cached by weights, frames and size."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from trocar.backbones.embed import embed
from trocar.backbones.preprocess import Preprocessing, describe_backbone, fit_input_size
from trocar.downstream.frames import FrameCache, Pixels
from trocar.files import user_cache
from trocar.progress import track

Features = npt.NDArray[np.float32]


def extract(
    model: nn.Module, pixels: Pixels, preprocessing: Preprocessing, *, batch: int = 64, device: str = "cpu"
) -> Features:
    """uint8 [n, S, S, 3] -> float32 [n, num_features]: the model's pooled output for normalised frames.

    The model is put into eval mode and moved to `device`; nothing is trained, augmented or dropped out.
    """
    model = model.eval().to(device)
    starts = range(0, len(pixels), batch)
    parts = []
    for start in track(starts, "extract features", len(starts)):
        images = torch.from_numpy(np.array(pixels[start : start + batch])).permute(0, 3, 1, 2)
        parts.append(embed(model, images, preprocessing, device))
    return np.concatenate(parts)


def cached_features(
    model: nn.Module, frames: FrameCache, size: int, *, batch: int = 64, device: str = "cpu"
) -> Features:
    """`extract` on all frames of a data set at `size` pixels, read back from the cache if it was done
    before.
    """
    model = fit_input_size(model, size)
    preprocessing = describe_backbone(model)
    path = frames.folder / f"features-{weights_hash(model, preprocessing)}-{frames.key}-{size}.npy"
    if path.is_file():
        with contextlib.suppress(ValueError, EOFError):  # cut off: computed again
            found: Features = np.load(path)
            return found
    features = extract(model, frames.get(size), preprocessing, batch=batch, device=device)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        np.save(file, features)
    part.replace(path)
    return features


def weights_hash(model: nn.Module, preprocessing: Preprocessing) -> str:
    """16 hex digits over architecture, preprocessing and every value of the state dict."""
    architecture = dict(getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
    arguments = sorted(getattr(model, "_model_args", {}).items())
    digest = hashlib.sha256(repr((architecture, arguments, preprocessing)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def cache_folder(out: Path | None, cache: Path | None) -> Path:
    """`cache` if given, else OUT/cache, else the user's own cache folder."""
    if cache is not None:
        return cache
    if out is not None:
        return out / "cache"
    return user_cache() / "evaluate"
