"""The written phantom: layouts, agreement of labels and videos, determinism, restart."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trocar.cli.main import main
from trocar.errors import ConfigError
from trocar.phantom import CLASSES, PHASES, TOOLS, PhantomSpec, generate, is_complete
from trocar.phantom import corpus as corpus_module
from trocar.phantom.film import film, plan_case

VERSION_3 = np.array(
    [[[99.98, 62.93], [102.55, 64.4]], [[78.5, 63.12], [74.81, 57.96]], [[87.49, 44.23], [80.24, 48.84]]]
)
"""Of cases 1 to 3, frames 3 and 12: mean and standard deviation of the picture."""

SPEC = PhantomSpec(cases=3, minutes=0.15, size=(96, 64), fps=4, seed=3)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom")
    generate(out, SPEC)
    return out


def digests(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def videos(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "videos.csv")


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(phantom: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", SPEC, workers=2)
    assert digests(tmp_path / "again") == digests(phantom)


def test_another_seed_gives_other_videos(phantom: Path, tmp_path: Path) -> None:
    generate(tmp_path / "other", SPEC.model_copy(update={"cases": 1, "seed": 4}))
    assert digests(tmp_path / "other")["videos/video01.mp4"] != digests(phantom)["videos/video01.mp4"]


def test_growing_keeps_every_earlier_file(phantom: Path, tmp_path: Path) -> None:
    small = SPEC.model_copy(update={"cases": 2})
    generate(tmp_path / "grown", small)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "grown" / "videos").iterdir()}
    generate(tmp_path / "grown", SPEC)
    assert digests(tmp_path / "grown") == digests(phantom)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())


def test_interrupted_generation_is_finished_and_leaves_nothing_half_written(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = corpus_module.write_case

    def dies_at_second(out: Path, spec: PhantomSpec, index: int) -> int:
        if index == 1:
            (out / ".partial" / "case02").mkdir(parents=True)
            (out / ".partial" / "case02" / "video02.mp4").write_bytes(b"half")
            raise KeyboardInterrupt
        return real(out, spec, index)

    monkeypatch.setattr(corpus_module, "write_case", dies_at_second)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cut", SPEC)
    assert not is_complete(tmp_path / "cut", SPEC)
    assert sorted(p.name for p in (tmp_path / "cut" / "videos").iterdir()) == ["video01.mp4"]
    monkeypatch.undo()
    generate(tmp_path / "cut", SPEC)
    assert is_complete(tmp_path / "cut", SPEC)
    assert digests(tmp_path / "cut") == digests(phantom)


def test_a_folder_with_anything_else_is_refused(phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        generate(tmp_path, SPEC)
    with pytest.raises(ConfigError, match=r"seed \(3 there, 9 asked\)"):
        generate(phantom, SPEC.model_copy(update={"seed": 9}))
    with pytest.raises(ConfigError, match="already holds 3 cases"):
        generate(phantom, SPEC.model_copy(update={"cases": 2}))


def test_phase_files_have_one_row_per_decoded_frame(phantom: Path) -> None:
    for row in videos(phantom).itertuples():
        frames = pictures(phantom / f"videos/{row.video}.mp4")
        table = pd.read_csv(phantom / f"phase_annotations/{row.video}-phase.txt", sep="\t")
        assert list(table.columns) == ["Frame", "Phase"]
        assert table["Frame"].tolist() == list(range(len(frames)))
        assert set(table["Phase"]) <= set(PHASES)
        assert frames.shape[1:] == (64, 96, 3)
        assert row.duration_s == pytest.approx(len(frames) / SPEC.fps)


def test_tool_files_have_one_row_per_second_numbered_by_native_frame(phantom: Path) -> None:
    for row in videos(phantom).itertuples():
        table = pd.read_csv(phantom / f"tool_annotations/{row.video}-tool.txt", sep="\t")
        assert list(table.columns) == ["Frame", *TOOLS]
        seconds = int(np.ceil(row.duration_s))
        assert table["Frame"].tolist() == [s * SPEC.fps for s in range(seconds)]
        assert set(np.unique(table[list(TOOLS)])) <= {0, 1}


def test_an_operation_in_two_files_is_one_case_of_two_parts(phantom: Path) -> None:
    table = videos(phantom)
    assert table["video"].tolist() == ["video01", "video02", "video03_1", "video03_2"]
    assert table["case_id"].tolist() == ["case01", "case02", "case03", "case03"]
    assert table["part"].tolist() == [1, 1, 1, 2]
    assert table.groupby("case_id")["split"].nunique().max() == 1


def test_every_frame_has_a_mask_of_known_classes(phantom: Path) -> None:
    lines = (phantom / "seg_label_map.txt").read_text().splitlines()
    assert lines == [f"{i} {name}" for i, name in enumerate(CLASSES)]
    seen: set[int] = set()
    for row in videos(phantom).itertuples():
        files = sorted((phantom / "semseg" / row.video).iterdir())
        count = round(row.duration_s * SPEC.fps)
        assert [p.name for p in files] == [f"{row.video}_{i:06d}.png" for i in range(count)]
        for path in files:
            mask = np.asarray(Image.open(path))
            assert mask.shape == (64, 96)
            seen |= set(np.unique(mask).tolist())
    assert {1, 2, 3, 5} <= seen <= set(range(len(CLASSES)))


def test_a_visible_tool_is_in_the_mask(phantom: Path) -> None:
    checked = 0
    for row in videos(phantom).itertuples():
        table = pd.read_csv(phantom / f"tool_annotations/{row.video}-tool.txt", sep="\t").set_index("Frame")
        for frame, tools in table.iterrows():
            if tools.drop("SpecimenBag").any():
                mask = np.asarray(Image.open(phantom / f"semseg/{row.video}/{row.video}_{frame:06d}.png"))
                assert (mask == CLASSES.index("instrument")).sum() > 5
                checked += 1
    assert checked > 5


def test_planted_frames_look_like_what_they_are(phantom: Path) -> None:
    planted = pd.read_csv(phantom / "planted.csv")
    assert set(planted["kind"]) == {"black", "out_of_body", "duplicate", "near_duplicate"}
    for video, rows in planted.groupby("video"):
        frames = pictures(phantom / f"videos/{video}.mp4").astype(int)
        for row in rows.itertuples():
            if row.kind == "black":
                assert frames[row.frame].mean() < 20
            elif row.kind == "duplicate":
                change = np.abs(frames[row.frame] - frames[row.frame - 1]).mean()
                assert change < 3
            elif row.kind == "near_duplicate":
                change = np.abs(frames[row.frame] - frames[row.frame - 1]).mean()
                assert 0.5 < change < 20
            else:
                mask = np.asarray(Image.open(phantom / f"semseg/{video}/{video}_{row.frame:06d}.png"))
                assert mask.max() == 0


def test_cvs_labels_are_the_mean_of_three_annotators_on_key_frames(phantom: Path) -> None:
    table = pd.read_csv(phantom / "all_metadata.csv")
    assert len(table) > 0
    keys = table[table["is_ds_keyframe"]]
    assert (keys["frame"] % (5 * SPEC.fps) == 0).all()
    for row in keys.itertuples():
        votes = np.array([ast.literal_eval(getattr(row, f"cvs_annotator_{a}")) for a in (1, 2, 3)])
        assert votes.shape == (3, 3)
        assert pytest.approx(votes.mean(axis=0), abs=1e-3) == [row.C1, row.C2, row.C3]
        assert ast.literal_eval(row.avg_cvs) == [row.C1, row.C2, row.C3]
    assert table.loc[~table["is_ds_keyframe"], "cvs_annotator_1"].isna().all()


def test_description_names_version_parameters_and_label_spaces(phantom: Path) -> None:
    found = json.loads((phantom / "phantom.json").read_text())
    assert found["generator_version"] == corpus_module.GENERATOR_VERSION
    assert found["parameters"] == {
        "cases": 3,
        "minutes": 0.15,
        "size": [96, 64],
        "fps": 4,
        "seed": 3,
        "talk": {"offset_s": 1.5, "omitted": 0.2, "off_topic": 0.1, "errors": 0.05},
    }
    assert found["corpus"] == "acceptance"
    assert (found["phases"], found["tools"], found["classes"]) == (list(PHASES), list(TOOLS), list(CLASSES))


def test_version_3_is_frozen(phantom: Path) -> None:
    """Another digest means other labels: raise GENERATOR_VERSION and never compare numbers across it."""
    assert corpus_module.GENERATOR_VERSION == 3
    files = [*sorted((phantom / "phase_annotations").iterdir()), *sorted((phantom / "tool_annotations").iterdir())]
    tables = ("videos.csv", "planted.csv", "anticipation.csv", "narration.csv")
    text = "".join(p.read_text() for p in [*files, *(phantom / table for table in tables)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3e875b46360734a3"


def test_the_pixels_of_version_3_are_frozen() -> None:
    """Mean and spread of frames before encoding; not their bytes, which depend on numpy's and the processor's sines."""
    found = []
    for index in range(SPEC.cases):
        frames = list(islice(film(SPEC, plan_case(SPEC, index)), 12))
        found.append([[float(f.picture.mean()), float(f.picture.std())] for f in frames[2::9]])
    assert np.abs(np.array(found) - VERSION_3).max() < 0.05


def test_documented_command_generates_then_reports_completeness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs/phantom.md").read_text()
    line = re.findall(r"```bash\n(.*?)```", page, re.S)[0].split()
    assert line[:2] == ["trocar", "phantom"]
    monkeypatch.chdir(tmp_path)
    assert main([*line[1:], "--workers", "1"]) == 0
    assert "4 cases in 5 video files" in capsys.readouterr().out
    assert main(line[1:]) == 0
    assert "is complete" in capsys.readouterr().out
    assert main([*line[1:], "--size", "63x64"]) == 2
    assert "even numbers" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "seed", "name"), [("A", 1, "A"), ("B", 2, "B"), ("pages", 0, "pages")])
def test_a_corpus_is_a_seed_of_its_own_and_says_so(tmp_path: Path, asked: str, seed: int, name: str) -> None:
    small = ["--cases", "1", "--minutes", "0.1", "--size", "64x64", "--fps", "1", "--workers", "1"]
    assert main(["phantom", str(tmp_path / "named"), *small, "--corpus", asked]) == 0
    found = json.loads((tmp_path / "named" / "phantom.json").read_text())
    assert (found["parameters"]["seed"], found["corpus"]) == (seed, name)


def test_a_corpus_by_name_and_a_seed_exclude_one_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["phantom", str(tmp_path / "x"), "--corpus", "A", "--seed", "1"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_boxes_hold_the_instruments_of_the_masks(phantom: Path) -> None:
    boxes = pd.read_csv(phantom / "tool_boxes.csv")
    tool, bag = CLASSES.index("instrument"), CLASSES.index("specimen_bag")
    checked = 0
    for (video, frame), rows in boxes.groupby(["video", "frame"]):
        mask = np.asarray(Image.open(phantom / f"semseg/{video}/{video}_{frame:06d}.png"))
        covered = np.zeros(mask.shape, dtype=bool)
        for row in rows.itertuples():
            assert 0 <= row.left < row.left + row.width <= mask.shape[1]
            assert 0 <= row.top < row.top + row.height <= mask.shape[0]
            covered[row.top : row.top + row.height, row.left : row.left + row.width] = True
        assert not (mask[~covered] == bag).any()
        # Clips are of the class of instruments as well, and have no boxes.
        assert (mask[~covered] == tool).mean() < 0.05
        checked += 1
    assert checked > 10
    assert set(boxes["tool"]) <= set(TOOLS)


def test_what_comes_next_counts_down_over_all_files_of_an_operation(phantom: Path) -> None:
    table = pd.read_csv(phantom / "anticipation.csv")
    listed = videos(phantom)
    for _, files in listed.groupby("case_id"):
        waits = pd.concat([table[table["video"] == video] for video in files.sort_values("part")["video"]])
        phases = [
            phase
            for video in files.sort_values("part")["video"]
            for phase in pd.read_csv(phantom / f"phase_annotations/{video}-phase.txt", sep="\t")["Phase"]
        ]
        first = {phase: phases.index(phase) / SPEC.fps for phase in dict.fromkeys(phases)}
        for phase in PHASES:
            at_start = waits[phase].iloc[0]
            assert np.isnan(at_start) if phase not in first else at_start == pytest.approx(first[phase], abs=0.001)
    tools = pd.read_csv(phantom / "tool_annotations/video01-tool.txt", sep="\t").set_index("Frame")
    mine = table[table["video"] == "video01"].set_index("frame")
    for name in TOOLS:
        assert ((tools[name] == 1) == (mine[name] == 0)).all()


def test_narration_of_both_transcribers_lies_within_its_file(phantom: Path) -> None:
    table = pd.read_csv(phantom / "narration.csv")
    assert set(table["transcriber"]) == {"recogniser", "typist"}
    assert set(table["level"]) == {"clip", "phase", "video"}
    lengths = videos(phantom).set_index("video")["duration_s"]
    assert set(table["video"]) == set(lengths.index)
    for row in table.itertuples():
        assert 0 <= row.start < row.end <= lengths[row.video] + 1e-6
        assert isinstance(row.text, str)
