"""Generate a whole phantom: cases in parallel, restartable, the corpus tables last.

The video files, masks and label files of a case are written under temporary names, and renamed when they are whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trocar.errors import ConfigError, TrocarError
from trocar.phantom.film import Frame, film, plan_case, script
from trocar.phantom.labels import (
    BOX_COLUMNS,
    CVS_COLUMNS,
    NARRATION_COLUMNS,
    NEXT_COLUMNS,
    PLANTED_COLUMNS,
    VIDEO_COLUMNS,
    CvsGraders,
    Row,
    box_rows,
    class_text,
    cvs_rows,
    narration_rows,
    next_rows,
    phase_text,
    planted_rows,
    tool_text,
    write_table,
)
from trocar.phantom.narration import TRANSCRIBERS, Utterance, narrate, transcribed
from trocar.phantom.optics import HOUSES
from trocar.phantom.recorder import Recorder
from trocar.phantom.sampling import stream
from trocar.phantom.spec import CLASSES, GENERATOR_VERSION, PHASES, TOOLS, CasePlan, PhantomSpec, corpus_of

TABLES = {
    "cvs": ("all_metadata.csv", CVS_COLUMNS),
    "planted": ("planted.csv", PLANTED_COLUMNS),
    "boxes": ("tool_boxes.csv", BOX_COLUMNS),
    "next": ("anticipation.csv", NEXT_COLUMNS),
    "narration": ("narration.csv", NARRATION_COLUMNS),
    "videos": ("videos.csv", VIDEO_COLUMNS),
}
"""Kind of rows -> the file of the corpus that has them, and its columns; the last one is written last."""
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
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    graders = CvsGraders(stream(spec.seed, "case", index, "graders"))
    frames = film(spec, plan)
    versions = _transcripts(spec, plan)
    files: list[tuple[str, list[Frame]]] = []
    for part, (video, start, end) in enumerate(plan.parts, start=1):
        kept = _write_file(work, video, frames, end - start, spec, HOUSES[plan.hospital].crf)
        rows["videos"].append(_video_row(spec, plan, video, part, end - start))
        rows["cvs"] += cvs_rows(video, kept, spec.fps, graders)
        rows["planted"] += planted_rows(video, kept)
        rows["boxes"] += box_rows(video, kept, spec.fps)
        for transcriber, said in versions.items():
            rows["narration"] += narration_rows(video, start / spec.fps, end / spec.fps, transcriber, said)
        files.append((video, kept))
        (work / f"{video}-phase.txt").write_text(phase_text([f.moment.phase for f in kept]))
        (work / f"{video}-tool.txt").write_text(tool_text([f.tools for f in kept], spec.fps))
    rows["next"] = next_rows(files, spec.fps)
    for video, _, _ in plan.parts:
        _move(work, out, video)
    partial = work / "marker.json"
    partial.write_text(json.dumps(rows, indent=1, sort_keys=True))
    marker(out, index).parent.mkdir(exist_ok=True)
    partial.replace(marker(out, index))
    shutil.rmtree(work)
    return plan.frames


def _transcripts(spec: PhantomSpec, plan: CasePlan) -> dict[str, list[Utterance]]:
    """What each transcriber made of what was said."""
    rng = stream(spec.seed, "case", plan.index, "narration")
    told = script(spec, plan)
    said = narrate(rng, plan.procedure, told.segments, told.bouts, told.fps, spec.talk)
    return {name: transcribed(rng, said, name, spec.talk.errors) for name in TRANSCRIBERS}


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
            kept.append(replace(frame, picture=empty, mask=empty))
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


DESCRIPTION = "phantom.json"
Progress = Callable[[int, int], None]
"""Called with (frames written, frames in all) whenever a case is finished."""


def generate(out: Path, spec: PhantomSpec, workers: int = 1, progress: Progress | None = None) -> None:
    """Write the phantom `spec` describes to `out`; what is already there is kept.

    The result does not depend on `workers` (processes). A folder that holds the same phantom with fewer cases grows;
    an interrupted one is finished. Raises ConfigError when `out` holds anything else.
    """
    out = Path(out)
    check_folder(out, spec)
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / DESCRIPTION, json.dumps(_describe(spec), indent=2) + "\n")
    sizes = {i: plan_case(spec, i).frames for i in range(spec.cases)}
    todo = missing_cases(out, spec)
    done = sum(size for i, size in sizes.items() if i not in todo)
    for frames in _run(out, spec, todo, workers):
        done += frames
        if progress is not None:
            progress(done, sum(sizes.values()))
    _write_tables(out, spec)
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def missing_cases(out: Path, spec: PhantomSpec) -> list[int]:
    """Indices of the cases that are not finished."""
    return [i for i in range(spec.cases) if not marker(out, i).is_file()]


def is_complete(out: Path, spec: PhantomSpec) -> bool:
    """Whether `out` holds exactly this phantom, finished."""
    if _read_description(out) != _describe(spec) or missing_cases(out, spec):
        return False
    return all((out / name).is_file() for name, _ in TABLES.values())


def check_folder(out: Path, spec: PhantomSpec) -> None:
    """Raise ConfigError unless `out` is new, empty, or the same phantom with at most as many cases."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    found = _read_description(out)
    if found is None:
        raise ConfigError(f"{out} is not empty and holds no phantom: give a new folder")
    wanted = _describe(spec)
    differing = [key for key in wanted if key != "parameters" and found.get(key) != wanted[key]]
    old, new = found.get("parameters", {}), wanted["parameters"]
    differing += [f"{k} ({old.get(k)} there, {new[k]} asked)" for k in new if k != "cases" and old.get(k) != new[k]]
    if differing:
        raise ConfigError(f"{out} holds another phantom; differing: {', '.join(differing)}. Give a new folder")
    if old.get("cases", 0) > spec.cases:
        raise ConfigError(f"{out} already holds {old['cases']} cases, {spec.cases} asked: give a new folder")


def _describe(spec: PhantomSpec) -> dict[str, Any]:
    return {
        "generator_version": GENERATOR_VERSION,
        "corpus": corpus_of(spec.seed),
        "parameters": spec.model_dump(mode="json"),
        "phases": list(PHASES),
        "tools": list(TOOLS),
        "classes": list(CLASSES),
    }


def _read_description(out: Path) -> dict[str, Any] | None:
    path = out / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read: delete the folder or give a new one") from None
    return found if isinstance(found, dict) else None


def _run(out: Path, spec: PhantomSpec, todo: Sequence[int], workers: int) -> Iterator[int]:
    if workers < 1:
        raise ConfigError(f"workers = {workers}: at least 1")
    if workers == 1 or len(todo) < 2:
        for index in todo:
            yield write_case(out, spec, index)
        return
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
        futures = {pool.submit(write_case, out, spec, index): index for index in todo}
        try:
            for future in as_completed(futures):
                yield _result(future.result, futures[future])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(result: Callable[[], int], index: int) -> int:
    try:
        return result()
    except TrocarError:
        raise
    except Exception as error:
        raise TrocarError(f"case {index + 1} failed: {type(error).__name__}: {error}") from error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Worker processes inherit the environment: several of them with a thread pool each slow one another down.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_tables(out: Path, spec: PhantomSpec) -> None:
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    for index in range(spec.cases):
        found = json.loads(marker(out, index).read_text())
        for table in rows:
            rows[table] += found[table]
    _write_text(out / "seg_label_map.txt", class_text())
    for table, (file, columns) in TABLES.items():
        write_table(out / file, columns, rows[table])


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
