"""JPEG bytes -> pixels, for training and for evaluation from shards: libjpeg-turbo as TorchCodec brings it."""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor
from torchcodec.decoders import decode_jpeg as _decode_jpeg

from trocar.data.media.delivered_files import RejectError
from trocar.data.media.jpeg_markers import Jpeg

_WHERE = re.compile(r"^\S+, \S+:\d+, ")  # the function and line of TorchCodec that an error begins with


def decode_jpeg(jpeg: Jpeg) -> Tensor:
    """JPEG -> uint8[3, height, width] in RGB, channels last in memory: chroma smoothly upsampled, as it is shown.

    Other threads run meanwhile. Raises RejectError for what does not decode to its end; noise inside of the image data
    that libjpeg paints over is none (`jpeg_markers` finds markers where there can be none). An EXIF orientation is
    applied, but frames in shards have none (`ingest.jpeg.is_canonical`).
    """
    if not jpeg:
        raise RejectError("empty file", "0 bytes")
    try:
        source = torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
        return cast(Tensor, _decode_jpeg(source, mode="RGB"))
    except RuntimeError as error:
        raise RejectError("undecodable image", _WHERE.sub("", str(error).splitlines()[0])) from None
