"""Frozen features of a backbone: pooled timm features in eval mode, cached by weights, frames and size.

What a protocol may ask of one backbone on one data set: frozen features, pixels, or the network itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trocar.backbones.device import Precision, Wanted, explained, resolved
from trocar.backbones.preprocess import (
    Embedder,
    Preprocessing,
    describe_backbone,
    fit_input_size,
    require_finite_features,
    usual_batch,
)
from trocar.core.files import user_cache
from trocar.core.plugins import plugins_in
from trocar.core.progress import track
from trocar.data.loading.prefetch import in_thread, pinned
from trocar.downstream.features.frame_cache import FrameCache, Pixels
from trocar.downstream.metrics.outcome import Ints

Features = npt.NDArray[np.float32]


def extract(
    model: nn.Module,
    pixels: Pixels,
    preprocessing: Preprocessing,
    rows: Ints | None = None,
    *,
    batch: int | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    whose: str = "the backbone",
) -> Features:
    """uint8 [n, S, S, 3] -> float32 [n, num_features], or of some `rows` alone: the model's pooled output for
    normalised frames, computed in `precision`.

    The model is put into eval mode and moved to `device`; nothing is trained, augmented or dropped out. A thread reads
    the next frames while the network computes. `batch`: frames at a time (None: `usual_batch`, or as many as fit into
    memory). Raises TrocarError for features that are not finite and where memory runs out; `whose` says what gave them.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    found = extracted(model, pixels, preprocessing, rows, batch=batch, device=device, precision=precision, whose=whose)
    return np.concatenate(list(found))


def extracted(
    model: nn.Module,
    pixels: Pixels,
    preprocessing: Preprocessing,
    rows: Ints,
    *,
    batch: int | None,
    device: str,
    precision: Precision,
    whose: str,
) -> Generator[Features, None, None]:
    """The same as it is computed: features of the first rows, of the next ones and so on, as many as come at a time."""
    embedder = Embedder(model, preprocessing, device, precision, halving=batch is None)
    at_once = batch or usual_batch(device)
    starts = range(0, len(rows), at_once)

    def read() -> Iterator[Tensor]:
        for start in starts:
            images = torch.from_numpy(pixels[rows[start : start + at_once]]).permute(0, 3, 1, 2)
            yield pinned(images, embedder.device)

    done = 0
    with explained(lambda: _remedy(whose, batch, precision)):
        for found in embedder.stream(track(in_thread(read), "extract features", len(starts))):
            require_finite_features(found, whose, rows[done : done + len(found)])
            yield found
            done += len(found)


def _remedy(whose: str, batch: int | None, precision: Precision) -> str:
    if batch is None:
        return f"Not one frame at a time fits through {whose}: take a smaller size"
    return (
        f"That was {batch} frames at a time through {whose}: lower batch (now {batch}), or leave it out for as many as "
        f"fit; precision is {precision}"
    )


def cached_features(
    model: nn.Module,
    frames: FrameCache,
    size: int,
    *,
    batch: int | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    whose: str = "the backbone",
) -> Features:
    """`extract` on all frames of a data set at `size` pixels, mapped into memory from the cache if it was
    done before.
    """
    model = fit_input_size(model, size)
    preprocessing = describe_backbone(model)
    path = features_path(model, frames, size, precision)
    known = read_features(path)
    if known is not None:
        require_finite_features(known, whose)  # also of what an older version kept
        return known
    features = extract(
        model, frames.get(size), preprocessing, batch=batch, device=device, precision=precision, whose=whose
    )
    keep_features(path, features)
    return features


def read_features(path: Path) -> Features | None:
    """Mapped into memory; None where there are none, or a file that was cut off."""
    if path.is_file():
        with contextlib.suppress(ValueError, EOFError):
            found: Features = np.load(path, mmap_mode="r")
            return found
    return None


def keep_features(path: Path, features: Features) -> None:
    """Write them under a name of their own, then rename: `path` is whole or not there."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        np.save(file, features)
    part.replace(path)
    drop_parts(path)


def drop_parts(path: Path) -> None:
    """Remove what several ranks had of the features before these were whole (`feature_parts`), of any batch."""
    for part in path.parent.glob(f".{path.name}.*-*-*"):
        part.unlink(missing_ok=True)


def features_path(model: nn.Module, frames: FrameCache, size: int, precision: Precision = "float32") -> Path:
    """Where the features of a data set by this model, for frames of `size` pixels and computed in `precision`, are
    kept.
    """
    model = fit_input_size(model, size)
    weights = weights_hash(model, describe_backbone(model))
    rounded = "" if precision == "float32" else f"-{precision}"
    return frames.folder / f"features-{weights}-{frames.key}-{size}{rounded}.npy"


def weights_hash(model: nn.Module, preprocessing: Preprocessing) -> str:
    """16 hex digits over architecture, preprocessing and every value of the state dict, and over the source of plugins
    that the network is made of.
    """
    digest = hashlib.sha256(repr((*architecture_of(model), preprocessing)).encode())
    if plugins := plugins_in(type(module).__module__ for module in model.modules()):
        digest.update(repr(plugins).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def architecture_of(model: nn.Module) -> tuple[str, list[tuple[str, Any]]]:
    """timm's name of the architecture, and the arguments it was built with."""
    name = dict(getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
    return str(name), sorted(getattr(model, "_model_args", {}).items())


def cache_folder(out: Path | None, cache: Path | None) -> Path:
    """`cache` if given, else OUT/cache, else the user's own cache folder."""
    if cache is not None:
        return cache
    if out is not None:
        return out / "cache"
    return user_cache() / "evaluate"


@dataclass(frozen=True)
class Encoder:
    """`network` makes the backbone with its weights, anew each time; None for a baseline, whose features
    `plain` makes. `size`: pixels of the square input. `batch`: frames at a time through the frozen network (None:
    what fits). `name`: what errors call it. `precision`: what networks compute in. `workers`: processes that crop for
    one that trains on a GPU (None: what the machine has).
    """

    frames: FrameCache
    size: int = 0
    network: Callable[[], nn.Module] | None = None
    plain: Callable[[FrameCache], Features] | None = None
    batch: int | None = None
    device: str = "cpu"
    name: str = "the backbone"
    precision: Precision = "float32"
    workers: int | None = None

    @cached_property
    def features(self) -> Features:
        """float32 [n, D] of all frames in the order of the table; of a network, pooled and frozen, from the cache."""
        if self.network is None:
            assert self.plain is not None
            return self.plain(self.frames)
        return cached_features(
            self.network(),
            self.frames,
            self.size,
            batch=self.batch,
            device=self.device,
            precision=self.precision,
            whose=self.name,
        )

    @cached_property
    def identity(self) -> str:
        """Of the weights, or of what makes a baseline's features."""
        if self.network is None:
            assert self.plain is not None
            return f"{self.plain.__module__}.{self.plain.__qualname__}"
        model = self.network()
        return weights_hash(model, describe_backbone(model))

    @property
    def frames_at_once(self) -> int:
        """Frames at a time through the frozen network, where they fit."""
        return self.batch or usual_batch(self.device)

    def computes_in(self, wanted: Wanted, option: str) -> Precision:
        """What a protocol's own setting `option` asks for; `auto` is what the evaluation computes in. Raises
        ConfigError for what the device doesn't have.
        """
        return self.precision if wanted == "auto" else resolved(wanted, torch.device(self.device), option)

    @property
    def pixels(self) -> Pixels:
        """uint8 [n, size, size, 3] of all frames in the order of the table, memory-mapped."""
        return self.frames.get(self.size)
