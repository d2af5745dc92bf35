"""The endings of the files that are read as videos and as pictures, wherever such files are looked for."""

from __future__ import annotations

_VIDEO_KINDS = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts wmv asf vob flv mxf"
_IMAGE_KINDS = "jpg jpeg png bmp tif tiff webp"
VIDEO_SUFFIXES = frozenset(f".{kind}" for kind in _VIDEO_KINDS.split())
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _IMAGE_KINDS.split())
