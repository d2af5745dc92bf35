"""A backbone as one ONNX file, compared with torch before it is kept."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trocar.backbones.preprocess import describe_backbone
from trocar.core.files import fsync_folder
from trocar.errors import ConfigError, TrocarError

TOLERANCE = 1e-4
"""Allowed difference to torch, relative to the largest feature."""
BATCHES = (1, 3)


def export_onnx(model: nn.Module, path: Path) -> float:
    """Write `model` (timm, pooled output) to `path`; returns the largest difference to torch, relative to the features.

    Input `images` float32 [batch, 3, H, W], normalised, any batch size; output `features` float32 [batch, D]. The file
    appears only if onnxruntime gives torch's features for batches of 1 and 3. Raises ConfigError where the extra `onnx`
    is not installed or `path` exists, TrocarError for a model that can't be exported or comes out different.
    """
    runtime = _runtime()
    if path.exists():
        raise ConfigError(f"{path} exists; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    was_training = model.training
    model.eval()
    try:
        _write(model, temporary)
        worst = max(_difference(model, runtime.InferenceSession(str(temporary)), batch) for batch in BATCHES)
        if not worst <= TOLERANCE:  # NaN as well
            raise TrocarError(
                f"onnxruntime's features differ from torch's by {worst:.1e} of the largest; nothing is kept"
            )
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        model.train(was_training)
    return worst


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401  what torch's exporter needs, here so that it is named in time
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'trocar[onnx]'") from None
    return onnxruntime


def _write(model: nn.Module, path: Path) -> None:
    images = _images(model, 2)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=["features"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch has a class of its own for each of a dozen stages
        raise TrocarError(f"torch cannot export this backbone to ONNX: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def _difference(model: nn.Module, session: Any, batch: int) -> float:
    images = _images(model, batch)
    expected = model(images).numpy()
    (found,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def _images(model: nn.Module, batch: int) -> torch.Tensor:
    height, width = describe_backbone(model).size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
