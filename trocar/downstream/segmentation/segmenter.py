"""Decoders by name. Each takes maps and prefix tokens, as `Encoder` gives them, and returns logits at some stride.

`build_segmenter`: backbone + decoder, logits at the size of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from trocar.core.random import torch_seeded
from trocar.core.registry import Registry
from trocar.downstream.segmentation.encoder import STRIDES, SegmentationEncoder, check, fit_rectangle, layout
from trocar.errors import ConfigError

NECK_CHANNELS = 256
PYRAMID_CHANNELS = 128


class Neck(nn.Module):
    """Four maps of one size -> four maps, each half as large as the one before: a feature pyramid from a plain ViT.

    Per map a layer norm over channels, a 1 x 1 convolution to 256 channels, and a resize by a power of two: bilinear
    where it is larger than the token grid, mean pooling where it is smaller. Lighter than the simple feature pyramid
    of ViTDet (arXiv 2203.16527), which learns the resizing and starts from the last map alone; four depths are DPT's.
    """

    def __init__(self, channels: Sequence[int], scale: float) -> None:
        super().__init__()
        self.scales = [scale / 2**level for level in range(len(channels))]
        self.project = nn.ModuleList(nn.Sequential(LayerNorm2d(c), nn.Conv2d(c, NECK_CHANNELS, 1)) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[b, C, h, w] four times -> [b, 256, s h, s w] for the scales s."""
        return [_resize(p(m), s) for p, m, s in zip(self.project, maps, self.scales, strict=True)]


class LinearDecoder(nn.Module):
    """Batch norm and a 1 x 1 convolution on the coarsest map: the linear probe of DINOv2 (arXiv 2304.07193, sec. 7.4).

    What it scores is linearly in the features of one patch; it cannot make up for a coarse stride, so compare
    backbones of equal stride.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor], tokens: list[Tensor | None]) -> Tensor:
        """[b, C, h, w] -> [b, K, h, w]."""
        logits: Tensor = self.classify(self.norm(maps[-1]))
        return logits


class PyramidDecoder(nn.Module):
    """Each map to 128 channels, enlarged to the finest, summed, one 3 x 3 convolution, classified: stride 4.

    Own and light (semantic FPN, arXiv 1901.02446, without its towers), for small data and frozen backbones.
    """

    def __init__(self, channels: Sequence[int], classes: int, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck
        self.lateral = nn.ModuleList(nn.Conv2d(c, PYRAMID_CHANNELS, 1) for c in channels)
        self.fuse = nn.Sequential(
            nn.GroupNorm(8, PYRAMID_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(8, PYRAMID_CHANNELS),
            nn.ReLU(),
            nn.Conv2d(PYRAMID_CHANNELS, classes, 1),
        )

    def forward(self, maps: list[Tensor], tokens: list[Tensor | None]) -> Tensor:
        """Four maps -> [b, K, h, w] of the finest."""
        maps = self.neck(maps)
        total = self.lateral[0](maps[0])
        for level, (lateral, found) in enumerate(zip(self.lateral[1:], maps[1:], strict=True), start=1):
            total = total + _resize(lateral(found), 2.0**level)
        logits: Tensor = self.fuse(total)
        return logits


class SmpDecoder(nn.Module):
    """FPN, UPerNet or SegFormer of segmentation_models_pytorch, and a 1 x 1 classifier: stride 4.

    FPN sums its four maps and drops out 0.2 of the channels, smp's defaults; SurgeNet's, made of the same code, puts
    the maps side by side and drops none.
    """

    def __init__(self, decoder: nn.Module, channels: int, classes: int, neck: nn.Module) -> None:
        super().__init__()
        self.neck, self.decoder = neck, decoder
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: list[Tensor], tokens: list[Tensor | None]) -> Tensor:
        """Four maps -> [b, K, h, w] of the finest."""
        maps = self.neck(maps)
        b, _, h, w = maps[0].shape
        # smp's lists begin with the input and a map of stride 2; these decoders only read the input's size.
        placeholders = [maps[0].new_empty(b, 0, 4 * h, 4 * w), maps[0].new_empty(b, 0, 2 * h, 2 * w)]
        logits: Tensor = self.classify(self.decoder([*placeholders, *maps]))
        return logits


class DptDecoder(nn.Module):
    """DPT (arXiv 2103.13413) of segmentation_models_pytorch: readout `cat`, 256 fusion channels; stride 2.

    Its four maps have 256 to 1024 channels before fusion, whatever the backbone; EndoViT's DPT has 96 to 768.
    """

    def __init__(self, channels: Sequence[int], classes: int, strides: Sequence[int], prefixed: bool) -> None:
        super().__init__()
        self.decoder = DPTDecoder(channels, strides, encoder_has_prefix_tokens=prefixed)
        self.classify = nn.Sequential(
            nn.Conv2d(256, 256, 3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(256, classes, 1),
        )

    def forward(self, maps: list[Tensor], tokens: list[Tensor | None]) -> Tensor:
        """Four maps -> [b, K, 2 h, 2 w] of the finest."""
        logits: Tensor = self.classify(self.decoder(maps, tokens))
        return logits


@dataclass(frozen=True)
class DecoderInputs:
    """What a decoder is built for: `channels` of the maps from fine to coarse, and the number of `classes`.

    `scale` is None for a hierarchy, and for a plain transformer how much larger than its token grid the finest map
    shall be. `prefixed`: the transformer has a class token.
    """

    channels: tuple[int, ...]
    classes: int
    scale: float | None
    prefixed: bool

    def neck(self) -> tuple[nn.Module, list[int]]:
        """What makes a hierarchy of the maps (nothing, where they are one), and its channels."""
        if self.scale is None:
            return nn.Identity(), list(self.channels)
        return Neck(self.channels, self.scale), [NECK_CHANNELS] * len(self.channels)


DecoderBuilder = Callable[[DecoderInputs], nn.Module]
"""The module takes `(maps, tokens)`: maps [b, C, h, w] from fine to coarse, and the prefix tokens [b, n, C] of each,
None where there are none; it returns logits [b, K, H, W] of any stride. Its weights are drawn from torch's generator.
"""

DECODERS: Registry[DecoderBuilder] = Registry(
    "decoders", "decoder", accepts=callable, expected="a function of DecoderInputs that returns a module"
)
"""What builds each decoder, by name."""


def build_linear(inputs: DecoderInputs) -> nn.Module:
    """`linear`, on the coarsest map."""
    return LinearDecoder(inputs.channels[-1], inputs.classes)


def build_pyramid(inputs: DecoderInputs) -> nn.Module:
    """`pyramid`."""
    neck, channels = inputs.neck()
    return PyramidDecoder(channels, inputs.classes, neck)


def build_dpt(inputs: DecoderInputs) -> nn.Module:
    """`dpt`."""
    # smp takes strides only to find how to resize each map. Told the one that makes that a power of two, it also runs
    # on patches of 14 pixels, where the true stride makes its maps differ by a row.
    scale, levels = inputs.scale, len(inputs.channels)
    strides = STRIDES if scale is None else [round(STRIDES[0] * scale)] * levels
    return DptDecoder(list(inputs.channels), inputs.classes, strides, inputs.prefixed)


def build_fpn(inputs: DecoderInputs) -> nn.Module:
    """`fpn`."""
    neck, channels = inputs.neck()
    return SmpDecoder(FPNDecoder([3, 0, *channels], dropout=0.2), 128, inputs.classes, neck)


def build_upernet(inputs: DecoderInputs) -> nn.Module:
    """`upernet`."""
    neck, channels = inputs.neck()
    return SmpDecoder(UPerNetDecoder([3, 0, *channels]), 256, inputs.classes, neck)


def build_segformer(inputs: DecoderInputs) -> nn.Module:
    """`segformer`."""
    neck, channels = inputs.neck()
    return SmpDecoder(SegformerDecoder([3, 0, *channels]), 256, inputs.classes, neck)


for builder in (build_linear, build_pyramid, build_dpt, build_fpn, build_upernet, build_segformer):
    DECODERS.register(builder, builder.__name__.removeprefix("build_"))


def _resize(x: Tensor, scale: float) -> Tensor:
    if scale < 1:
        return F.avg_pool2d(x, round(1 / scale))
    return x if scale == 1 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


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
    (1 x 1 convolution), or one that a plugin registers with `DECODERS`. Its weights follow from `seed` alone. The
    backbone is used as it is, not copied: a position table is resampled for `size` in place, and `freeze` leaves its
    parameters without gradients. Hierarchies (ResNet, ConvNeXt, CAFormer, PVT, Swin) and plain transformers (ViT,
    DINOv2, DINOv3, BEiT) take each of these; a plain one gets a neck that makes maps of strides around 4, 8, 16 and 32
    of four of its blocks.

    Raises ConfigError for an unknown decoder, fewer than two classes, or a backbone that gives no such maps or cannot
    take the size.
    """
    build = DECODERS.get(decoder)
    if classes < 2:
        raise ConfigError(f"classes = {classes}: segmentation needs two or more, the background is one of them")
    where = layout(backbone)
    padded = (_up(size[0], where.multiple), _up(size[1], where.multiple))
    fit_rectangle(backbone, padded)
    linear = decoder == "linear"
    encoder = SegmentationEncoder(backbone, where, last=linear, norm=linear, freeze=freeze)
    channels, prefixed = check(encoder, padded)
    scale = None if where.patch is None else where.scale
    with torch_seeded(seed, "decoder"):
        head = build(DecoderInputs(tuple(channels), classes, scale, all(prefixed)))
    return Segmenter(encoder, head, classes, size, padded)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
