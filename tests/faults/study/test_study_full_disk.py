"""A store on a disk that fills up: the stage fails and says why, and with room the study ends as ever."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from fault_record import Injector
from small_disk import PAGE, SAYS, small_disk
from study_factory import results
from study_process import names, run_study

from trocar.study.stages import Store


@pytest.mark.parametrize("seed", range(2))
def test_a_store_without_space_fails_stages_and_continues_with_space(
    inject: Injector, study: Path, undisturbed: Store, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    held = sum(path.stat().st_size for path in undisturbed.root.rglob("*") if path.is_file())
    # The first disk ends during the study's own books or its first checkpoints, the second behind some stages.
    size = rng.randrange(16, held // PAGE // (8, 2)[seed]) * PAGE
    promise = "the run fails and says what had no space; with room the same command ends in the undisturbed results"
    with (
        small_disk(tmp_path / "disk", size, rng.randrange(1 << 10, 1 << 20)) as disk,
        inject("full disk", "study store", promise, seed=seed, at=f"{size >> 10} KiB") as injection,
    ):
        store, said = Store(disk.folder / "store"), tmp_path / "said.txt"
        assert run_study(study, store.root, said, disk.limit * (not disk.mounted)) == 1, said.read_text()
        assert re.search(f"{SAYS}|cannot write a checkpoint to", said.read_text())
        assert str(store.root) in said.read_text()
        disk.enlarge()
        assert run_study(study, store.root, said) == 0, said.read_text()
        injection.compare(results(undisturbed, names(undisturbed)), results(store, names(store)))
