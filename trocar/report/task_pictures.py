"""A task of a study, looked at: ribbons or overlays of the leading arm and its init, hardest frames, feature maps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image

from trocar.backbones.load import load_backbone, random_like
from trocar.backbones.weight_names import is_random
from trocar.downstream.figures.curves import draw_curves
from trocar.downstream.figures.phases import draw_ribbons
from trocar.downstream.figures.style import shown
from trocar.downstream.metrics.segmentation import row_mean, scores_of
from trocar.downstream.segmentation.predict import draw_overlays, ranked
from trocar.downstream.tasks import get_task
from trocar.errors import TrocarError
from trocar.report.page import Images, Picture, PictureFeatures, pca_maps, spread
from trocar.report.shown_frames import Hard, KnownCases, frames_of, hardest, pictures, rows_of
from trocar.report.study_analysis import Analysis, Compared
from trocar.report.study_arms import source_of
from trocar.study.config import labels_of
from trocar.study.results import Score, StudyResults

T = TypeVar("T")
MAP_HEIGHT = 150
RIBBONS, HARD, MAPS, ARMS = 8, 6, 5, 4
"""How much is shown: cases with ribbons, hardest frames, frames with feature maps, pretrained arms with feature maps.
"""


@dataclass(frozen=True)
class ShownPart(Generic[T]):
    """Something to show, or a note in its place."""

    found: T | None
    note: str = ""


@dataclass(frozen=True)
class DrawnPredictions:
    """`figures` of one `look` (ribbons or recalls) for all arms, or `overlays`, one for each arm."""

    look: str
    figures: Sequence[Picture]
    overlays: Sequence[tuple[str, Picture]]


@dataclass(frozen=True)
class HardFrame:
    """A frame that most runs get wrong; without its picture where it must not be shown."""

    hard: Hard
    case: str
    picture: Picture | None


@dataclass(frozen=True)
class TaskPictures:
    """A task under its first protocol. `maps`: rows of pictures, the frames and what each network makes of them."""

    task: str
    lead: str
    predictions: ShownPart[DrawnPredictions]
    hardest: ShownPart[Sequence[HardFrame]]
    maps: ShownPart[Sequence[tuple[str, Sequence[Picture]]]]


def task_pictures(results: StudyResults, analysis: Analysis, known: KnownCases) -> list[TaskPictures]:
    """One per task; feature maps once for tasks on the same frames."""
    first = {one.cell[0]: one for one in reversed(analysis.compared)}
    mapped: dict[str, str] = {}
    found = []
    for task in (task for task in results.study.tasks if task in first):
        where = mapped.setdefault(results.lock.tasks[task].root, task)
        found.append(_task(results, first[task], known, where))
    return found


def _task(results: StudyResults, one: Compared, known: KnownCases, mapped: str) -> TaskPictures:
    arms = _two_arms(results, one)
    of = f"Predictions of {' and '.join(arms)}, each of its first seed"
    elsewhere = f"Feature maps of frames of this data set are on the page of {mapped}."
    return TaskPictures(
        task=one.cell[0],
        lead=f"{of}, under {one.cell[1]}, {labels_of(one.budget)}.",
        predictions=_part(lambda: _predictions(results, one, arms, known)),
        hardest=_part(lambda: _hard_frames(results, one, known)),
        maps=_part(lambda: _maps(results, one, known)) if mapped == one.cell[0] else ShownPart(None, elsewhere),
    )


def _part(make: Callable[[], T]) -> ShownPart[T]:
    """What fails for want of a file is said in its place: a report must not be lost with a data set that has moved."""
    try:
        return ShownPart(make())
    except TrocarError as error:
        return ShownPart(None, f"Not shown: {error}")


def _two_arms(results: StudyResults, one: Compared) -> list[str]:
    """The leading pretrained arm and its init; the leading arm where none was pretrained."""
    names = [arm.name for arm in one.arms]
    lead = next((name for name in names if results.arms[name] == "pretrained"), names[0])
    init = results.init_of.get(lead)
    return [lead, init] if init in names and init is not None else [lead]


def _first_run(one: Compared, arm: str) -> Score:
    return next(score for score in one.scores if score.arm == arm)


def _predictions(results: StudyResults, one: Compared, arms: Sequence[str], known: KnownCases) -> DrawnPredictions:
    """Ribbons, overlays or curves, by the kind of the labels."""
    with tempfile.TemporaryDirectory() as folder:
        if get_task(results.lock.tasks[one.cell[0]].task).masks:
            overlays = [(arm, _overlay(results, one, arm, known, Path(folder))) for arm in arms]
            return DrawnPredictions("overlays", (), overlays)
        drawn = [path for arm in arms for path in _figures(one, arm, known, Path(folder))]
        look = "ribbons" if any("ribbons" in path.name for path in drawn) else "recalls"
        return DrawnPredictions(look, [Picture.of_png(path) for path in drawn], ())


def _figures(one: Compared, arm: str, known: KnownCases, folder: Path) -> Iterator[Path]:
    """Ribbons of some test cases, or precision and recall of all."""
    rows, classes = rows_of(_first_run(one, arm))
    names = known.named(rows["case"].unique())
    rows = rows.assign(task=one.cell[0], backbone=known.hidden.text(arm), kind="backbone")
    single = "gt" in rows and rows["gt"].notna().all()
    if single:
        rows = rows[rows["case"].isin(_some(list(names), RIBBONS))]
    rows = rows.assign(case=rows["case"].map(names))
    stem = f"{len(list(folder.iterdir()))}"
    with matplotlib.rc_context({"text.parse_math": False}):
        for found in shown(rows, {one.cell[0]: {"classes": classes}}):
            yield from draw_ribbons(found, folder, stem) if single else draw_curves(found, folder / f"{stem}.png")


def _overlay(results: StudyResults, one: Compared, arm: str, known: KnownCases, folder: Path) -> Picture:
    score = _first_run(one, arm)
    rows, classes = rows_of(score)
    if not (rows["pred_mask"] != "").all():
        raise TrocarError("no masks were kept")
    open_rows = np.array([known.may_show(case) for case in rows["case"]])
    if not open_rows.any():
        raise TrocarError("all test cases are private")
    counts = np.stack(list(rows["confusion"])).reshape(-1, len(classes), len(classes))
    values = np.where(open_rows, row_mean(scores_of(counts)), np.nan)
    places = sorted(set(ranked(values).values()))
    gt, pred = ([_mask(score, rows[column][place]) for place in places] for column in ("gt_mask", "pred_mask"))
    frames = frames_of(results, one.cell[0], rows)
    images = [pictures(frames, [row], mask.shape[:2])[0] for row, mask in zip(places, gt, strict=True)]
    path = folder / "overlay.png"
    background = score.outcome.background  # type: ignore[union-attr]
    draw_overlays(images, gt, pred, values[places], classes, path, background=background)
    return Picture.of_png(path)


def _mask(score: Score, name: str) -> np.ndarray:
    path = score.predictions.parent / name
    try:
        with Image.open(path) as image:  # noqa: TID251  a mask
            return np.array(image)
    except OSError as error:
        raise TrocarError(f"{path}: {error}") from None


def _hard_frames(results: StudyResults, one: Compared, known: KnownCases) -> list[HardFrame]:
    """The frames, or only where they are for cases that must not be shown."""
    found = hardest(one.scores, HARD)
    names = known.named(hard.case for hard in found)
    visible = [hard for hard in found if known.may_show(hard.case)]
    data = frames_of(results, one.cell[0], rows_of(one.scores[0])[0]) if visible else None
    images = pictures(data, [hard.row for hard in visible]) if data is not None else np.empty(0, np.uint8)
    shown = {hard.row: Picture.of(image, names[hard.case]) for hard, image in zip(visible, images, strict=True)}
    return [HardFrame(hard, names[hard.case], shown.get(hard.row)) for hard in found]


def _maps(results: StudyResults, one: Compared, known: KnownCases) -> list[tuple[str, list[Picture]]]:
    """Frames of test cases, and the patch features of the init and of the leading arms as colours."""
    rows, _ = rows_of(one.scores[0])
    chosen = _middles(rows, known)
    if not chosen:
        raise TrocarError("all test cases are private, so there are no feature maps")
    images = pictures(frames_of(results, one.cell[0], rows), chosen)
    lines = [("frame", images)]
    for arm in _mapped(results, one):
        lines.append((arm, _like(images, pca_maps(_network(results, one, arm).maps(images)))))
    cases = [str(rows["case"][row]) for row in chosen]
    return [
        (label, [Picture.of(image, f"{label}, {case}", MAP_HEIGHT) for image, case in zip(pixels, cases, strict=True)])
        for label, pixels in lines
    ]


def _like(frames: Images, maps: Images) -> Images:
    """Maps at the size of the frames: the network saw these made square, and so its map has to be stretched again."""
    height, width = frames.shape[1:3]
    stretched = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in maps]
    return np.stack([np.asarray(one) for one in stretched])


def _mapped(results: StudyResults, one: Compared) -> list[str]:
    """The init of the leading arm, then the leading pretrained arms."""
    trained = [arm.name for arm in one.arms if results.arms[arm.name] == "pretrained"]
    inits = [arm for arm in _two_arms(results, one) if arm not in trained and source_of(results, arm) is not None]
    return [*inits, *trained[:ARMS]]


def _network(results: StudyResults, one: Compared, arm: str) -> PictureFeatures:
    """The first seed of an arm."""
    source = source_of(results, arm)
    if source is not None:
        return PictureFeatures(random_like(source, seed=0) if is_random(source) else load_backbone(source))
    trained = (run for run in results.pretrained if run.arm == arm and one.cell[0] in run.tasks)
    run = next(run for run in trained if run.done is not None)
    return PictureFeatures(load_backbone(run.folder / "backbone"))


def _middles(rows: pd.DataFrame, known: KnownCases) -> list[int]:
    """The middle frame of some cases that may be shown, spread over them."""
    cases = [case for case in rows["case"].unique() if known.may_show(case)]
    return [int(np.median(np.flatnonzero(rows["case"] == case))) for case in _some(cases, MAPS)]


def _some(cases: Sequence[str], count: int) -> list[str]:
    return [cases[place] for place in spread(len(cases), count)]
