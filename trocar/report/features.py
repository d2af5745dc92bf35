"""A timm backbone as a maker of patch and pooled features for pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocar.backbones.embed import require_finite_features
from trocar.backbones.preprocess import describe_backbone
from trocar.report.inputs import Images

# A convolutional map has a 32nd of the input's side: enlarged frames give a map one can look at.
CONV_SIZE = 448
BATCH = 16


class PictureFeatures:
    """`model` in eval mode on the CPU, fed with uint8 [n, h, w, 3] at the size it expects."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.preprocessing = describe_backbone(model)
        self.is_grid = not hasattr(model, "patch_embed") and not hasattr(model, "cls_token")

    @torch.inference_mode()
    def pooled(self, images: Images) -> npt.NDArray[np.float32]:
        """The features [n, d] that a head would get."""
        size = self.preprocessing.size
        parts = [self.model(self._input(images[i : i + BATCH], size)) for i in range(0, len(images), BATCH)]
        found: npt.NDArray[np.float32] = torch.cat(parts).flatten(1).float().numpy()
        require_finite_features(found, "the backbone")
        return found

    @torch.inference_mode()
    def maps(self, images: Images) -> npt.NDArray[np.float32]:
        """The last patch features [n, h, w, c]."""
        size = (CONV_SIZE, CONV_SIZE) if self.is_grid and not self.preprocessing.fixed_size else self.preprocessing.size
        parts = [self._last_map(self._input(images[i : i + BATCH], size)) for i in range(0, len(images), BATCH)]
        found: npt.NDArray[np.float32] = torch.cat(parts).permute(0, 2, 3, 1).float().numpy()
        require_finite_features(found, "the backbone")
        return found

    def _last_map(self, x: Tensor) -> Tensor:
        found = self.model.forward_intermediates(x, indices=1, output_fmt="NCHW", intermediates_only=True)  # type: ignore[operator]
        return found[-1]  # type: ignore[no-any-return]

    def _input(self, images: Images, size: tuple[int, int]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        if tuple(x.shape[-2:]) != size:
            x = F.interpolate(x.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255).byte()
        return self.preprocessing.normalise(x)
