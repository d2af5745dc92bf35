"""Labels in published layouts: Cholec80's phase and tool files, Endoscapes' CVS table, class-id masks."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trocar.phantom.film import Frame
from trocar.phantom.materials import Rng
from trocar.phantom.narration import Utterance
from trocar.phantom.spec import CLASSES, CVS_INTERVAL_S, PHASES, TOOLS

Row = dict[str, Any]

VIDEO_COLUMNS = (
    "video", "case_id", "part", "source", "hospital", "procedure", "robotic", "split", "fps", "duration_s",
)  # fmt: skip
CVS_COLUMNS = (
    "vid", "frame", "avg_cvs", "C1", "C2", "C3", "is_ds_keyframe",
    "cvs_annotator_1", "cvs_annotator_2", "cvs_annotator_3",
)  # fmt: skip
PLANTED_COLUMNS = ("video", "frame", "kind")
BOX_COLUMNS = ("video", "frame", "tool", "left", "top", "width", "height")
NEXT_COLUMNS = ("video", "frame", *PHASES, *TOOLS)
NARRATION_COLUMNS = ("video", "transcriber", "start", "end", "level", "text", "about")
ANNOTATORS = 3


def phase_text(phases: Sequence[int]) -> str:
    """Cholec80 phase file: one row per native frame."""
    rows = [f"{frame}\t{PHASES[phase]}" for frame, phase in enumerate(phases)]
    return "\n".join(["Frame\tPhase", *rows]) + "\n"


def tool_text(tools: Sequence[tuple[bool, ...]], fps: int) -> str:
    """Cholec80 tool file: one row per second, frame ids are native frame numbers (0, fps, 2 fps, ...)."""
    rows = ["\t".join([str(i), *("01"[on] for on in tools[i])]) for i in range(0, len(tools), fps)]
    return "\n".join(["\t".join(["Frame", *TOOLS]), *rows]) + "\n"


def class_text() -> str:
    """`seg_label_map.txt`: one `id name` line per class."""
    return "".join(f"{number} {name}\n" for number, name in enumerate(CLASSES))


class CvsGraders:
    """Three annotators of one case. Each has a bias and hesitates anew at every key frame (in units of the margin)."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._bias = rng.normal(0, 0.06, (ANNOTATORS, 3))

    def grade(self, frame: Frame) -> list[list[int]]:
        """0 or 1 per annotator and criterion. What isn't in the view is not confirmed."""
        margin = np.asarray(frame.moment.cvs_margin)
        votes = margin + self._bias + self._rng.normal(0, 0.05, self._bias.shape) >= 0
        return [[int(v) for v in row] for row in votes & frame.pedicle]


def cvs_rows(video: str, frames: Sequence[Frame], fps: int, graders: CvsGraders) -> list[Row]:
    """Endoscapes' rows of one file at 1 fps until a structure is divided: graded every 5 s, carried on between."""
    rows: list[Row] = []
    votes: list[list[int]] = []
    for second, frame in enumerate(frames[::fps]):
        if frame.moment.criteria is None:
            break
        key = second % CVS_INTERVAL_S == 0
        votes = graders.grade(frame) if key else votes
        mean = [round(sum(column) / ANNOTATORS, 4) for column in zip(*votes, strict=True)]
        row: Row = {"vid": video, "frame": second * fps, "avg_cvs": mean, "is_ds_keyframe": key}
        row |= {f"C{c + 1}": value for c, value in enumerate(mean)}
        row |= {f"cvs_annotator_{a + 1}": votes[a] if key else "" for a in range(ANNOTATORS)}
        rows.append(row)
    return rows


def planted_rows(video: str, frames: Sequence[Frame]) -> list[Row]:
    """One row per planted frame, numbered within its file."""
    found = [(i, frame.planted) for i, frame in enumerate(frames) if frame.planted]
    return [{"video": video, "frame": i, "kind": kind} for i, kind in found]


def box_rows(video: str, frames: Sequence[Frame], fps: int) -> list[Row]:
    """One row per instrument in the view, in one frame a second."""
    return [
        dict(zip(BOX_COLUMNS, (video, i, TOOLS[tool], *box), strict=True))
        for i in range(0, len(frames), fps)
        for tool, box in frames[i].boxes
    ]


def next_rows(files: Sequence[tuple[str, Sequence[Frame]]], fps: int) -> list[Row]:
    """Seconds until each phase and tool is next there, in one frame a second of each file of an operation.

    0 while it is there; empty where it doesn't come any more in the operation, whose files follow one another.
    """
    frames = [frame for _, kept in files for frame in kept]
    there = np.zeros((len(frames), len(PHASES) + len(TOOLS)), dtype=bool)
    for i, frame in enumerate(frames):
        there[i, frame.moment.phase] = True
        there[i, len(PHASES) :] = frame.tools
    wait = np.full(there.shape[1], np.inf)
    waits = np.empty(there.shape)
    for i in reversed(range(len(frames))):
        wait = np.where(there[i], 0.0, wait + 1 / fps)
        waits[i] = wait
    rows: list[Row] = []
    first = 0
    for video, kept in files:
        for i in range(0, len(kept), fps):
            values = ["" if np.isinf(value) else round(float(value), 3) for value in waits[first + i]]
            rows.append(dict(zip(NEXT_COLUMNS, [video, i, *values], strict=True)))
        first += len(kept)
    return rows


def narration_rows(video: str, start_s: float, end_s: float, transcriber: str, said: Iterable[Utterance]) -> list[Row]:
    """What falls into one file, which is seconds [start_s, end_s) of its operation; times within the file."""
    rows: list[Row] = []
    for one in said:
        start, end = max(one.start, start_s) - start_s, min(one.end, end_s) - start_s
        if end > start:
            values = [video, transcriber, round(start, 2), round(end, 2), one.level, one.text, one.about]
            rows.append(dict(zip(NARRATION_COLUMNS, values, strict=True)))
    return rows


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file under a temporary name and rename it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)
