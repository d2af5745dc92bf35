"""Images at one a second: from 0 or from 1, and never several to a labelled second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from video_set_factory import write_image, write_text

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.readers.label_files import first_number, numbered, refuse_dense, refuse_shifted
from trocar.errors import TrocarError


def cholec80(root: Path, seconds: int, numbers: range) -> Path:
    """Phase rows of native frames; the phase changes at second 2."""
    rows = [(k, "Preparation" if k < 50 else "ClippingCutting") for k in range(25 * seconds)]
    write_text(root / "phase_annotations/video01-phase.txt", [("Frame", "Phase"), *rows])
    for number in numbers:
        write_image(root / f"frames/video01/video01_{number:06d}.png", number)
    return root


def multibypass(root: Path, seconds: int, numbers: range) -> Path:
    phases = [{"start": 0, "end": 1000 * seconds, "label_id": 0, "label_name": "preparation"}]
    path = root / "labels/bern/labels_by70/BBP01.mp4.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"phases": phases, "steps": []}))
    for number in numbers:
        write_image(root / f"BernBypass70/frames/BBP01/img{number}.jpg")
    return root


@pytest.mark.parametrize(("numbers", "first"), [(range(4), 0), (range(5), 0), (range(1, 5), 1), (range(1, 6), 1)])
def test_second_k_of_cholec80_is_image_k_from_0_or_k_plus_1_from_1(tmp_path: Path, numbers: range, first: int) -> None:
    frames = open_dataset(cholec80(tmp_path, 4, numbers)).frames
    assert frames["path"].tolist() == [f"frames/video01/video01_{k + first:06d}.png" for k in range(4)]
    assert frames["time_s"].tolist() == [0, 1, 2, 3]
    assert frames["phase"].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(("numbers", "first"), [(range(3), 0), (range(4), 0), (range(1, 4), 1)])
def test_multibypass_images_count_from_0_or_from_1(tmp_path: Path, numbers: range, first: int) -> None:
    frames = open_dataset(multibypass(tmp_path, 3, numbers)).frames
    assert [Path(path).name for path in frames["path"]] == [f"img{k + first}.jpg" for k in range(3)]
    assert frames["time_s"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("start", [0, 1])
def test_an_image_from_0_that_is_missing_is_named_by_its_own_number(tmp_path: Path, start: int) -> None:
    cholec80(tmp_path, 4, range(start, start + 4))
    (tmp_path / f"frames/video01/video01_{start + 2:06d}.png").unlink()
    with pytest.raises(TrocarError, match=rf"the first is frames/video01/video01_00000{start + 2}\.png"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("make", [cholec80, multibypass])
def test_several_images_to_a_labelled_second_are_refused(tmp_path: Path, make: object) -> None:
    make(tmp_path, 4, range(1, 21))  # type: ignore[operator]
    with pytest.raises(TrocarError, match="20 images for 4 labelled seconds, 5 to a second"):
        open_dataset(tmp_path)


def test_several_images_to_a_labelled_second_are_refused_for_the_safety_view_too(tmp_path: Path) -> None:
    from test_cholec80_cvs import LAYOUT, make

    make(tmp_path)
    (tmp_path / "videos/video05.mp4").unlink()
    for k in range(30):
        write_image(tmp_path / f"frames/video05/video05_{k:06d}.png")
    with pytest.raises(TrocarError, match="30 images for 6 labelled seconds, 5 to a second"):
        open_dataset(tmp_path, LAYOUT)


def test_several_images_to_a_label_of_cholect45_and_cholect50_are_refused(tmp_path: Path) -> None:
    from test_cholect45 import write_video as write_45
    from test_cholect50 import entry
    from test_cholect50 import write_video as write_50

    write_45(tmp_path / "45", dict.fromkeys(range(4), ()), dict.fromkeys(range(4), ()), "VID05")
    for k in range(4, 20):
        write_image(tmp_path / f"45/data/VID05/{k:06d}.png")
    (tmp_path / "50").mkdir()
    write_50(tmp_path / "50", {str(k): [entry(0, 0)] for k in range(4)}, list(range(20)))
    for folder in ("45", "50"):
        with pytest.raises(TrocarError, match="20 images for 4 labelled seconds, 5 to a second"):
            open_dataset(tmp_path / folder)


def test_images_from_1_where_labels_count_from_0_are_said_to_be(tmp_path: Path) -> None:
    from test_cholect50 import entry, write_video

    write_video(tmp_path, {str(k): [entry(0, 0)] for k in range(3)}, [1, 2, 3])
    with pytest.raises(
        TrocarError, match="the labels go from 0 to 2, the images from 1 to 3: they seem to count from 1"
    ):
        open_dataset(tmp_path)


def test_numbers_that_say_nothing_are_refused(tmp_path: Path) -> None:
    assert numbered([tmp_path / "video01_000007.png", tmp_path / "img12.jpg"]).keys() == {7, 12}
    with pytest.raises(TrocarError, match=r"a_mask\.png: no number at the end of its name"):
        numbered([tmp_path / "a_mask.png"])
    with pytest.raises(TrocarError, match=r"b_7\.jpg and b_07\.png have the same number"):
        numbered([tmp_path / "b_07.png", tmp_path / "b_7.jpg"])


def test_where_counting_begins_and_how_many_are_too_many() -> None:
    assert (first_number({0, 1}), first_number({1, 2}), first_number({5})) == (0, 1, 1)
    refuse_dense(99, 70, "few more")
    refuse_dense(8, 3, "five more")
    refuse_shifted({0, 1, 2}, {0, 1}, "from 0")
    refuse_shifted({3, 4}, {3, 4}, "a part")
    with pytest.raises(TrocarError, match="200 images for 100 labelled seconds, 2 to a second"):
        refuse_dense(199, 99, "two")
