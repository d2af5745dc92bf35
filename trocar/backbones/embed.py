"""Images -> features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trocar.backbones.device import Halves, Precision, autocast
from trocar.backbones.preprocess import Preprocessing
from trocar.data.loading.prefetch import sent_ahead
from trocar.errors import TrocarError

CHECKED = 4096  # rows of features that are looked at together: they may be mapped from a file larger than the memory
GATHERED = 8  # batches whose features come back from a GPU in one copy, for which host and GPU wait for each other
ON_CPU, ON_GPU = 64, 512
"""Images at a time where nobody says how many."""


class Embedder:
    """A frozen backbone on a device, in eval mode; nothing is trained, augmented or dropped out.

    With `halving`, a batch that there is no memory for is computed in halves, as is every one after it. A feature does
    not depend on what it is computed with, but for rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: str,
        precision: Precision = "float32",
        halving: bool = False,
    ) -> None:
        self.model, self.preprocessing = model.eval().to(device), preprocessing
        self.device, self.precision = torch.device(device), precision
        self._halves = Halves(self.device, halving)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [b, 3, S, S] -> float32 [b, num_features], both on the device.

        They may be NaN or infinite, where weights overflow or an image is met that a network cannot take: whoever asks
        for features for a purpose calls `require_finite_features` and can say which images it were.
        """
        found = list(self._halves(self._features, images))
        return torch.cat(found) if len(found) > 1 else found[0]

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            features: Tensor = self.model(self.preprocessing.normalise(images))
        return features.float()

    def stream(self, batches: Iterable[Tensor]) -> Iterator[npt.NDArray[np.float32]]:
        """Batches of images on the host -> their features there, in order: those of one batch, from a GPU of several.

        A GPU computes one batch while the next one is copied to it, if that lies in pinned memory.
        """
        if self.device.type != "cuda":
            for images in batches:
                yield self(images.to(self.device)).cpu().numpy()
            return
        held: list[Tensor] = []
        before: torch.cuda.Event | None = None
        for _, (images,) in sent_ahead(((None, [images]) for images in batches), self.device):
            held.append(self(images))
            done = torch.cuda.current_stream(self.device).record_event()
            if before is not None:
                before.synchronize()  # of batches that are queued each takes memory: two are enough
            before = done
            if len(held) == GATHERED:
                yield torch.cat(held).cpu().numpy()
                held = []
        if held:
            yield torch.cat(held).cpu().numpy()


def usual_batch(device: str) -> int:
    """Images at a time through a frozen backbone: enough to fill a GPU; on a CPU no more than its caches like."""
    return ON_GPU if torch.device(device).type == "cuda" else ON_CPU


def prediction_batch(batch: int, device: str) -> int:
    """Images at a time through a network that trains on `batch` of them: a GPU keeps nothing for a gradient when it
    predicts, and takes as many as of a frozen backbone. To be computed in `Halves`.
    """
    return max(batch, ON_GPU) if torch.device(device).type == "cuda" else batch


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
