"""`build_segmenter`: backbone + decoder, logits at the size of the input."""

from __future__ import annotations

from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocar.downstream.segmentation.decoders import DecoderName, build_decoder
from trocar.downstream.segmentation.encoder import SegmentationEncoder, check, fit_rectangle, layout
from trocar.errors import ConfigError, nearest

DECODERS: tuple[str, ...] = get_args(DecoderName)


class Segmenter(nn.Module):
    """Images of one size -> logits of the same size.

    `size` is that of the images, (height, width); they are padded below and on the right with zeros (the mean colour,
    after normalisation) to `padded`, and the logits are cut back.
    """

    def __init__(
        self,
        encoder: SegmentationEncoder,
        decoder: nn.Module,
        classes: int,
        size: tuple[int, int],
        padded: tuple[int, int],
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.classes, self.size, self.padded = classes, size, padded

    @property
    def backbone(self) -> nn.Module:
        """The backbone that was given."""
        return self.encoder.backbone

    @property
    def frozen(self) -> bool:
        """Whether only the decoder trains."""
        return self.encoder.freeze

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float [b, 3, H, W] of `size` -> logits [b, K, H, W]. Raises ValueError for another size."""
        height, width = self.size
        if images.shape[-2:] != self.size:
            raise ValueError(f"expected images of {height} x {width} px, got {images.shape[-2]} x {images.shape[-1]}")
        padded = F.pad(images, (0, self.padded[1] - width, 0, self.padded[0] - height))
        logits = self.decoder(*self.encoder(padded))
        # In float32: a bilinear mean of bfloat16 logits has steps that decide between classes.
        resized = F.interpolate(logits.float(), self.padded, mode="bilinear", align_corners=False)
        return resized[..., :height, :width]


def build_segmenter(
    backbone: nn.Module, decoder: str, classes: int, size: tuple[int, int], freeze: bool, *, seed: int = 0
) -> Segmenter:
    """A timm model, as `load_backbone` gives it, with a decoder for images of `size` (height, width).

    `decoder`: `fpn`, `upernet`, `segformer` and `dpt` (segmentation_models_pytorch), `pyramid` (own, light), `linear`
    (1 x 1 convolution). Its weights follow from `seed` alone. The backbone is used as it is, not copied: a position
    table is resampled for `size` in place, and `freeze` leaves its parameters without gradients. Hierarchies (ResNet,
    ConvNeXt, CAFormer, PVT, Swin) and plain transformers (ViT, DINOv2, DINOv3, BEiT) take every decoder; a plain one
    gets a neck that makes maps of strides around 4, 8, 16 and 32 of four of its blocks.

    Raises ConfigError for an unknown decoder, fewer than two classes, or a backbone that gives no such maps or cannot
    take the size.
    """
    if decoder not in DECODERS:
        raise ConfigError(f"no decoder {decoder!r}{nearest(decoder, DECODERS)}; decoders: {', '.join(DECODERS)}")
    if classes < 2:
        raise ConfigError(f"classes = {classes}: segmentation needs two or more, the background is one of them")
    where = layout(backbone)
    padded = (_up(size[0], where.multiple), _up(size[1], where.multiple))
    fit_rectangle(backbone, padded)
    linear = decoder == "linear"
    encoder = SegmentationEncoder(backbone, where, last=linear, norm=linear, freeze=freeze)
    channels, prefixed = check(encoder, padded)
    scale = None if where.patch is None else where.scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_decoder(decoder, channels, classes, scale=scale, prefixed=all(prefixed))  # type: ignore[arg-type]
    return Segmenter(encoder, head, classes, size, padded)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
