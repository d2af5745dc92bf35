"""PitVis-2023: 25 pituitary operations, 24 of them with a step and up to two instruments for every second.

Videos run at 24 frames per second, one at 25. The last label of every video lies behind its last frame. Steps 11 and 13
and the background are labelled, but the challenge does not score them: `unscored`. Seconds out of the patient have none
of the 19 instruments, and the challenge's script counts what is predicted there as false. Its test videos are not
public, so papers report on held-out ones.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from trocar.core.tables import read_table
from trocar.data.media.delivered_files import VIDEO_SUFFIXES, listed
from trocar.downstream.datasets.base import DATASETS, Adapter, DatasetOptions, canonical
from trocar.downstream.datasets.readers.label_files import unlabelled_end
from trocar.downstream.datasets.readers.videos import every_nth_second, find_clip, left_out, located_by_second
from trocar.downstream.folds import Split, not_here, published_split
from trocar.downstream.labels import LabelledFrames, LabelSpace, build_table
from trocar.errors import TrocarError

STEPS = (
    "background",
    "nasal_corridor_creation",
    "anterior_sphenoidotomy",
    "septum_displacement",
    "sphenoid_sinus_clearance",
    "sellotomy",
    "durotomy",
    "tumour_excision",
    "haemostasis",
    "synthetic_graft_placement",
    "fat_graft_placement",
    "gasket_seal_construct",
    "dural_sealant",
    "nasal_packing",
    "debris_clearance",
)
"""By the files' own numbers 1..14; the background is -1 there and 0 here."""
UNSCORED = (0, 11, 13)
INSTRUMENTS = (
    "no_visible_instrument",
    "bipolar_forceps",
    "cottle",
    "cup_forceps",
    "dural_scissors",
    "freer_elevator",
    "haemostatic_foam",
    "irrigation_syringe",
    "kerrisons",
    "micro_doppler",
    "nasal_cutting_forceps",
    "pituitary_rongeurs",
    "retractable_knife",
    "ring_curette",
    "spatula_dissector",
    "stealth_pointer",
    "suction",
    "surgical_drill",
    "tissue_glue",
)
"""By the files' own numbers 0..18: the challenge's F1 counts all 19."""
NO_SECOND = -2
"""The lowest number in the columns of instruments: no second instrument. Out of the patient is -1."""
_HELD_OUT = {"held-out-common": (2, 6, 12, 13, 24), "held-out-das2024": (1, 12, 21, 24, 25)}
SPLITS: dict[str, Split] = {
    name: {"train": [v for v in range(1, 26) if v not in test and v != 19], "test": test}
    for name, test in _HELD_OUT.items()
}


def _matches(root: Path) -> bool:
    return any(root.glob("annotations_*.csv"))


def _read(root: Path, options: DatasetOptions) -> LabelledFrames:
    _check_map(root / "map_steps.csv", "step", STEPS)
    _check_map(root / "map_instruments.csv", "instrument", INSTRUMENTS)
    numbers = {path.stem.removeprefix("annotations_"): path for path in sorted(root.glob("annotations_*.csv"))}
    clips = {number: clip for number in numbers if (clip := find_clip([root], f"video_{number}")) is not None}
    split = published_split(options.split, SPLITS, numbers) if options.split else {}
    notes = left_out("labelled videos that are missing", [f"video_{n}" for n in numbers if n not in clips])
    notes += left_out("videos without labels", _unlabelled(root, numbers))
    notes += not_here(options.split, SPLITS, clips) if options.split else []
    parts = []
    for number, clip in clips.items():
        labels = _labels(numbers[number], int(number))
        labels = labels[every_nth_second(labels["second"], options.fps)]
        part, said = located_by_second(labels, clip, root, clip.path.stem)
        notes += said + unlabelled_end(float(labels["second"].max()), clip.end_s, clip.path.stem)
        parts.append(part.assign(case=clip.path.stem, split=split.get(number, "")))
    spaces = [
        LabelSpace("step", "multiclass", STEPS, unscored=UNSCORED),
        LabelSpace("tools", "multilabel", INSTRUMENTS),
    ]
    return build_table(root, ADAPTER.name, parts, spaces, notes=notes)


def _labels(path: Path, number: int) -> pd.DataFrame:
    table = read_table(path)
    of_video, step = table.whole("int_video"), table.whole("int_step", -1, len(STEPS) - 1)
    if (of_video != number).any():
        raise table.error(f"holds labels of video {of_video[of_video != number][0]}; was the file renamed?")
    if (step == 0).any():
        raise table.error("int_step 0: steps are -1 and 1 to 14", int((step == 0).argmax()))
    last = len(INSTRUMENTS) - 1
    shown = pd.DataFrame({k: table.whole(f"int_instrument{k}", NO_SECOND, last) for k in (1, 2)})
    labels = pd.DataFrame({"second": table.whole("int_time", 0), "step": step.clip(min=0)})
    for index, name in enumerate(INSTRUMENTS):
        labels[f"tools/{name}"] = (shown == index).any(axis=1).astype("int64")
    found: pd.DataFrame = labels
    return found


def _check_map(path: Path, kind: str, names: tuple[str, ...]) -> None:
    """The map files name a number more than once (-1, 0) and have blanks behind names; what counts is that no number
    of a class means another class. Raises TrocarError where it does.
    """
    if not path.is_file():
        return
    table = read_table(path)
    places = {canonical(name): index for index, name in enumerate(names)}
    for number, name in zip(table.whole(f"int_{kind}"), table.texts(f"str_{kind}"), strict=True):
        place = places.get(canonical(name))
        if place is not None and place != number:
            raise TrocarError(f"{path}: {name!r} has the number {number}, expected {place}")


def _unlabelled(root: Path, numbers: dict[str, Path]) -> list[str]:
    videos = [path for path in listed(root, "video_*") if path.suffix.lower() in VIDEO_SUFFIXES]
    return [path.stem for path in videos if path.stem.removeprefix("video_") not in numbers]


ADAPTER = DATASETS.register(
    Adapter(
        name="pitvis",
        expects="video_01.mp4 with annotations_01.csv",
        matches=_matches,
        read=_read,
        splits=SPLITS,
    )
)
