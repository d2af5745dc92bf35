"""What a file says of itself never reaches a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile_media import off, saved, scene
from ingest_clips import constant, make_clip, stored
from PIL import Image
from private_factory import contents, ingest

from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.framing import is_canonical


def test_exif_comments_and_thumbnails_never_reach_a_shard(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = "PATIENT Doe"
    exif[0x8825] = {1: "N", 2: (46.0, 56.0, 0.0)}
    plain = saved(scene(), subsampling="4:2:0", quality=90)
    soi, rest = plain[:2], plain[2:]

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body

    files = {
        "exif": saved(scene(), subsampling="4:2:0", exif=exif.tobytes()),
        "comment": saved(scene(), subsampling="4:2:0", comment=b"PATIENT Doe"),
        "tool and more": saved(scene(), subsampling="4:2:0", comment=b"Lavc60.3 PATIENT Doe"),
        "xmp": soi + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>PATIENT Doe</x>") + rest,
        "photoshop": soi + segment(0xED, b"Photoshop 3.0\0PATIENT Doe") + rest,
        "thumbnail": soi + segment(0xE0, b"JFXX\0\x13\x01\x01PATIENT Doe") + rest,
        "jfif thumbnail": soi + segment(0xE0, b"JFIF\0\1\2\0\0\1\0\1\3\1PATIENT D") + rest,
        "after the end": plain + b"PATIENT Doe\xff\xd9",
        "second picture": plain + b"PATIENT" + plain,
        "png text": saved(scene(), "PNG", pnginfo=_png_text()),
    }
    folder = tmp_path / "in" / "v"
    folder.mkdir(parents=True)
    for number, data in enumerate(files.values()):
        assert b"PATIENT" in data or list(files)[number] == "exif"
        assert not is_canonical(data), list(files)[number]
        (folder / f"{number}.jpg").write_bytes(data)
    ingest(tmp_path / "in", tmp_path / "out", frames="{number}.jpg", frames_fps=1.0, first_number=0)
    catalog = Catalog.open(tmp_path / "out")
    assert len(catalog) == len(files)
    assert b"PATIENT" not in contents(tmp_path / "out")
    assert all(off(image, scene()) < 4 for _, image in stored(catalog, "v"))


def _png_text() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "PATIENT Doe")
    return info


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_a_container_says_never_reaches_a_shard(tmp_path: Path, name: str) -> None:
    import av

    clip = make_clip(tmp_path / name, constant(25, 30))
    (tmp_path / "in").mkdir()
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in" / name), "w") as target:
        for key in ("title", "artist", "comment"):
            target.metadata[key] = "PATIENT Doe"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert b"PATIENT" in (tmp_path / "in" / name).read_bytes()
    ingest(tmp_path / "in", tmp_path / "out")
    assert len(Catalog.open(tmp_path / "out")) == 2
    assert b"PATIENT" not in contents(tmp_path / "out")
