"""Images -> features of a frozen backbone, and the device it is asked on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trocar.backbones.preprocess import Preprocessing
from trocar.errors import ConfigError


def embed(model: nn.Module, images: Tensor, preprocessing: Preprocessing, device: str) -> npt.NDArray[np.float32]:
    """uint8 [b, 3, S, S] -> float32 [b, num_features], by a model that is on `device` and in eval mode."""
    with torch.inference_mode():
        features = model(preprocessing.normalise(images.to(device)))
        found: npt.NDArray[np.float32] = features.float().cpu().numpy()
    return found


def choose_device(name: str) -> str:
    """`auto`, `cpu` or `cuda` -> `cpu` or `cuda`. Raises ConfigError for a GPU that isn't there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch sees no CUDA device; use device=cpu")
    return name
