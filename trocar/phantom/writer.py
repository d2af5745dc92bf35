"""Write one case: video files, masks and label files under temporary names, renamed when they are whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from trocar.phantom.labels import CvsGraders, Row, cvs_rows, phase_text, planted_rows, tool_text
from trocar.phantom.picture.film import Bytes, Frame, film
from trocar.phantom.picture.optics import HOUSES
from trocar.phantom.planted import plan_case
from trocar.phantom.sampling import stream
from trocar.phantom.spec import CasePlan, PhantomSpec

MARKERS = ".cases"
PARTIAL = ".partial"
SOURCE = "phantom"


def marker(out: Path, index: int) -> Path:
    """The file that says case `index` is finished; it holds the case's rows of the corpus tables."""
    return out / MARKERS / f"case{index + 1:04d}.json"


def write_case(out: Path, spec: PhantomSpec, index: int) -> int:
    """Generate case `index` below `out` and return its number of frames.

    Files appear under their names only when all of them are whole.
    """
    plan = plan_case(spec, index)
    work = out / PARTIAL / plan.case_id
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows: dict[str, list[Row]] = {"videos": [], "cvs": [], "planted": []}
    graders = CvsGraders(stream(spec.seed, "case", index, "graders"))
    frames = film(spec, plan)
    for part, (video, start, end) in enumerate(plan.parts, start=1):
        kept = _write_file(work, video, frames, end - start, spec, HOUSES[plan.hospital].crf)
        rows["videos"].append(_video_row(spec, plan, video, part, end - start))
        rows["cvs"] += cvs_rows(video, kept, spec.fps, graders)
        rows["planted"] += planted_rows(video, kept)
        (work / f"{video}-phase.txt").write_text(phase_text([f.moment.phase for f in kept]))
        (work / f"{video}-tool.txt").write_text(tool_text([f.tools for f in kept], spec.fps))
    for video, _, _ in plan.parts:
        _move(work, out, video)
    partial = work / "marker.json"
    partial.write_text(json.dumps(rows, indent=1, sort_keys=True))
    marker(out, index).parent.mkdir(exist_ok=True)
    partial.replace(marker(out, index))
    shutil.rmtree(work)
    return plan.frames


def _write_file(
    work: Path, video: str, frames: Iterator[Frame], count: int, spec: PhantomSpec, crf: int
) -> list[Frame]:
    masks = work / video
    masks.mkdir()
    kept: list[Frame] = []
    empty = np.empty((0, 0), dtype=np.uint8)
    with Recorder(work / f"{video}.mp4", spec, crf) as recorder:
        for number in range(count):
            frame = next(frames)
            recorder.add(frame.picture)
            Image.fromarray(frame.mask).save(masks / f"{video}_{number:06d}.png", compress_level=1)
            kept.append(Frame(empty, empty, frame.tools, frame.moment, frame.planted, frame.pedicle))
    return kept


def _move(work: Path, out: Path, video: str) -> None:
    for source, folder in (
        (f"{video}.mp4", "videos"),
        (f"{video}-phase.txt", "phase_annotations"),
        (f"{video}-tool.txt", "tool_annotations"),
        (video, "semseg"),
    ):
        (out / folder).mkdir(exist_ok=True)
        target = out / folder / source
        if target.is_dir():
            shutil.rmtree(target)
        (work / source).replace(target)


def _video_row(spec: PhantomSpec, plan: CasePlan, video: str, part: int, frames: int) -> Row:
    return {
        "video": video,
        "case_id": plan.case_id,
        "part": part,
        "source": SOURCE,
        "hospital": plan.hospital,
        "procedure": plan.procedure,
        "robotic": int(plan.robotic),
        "split": plan.split,
        "fps": spec.fps,
        "duration_s": round(frames / spec.fps, 3),
    }


class Recorder:
    """An H.264 encoder whose bytes depend on its frames only: one thread, fixed GOP, no encoder tuning by scene."""

    def __init__(self, path: Path, spec: PhantomSpec, crf: int) -> None:
        self._container = av.open(str(path), "w", options={"fflags": "+bitexact", "movflags": "+faststart"})
        options = {"crf": str(crf), "preset": "superfast", "x264-params": "scenecut=0:threads=1:lookahead-threads=1"}
        self._stream = self._container.add_stream("libx264", rate=Fraction(spec.fps), options=options)
        self._stream.width, self._stream.height = spec.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.gop_size = 5 * spec.fps
        self._stream.thread_count = 1
        self._stream.codec_context.flags |= av.codec.context.Flags.bitexact
        self._count, self._fps = 0, spec.fps

    def add(self, picture: Bytes) -> None:
        """Encode one picture uint8 [H, W, 3]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = self._count
        frame.time_base = Fraction(1, self._fps)
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._container.mux(self._stream.encode())
        self._container.close()
