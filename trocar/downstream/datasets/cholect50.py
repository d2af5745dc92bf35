"""CholecT50's layout: videos/VID01/000000.png and labels/VID01.json in the official format, 1 fps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.downstream.datasets.base import Adapter, DatasetOptions
from trocar.downstream.datasets.names import CHOLEC80_PHASES, CHOLEC80_TOOLS, index_of
from trocar.downstream.datasets.splits import CHOLECT50 as SPLITS
from trocar.downstream.datasets.splits import published_split
from trocar.downstream.datasets.table import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

INSTRUMENT, PHASE, ROW_LENGTH = 1, 14, 15
TOOLS = CHOLEC80_TOOLS[:6]  # the specimen bag is a target in CholecT50, not an instrument


def _matches(root: Path) -> bool:
    return (root / "videos").is_dir() and any((root / "labels").glob("*.json"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    phases = options.phases or CHOLEC80_PHASES
    files = sorted((root / "labels").glob("*.json"))
    split = published_split(options.split, SPLITS, [f.stem for f in files]) if options.split else {}
    parts, notes = [], []
    for file in files:
        images = {int(p.stem): p for p in (root / "videos" / file.stem).glob("*.*") if p.stem.isdigit()}
        part, label_fps = _read_video(root, file, images, phases)
        unlabelled = len(images.keys() - set(part["number"]))
        if unlabelled:
            notes.append(f"{file.stem}: {unlabelled} images without a label left out")
        part = part[part["number"] % max(round(label_fps / options.fps), 1) == 0]
        parts.append(part.assign(video=file.stem, case=file.stem, split=split.get(file.stem, "")))
    spaces = [LabelSpace("phase", "multiclass", phases), LabelSpace("tools", "multilabel", TOOLS)]
    return build_table(root, "cholect50", parts, spaces, notes=notes)


def _read_video(root: Path, file: Path, images: dict[int, Path], phases: tuple[str, ...]) -> tuple[pd.DataFrame, float]:
    tree = _load(file)
    fps = float(tree.get("fps", 1))
    names: dict[str, dict[str, str]] = tree["categories"]
    phase_ids = {int(i): index_of(name, phases, str(file)) for i, name in names["phase"].items()}
    tool_ids = {int(i): TOOLS[index_of(name, TOOLS, str(file))] for i, name in names["instrument"].items()}
    rows = []
    for number, entries in sorted((int(key), value) for key, value in tree["annotations"].items()):
        if number not in images:
            raise TrocarError(f"{file}: frame {number} is labelled, but videos/{file.stem}/{number:06d}.png is missing")
        phase, shown = _frame(entries, f"{file}: frame {number}")
        if phase not in phase_ids or not shown <= tool_ids.keys():
            raise TrocarError(
                f"{file}: frame {number}: phase {phase} or instruments {sorted(shown)} not in its categories"
            )
        tools = {f"tools/{tool}": int(i in shown) for i, tool in tool_ids.items()}
        path = str(images[number].relative_to(root))
        rows.append(
            {"number": number, "path": path, "frame": -1, "time_s": number / fps, "phase": phase_ids[phase], **tools}
        )
    return pd.DataFrame(
        rows, columns=["number", "path", "frame", "time_s", "phase", *(f"tools/{t}" for t in TOOLS)]
    ), fps


def _frame(entries: list[list[float]], where: str) -> tuple[int, set[int]]:
    """Phase id and instrument ids of one frame; every entry (one per triplet) repeats the phase."""
    if not entries or any(len(entry) != ROW_LENGTH for entry in entries):
        raise TrocarError(f"{where}: expected entries of {ROW_LENGTH} numbers")
    phases = {int(entry[PHASE]) for entry in entries}
    if len(phases) != 1:
        raise TrocarError(f"{where}: several phases {sorted(phases)}")
    return phases.pop(), {int(entry[INSTRUMENT]) for entry in entries if entry[INSTRUMENT] >= 0}


def _load(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrocarError(f"{file}: not valid JSON: {error}") from None
    missing = {"categories", "annotations"} - set(tree if isinstance(tree, dict) else ())
    if missing:
        raise TrocarError(f"{file}: no {' or '.join(sorted(missing))}; is it a CholecT50 label file?")
    return dict(tree)


ADAPTER = Adapter(
    name="cholect50",
    expects="videos/VIDxx/ with labels/VIDxx.json",
    matches=_matches,
    read=_read,
    splits=SPLITS,
)
