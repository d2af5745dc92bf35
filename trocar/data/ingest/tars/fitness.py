"""Which pictures of others a run can read where they lie: what all decoders read alike.

They disagree about the order of colours, the way up and the chroma of a picture. What is left is a
baseline JPEG of 8 bits in YCbCr, 4:2:0, 4:2:2 or 4:4:4, upright.
"""

from __future__ import annotations

from trocar.data.media.still import is_upright

_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BASELINE, _PROGRESSIVE, _SOS, _ADOBE = 0xC0, {0xC2, 0xC6, 0xCA, 0xCE}, 0xDA, 0xEE
_SAMPLINGS = ([0x22, 0x11, 0x11], [0x21, 0x11, 0x11], [0x11, 0x11, 0x11])
_KINDS = {b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def unfit(data: bytes) -> str | None:
    """Why a picture cannot be read where it lies, in a few fixed words; None where it can.

    Of a JPEG that ends before its picture nothing is said: None, and `jpeg.end_and_size` raises ValueError for it.
    """
    if data[:2] != b"\xff\xd8":
        return _KINDS.get(data[:4], "another format")
    position = 2
    frame = None
    colours = 1
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == _SOS:
            break
        if marker in _SOF:
            frame = marker, body
        elif marker == _ADOBE and body[:5] == b"Adobe" and len(body) >= 12:
            colours = body[11]
        position += 2 + length
    if frame is None:
        return None
    return _unfit_frame(*frame, colours) or (None if is_upright(data) else "turned by EXIF")


def _unfit_frame(marker: int, header: bytes, colours: int) -> str | None:
    if marker in _PROGRESSIVE:
        return "progressive JPEG"
    if marker != _BASELINE:
        return "JPEG that is not baseline"
    if len(header) < 6 or header[0] != 8:
        return "JPEG of more than 8 bits"
    if header[5] != 3:
        return "grey JPEG" if header[5] == 1 else "CMYK JPEG"
    if colours == 0:
        return "RGB JPEG"
    return None if [header[at] for at in range(7, len(header), 3)] in _SAMPLINGS else "unusual chroma"
