"""What a pretraining pool must not hold: test and validation cases, by name and by their pictures.

`leak.against` names them by labelled folders, published data sets and lists.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from trocar.core.files import user_cache, write_atomic
from trocar.core.messages import Say
from trocar.core.tables import read_lines, read_table
from trocar.data.labelled_data import LabelledFolder
from trocar.data.media.delivered_files import video_key
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DATASETS, DatasetOptions
from trocar.downstream.features.frame_cache import FrameCache, decoded
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError, TrocarError, nearest
from trocar.leakage.identities import Case, identities
from trocar.leakage.matching import RUN
from trocar.leakage.pictures import U8, Pictures, variants
from trocar.leakage.search import HeldOut
from trocar.privacy.private_data import private_of

SIDE = 160
"""Pixels of the square that a frame is squashed to before it is hashed: over nine for a cell of the hash."""
FORMAT = 3  # raised when the hashes in the cache would come out differently


def held_out(against: Sequence[str | LabelledFolder], say: Say = lambda line: None) -> HeldOut:
    """All held-out cases of these entries (see `LeakConfig`), hashed where their pictures are at hand."""
    return HeldOut.join([_one(entry, say) for entry in against])


def of_data(data: LabelledFrames, cases: Collection[str], say: Say = lambda line: None) -> HeldOut:
    """These cases of a labelled data set, with their pictures."""
    names = case_names(data)
    why = f"{', '.join(data.tasks)} of {data.root}"
    return HeldOut({names[case]: (why,) for case in cases}, pictures(data, cases, say))


def case_names(data: LabelledFrames) -> dict[str, Case]:
    """Case of the table -> (data set, case): the `source` that frames.csv or videos.csv gives it, else the layout's
    name, or the folder's where that is the layout of everybody's own data. Raises TrocarError for a case of two.
    """
    own = data.root.resolve().name if data.layout == "folder" else data.layout
    of_videos = _sources(data.root)
    found: dict[str, Case] = {}
    for case, video in data.frames.groupby("case")["video"].first().items():
        given = {one for one in (data.sources.get(str(case)), of_videos.get(str(video))) if one is not None}
        if len(given) > 1:
            raise TrocarError(f"{data.root}: case {case!r} is of {' in frames.csv or videos.csv and of '.join(given)}")
        found[str(case)] = identities().identify(given.pop() if given else own, str(case))
    return found


def guarded_cases(data: LabelledFrames) -> list[str]:
    """Test and validation cases; all cases where the data has no test split."""
    split = data.frames.groupby("case")["split"].first()
    chosen = split[split.isin(["test", "val"])] if (split == "test").any() else split
    return sorted(map(str, chosen.index))


def probed_cases(folder: LabelledFolder, say: Say = lambda line: None) -> HeldOut:
    """The validation cases of data that a run is scored on while it trains, with their pictures.

    Raises ConfigError for data that is not there or means nothing, and for data without validation cases.
    """
    try:
        data = _opened(folder)
    except ConfigError as error:
        raise ConfigError(f"probe: {error}") from None
    cases = _cases_in(data, ("val",))
    if not cases:
        raise ConfigError(
            f"probe: {folder.data} has no validation cases to score; name a published split that has some (split), or "
            f"write train, val and test into the column `split` of its frames.csv or videos.csv"
        )
    private = private_of(data, folder.private)
    found = of_data(data, cases, private.hidden.saying(say))
    return replace(found, private=private)


def probe_names(folder: LabelledFolder) -> tuple[str, ...]:
    """`data set/case` of the cases whose labels a probe uses: it is fitted on training cases and scored on validation
    cases.
    """
    data = _opened(folder)
    names = case_names(data)
    return tuple(sorted("/".join(names[case]) for case in _cases_in(data, ("train", "val"))))


def _opened(folder: LabelledFolder) -> LabelledFrames:
    return open_dataset(folder.data, folder.layout, DatasetOptions(phases=folder.phases, split=folder.split))


def _cases_in(data: LabelledFrames, splits: Collection[str]) -> list[str]:
    of_case = data.frames.groupby("case")["split"].first()
    return sorted(map(str, of_case[of_case.isin(list(splits))].index))


def pictures(data: LabelledFrames, cases: Collection[str], say: Say = lambda line: None) -> Pictures:
    """The hashed frames of these cases, one a second at most; kept in the user's cache, as decoding takes a while."""
    part = _thinned(data, cases)
    names = case_names(data)
    videos = sorted(part.frames["video"].unique())
    place = {video: index for index, video in enumerate(videos)}
    case_of = part.frames.groupby("video")["case"].first()
    hashes = _cached_hashes(part, say)
    return Pictures(
        hashes,
        part.frames["video"].map(place).to_numpy(np.int64),
        part.frames["time_s"].to_numpy(np.float64),
        tuple(map(str, videos)),
        tuple(names[str(case_of[video])] for video in videos),
        untimed=data.untimed,
    )


def _one(entry: str | LabelledFolder, say: Say) -> HeldOut:
    if isinstance(entry, LabelledFolder):
        data = _opened(entry)
        private = private_of(data, entry.private)
        found = of_data(data, guarded_cases(data), private.hidden.saying(say))
        return replace(found, private=private)
    if Path(entry).is_dir():
        return _one(LabelledFolder(data=Path(entry)), say)
    if Path(entry).is_file():
        return _from_list(Path(entry))
    name, colon, split = entry.partition(":")
    if identities().dataset(name.partition("/")[0]) is None:
        hint = nearest(name, identities().table.datasets)
        raise ConfigError(f"leak.against: {entry!r} is no folder, no file and no published data set{hint}")
    cases = _of_split(name, split) if colon else identities().named(entry)
    return HeldOut(dict.fromkeys(cases, (f"published data set {entry}",)))


def _from_list(path: Path) -> HeldOut:
    why: dict[Case, tuple[str, ...]] = {}
    for number, line in enumerate(read_lines(path, failure=ConfigError), start=1):
        text = line.partition("#")[0].strip()
        source, slash, case = text.partition("/")
        if text and not (slash and source and case):
            raise ConfigError(f"{path}:{number}: expected data set/case, such as cholec80/video41, not {text!r}")
        if not text:
            continue
        try:
            named = {(source, case)} if identities().dataset(source) is None else identities().named(text)
        except ConfigError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        why.update(dict.fromkeys(named, (f"listed in {path}",)))
    return HeldOut(why)


def _of_split(name: str, split: str) -> list[Case]:
    slug = identities().dataset(name)
    lists = {key: adapter.splits for key, adapter in DATASETS.items() if adapter.splits}
    if slug not in lists:
        raise ConfigError(f"leak.against: no published splits of {name!r} are known; there are: {', '.join(lists)}")
    if split not in lists[slug]:
        known = lists[slug]
        raise ConfigError(
            f"leak.against: {name} has no split {split!r}{nearest(split, known)}; it has {', '.join(known)}"
        )
    entries = [entry for side in ("test", "val") for entry in lists[slug][split].get(side, ())]
    if not entries:
        raise ConfigError(
            f"leak.against: which cases are in the split {split!r} of {name} only its folders say; name the folder "
            f"with them, or its cases, such as {name}/1-3"
        )
    return [(slug, str(entry)) if isinstance(entry, int) else identities().identify(slug, entry) for entry in entries]


def _sources(root: Path) -> dict[str, str]:
    """Video -> source, where videos.csv of the folder says so."""
    path = root / "videos.csv"
    if not path.is_file():
        return {}
    table = read_table(path)
    if not {"video", "source"} <= set(table.names):
        return {}
    rows = zip(table.texts("video"), table.texts("source"), strict=True)
    return {video_key(video): source for video, source in rows if source}


def _thinned(data: LabelledFrames, cases: Collection[str]) -> LabelledFrames:
    frames = data.frames[data.frames["case"].isin(list(cases))].sort_values(["video", "time_s"], kind="stable")
    second = np.floor(frames["time_s"] + 1e-6)
    # Images without times of their own may all stand at second 0: then none is left out.
    timed = (frames.groupby("video")["time_s"].transform("nunique") > 1) & (not data.untimed)
    repeated = pd.DataFrame({"video": frames["video"], "second": second}).duplicated() & timed
    return replace(data, frames=frames[~repeated].reset_index(drop=True))


def _cached_hashes(part: LabelledFrames, say: Say) -> U8:
    path = user_cache() / "leak" / f"hashes-{FORMAT}-{FrameCache(part, user_cache()).key}.npy"
    try:
        known: U8 = np.load(path)
        return known
    except (OSError, ValueError):
        say(f"leak guard: hashing {len(part)} frames of {part.root}")
    hashes = _hashes(part)
    buffer = io.BytesIO()
    np.save(buffer, hashes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return hashes


def _hashes(part: LabelledFrames) -> U8:
    found: list[U8] = []
    for _, frames in part.frames.groupby("video", sort=True):
        video = replace(part, frames=frames.reset_index(drop=True))
        grey: dict[int, npt.NDArray[np.uint8]] = {}
        for row, (image,) in decoded(video, [SIDE]):
            grey[row] = np.asarray(Image.fromarray(image).convert("L"))
        pictures = [Image.fromarray(grey[row]) for row in sorted(grey)]
        # Pictures without an order need not have a surround in common.
        apart = part.untimed or frames["time_s"].nunique() < RUN
        found += [variants([picture]) for picture in pictures] if apart else [variants(pictures)]
    return np.concatenate(found)
