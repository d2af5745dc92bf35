"""Tars as others write them: pictures of every kind under a key, with JSON beside them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leak_factory import operation
from PIL import Image


def still(seed: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """A picture unlike that of any other seed."""
    return operation(5000 + seed, 1, size)[0]


def encoded(image: Image.Image, kind: str = "baseline") -> bytes:
    """A picture's bytes: baseline (4:2:0), 422, 444, progressive, turned, exif, grey, cmyk, png or webp."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112 if kind == "turned" else 0x010F] = 6 if kind == "turned" else "a recorder"
    more: dict[str, Any] = {
        "422": {"subsampling": "4:2:2"},
        "444": {"subsampling": "4:4:4"},
        "progressive": {"progressive": True},
        "turned": {"exif": exif},
        "exif": {"exif": exif},
    }.get(kind, {})
    modes = {"grey": "L", "cmyk": "CMYK"}
    if kind in ("png", "webp"):
        image.save(buffer, kind.upper())
    else:
        image.convert(modes.get(kind, "RGB")).save(buffer, "JPEG", quality=85, **{"subsampling": "4:2:0"} | more)
    return buffer.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes | Mapping[str, Any]]) -> Path:
    """A tar with these members in this order; a mapping is written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
