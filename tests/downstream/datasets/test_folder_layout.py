"""Own frames: one CSV, optional class names, every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from downstream_factory import make_folder, write_clip
from PIL import Image
from registry_factory import changeable

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.folder import LabelTable
from trocar.downstream.features.frame_cache import FrameCache
from trocar.downstream.metrics.phase import f1_per_class
from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.metrics.segmentation import per_class
from trocar.downstream.tasks.base import TASKS, Task
from trocar.errors import ConfigError, TrocarError


def write(root: Path, rows: list[dict[str, object]], classes: str | None = None) -> Path:
    for row in rows:
        path = root / str(row["path"]).strip()
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.new("RGB", (4, 2)).save(path)
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return root


def test_phases_as_numbers_and_tools(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path, cases=2, frames=4))
    assert (data.layout, *(s.classes for s in data.spaces)) == ("folder", ("0", "1"), ("red",))
    assert data.frames["phase"].tolist() == [0, 0, 1, 1] * 2
    assert data.frames["tools/red"].tolist() == [1, 0, 0, 1] * 2
    assert data.notes == ()


def test_rows_left_out_by_the_rate_are_counted(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path, cases=2, frames=4), options=DatasetOptions(fps=0.5))
    assert data.frames["time_s"].tolist() == [0, 2, 0, 2]
    assert data.notes == ("4 of 8 rows used, at 0.5 per second",)


def test_steps_and_criteria(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "video": "v", "time_s": 0, "step": "clip", "cvs_C1": 1, "cvs_C2": 0.333},
        {"path": "b.png", "video": "v", "time_s": 1, "step": "cut ", "cvs_C1": "", "cvs_C2": ""},
    ]
    data = open_dataset(write(tmp_path, rows, "step: [cut, clip, sew]\n"))
    assert data.space("step").classes == ("cut", "clip", "sew")
    assert data.frames["step"].tolist() == [1, 0]
    assert (data.space("cvs").classes, data.space("cvs").soft) == (("C1", "C2"), True)
    assert data.frames[["cvs/C1", "cvs/C2"]].to_numpy().tolist() == [[1, 0.333], [-1, -1]]
    assert data.rows("cvs").tolist() == [0]


def test_tasks_of_plugins_have_columns_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changeable(TASKS, monkeypatch)
    TASKS.register(Task("smoke", "multiclass", "accuracy@pooled", (), ("f1", f1_per_class)))
    TASKS.register(Task("devices", "multilabel", "map@pooled", (), ("ap", ap_pooled)))
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "smoke": "dense", "devices_clip": 1, "devices_bag": 0},
        {"path": "b.png", "case": "c", "smoke": "none", "devices_clip": 0, "devices_bag": ""},
    ]
    data = open_dataset(write(tmp_path, rows, "smoke: [none, dense]\n"))
    assert data.space("smoke").classes == ("none", "dense")
    assert data.frames["smoke"].tolist() == [1, 0]
    assert (data.space("devices").kind, data.space("devices").classes) == ("multilabel", ("clip", "bag"))
    assert data.frames[["devices/clip", "devices/bag"]].to_numpy().tolist() == [[1, 0], [0, -1]]
    with pytest.raises(TrocarError, match=r"no task 'smok' .did you mean 'smoke'"):
        open_dataset(write(tmp_path, rows, "smok: [none, dense]\n"))


def test_masks_are_of_the_task_that_names_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changeable(TASKS, monkeypatch)
    TASKS.register(Task("tissue", "mask", "iou@dataset", (), ("iou", per_class)))
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "mask": "a.png"},
        {"path": "b.png", "case": "c", "mask": ""},
    ]
    data = open_dataset(write(tmp_path, rows, "tissue: [none, dense]\nbackground: none\n"))
    assert data.tasks == ("tissue",)
    assert (data.space("tissue").classes, data.space("tissue").background) == (("none", "dense"), 0)
    assert TASKS.get("tissue").targets(data).tolist() == [0, -1]
    (tmp_path / "classes.yaml").write_text("tissue: [none, dense]\nsegmentation: [none, liver]\n")
    with pytest.raises(TrocarError, match=r"`mask` is of one task: .* names classes of segmentation and tissue"):
        open_dataset(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(TrocarError, match=r"list them in classes\.yaml under `segmentation` or `tissue`"):
        open_dataset(tmp_path)


def test_masks_of_a_table_in_memory_need_no_file_of_classes(tmp_path: Path) -> None:
    write(tmp_path, [{"path": name, "case": "c"} for name in ("a.png", "m.png")])
    table = pd.DataFrame({"path": ["a.png"], "case": ["c"], "mask": ["m.png"]})
    space = LabelTable(table, {"segmentation": ["background", "liver"]}).read(tmp_path, DatasetOptions()).spaces[0]
    assert (space.task, space.classes, space.background) == ("segmentation", ("background", "liver"), 0)


def test_hard_criteria_are_not_soft(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "cvs_C1": 1},
        {"path": "b.png", "case": "c", "cvs_C1": 0},
    ]
    assert not open_dataset(write(tmp_path, rows)).space("cvs").soft


def test_masks_with_names_from_classes_yaml(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "a.png", "case": "c", "mask": "m/a.png"},
        {"path": "b.png", "case": "c", "mask": ""},
    ]
    write(tmp_path, rows, "segmentation: [background, liver]\n")
    (tmp_path / "m").mkdir()
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "m/a.png")
    data = open_dataset(tmp_path)
    space = data.space("segmentation")
    assert data.rows("segmentation").tolist() == [0]
    assert space.read_mask is not None
    assert (space.classes, space.read_mask(tmp_path / "m/a.png").tolist()) == (("background", "liver"), [[0, 1, 255]])
    assert (space.background, space.white_is_suspect) == (0, True)
    (tmp_path / "classes.yaml").write_text("segmentation: [organ, liver]\nbackground: organ\nnot_scored: 255\n")
    space = open_dataset(tmp_path).space("segmentation")
    assert (space.background_name, space.white_is_suspect) == ("organ", False)
    (tmp_path / "classes.yaml").write_text("segmentation: [organ, liver]\nforeground: liver\n")
    with pytest.raises(TrocarError, match=r"no task 'foreground'.*segmentation, and background, not_scored"):
        open_dataset(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(TrocarError, match=r"list them in classes\.yaml under `segmentation`"):
        open_dataset(tmp_path)


def test_rows_can_be_frames_of_videos(tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", 10)
    rows = [{"path": "v.mp4", "video": "v", "frame": k, "time_s": k / 5, "phase": int(k > 4)} for k in (0, 5)]
    pd.DataFrame(rows).to_csv(tmp_path / "frames.csv", index=False)
    data = open_dataset(tmp_path)
    brightness = FrameCache(data, tmp_path / "cache").get(16).mean((1, 2, 3))
    assert brightness == pytest.approx([16, 56], abs=3)
    pd.DataFrame(rows).drop(columns="time_s").to_csv(tmp_path / "frames.csv", index=False)
    with pytest.raises(TrocarError, match="need `time_s` too"):
        open_dataset(tmp_path)


def test_spaces_around_names_and_in_the_header_do_not_count(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    (tmp_path / "frames.csv").write_text("path , case, split, phase\na.png , one , test , Preparation \n")
    frames = open_dataset(tmp_path).frames
    assert frames[["path", "case", "split", "phase"]].to_numpy().tolist() == [["a.png", "one", "test", 0]]


def test_phase_names_come_from_the_options_then_the_file_then_the_table(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"path": f"{i}.png", "case": "c", "phase": name} for i, name in enumerate("ba")]
    write(tmp_path, rows)
    assert open_dataset(tmp_path).space("phase").classes == ("a", "b")
    (tmp_path / "classes.yaml").write_text("phase: [b, a, c]\n")
    assert open_dataset(tmp_path).space("phase").classes == ("b", "a", "c")
    assert open_dataset(tmp_path, options=DatasetOptions(phases=("c", "b", "a"))).frames["phase"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("phases: [a]", r"no task 'phases' \(did you mean 'phase'"),
        ("phase: [a, a]", "phase: expected a list of different names"),
        ("[a, b]", "expected lists under phase, step, segmentation"),
        ("phase: [a", "not valid YAML"),
        ("phase: [b]", "unknown name 'a'"),
    ],
)
def test_bad_class_files_are_refused(tmp_path: Path, classes: str, message: str) -> None:
    with pytest.raises(TrocarError, match=message):
        open_dataset(write(tmp_path, [{"path": "a.png", "case": "c", "phase": "a"}], classes))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "a.png"}, "needs the columns `path` and `case` or `video`; found path"),
        ({"path": "a.png", "case": "c", "time_s": "late", "phase": 0}, "row 1: time_s 'late': expected a number"),
        ({"path": "a.png", "case": "c", "time_s": -1, "phase": 0}, "row 1: time_s '-1': expected a number from 0"),
        ({"path": "a.png", "case": "c", "time_s": "inf", "phase": 0}, "row 1: time_s 'inf': expected a number"),
        ({"path": "a.png", "case": "c", "time_s": 0, "frame": 1.5}, r"row 1: frame '1\.5': expected a whole number"),
        ({"path": "a.png", "case": "c", "phase": 1.5}, r"row 1: phase '1\.5': expected a whole number"),
        ({"path": "a.png", "case": "c", "phase": -1}, "row 1: phase '-1': expected a whole number from 0"),
        ({"path": "a.png", "case": "c", "tool_x": 2}, "row 1: tool_x '2': expected 0 or 1"),
        ({"path": "a.png", "case": "c", "tool_Hook": 1, "hook": 1}, "two columns are of the tool 'Hook'"),
        ({"path": "a.png", "case": "c", "cvs_C1": "yes"}, "row 1: cvs_C1 'yes': expected a number"),
        ({"path": "a.png", "case": "c", "cvs_C1": 1.5}, r"row 1: cvs_C1 '1\.5': expected a number from 0 to 1"),
        ({"path": "a.png", "case": "c"}, "none of the 1 frames found carries a label"),
        (
            {"path": "a.png", "case": "c", "phase": 0, "split": "Train"},
            r"row 1: split 'Train': expected train, val, test \(did you mean 'train'\?\)",
        ),
        (
            {"path": "a.png", "case": "c", "phase": 0, "split": "validation"},
            r"split 'validation': expected train, val, test \(did you mean 'val'\?\)",
        ),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(TrocarError, match=message):
        open_dataset(write(tmp_path, [row]))


def as_text(root: Path, text: str, classes: str | None = None) -> Path:
    """frames.csv as it stands, with its pictures."""
    for line in text.splitlines()[1:]:
        Image.new("RGB", (4, 2)).save(root / line.partition(",")[0])
    (root / "frames.csv").write_text(text)
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return root


def test_ids_of_cases_and_videos_stay_as_they_are_written(tmp_path: Path) -> None:
    text = "path,case,video,phase\na.png,001,01,A\nb.png,1,1e1,A\nc.png,NA,None,B\nd.png,1.0,7,B\n"
    frames = open_dataset(as_text(tmp_path, text)).frames.sort_values("path")
    assert frames["case"].tolist() == ["001", "1", "NA", "1.0"]
    assert frames["video"].tolist() == ["01", "1e1", "None", "7"]


@pytest.mark.parametrize("word", ["NA", "N/A", "None", "null", "nan", "no", "01"])
def test_a_class_called_as_nothing_is_a_class(tmp_path: Path, word: str) -> None:
    text = f"path,case,phase\na.png,a,cut\nb.png,a,{word}\nc.png,a,\n"
    data = open_dataset(as_text(tmp_path, text, f"phase: [cut, {word}]\n"))
    assert data.space("phase").classes == ("cut", word)
    assert data.frames["phase"].tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,case,phase\na.png,7,A\nb.png,,A\n", r"frames\.csv: row 2: no case$"),
        ("path,case,time_s,phase\na.png,7,0,A\nb.png,7,,A\n", r"frames\.csv: row 2: time_s is empty$"),
        ("path,video,case,phase\na.png,v,c,A\nb.png,,c,A\n", r"frames\.csv: row 2: no video$"),
        ("path,case,phase\na.png,7,A\n ,7,A\n", r"frames\.csv: row 2: no path$"),
    ],
)
def test_a_blank_where_a_value_must_be_is_an_error_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "frames.csv").write_text(text)
    with pytest.raises(TrocarError, match=message):
        open_dataset(tmp_path)


def test_two_pictures_of_a_video_at_one_time_are_refused(tmp_path: Path) -> None:
    text = "path,case,time_s,phase\na.png,c,1,A\nb.png,d,1,A\nc.png,c,1.0,A\n"
    with pytest.raises(TrocarError, match=r"row 3: video 'c' has a row at time_s 1 already"):
        open_dataset(as_text(tmp_path, text))


def test_integers_without_names_are_the_names_so_labels_from_1_have_no_class_0(tmp_path: Path) -> None:
    data = open_dataset(as_text(tmp_path, "path,case,phase\na.png,c,1\nb.png,c,3\nc.png,c,\nd.png,c,2.0\n"))
    assert data.space("phase").classes == ("1", "2", "3")
    assert data.frames["phase"].tolist() == [0, 2, -1, 1]


def test_integers_among_names_that_are_numbers_are_those_names(tmp_path: Path) -> None:
    text = "path,case,phase\na.png,c,1\nb.png,c,2\n"
    assert open_dataset(as_text(tmp_path, text, "phase: [1, 2, 3]\n")).frames["phase"].tolist() == [0, 1]
    with pytest.raises(TrocarError, match=r"row 1: phase: unknown name '0'; known: 1, 2, 3"):
        open_dataset(as_text(tmp_path, "path,case,phase\na.png,c,0\nb.png,c,2\n", "phase: [1, 2, 3]\n"))


def test_integers_that_may_count_from_1_are_said_or_refused(tmp_path: Path) -> None:
    text = "path,case,phase\na.png,c,1\nb.png,c,2\n"
    data = open_dataset(as_text(tmp_path, text, "phase: [cut, clip, sew]\n"))
    assert data.notes == ("no phase is 0 ('cut'): integers count from 0, in the order of the names",)
    with pytest.raises(
        TrocarError, match=r"row 2: phase 2: there are 2 names, so integers are 0 to 1; write the names"
    ):
        open_dataset(as_text(tmp_path, text, "phase: [cut, clip]\n"))


def test_names_in_any_script_are_told_apart(tmp_path: Path) -> None:
    data = open_dataset(as_text(tmp_path, "path,case,phase\na.png,c,准备\nb.png,c,缝合\nc.png,c,P-1\nd.png,c,P1\n"))
    assert [data.space("phase").classes[i] for i in data.frames["phase"]] == ["准备", "缝合", "P-1", "P1"]


def test_columns_separated_by_semicolons_are_said(tmp_path: Path) -> None:
    (tmp_path / "frames.csv").write_text("path;case;phase\na.png;c;A\n")
    with pytest.raises(TrocarError, match="its columns are separated by ';'; write a CSV file with commas"):
        open_dataset(tmp_path)


def test_missing_images_and_double_rows_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    table = pd.read_csv(tmp_path / "frames.csv")
    pd.concat([table, table.assign(time_s=table["time_s"] + 9).head(1)]).to_csv(tmp_path / "frames.csv", index=False)
    with pytest.raises(TrocarError, match=r"row 9: path 'images/0_000\.png' is there twice \(also in row 1\)"):
        open_dataset(tmp_path)
    table.to_csv(tmp_path / "frames.csv", index=False)
    (tmp_path / "images/0_000.png").unlink()
    with pytest.raises(TrocarError, match=r"1 labelled files are missing, the first is images/0_000\.png"):
        open_dataset(tmp_path)


def test_published_splits_are_not_for_own_frames(tmp_path: Path) -> None:
    make_folder(tmp_path, cases=2, frames=4)
    with pytest.raises(ConfigError, match=r"give frames\.csv a column `split`"):
        open_dataset(tmp_path, options=DatasetOptions(split="rdv"))
