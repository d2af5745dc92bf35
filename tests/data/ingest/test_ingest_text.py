"""Text burned into a video is hinted at, with the box that --masks needs; a scene and its rim are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from ingest_clips import ingest
from PIL import Image, ImageDraw, ImageFont

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.burned_text import KEPT, LEAST, TextWatch, advice

SIZE = 400, 256
FRAMES = {"frames": "{number}.png", "frames_fps": 1.0, "first_number": 0}


def scene(number: int, *, rim: bool = False) -> Image.Image:
    """A random smooth picture, inside of a disc with `rim`."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(60, 220, (16, 25, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    if rim:
        disc = Image.new("L", SIZE)
        ImageDraw.Draw(disc).ellipse((40, -30, 360, 290), fill=255)
        image = Image.composite(image, Image.new("RGB", SIZE), disc)
    return image


def written(image: Image.Image, text: str = "MUELLER, ANNA", at: tuple[int, int] = (150, 200)) -> Image.Image:
    ImageDraw.Draw(image).text(at, text, fill=(255, 255, 255), font=ImageFont.load_default(12))
    return image


def boxes(frames: list[Image.Image], content: tuple[int, int, int, int] = (0, 0, *SIZE)) -> list[tuple[int, ...]]:
    watch = TextWatch()
    for frame in frames:
        watch.add(frame)
    return list(watch.boxes(content))


def contains(box: tuple[int, ...], inner: tuple[float, ...], slack: float) -> bool:
    """Whether box (left, top, width, height) holds `inner` (left, top, right, bottom), and is not much larger."""
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    holds = left <= inner[0] and top <= inner[1] and right >= inner[2] and bottom >= inner[3]
    return holds and box[2] * box[3] < slack * (inner[2] - inner[0]) * (inner[3] - inner[1])


def test_text_over_a_moving_scene_is_found_where_it_is() -> None:
    (box,) = boxes([written(scene(i)) for i in range(10)])
    drawn = ImageDraw.Draw(scene(0)).textbbox((150, 200), "MUELLER, ANNA", font=ImageFont.load_default(12))
    assert contains(box, drawn, slack=4)


def test_the_box_is_in_pixels_of_the_source() -> None:
    (box,) = boxes([written(scene(i)) for i in range(10)])
    (scaled,) = boxes([written(scene(i)) for i in range(10)], content=(100, 50, 800, 512))
    assert scaled == pytest.approx((100 + 2 * box[0], 50 + 2 * box[1], 2 * box[2], 2 * box[3]), abs=3)


def test_a_scene_its_rim_and_text_that_comes_and_goes_are_no_text() -> None:
    assert boxes([scene(i) for i in range(10)]) == []
    assert boxes([scene(i, rim=True) for i in range(10)]) == []
    assert boxes([written(scene(i)) if i == 3 else scene(i) for i in range(10)]) == []
    assert boxes([written(scene(i), at=(20 * i, 10 * i)) for i in range(10)]) == []


def test_what_does_not_move_or_is_short_is_not_judged() -> None:
    assert boxes([written(scene(0)) for _ in range(10)]) == []
    assert boxes([written(scene(i)) for i in range(LEAST - 1)]) == []
    assert len(boxes([written(scene(i)) for i in range(LEAST)])) == 1


def test_frames_that_are_looked_at_are_spread_over_any_length() -> None:
    watch = TextWatch()
    for number in range(1000):
        watch.add(Image.fromarray(np.full((80, 80, 3), number // 4, np.uint8)))
    kept = [int(frame[0, 0]) for frame in watch._kept]
    assert KEPT <= len(kept) <= 2 * KEPT
    assert np.ptp(np.diff(kept)) <= 1
    assert kept[-1] > 230


def test_an_ingest_says_what_to_mask_and_with_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for video in ("a", "b"):
        (tmp_path / "in" / video).mkdir(parents=True)
        for number in range(8):
            picture = scene(100 * (video == "b") + number)
            (written(picture) if video == "a" else picture).save(tmp_path / "in" / video / f"{number}.png")
    summary, _ = ingest(tmp_path / "in", tmp_path / "out", **FRAMES)
    assert summary.text is not None
    first, line = summary.text.splitlines()
    assert first.startswith("text seems to be burned into 1 of 2 videos, such as a: ")
    rows = {row["name"]: row["text"] for row in Catalog.open(tmp_path / "out").videos.to_pylist()}
    assert rows["b"] == []
    assert yaml.safe_load(line) == {"in": [rows["a"]]}
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert ", ".join(map(str, rows["a"])) in capsys.readouterr().out
    assert ingest(tmp_path / "in", tmp_path / "out", **FRAMES)[0].text == summary.text  # finished before
    (tmp_path / "masks.yaml").write_text(line)
    assert ingest(tmp_path / "in", tmp_path / "out", masks=tmp_path / "masks.yaml", **FRAMES)[0].text is None


def test_boxes_of_one_source_that_touch_become_one() -> None:
    found = [
        ("a", "x", (0, 0, 10, 10)),
        ("b", "x", (60, 0, 5, 5, 8, 8, 40, 4)),
        ("c", "y", (1, 2, 3, 4)),
        ("d", "z", ()),
    ]
    text = advice(found)
    assert text is not None
    assert yaml.safe_load("\n".join(text.splitlines()[1:])) == {
        "x": [[0, 0, 48, 12], [60, 0, 5, 5]],
        "y": [[1, 2, 3, 4]],
    }
    assert "3 of 4 videos, such as a" in text
    assert advice([("d", "z", ())]) is None
