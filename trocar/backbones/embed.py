"""Images -> features of a frozen backbone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trocar.backbones.preprocess import Preprocessing
from trocar.errors import TrocarError

CHECKED = 4096  # rows of features that are looked at together: they may be mapped from a file larger than the memory


def embed(model: nn.Module, images: Tensor, preprocessing: Preprocessing, device: str) -> npt.NDArray[np.float32]:
    """uint8 [b, 3, S, S] -> float32 [b, num_features], by a model that is on `device` and in eval mode.

    They may be NaN or infinite, where weights overflow or an image is met that a network cannot take: whoever asks for
    features for a purpose calls `require_finite_features` and can say which images it were.
    """
    with torch.inference_mode():
        features = model(preprocessing.normalise(images.to(device)))
        found: npt.NDArray[np.float32] = features.float().cpu().numpy()
    return found


def require_finite_features(
    features: npt.NDArray[np.floating], whose: str, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Raises TrocarError if features [n, ...] of any frame are NaN or infinite: a score of such would mean nothing.

    `whose` names the backbone, `rows` [n] the frames as their table numbers them; default: from 0.
    """
    for start in range(0, len(features), CHECKED):
        part = features[start : start + CHECKED]
        finite = np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise TrocarError(
                f"{whose} gives features that are NaN or infinite, the first for frame "
                f"{first if rows is None else rows[first]}; look at that frame, and at the backbone: its values may "
                "overflow"
            )
