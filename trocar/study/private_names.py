"""What nothing of a study may show: of its catalog, of its labelled data, and what its stages have left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from trocar.data.catalog.catalog import Catalog
from trocar.errors import TrocarError
from trocar.privacy.aliases import Aliases, open_book, read_book, withheld
from trocar.privacy.private_data import Private, marks_in, private_of_catalog, private_of_marks
from trocar.study.stages import RESULTS, Store, check_content
from trocar.study.study_lock import StudyLock


def private_of_study(lock: StudyLock, store: Store) -> Private:
    """Everything private that a study knows by now, nothing where it is to be shown. What was private when a stage ran
    stays so, and marks that were set since count too.

    Raises TrocarError for a damaged list of names, ConfigError for marks that cannot be understood: then nothing may be
    shown. A catalog that cannot be read is skipped.
    """
    return Private() if lock.study.privacy.share_frames else marked_in_study(lock, store)


def open_study_book(lock: StudyLock, store: Store) -> Aliases:
    """The aliases under which the stages of a study, and whoever reads them, show what is private.

    Raises as `private_of_study`.
    """
    private = private_of_study(lock, store)
    return open_book(store.root, private.names, private.hidden.cases, private.called)


def marked_in_study(lock: StudyLock, store: Store) -> Private:
    """What `private_of_study` would be if nothing were to be shown; raises the same."""
    shards = [task.shards for task in lock.study.tasks.values() if task.shards is not None]
    left = Aliases.join([withheld(store.out(stage)) for stage in lock.stages])
    stages = Private(left.cases, frozenset(left.names), left.table)
    seen = Private.join([stages, *_of_catalogs([lock.study.catalog, *shards])])
    # What a stage or a catalog withholds may be a case of the labelled data, whatever it is there.
    every = Private.join([Private(called=read_book(store.root)), seen, *_of_tasks(lock, store)])
    return replace(every.called_as(every.hidden), cases=every.cases | seen.names)


def _of_catalogs(paths: Iterable[Path]) -> Iterator[Private]:
    for path in dict.fromkeys(paths):
        try:
            yield private_of_catalog(Catalog.open(path))
        except TrocarError:
            continue  # the report says so, and shows nothing


def _of_tasks(lock: StudyLock, store: Store) -> Iterator[Private]:
    for name, task in lock.tasks.items():
        for marks in (lock.study.tasks[name].private, marks_in(Path(task.root))):
            yield private_of_marks(_cases(lock, store, name), marks)


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
