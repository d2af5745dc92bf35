"""The comparison with ffmpeg is of the same frames, and what it reports is what ran."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from ingest_clips import constant, make_clip, number_in
from PIL import Image

from trocar.cli.main import main
from trocar.data.ingest.sources.find import FoundSource
from trocar.data.media.delivered_files import Limits
from trocar.data.media.frame_conversion import to_rgb
from trocar.data.media.video_decode import Decoder
from trocar.diagnostics.bench import ingest
from trocar.diagnostics.bench.timed import timed
from trocar.errors import ConfigError, TrocarError


def variable(count: int) -> list[Fraction]:
    times, now = [], 0
    for i in range(count):
        times.append(Fraction(now, 1000))
        now += (17, 33, 40, 250, 900)[i * 7 % 5]
    return times


CLIPS = {
    "25 fps": ("a.mp4", constant(25, 90), Fraction(1, 12800)),
    "29.97 fps": ("a.mp4", constant(Fraction(30000, 1001), 100), Fraction(1, 30000)),
    "variable": ("a.mp4", variable(40), Fraction(1, 1000)),
    "in milliseconds": ("a.mkv", constant(30, 75), Fraction(1, 1000)),
    "late start": ("a.mkv", [5 + t for t in constant(25, 75)], Fraction(1, 1000)),
}


@pytest.mark.parametrize("fps", [1.0, 3.0])
@pytest.mark.parametrize("kind", CLIPS)
def test_the_ffmpeg_command_writes_the_frames_that_ingest_chooses(tmp_path: Path, kind: str, fps: float) -> None:
    name, times, tick = CLIPS[kind]
    clip = make_clip(tmp_path / name, times, tick=tick)
    chosen = [number_in(to_rgb(frame)) for _, frame in Decoder(clip, fps, Limits()).frames()]
    found = FoundSource("a", clip, str(clip), False, "")
    target = ingest.IngestTarget(found, (0, 0, 96, 32), (96, 32), (), len(times), tick, 1 / 25)
    (tmp_path / "out").mkdir()
    timed([ingest.ffmpeg_command(target, fps, 1, ingest.find_ffmpeg(), tmp_path / "out")], 1)
    assert [number_in(Image.open(path).convert("RGB")) for path in sorted((tmp_path / "out").iterdir())] == chosen


@pytest.mark.slow
def test_every_contender_is_measured_in_every_repeat(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_clip(tmp_path / f"{name}.mp4", constant(25, 60), scale=2)
    trials = ingest.measure(tmp_path, 1.0, 1, 2, lambda line: None)
    assert [(t["contender"], t["repeat"], t["frames"]) for t in trials] == [
        ("trocar", 0, 6),
        ("ffmpeg", 0, 6),
        ("decode", 0, 120),
    ]
    assert all(t["seconds"] > 0 and t["cpu_seconds"] > 0 for t in trials)
    agreements = ingest.compare_frames(tmp_path, 1.0, 1)
    assert [(a.video, a.frames, a.same) for a in agreements] == [("a", 3, True), ("b", 3, True)]
    assert all(a.difference < 6 < a.neighbour_difference for a in agreements)


@pytest.mark.slow
def test_the_command_proves_that_the_frames_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "a.mp4", constant(25, 60), scale=2)
    assert main(["bench", "ingest", str(tmp_path), "--repeats", "1", "--json", str(tmp_path / "out.json")]) == 0
    frames = json.loads((tmp_path / "out.json").read_text())["settings"]["frames"]
    assert [(one["video"], one["frames"], one["same"]) for one in frames] == [("a", 3, True)]
    assert "a: 3 frames, the same as ffmpeg's" in capsys.readouterr().err


def test_a_missing_ffmpeg_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as where it is not installed
    with pytest.raises(TrocarError, match="apt-get install ffmpeg"):
        ingest.find_ffmpeg()


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no videos"):
        ingest.prepare(tmp_path, 1.0, 1, tmp_path)


def test_a_failing_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="No such file"):
        timed([["ls", str(tmp_path / "none")]], 1)
