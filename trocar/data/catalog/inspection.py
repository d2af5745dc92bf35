"""What is in a shards folder: counts by origin, quality verdicts, rejections, a contact sheet.

Frames that may show something else than the inside of a patient: which, as a list and as pictures for a person.

The list is at once what `trocar ingest --exclude` reads: whoever reviews it deletes the rows that are in the body.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image, ImageDraw
from rich.table import Table

from trocar.core.files import sha256_of
from trocar.core.progress import Console
from trocar.core.random import I64
from trocar.data.catalog.catalog import (
    DEFAULT_CURATION,
    FOLDER,
    OUT_OF_BODY_THRESHOLD,
    REVIEW_THRESHOLD,
    Catalog,
    fails,
)
from trocar.data.catalog.contact_sheet import COLUMNS, ROWS, Cell, Groups, Ints, draw_sheet
from trocar.data.media.delivered_files import RejectError
from trocar.data.media.still import open_jpeg
from trocar.data.remote.store import is_remote
from trocar.errors import ConfigError, TrocarError

REVIEW_COLUMNS = ("video", "start", "end", "out_of_body", "verdict")
_ACROSS, _CELL, _CAPTION, _PER_SHEET = 8, 160, 14, 160


def is_doubtful(catalog: Catalog) -> npt.NDArray[np.bool_]:
    """bool[len(catalog)]: whether a frame's out-of-body score is too high to show it to others unseen."""
    doubtful: npt.NDArray[np.bool_] = catalog.quality(["out_of_body"])["out_of_body"] >= REVIEW_THRESHOLD
    return doubtful


def write_review(catalog: Catalog, path: Path) -> tuple[I64, list[Path]]:
    """Write the list of doubtful frames to `path` and pictures of them beside it; returns rows and picture files.

    A row is a time span in seconds around one frame, its score and `out` (left out by `curate: default` already) or
    `uncertain`. The list holds names of videos and the pictures are of operations: they are for the reviewer alone.
    """
    rows = np.flatnonzero(is_doubtful(catalog)).astype(np.int64)
    scores = catalog.quality(["out_of_body"])["out_of_body"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REVIEW_COLUMNS)
        writer.writerows(_line(catalog, int(row), float(scores[row])) for row in rows)
    sheets = []
    for page, start in enumerate(range(0, len(rows), _PER_SHEET), start=1):
        sheets.append(path.with_name(f"{path.stem}-{page}.png"))
        _sheet(catalog, rows[start : start + _PER_SHEET], scores).save(sheets[-1])
    return rows, sheets


def _line(catalog: Catalog, row: int, score: float) -> tuple[str, str, str, str, str]:
    video = int(catalog.frames["video"][row])
    verdict = "out" if score >= OUT_OF_BODY_THRESHOLD else "uncertain"
    name = str(catalog.videos["name"][video].as_py())
    if catalog.is_still[video]:
        return name, "0", "", f"{score:.3f}", verdict  # all of it
    time, step = float(catalog.frames["time_s"][row]), 1 / float(catalog.videos["fps"][video].as_py())
    # A quarter of an interval before and half of one after: the frame is inside whatever the rounding, no other is.
    span = max(0.0, time - step / 4), time + step / 2
    return name, f"{span[0]:.4f}", f"{span[1]:.4f}", f"{score:.3f}", verdict


def _sheet(catalog: Catalog, rows: I64, scores: npt.NDArray[np.float32]) -> Image.Image:
    height = _CELL * 9 // 16 + _CAPTION
    sheet = Image.new("RGB", (_ACROSS * _CELL, -(-len(rows) // _ACROSS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows.tolist()):
        corner = place % _ACROSS * _CELL, place // _ACROSS * height
        image = read_frame(catalog, row)
        image.thumbnail((_CELL - 2, height - _CAPTION))
        sheet.paste(image, corner)
        name = catalog.place(row)["video"]
        caption = f"{name[-12:]} {catalog.frames['time_s'][row]:.1f} s {scores[row]:.2f}"
        draw.text((corner[0] + 2, corner[1] + height - _CAPTION), caption, fill=(0, 0, 0))
    return sheet


_FLAGGED = 2 * COLUMNS
_LISTED = 20


@dataclass(frozen=True)
class Verdicts:
    """Frames per verdict of `curate: default`, and those that pass all of them."""

    counts: dict[str, int]
    kept: int


def recognises(path: Path | str) -> bool:
    """Whether this is a shards folder; an address (text) can be of nothing else."""
    return is_remote(path) or (Path(path) / FOLDER).is_dir()


def show(path: Path | str, console: Console, *, sheet: Path | None = None, verify: bool = False) -> int:
    """Print what is there; write a contact sheet; with `verify` read every shard. Returns the exit code.

    Raises ConfigError for `verify` of an address.
    """
    if verify and is_remote(path):
        raise ConfigError(
            f"{path}: --verify reads every byte; compare the folder with what the store says of it "
            f"(`rclone check`, `aws s3 sync --dryrun`), or verify it on a machine that has it"
        )
    catalog = Catalog.open(path)
    cases = {(row["source"], row["case_id"]) for row in catalog.videos.select(["source", "case_id"]).to_pylist()}
    hours = sum(catalog.videos["duration_s"].to_pylist()) / 3600
    stills = int(np.count_nonzero(catalog.is_still))
    videos = f"{catalog.videos.num_rows - stills} videos" + (f", {stills} stills" if stills else "")
    counts = f"{videos}, {len(cases)} cases, {hours:.2f} h, {len(catalog)} frames"
    where = catalog.location if is_remote(path) else path
    console.print(f"{where}: {counts} in {len(catalog.shard_paths)} shards", markup=False, soft_wrap=True)
    console.print(f"fingerprint {catalog.fingerprint}", markup=False, soft_wrap=True)
    console.print(_origin_table(catalog))
    console.print(_verdict_table(catalog))
    for table in (_damaged_table(catalog), _text_table(catalog), _note_table(catalog)):
        if table.row_count:
            console.print(table)
    if catalog.rejected().num_rows:
        console.print(_rejected_table(catalog))
    if sheet is not None:
        contact_sheet(catalog).save(sheet)
        console.print(f"contact sheet: {sheet}", markup=False, soft_wrap=True)
    return _verify(catalog, console) if verify else 0


def verdicts(catalog: Catalog) -> Verdicts:
    """Count the frames each part of `curate: default` would leave out."""
    columns = catalog.quality(list(DEFAULT_CURATION))
    out = {name: fails(columns[name], limit) for name, limit in DEFAULT_CURATION.items()}
    left_out = np.logical_or.reduce(list(out.values())) if len(catalog) else np.zeros(0, bool)
    counts = {name: int(np.count_nonzero(flags)) for name, flags in out.items()}
    return Verdicts(counts, int(np.count_nonzero(~left_out)))


def by_origin(catalog: Catalog) -> dict[tuple[str, str, str], dict[str, float]]:
    """videos, stills, cases, hours and frames by (source, hospital, procedure), sorted."""
    cells: dict[tuple[str, str, str], dict[str, Any]] = defaultdict(
        lambda: {"videos": 0, "stills": 0, "cases": set(), "hours": 0.0, "frames": 0}
    )
    for row in catalog.videos.to_pylist():
        cell = cells[row["source"], row["hospital"], row["procedure"]]
        cell["stills" if row["fps"] == 0 else "videos"] += 1
        cell["cases"].add(row["case_id"])
        cell["hours"] += row["duration_s"] / 3600
        cell["frames"] += row["rows"]
    return {key: {**cells[key], "cases": len(cells[key]["cases"])} for key in sorted(cells)}


def contact_sheet(catalog: Catalog) -> Image.Image:
    """RGB image of up to 96 frames: equally many of every source and, within it, of as many cases as there is room for.

    A frame that `curate: default` leaves out has a red bar and its first verdict under it. Up to two rows at the end
    are of such frames alone, of every verdict that occurs.
    """
    quality = catalog.quality(list(DEFAULT_CURATION))
    verdicts = {name: fails(quality[name], limit) for name, limit in DEFAULT_CURATION.items()}
    rows = np.arange(len(catalog), dtype=np.int64)
    flagged = Groups({name: _by_case(catalog, rows[bad]) for name, bad in verdicts.items() if bad.any()})
    extra = sorted(set(flagged.pick(_FLAGGED)))
    chosen = _by_case(catalog, np.setdiff1d(rows, extra)).pick(ROWS * COLUMNS - len(extra))
    return draw_sheet([_cell(catalog, row, verdicts) for row in (*chosen, *extra)])


def _by_case(catalog: Catalog, rows: Ints) -> Groups:
    """Sources, and in them cases, of some rows in ascending order."""
    video = catalog.frames["video"][rows]
    starts = np.flatnonzero(np.diff(video, prepend=-1))
    names = catalog.videos.select(["source", "case_id"])
    found: dict[str, dict[str, list[Ints]]] = {}
    for part in np.split(rows, starts[1:]) if len(rows) else ():
        index = int(catalog.frames["video"][part[0]])
        source, case = (names[column][index].as_py() for column in ("source", "case_id"))
        found.setdefault(source, {}).setdefault(case, []).append(part)
    return Groups(
        {
            source: Groups({case: Groups(rows=np.concatenate(parts)) for case, parts in cases.items()})
            for source, cases in found.items()
        }
    )


def _cell(catalog: Catalog, row: int, verdicts: Mapping[str, npt.NDArray[np.bool_]]) -> Cell:
    video = int(catalog.frames["video"][row])
    name, source = (catalog.videos[column][video].as_py() for column in ("name", "source"))
    bad = [verdict for verdict, flags in verdicts.items() if flags[row]]
    more = f" +{len(bad) - 1}" if len(bad) > 1 else ""
    time = "" if catalog.is_still[video] else f" {catalog.frames['time_s'][row]:.0f} s"
    where = name[-10:] if bad else name[-18:]
    return Cell(read_frame(catalog, row), source, " ".join([where + time, *bad[:1]]) + more, bool(bad))


def read_frame(catalog: Catalog, row: int) -> Image.Image:
    """A stored frame as RGB. Raises TrocarError for one that can't be read."""
    frames = catalog.frames
    number, offset, size = (int(frames[name][row]) for name in ("shard", "offset", "size"))
    path = catalog.shard_paths[number]
    try:
        if catalog.store is not None:
            return open_jpeg(catalog.store.read(catalog.shard_names[number], offset, offset + size))
        with path.open("rb") as shard:
            data = os.pread(shard.fileno(), size, offset)
        return open_jpeg(data)
    except (OSError, RejectError) as error:
        raise TrocarError(
            f"{path}: {error}; `trocar inspect {catalog.location} --verify` finds damaged shards"
        ) from None


def _origin_table(catalog: Catalog) -> Table:
    counts = ("videos", *(["stills"] if catalog.is_still.any() else []), "cases", "hours", "frames")
    table = Table("source", "hospital", "procedure", *counts, box=None)
    for (source, hospital, procedure), cell in by_origin(catalog).items():
        numbers = (f"{cell[name]:.2f}" if name == "hours" else f"{cell[name]}" for name in counts)
        table.add_row(source, hospital or "-", procedure or "-", *numbers)
    return table


def _verdict_table(catalog: Catalog) -> Table:
    found, total = verdicts(catalog), max(1, len(catalog))
    table = Table("quality verdict", "frames", "share", box=None)
    for name, count in found.counts.items():
        limit = DEFAULT_CURATION[name]
        label = name if isinstance(limit, bool) else f"{name} >= {limit}"
        table.add_row(label, str(count), f"{100 * count / total:.1f} %")
    table.add_row("kept by `curate: default`", str(found.kept), f"{100 * found.kept / total:.1f} %")
    return table


def _damaged_table(catalog: Catalog) -> Table:
    """The videos that are damaged and were accepted, the most damaged first."""
    table = Table("damaged, accepted", "frames damaged or missing", box=None)
    rows = [(row["damaged"], row["name"]) for row in catalog.videos.select(["name", "damaged"]).to_pylist()]
    found = sorted((row for row in rows if row[0]), key=lambda row: (-row[0], row[1]))
    for count, name in found[:_LISTED]:
        table.add_row(name, str(count))
    if found[_LISTED:]:
        table.add_row(f"{len(found) - _LISTED} more", str(sum(count for count, _ in found[_LISTED:])))
    return table


def _text_table(catalog: Catalog) -> Table:
    """The videos into which text seems to be burned, and where."""
    table = Table("text burned in?", "left, top, width, height in source pixels", box=None)
    found = [(row["name"], row["text"]) for row in catalog.videos.select(["name", "text"]).to_pylist() if row["text"]]
    for name, flat in found[:_LISTED]:
        table.add_row(name, "; ".join(", ".join(map(str, flat[at : at + 4])) for at in range(0, len(flat), 4)))
    if found[_LISTED:]:
        table.add_row(f"{len(found) - _LISTED} more", "")
    return table


def _note_table(catalog: Catalog) -> Table:
    """What is to be known of how videos were read, and of how many it is true."""
    table = Table("note", "videos", "the first", box=None)
    named: dict[str, list[str]] = defaultdict(list)
    for row in catalog.videos.select(["name", "notes"]).to_pylist():
        for note in row["notes"]:
            named[note].append(row["name"])
    for note, names in sorted(named.items()):
        table.add_row(note, str(len(names)), names[0])
    return table


def _rejected_table(catalog: Catalog) -> Table:
    table = Table("rejected", "file", "detail", box=None)
    for row in catalog.rejected().sort_by([("reason", "ascending"), ("path", "ascending")]).to_pylist():
        table.add_row(row["reason"], row["path"], row["detail"])
    return table


def _verify(catalog: Catalog, console: Console) -> int:
    expected = pq.read_table(catalog.root / FOLDER / "shards.parquet").to_pylist()
    bad = 0
    for path, shard in zip(catalog.shard_paths, expected, strict=True):
        if not path.is_file():
            problem = "missing"
        else:
            problem = "" if sha256_of(path) == shard["sha256"] else "differs from its checksum"
        if problem:
            bad += 1
            console.print(f"{path}: {problem}", markup=False, soft_wrap=True)
    if bad:
        todo = "delete what is damaged and run the `trocar ingest` command again; it makes only what is missing"
        console.print(todo, markup=False, soft_wrap=True)
    console.print(f"verified {len(expected)} shards, {bad} bad", markup=False, soft_wrap=True)
    return 1 if bad else 0
