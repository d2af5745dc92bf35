"""CholecT45: text files of 0 and 1 per class, joined by the frame's number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.triplets import CHOLECT45_SPLITS, TOOLS, TRIPLETS
from trocar.errors import TrocarError

HOOK, GRASPER = TRIPLETS.index("hook,dissect,gallbladder"), TRIPLETS.index("grasper,retract,gallbladder")


def line(number: int, classes: int, shown: tuple[int, ...]) -> str:
    return ",".join([str(number), *(str(int(i in shown)) for i in range(classes))])


def write_video(
    root: Path, triplets: dict[int, tuple[int, ...]], tools: dict[int, tuple[int, ...]], video: str
) -> Path:
    for folder, classes, rows in (("triplet", 100, triplets), ("instrument", 6, tools)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        text = "\n".join(line(number, classes, shown) for number, shown in rows.items())
        (root / folder / f"{video}.txt").write_text(text + "\n")
    (root / "data" / video).mkdir(parents=True)
    for number in triplets:
        (root / f"data/{video}/{number:06d}.png").write_bytes(b"png")
    return root


def shown(frame: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    return [classes[i] for i in np.flatnonzero(frame)]


def test_triplets_and_tools_are_joined_by_frame_number(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (), 1: (HOOK,), 2: (HOOK, GRASPER)}, {2: (0, 2), 1: (2,), 0: ()}, "VID05")
    data = open_dataset(tmp_path)
    assert data.layout == "cholect45"
    assert data.frames["path"].tolist() == [f"data/VID05/00000{i}.png" for i in range(3)]
    assert data.frames["time_s"].tolist() == [0.0, 1.0, 2.0]
    tools = data.frames[list(data.space("tools").columns)].to_numpy()
    triplets = data.frames[list(data.space("triplet").columns)].to_numpy()
    assert [shown(row, TOOLS) for row in tools] == [[], ["Hook"], ["Grasper", "Hook"]]
    assert [shown(row, TRIPLETS) for row in triplets] == [[], [TRIPLETS[HOOK]], [TRIPLETS[GRASPER], TRIPLETS[HOOK]]]
    assert data.notes == ("3 of 90,489 officially labelled frames are here, of 1 videos",)
    assert data.missing("tools", "") == (3, 90_489)


def test_columns_go_by_the_names_in_dict(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (0,)}, {0: (0,)}, "VID05")
    (tmp_path / "dict").mkdir()
    reverse = [f"{i}:{name}" for i, name in enumerate(reversed(TRIPLETS))]
    (tmp_path / "dict/triplet.txt").write_text("\n".join(reverse))
    (tmp_path / "dict/instrument.txt").write_text("\n".join(f"{i}:{t.lower()} " for i, t in enumerate(reversed(TOOLS))))
    frames = open_dataset(tmp_path).frames
    assert frames.loc[0, "triplet/irrigator,null_verb,null_target"] == 1
    assert frames.loc[0, "tools/Irrigator"] == 1
    assert frames.filter(like="/").to_numpy().sum() == 2
    (tmp_path / "dict/triplet.txt").write_text("\n".join(reverse[:99]))
    with pytest.raises(TrocarError, match=r"triplet\.txt: expected `number:name` for 0 to 99"):
        open_dataset(tmp_path)


def test_a_comma_and_spaces_at_the_end_of_lines_are_no_column(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (HOOK,), 1: ()}, {0: (2,), 1: ()}, "VID05")
    path = tmp_path / "triplet/VID05.txt"
    path.write_text("".join(f"{row}, \n" for row in path.read_text().split()))
    assert open_dataset(tmp_path).frames[f"triplet/{TRIPLETS[HOOK]}"].tolist() == [1, 0]


def test_what_is_missing_or_disagrees_is_said(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (HOOK,), 1: (HOOK,)}, {0: (0,), 1: (2,)}, "VID05")
    write_video(tmp_path, {0: ()}, {0: ()}, "VID06")
    (tmp_path / "instrument/VID06.txt").unlink()
    write_video(tmp_path, {}, {}, "VID08")
    (tmp_path / "data/VID08").rmdir()
    data = open_dataset(tmp_path)
    assert data.notes[:3] == (
        "VID05: the instruments of 1 frames are not those of their triplets",
        "VID06: no instrument/VID06.txt, so no tools",
        "VID08: labels without images left out",
    )
    assert (len(data.rows("tools")), len(data.rows("triplet"))) == (2, 3)


def test_bad_label_files_are_refused(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (HOOK,)}, {0: (2,)}, "VID05")
    path = tmp_path / "instrument/VID05.txt"
    for text, message in (
        ("0,0,0,1,0,0", "6 columns, expected the frame number and 6 classes"),
        ("0,0,0,2,0,0,0", "row 1: column 4 '2': expected 0 or 1"),
        ("x,0,0,1,0,0,0", "row 1: column 1 'x': expected a whole number"),
        ("0,0,0,1,0,0,0\n0,0,0,1,0,0,0", "row 2: column 1 '0' is there twice"),
    ):
        path.write_text(text)
        with pytest.raises(TrocarError, match=message):
            open_dataset(tmp_path)


def test_a_labelled_frame_without_its_image_is_named(tmp_path: Path) -> None:
    write_video(tmp_path, {0: (), 7: ()}, {0: (), 7: ()}, "VID05")
    (tmp_path / "data/VID05/000007.png").unlink()
    with pytest.raises(TrocarError, match=r"the first is data/VID05/000007\.png"):
        open_dataset(tmp_path)


def test_endovits_budgets_are_offered_whole_and_with_their_split_only(tmp_path: Path) -> None:
    for video in CHOLECT45_SPLITS["crossval-5"]["train"]:
        write_video(tmp_path, {0: ()}, {0: ()}, f"VID{int(video):02d}")
    data = open_dataset(tmp_path, options=DatasetOptions(split="crossval-5"))
    assert data.budgets["endovit-2-videos"] == (("VID27", "VID05"), ("VID70", "VID47"), ("VID51", "VID50"))
    assert list(data.budgets) == ["endovit-2-videos", "endovit-4-videos", "endovit-8-videos"]
    assert open_dataset(tmp_path, options=DatasetOptions(split="rdv")).budgets == {}
    (tmp_path / "triplet/VID50.txt").unlink()
    short = open_dataset(tmp_path, options=DatasetOptions(split="crossval-5"))
    assert list(short.budgets) == ["endovit-4-videos", "endovit-8-videos"]
    assert short.notes[-1] == "budget endovit-2-videos left out: training video 50 not here"
