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
from trocar.privacy.marks import marks_in, withheld
from trocar.study.stage_store import Store, check_content
from trocar.study.stages import RESULTS
from trocar.study.study_lock import StudyLock


def private_of_study(lock: StudyLock, store: Store) -> Private:
    """Everything private that a study knows by now, nothing where it is to be shown. What was private when a stage ran
    stays so, and marks that were set since count too.

    Raises TrocarError for a damaged list of names, ConfigError for marks that cannot be understood: then nothing may be
    shown. A catalog that cannot be read is skipped.
    """
    return Private() if lock.study.privacy.share_frames else marked_in_study(lock, store)


def marked_in_study(lock: StudyLock, store: Store) -> Private:
    """What `private_of_study` would be if nothing were to be shown; raises the same."""
    shards = [task.shards for task in lock.study.tasks.values() if task.shards is not None]
    names = {name for stage in lock.stages for name in withheld(store.out(stage)).names}
    known = frozenset(names | _of_catalogs([lock.study.catalog, *shards]))
    return Private.join([Private(known, known), *_of_tasks(lock, store)])


def _of_catalogs(paths: Iterable[Path]) -> set[str]:
    found: set[str] = set()
    for path in dict.fromkeys(paths):
        try:
            found |= private_names(Catalog.open(path))
        except TrocarError:
            continue  # the report says so, and shows nothing
    return found


def _of_tasks(lock: StudyLock, store: Store) -> Iterator[Private]:
    for name, task in lock.tasks.items():
        for marks in (lock.study.tasks[name].private, marks_in(Path(task.root))):
            yield of_marks(_cases(lock, store, name), marks)


def _cases(lock: StudyLock, store: Store, task: str) -> pd.DataFrame:
    """Columns case and video: the cases of a task, with the videos that the predictions tell."""
    locked = lock.tasks[task]
    folds = [*locked.test_cases.values(), *locked.val_cases.values()]
    folds += [fold for draws in locked.draws.values() for draw in draws for fold in draw.values()]
    known: pd.DataFrame = pd.DataFrame([(case, case) for fold in folds for case in fold], columns=["case", "video"])
    done = (e.stage for e in lock.evaluations if e.task == task and store.is_done(e.stage))
    stage = next(done, None)
    if stage is None:
        return known
    check_content(store, stage)  # what it no longer says could be shown
    tested = pq.read_table(store.out(stage) / RESULTS["evaluate"], columns=["case", "video"]).to_pandas()
    found: pd.DataFrame = pd.concat([known, tested]).drop_duplicates()
    return found
