"""What nothing of a study may show: of its catalog, of its labelled data, and what its stages have left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from trocar.data.catalog.catalog import Catalog
from trocar.data.catalog.private_videos import private_names
from trocar.downstream.evaluation.private_labels import Private, of_marks
from trocar.errors import TrocarError
from trocar.privacy.marks import Marks, marks_in, withheld
from trocar.study.plan.study_lock import Tree
from trocar.study.run.stage_execution import RESULTS
from trocar.study.run.stage_store import Store, check_content


def private_of_study(lock: Tree, store: Store) -> Private:
    """Everything private that a study knows by now, nothing where it is to be shown. What was private when a stage ran
    stays so, and marks that were set since count too.

    Raises TrocarError for a damaged list of names, ConfigError for marks that cannot be understood: then nothing may be
    shown. A catalog that cannot be read is skipped.
    """
    if (lock["study"].get("privacy") or {}).get("share_frames") is True:
        return Private()
    return marked_in_study(lock, store)


def marked_in_study(lock: Tree, store: Store) -> Private:
    """What `private_of_study` would be if nothing were to be shown; raises the same."""
    study = lock["study"]
    shards = [task["shards"] for task in study["tasks"].values() if task.get("shards")]
    names = {name for stage in lock["stages"] for name in withheld(store.out(stage)).names}
    known = frozenset(names | _of_catalogs([study["catalog"], *shards]))
    return Private.join([Private(known, known), *_of_tasks(lock, store)])


def _of_catalogs(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in dict.fromkeys(paths):
        try:
            found |= private_names(Catalog.open(path))
        except TrocarError:
            continue  # the report says so, and shows nothing
    return found


def _of_tasks(lock: Tree, store: Store) -> Iterator[Private]:
    for name, task in lock["tasks"].items():
        configured = Marks.model_validate(lock["study"]["tasks"][name].get("private") or {})
        for marks in (configured, marks_in(Path(task["root"]))):
            yield of_marks(_cases(lock, store, name), marks)


def _cases(lock: Tree, store: Store, task: str) -> pd.DataFrame:
    """Columns case and video: the cases of a task, with the videos that the predictions tell."""
    sides = (lock["tasks"][task][side] for side in ("test_cases", "val_cases"))
    folds = [fold for side in sides for fold in side.values()]
    folds += [fold for draws in lock["tasks"][task]["draws"].values() for draw in draws for fold in draw.values()]
    known: pd.DataFrame = pd.DataFrame([(case, case) for fold in folds for case in fold], columns=["case", "video"])
    done = (e["stage"] for e in lock["evaluations"] if e["task"] == task and store.is_done(e["stage"]))
    stage = next(done, None)
    if stage is None:
        return known
    check_content(store, stage)  # what it no longer says could be shown
    tested = pq.read_table(store.out(stage) / RESULTS["evaluate"], columns=["case", "video"]).to_pandas()
    found: pd.DataFrame = pd.concat([known, tested]).drop_duplicates()
    return found
