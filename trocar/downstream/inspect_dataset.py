"""What is in a labelled data set: tasks, splits, class balance, and what is off.

The contact sheet of a labelled data set: frames of its splits and cases, with masks drawn and labels written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageColor
from rich.table import Table

from trocar.core.progress import Console
from trocar.data.catalog.contact_sheet import CELL, COLUMNS, ROWS, TALL, Cell, Colour, Groups, draw_sheet
from trocar.downstream.datasets import OWN
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions
from trocar.downstream.features.frame_cache import decoded
from trocar.downstream.figures.style import colour
from trocar.downstream.folds import published_split
from trocar.downstream.labels import IGNORED_PIXEL, CopyCheck, LabelledFrames, LabelSpace, Mask
from trocar.downstream.mask_survey import Present, refuse_white, survey
from trocar.errors import TrocarError

SHAPE = TALL, CELL - 2
"""(height, width) to which frames are squashed: all of one size, as evaluation squashes them to squares."""
OPACITY = 0.5


def contact_sheet(data: LabelledFrames) -> Image.Image:
    """RGB page of up to 96 labelled frames: equally many of every split and, within it, of as many cases as there is
    room for.

    Masks lie over their pictures in the colours of the legend; the background and pixels that are not scored are left
    as they are. Else the caption is the first label of a kind that has one class a frame.
    """
    masks = next((space for space in data.spaces if space.kind == "mask" and space.read_mask is not None), None)
    rows = np.arange(len(data), dtype=np.int64) if masks is None else data.rows(masks.task)
    chosen = sorted(_by_case(data, rows).pick(ROWS * COLUMNS))
    part = replace(data, frames=data.frames.iloc[chosen].reset_index(drop=True))
    shown: set[int] = set()
    cells: dict[int, Cell] = {}
    for position, (pixels,) in decoded(part, [SHAPE]):
        row = part.frames.iloc[position]
        if masks is not None:
            mask = _squashed(_mask(masks, data.root / str(row["mask"])))
            shown |= set(np.unique(mask).tolist())
            pixels = _tinted(pixels, mask, masks.background)
        split = f"{row['split']}: " if row["split"] else ""
        cells[position] = Cell(Image.fromarray(pixels), f"{split}{row['case']}", _caption(data, row))
    used = sorted(shown - {IGNORED_PIXEL, -1 if masks is None or masks.background is None else masks.background})
    legend = [] if masks is None else [(masks.classes[index], _colour(index)) for index in used]
    return draw_sheet([cells[position] for position in sorted(cells)], legend)


def _by_case(data: LabelledFrames, rows: npt.NDArray[np.int64]) -> Groups:
    found: dict[str, dict[str, Groups]] = {}
    for (split, case), part in data.frames.iloc[rows].groupby(["split", "case"], sort=False):
        found.setdefault(str(split), {})[str(case)] = Groups(rows=part.index.to_numpy(np.int64))
    return Groups({split: Groups(cases) for split, cases in found.items()})


def _mask(space: LabelSpace, path: Path) -> Mask:
    assert space.read_mask is not None
    return space.read_mask(path)


def _squashed(mask: Mask) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(SHAPE[::-1], Image.Resampling.NEAREST), np.uint8)


def _tinted(pixels: npt.NDArray[np.uint8], mask: Mask, background: int | None) -> npt.NDArray[np.uint8]:
    drawn = (mask != IGNORED_PIXEL) & (mask != (IGNORED_PIXEL if background is None else background))
    colours = np.array([_colour(index) for index in range(256)], np.float32)[mask]
    mixed = (1 - OPACITY) * pixels + OPACITY * colours
    tinted: npt.NDArray[np.uint8] = np.where(drawn[..., None], mixed, pixels).round().astype(np.uint8)
    return tinted


def _colour(index: int) -> Colour:
    red, green, blue = ImageColor.getrgb(colour(index))[:3]
    return red, green, blue


def _caption(data: LabelledFrames, row: pd.Series) -> str:
    """The first label with one class a frame, else the time."""
    for space in data.spaces:
        if space.kind == "multiclass" and row[space.task] >= 0:
            return str(space.classes[int(row[space.task])])
    return f"{row['time_s']:.0f} s"


ORDER = ("train", "val", "test")
ALL, NONE = "all", "none"
TOP = 12
"""So many classes are listed where there are more."""
HASHED = 160
"""Pixels of the square that a frame is squashed to where pictures are compared."""
LOOKED_AT = 1000
"""Pictures that are compared without --verify."""


def recognises(path: Path) -> bool:
    """Whether this folder has the layout of a data set; only names of files and folders are looked at."""
    return path.is_dir() and bool(_fitting(path))


def show(
    path: Path,
    console: Console,
    *,
    check: CopyCheck,
    sheet: Path | None = None,
    verify: bool = False,
    whole: bool = False,
) -> int:
    """Print what is there; write a contact sheet; with `verify` decode every labelled frame. Returns the exit code.

    `check` finds pictures that two splits share (`trocar.leakage.judge`).

    Classes are counted in the first split list, of many only the most frequent; `whole`: all classes in all lists.

    A folder that fits several layouts is shown as each of them. Raises TrocarError naming what is missing or wrong.
    """
    fitting = _fitting(path)
    for adapter in fitting:
        data = adapter.read(path, DatasetOptions())
        surveys = {space.task: _surveyed(data, space) for space in data.spaces if space.kind == "mask"}
        _show_one(data, adapter, console, whole, surveys)
        if sheet is not None and adapter is fitting[0]:
            contact_sheet(data).save(sheet)
            _say(console, f"contact sheet: {sheet}")
        if verify:
            _verify(data, check, console)
        elif (data.frames["frame"] < 0).all():
            _say_copies(data, check, console)
            for present in surveys.values():
                masks = int(present.any(axis=1).sum())
                _say(console, f"verified: {masks} masks hold known classes and fit their pictures")
    if len(fitting) > 1:
        _say(console, f"the folder fits several layouts: name one with --layout {fitting[0].name}")
    return 0


def _fitting(path: Path) -> list[Adapter]:
    """Published layouts that fit; the own layout only where none does."""
    found = [adapter for name, adapter in DATASETS.items() if name != OWN and adapter.matches(path)]
    own = DATASETS.get(OWN)
    return found or ([own] if own.matches(path) else [])


def _surveyed(data: LabelledFrames, space: LabelSpace) -> Present:
    present = survey(data, space)
    refuse_white(data, space, present)
    return present


def _show_one(
    data: LabelledFrames, adapter: Adapter, console: Console, whole: bool, surveys: Mapping[str, Present]
) -> None:
    frames = data.frames
    counts = f"{len(data)} labelled frames, {frames['video'].nunique()} videos, {frames['case'].nunique()} cases"
    _say(console, f"{data.root}: {adapter.name}, {counts}")
    _say(console, f"fingerprint {data.fingerprint}")
    tables = split_columns(data, adapter)
    console.print(_split_table(data, tables))
    counted = dict(list(tables.items())[: None if whole else 1])
    for space in data.spaces:
        for name, split in counted.items():
            _say(console, f"{space.task}, frames per class" + (f", split {name}" if name != NONE else ""))
            table, rest = _balance_table(data, space, split, None if whole else TOP, surveys.get(space.task))
            console.print(table)
            if rest:
                _say(console, f"{rest}; --all lists every class")
    if len(counted) < len(tables):
        _say(console, f"classes of the other {len(tables) - 1} split lists: --all")
    for name, draws in data.budgets.items():
        _say(console, f"label budget {name}: {len(draws)} draws of {', '.join(str(len(draw)) for draw in draws)} cases")
    for (task, split_name), number in data.official.items():
        found = data.missing(task, split_name)
        verdict = f"{found[0]} found" if found else "all found"
        _say(console, f"official frames, {task}, {split_name or ALL}: {number}, {verdict}")
    for note in data.notes:
        _say(console, f"note: {note}")


def split_columns(data: LabelledFrames, adapter: Adapter) -> dict[str, pd.Series]:
    """Name of a split list -> the split of every frame, '' where the list leaves it out.

    The data set's own split, which no published list can replace, else every list that names some of its cases.
    """
    own = data.frames["split"].astype(str)
    if own.any() and adapter.default_split is None:
        return {"its own": own}
    known = {str(adapter.default_split): own} if own.any() else {}
    for name, entries in adapter.splits.items():
        if name in known or not any(list(members) for members in entries.values()):
            continue
        of = published_split(name, adapter.splits, data.frames["video"].unique())
        column = data.frames["video"].map(of)
        known |= {name: column} if column.any() else {}
    return known or {NONE: pd.Series("", index=data.frames.index)}


def _split_table(data: LabelledFrames, tables: Mapping[str, pd.Series]) -> Table:
    table = Table("split list", "split", "cases", "frames", *data.tasks, box=None)
    for name, column in tables.items():
        for split in _parts(column):
            rows = column == split
            labelled = [str(int((space.known(data.frames) & rows).sum())) for space in data.spaces]
            table.add_row(name, split or ALL, str(data.frames["case"][rows].nunique()), str(int(rows.sum())), *labelled)
    return table


def _parts(column: pd.Series) -> list[str]:
    """train, val, test as far as they are there, then others, then '' for frames in no split."""
    found = set(column)
    return [s for s in ORDER if s in found] + sorted(found - {*ORDER, ""}) + ([""] if "" in found else [])


def _balance_table(
    data: LabelledFrames, space: LabelSpace, column: pd.Series, most: int | None, present: Present | None
) -> tuple[Table, str]:
    """Frames per class and split, and what is said of the others: of more than `most` classes only the most frequent
    are listed.
    """
    parts = _parts(column)
    labels = [split or (ALL if len(parts) == 1 else "no split") for split in parts]
    table = Table("class", *labels, box=None)
    counts = [class_counts(data, space, np.asarray(column == split), present) for split in parts]
    total = np.sum(counts, axis=0)
    shown = list(range(len(space.classes)))
    if most is not None and len(shown) > most:
        shown = sorted(np.argsort(-total, kind="stable")[:most].tolist(), key=lambda index: -total[index])
    for index in shown:
        unscored = " (not scored)" if index in space.unscored else ""
        table.add_row(space.classes[index] + unscored, *(str(of_split[index]) for of_split in counts))
    return table, _others(total, shown)


def _others(total: np.ndarray, shown: Sequence[int]) -> str:
    """In words, '' where all classes are shown."""
    rest = np.delete(total, list(shown))
    if not len(rest):
        return ""
    return f"and {len(rest)} more classes of at most {rest.max()} frames, {int((rest == 0).sum())} of them in no frame"


def class_counts(
    data: LabelledFrames, space: LabelSpace, rows: np.ndarray, present: Present | None = None
) -> list[int]:
    """Frames per class among `rows` (bool [n]): with several labels those of at least 0.5, with masks those with a
    pixel of it, by their survey (`present`; None: made now). Raises TrocarError for masks that cannot be read.
    """
    frames = data.frames[rows & space.known(data.frames)]
    if space.kind == "multiclass":
        return [int(n) for n in np.bincount(frames[space.task], minlength=len(space.classes))]
    if space.kind == "multilabel":
        return [int((frames[column] >= 0.5).sum()) for column in space.columns]
    present = survey(data, space) if present is None else present
    return [int(n) for n in present[rows, : len(space.classes)].sum(axis=0)]


def _verify(data: LabelledFrames, check: CopyCheck, console: Console) -> None:
    rows = check.rows_to_compare(data)
    wanted, kept, count = set(rows.tolist()), {}, 0
    for row, (pixels,) in decoded(data, [HASHED]):
        count += 1
        if row in wanted:
            kept[row] = pixels
    _say(console, f"verified: {count} of {len(data)} labelled frames can be decoded")
    _say_notes(check.copies_within(data, rows, (kept[row] for row in rows.tolist())), console)


def _say_copies(data: LabelledFrames, check: CopyCheck, console: Console) -> None:
    """Pictures of training cases in test cases, in some of the pictures; frames of videos take long to reach."""
    rows = check.rows_to_compare(data, LOOKED_AT)
    part = replace(data, frames=data.frames.iloc[rows].reset_index(drop=True))
    try:
        kept = {row: pixels for row, (pixels,) in decoded(part, [HASHED])}
    except TrocarError as error:
        return _say(console, f"note: {error}")
    every = np.arange(len(part))
    _say_notes(check.copies_within(part, every, (kept[row] for row in every.tolist())), console)


def _say_notes(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        _say(console, f"note: {line}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
