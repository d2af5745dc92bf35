"""Label files that count seconds where native frames are expected are refused in every layout that counts frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from video_set_factory import write_image, write_text, write_video

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.readers.label_files import refuse_seconds, unlabelled_end
from trocar.errors import TrocarError

SECONDS = 8
TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")


def phases(last: int) -> list[tuple[object, ...]]:
    return [("Frame", "Phase"), *((k, "Preparation") for k in range(last))]


def cholec80(root: Path, last: int) -> None:
    write_video(root / "videos/video01.mp4", 25 * SECONDS, 25)
    write_text(root / "phase_annotations/video01-phase.txt", phases(last))


def cholec80_tools(root: Path, last: int) -> None:
    write_video(root / "videos/video01.mp4", 25 * SECONDS, 25)
    rows = [(k, 1) for k in range(last)]
    write_text(root / "tool_annotations/video01-tool.txt", [("Frame", "Grasper"), *rows])


def cholec80_images(root: Path, last: int) -> None:
    write_text(root / "phase_annotations/video01-phase.txt", phases(last))
    for k in range(1, SECONDS + 1):
        write_image(root / f"frames/video01/video01_{k:06d}.png")


def m2cai16_workflow(root: Path, last: int) -> None:
    write_video(root / "train_dataset/workflow_video_01.mp4", 25 * SECONDS, 25)
    write_text(root / "train_dataset/workflow_video_01.txt", phases(last))


def m2cai16_tool(root: Path, last: int) -> None:
    write_video(root / "train_dataset/tool_video_01.mp4", 25 * SECONDS, 25)
    rows = [(k, *[0] * 7) for k in range(last)]
    write_text(root / "train_dataset/tool_video_01.txt", [("Frame", *TOOLS), *rows])


def heichole(root: Path, last: int) -> None:
    write_video(root / "Videos/Full/Hei-Chole1.mp4", 25 * SECONDS, 25)
    write_text(root / "Annotations/Phase/Hei-Chole1_Annotation_Phase.csv", [(k, 0) for k in range(last)], ",")


LAYOUTS: tuple[Callable[[Path, int], None], ...] = (
    cholec80,
    cholec80_tools,
    cholec80_images,
    m2cai16_workflow,
    m2cai16_tool,
    heichole,
)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_rows_that_count_seconds_are_refused_and_native_ones_read(tmp_path: Path, make: Callable[..., None]) -> None:
    make(tmp_path, SECONDS)
    with pytest.raises(TrocarError, match=r"8 rows, Frame 0 to 7 one by one, for 8 s .*Multiply Frame by 25"):
        open_dataset(tmp_path)
    make(tmp_path, 25 * SECONDS)
    assert open_dataset(tmp_path).frames["time_s"].max() >= SECONDS - 1


def test_the_clipping_of_the_safety_view_is_not_taken_from_rows_of_seconds(tmp_path: Path) -> None:
    from test_cholec80_cvs import LAYOUT, make

    make(tmp_path)
    rows = [(k, "CalotTriangleDissection" if k < 4 else "ClippingCutting") for k in range(6)]
    write_text(tmp_path / "phase_annotations/video05-phase.txt", [("Frame", "Phase"), *rows])
    with pytest.raises(TrocarError, match="6 rows, Frame 0 to 5 one by one, for 6 s"):
        open_dataset(tmp_path, LAYOUT)


def test_a_column_frame_of_seconds_is_refused_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 25 * SECONDS, 25)

    def rows(step: int) -> None:
        table = [{"path": "v.mp4", "case": "a", "frame": step * k, "time_s": k, "phase": "p"} for k in range(SECONDS)]
        pd.DataFrame(table).to_csv(tmp_path / "frames.csv", index=False)

    rows(1)
    with pytest.raises(TrocarError, match=r"frames\.csv: v\.mp4: column frame .* 25 frames per second: .* 175 at 7 s"):
        open_dataset(tmp_path)
    rows(25)
    assert open_dataset(tmp_path).frames["frame"].tolist() == list(range(0, 25 * SECONDS, 25))


@pytest.mark.parametrize(
    ("frames", "end_s", "rate"),
    [
        (range(0, 750, 25), 30.0, 25.0),  # one row a second, native numbers
        (range(750), 30.0, 25.0),  # one row a frame
        (range(30), 30.0, 1.0),  # a video of one frame a second
        (range(30), 60.0, 25.0),  # neither the end in seconds nor in frames: cut off
        (range(4), 4.0, 25.0),  # too few to tell
    ],
)
def test_rows_that_are_no_seconds_pass(frames: range, end_s: float, rate: float) -> None:
    refuse_seconds(pd.Series(list(frames)), end_s, rate, Path("labels.txt"))


@pytest.mark.parametrize("frames", [range(30), range(1, 31), range(29), range(28)])
def test_seconds_are_known_whether_they_count_from_0_or_1_or_lack_the_last(frames: range) -> None:
    with pytest.raises(TrocarError, match=rf"labels\.txt: {len(frames)} rows, .*these are seconds"):
        refuse_seconds(pd.Series(list(frames)), 30.0, 25.0, Path("labels.txt"))


def test_labels_that_end_long_before_the_pictures_are_said() -> None:
    assert unlabelled_end(88, 100, "v") == []
    assert unlabelled_end(50, 100, "v") == ["v: its labels end at 50 s, its pictures at 100 s"]
