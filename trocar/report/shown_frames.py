"""Cases and frames as a study's page shows them: where cases are from and whether they may be shown; and test frames
behind the predictions of a task, with those that most runs get wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from trocar.data.catalog.catalog import Catalog
from trocar.data.remote.store import Place
from trocar.downstream.datasets.readers.videos import locate
from trocar.downstream.features.frame_cache import Size, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.metrics.outcome import Floats
from trocar.downstream.metrics.segmentation import scores_of
from trocar.downstream.predictions.prediction_file import Predictions
from trocar.errors import TrocarError
from trocar.privacy.aliases import Aliases
from trocar.report.page import Images, count
from trocar.study.results import Score, StudyResults, marked_in_study

FIELDS = ("source", "hospital", "procedure")


@dataclass(frozen=True)
class KnownCases:
    """`about`: `source/case` -> its source, hospital and procedure. `private`: ids of cases, without the source, that
    must not be shown. `unread`: catalogs that could not be opened -> why; nothing may be shown then. `hidden`: names
    that must not be read anywhere on the page. `shares`: private cases are shown, because the study says so.
    """

    about: Mapping[str, Mapping[str, str]]
    private: frozenset[str]
    unread: Mapping[str, str]
    hidden: Aliases = field(default_factory=Aliases)
    shares: bool = False

    @classmethod
    def of_study(cls, results: StudyResults) -> KnownCases:
        """All catalogs of a study, and what its labelled data and stages mark. Raises as `marked_in_study`."""
        shards = [task.shards for task in results.study.tasks.values() if task.shards is not None]
        known = cls.of([results.study.catalog, *shards])
        lock = results.lock.model_copy(update={"study": results.study})
        if results.study.privacy.share_frames:
            told = known.private or marked_in_study(lock, results.store).cases
            return replace(known, private=frozenset(), unread={}, shares=bool(told))
        private = marked_in_study(lock, results.store)
        return replace(known, private=known.private | private.cases, hidden=private.hidden)

    @classmethod
    def of(cls, catalogs: Iterable[Place]) -> KnownCases:
        """Read the video tables of all catalogs; of a case with several videos the first one's."""
        about: dict[str, dict[str, str]] = {}
        private: set[str] = set()
        unread: dict[str, str] = {}
        for path in dict.fromkeys(catalogs):
            try:
                videos = Catalog.open(path).videos.to_pylist()
            except TrocarError as error:
                unread[str(path)] = str(error)
                continue
            for video in videos:
                name = f"{video['source']}/{video['case_id']}"
                about.setdefault(name, {field: str(video[field] or "") for field in FIELDS})
                if video["private"]:
                    private.add(str(video["case_id"]))
        return cls(about, frozenset(private), unread)

    def may_show(self, case: str) -> bool:
        """Whether frames and the id of a case, with or without its source, may stand in a report."""
        return not self.unread and case.rpartition("/")[2] not in self.private

    def named(self, cases: Iterable[str]) -> dict[str, str]:
        """Case -> what it is called in the report: itself, or the alias of one that must not be shown, with its
        source if it comes with one.
        """
        listed = list(dict.fromkeys(cases))
        private = {case.rpartition("/")[2] for case in listed if not self.may_show(case)}
        # A catalog that cannot be read makes private what has no alias yet.
        aliases = Aliases({*private, *self.hidden.names}, private | self.hidden.cases, self.hidden.table)
        return {case: case if self.may_show(case) else _alias(case, aliases) for case in listed}


def _alias(case: str, aliases: Aliases) -> str:
    source, _, name = case.rpartition("/")
    return f"{aliases.of(name)} of {source}" if source else aliases.of(name)


PLACE = ["case", "video", "time_s", "path", "frame"]
HEIGHT = 216


def rows_of(score: Score) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of one run in the order of case, video and time, of the cases that count; and the class names."""
    found = _read(score.predictions)
    table = found.table
    mine = np.ones(len(table), dtype=bool)
    for column, value in score.key._asdict().items():
        mine &= (table[column] == value).to_numpy(bool)
    if score.scored is not None:
        mine &= table["case"].isin(score.scored).to_numpy(bool)
    rows: pd.DataFrame = table[mine].sort_values(PLACE, kind="stable", ignore_index=True)
    return rows, tuple(str(name) for name in found.about.classes.get(score.key.task, ()))


@lru_cache(maxsize=2)
def _read(path: Path) -> Predictions:
    return Predictions.read(path)


def frames_of(results: StudyResults, task: str, rows: pd.DataFrame) -> LabelledFrames:
    """The rows as frames that can be decoded. Raises TrocarError where the shards do not have them."""
    locked = results.lock.tasks[task]
    table = rows[PLACE].assign(split="")
    data = LabelledFrames(Path(locked.root), locked.layout, table, ())
    shards = results.study.tasks[task].shards
    return data if shards is None else locate(data, shards)


def pictures(data: LabelledFrames, rows: Sequence[int], size: Size | None = None) -> Images:
    """uint8 [n, H, W, 3] of some rows, in their order; without `size` as they are, scaled to 216 rows of pixels.

    Raises TrocarError for a frame that cannot be read.
    """
    few = replace(data, frames=data.frames.iloc[list(rows)].reset_index(drop=True))
    try:
        found = dict(decoded(few, [size]))
    except OSError as error:
        raise TrocarError(f"{data.root}: {error}") from None
    images = [found[row][0] for row in range(len(rows))]
    return np.stack(images if size is not None else _scaled(images))


def _scaled(images: Sequence[Images]) -> list[Images]:
    """All at the size that keeps the aspect of the first."""
    height, width = images[0].shape[:2]
    shape = max(1, round(width * HEIGHT / height)), HEIGHT
    return [np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)) for image in images]


@dataclass(frozen=True)
class Hard:
    """A frame: its row among those of the first run, where it is, and what was said of it in words."""

    row: int
    case: str
    time_s: float
    wrong: float
    said: str


def hardest(scores: Sequence[Score], count: int) -> list[Hard]:
    """The frame with the largest mean error over all runs, for the `count` cases where it is largest; of equal ones
    that whose truth has the smallest scores.

    One frame of a case, since its neighbours in time look the same. Errors: labels that are wrong, of masks what the
    mean IoU over classes lacks to 1. Raises TrocarError for runs with different frames.
    """
    tables = [rows_of(score) for score in scores]
    first, classes = tables[0]
    if not all(table[PLACE].equals(first[PLACE]) for table, _ in tables):
        raise TrocarError("the runs were scored on different frames")
    errors: Floats = np.mean([_errors(table) for table, _ in tables], axis=0)
    doubts = np.mean([_doubts(table) for table, _ in tables], axis=0)
    # Many frames of a case are wrong in all runs: the one whose truth has the smallest scores comes first.
    worst = pd.Series(errors + 1e-6 * doubts).groupby(first["case"]).idxmax()
    rows = sorted((int(row) for row in worst), key=lambda row: -errors[row])[:count]
    return [
        Hard(
            row,
            str(first["case"][row]),
            float(first["time_s"][row]),
            float(errors[row]),
            _said([table for table, _ in tables], row, classes, float(errors[row])),
        )
        for row in rows
    ]


def _errors(table: pd.DataFrame) -> Floats:
    """float64 [n], 0 for right to 1 for wrong."""
    found: Floats
    if "confusion" in table:
        counts = np.stack([np.asarray(flat, dtype=np.int64) for flat in table["confusion"]])
        k = round(counts.shape[1] ** 0.5)
        iou = scores_of(counts.reshape(-1, k, k))
        defined = ~np.isnan(iou)
        found = 1 - np.where(defined, iou, 0).sum(1) / np.maximum(defined.sum(1), 1)
    elif table["gt"].notna().all():
        found = np.asarray(table["gt"] != table["pred"], dtype=np.float64)
    else:
        found = np.mean(_stacked(table["gt_labels"]) != _stacked(table["pred_labels"]), axis=1)
    return found


def _doubts(table: pd.DataFrame) -> Floats:
    """float64 [n]: what the score of the truth lacks to 1 with one label a frame and scores in 0..1, else 0."""
    if "scores" not in table or "gt" not in table or table["gt"].isna().any():
        return np.zeros(len(table))
    scores = _stacked(table["scores"])
    if not ((scores >= 0) & (scores <= 1)).all():
        return np.zeros(len(table))
    found: Floats = 1 - scores[np.arange(len(table)), table["gt"].to_numpy(np.int64)]
    return found


def _said(tables: Sequence[pd.DataFrame], row: int, classes: Sequence[str], wrong: float) -> str:
    first, runs = tables[0], len(tables)
    if "confusion" in first:
        return f"mean IoU {1 - wrong:.3f} over {count(runs, 'run')}"
    if first["gt"].notna().all():
        votes = Counter(_name(int(table["pred"][row]), classes) for table in tables)
        said = ", ".join(f"{name} ({n} of {count(runs, 'run')})" for name, n in votes.most_common(3))
        return f"truth: {_name(int(first['gt'][row]), classes)}\npredicted: {said}"
    truth = np.flatnonzero(_stacked(first["gt_labels"])[row])
    votes = Counter(
        _name(int(c), classes) for table in tables for c in np.flatnonzero(np.asarray(table["pred_labels"][row]))
    )
    said = ", ".join(f"{name} ({n} of {count(runs, 'run')})" for name, n in votes.most_common(3))
    return f"truth: {', '.join(_name(int(c), classes) for c in truth) or 'none'}\npredicted: {said or 'none'}"


def _name(index: int, classes: Sequence[str]) -> str:
    return classes[index] if index < len(classes) else str(index)


def _stacked(values: pd.Series) -> Floats:
    return np.stack([np.asarray(value, dtype=np.float64) for value in values])
