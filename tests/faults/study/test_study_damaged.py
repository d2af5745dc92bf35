"""What a finished stage has left, cut short or replaced: noticed before anything is made of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from fault_record import Injector
from study_factory import results
from study_process import names, run_study

from trocar.cli.main import main
from trocar.study.stages import RESULTS, Store

PROMISE = "refused by `study run` with what to delete; then made again, the same"


@pytest.fixture
def store(undisturbed: Store, tmp_path: Path) -> Store:
    """A copy to damage."""
    return Store(Path(shutil.copytree(undisturbed.root, tmp_path / "store")))


def first(store: Store, kind: str) -> str:
    return next(name for name in names(store) if name.startswith(kind))


def run(study: Path, store: Store) -> int:
    return main(["study", "run", str(study), f"store={store.root}", "--uri", "none"])


@pytest.mark.parametrize(("kind", "again"), [("pretrain", False), ("evaluate", True), ("report", False)])
@pytest.mark.parametrize("what", ["done.json", "its result"])
def test_a_finished_stage_cut_short_is_never_used(
    inject: Injector,
    study: Path,
    undisturbed: Store,
    store: Store,
    tmp_path: Path,
    kind: str,
    again: bool,
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`again`: it is made anew; the others would be in the same way, and cost time."""
    name = first(store, kind)
    path = store.folder(name) / "done.json" if what == "done.json" else store.out(name) / RESULTS[kind]  # type: ignore[index]
    length = random.Random(f"{kind} {what}").randrange(path.stat().st_size - 2)
    with inject("cut short", f"study, {what}", PROMISE, at=f"{kind}, {length} bytes") as injection:
        whole = path.read_bytes()
        path.write_bytes(whole[:length])
        assert run(study, store) == 1
        said = capsys.readouterr().err
        assert str(path) in said
        assert "delete" in said
        assert "run the study again" in said
        if again:
            path.unlink() if what == "done.json" else shutil.rmtree(store.folder(name))
            assert run_study(study, store.root, tmp_path / "said.txt") == 0
        else:
            path.write_bytes(whole)
            assert run(study, store) == 0
        injection.compare(results(undisturbed, names(undisturbed)), results(store, names(store)))


@pytest.mark.parametrize("kind", ["pretrain", "evaluate"])
def test_a_result_with_other_content_of_the_same_size_is_never_used(
    inject: Injector,
    study: Path,
    undisturbed: Store,
    store: Store,
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    parent = first(store, kind)
    child = next(name for name in names(store) if (done := store.done(name)) is not None and parent in done.parents)
    promise = "refused by the stages and reports that would be made of it; with the file back all is the same"
    path, rng = store.out(parent) / RESULTS[kind], random.Random(kind)  # type: ignore[index]
    with inject("flipped bit", "study, its result", promise, at=kind) as injection:
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        (store.folder(child) / "done.json").unlink()
        assert run_study(study, store.root, tmp_path / "said.txt") == 1
        assert f"{path} is not the file that the stage wrote; delete" in (tmp_path / "said.txt").read_text()
        if kind == "evaluate":
            assert main(["study", "report", str(study), f"store={store.root}", "--out", str(tmp_path / "out")]) == 1
            assert f"{path} is not the file" in capsys.readouterr().err
        path.write_bytes(whole)
        assert run_study(study, store.root, tmp_path / "said.txt") == 0
        injection.compare(results(undisturbed, names(undisturbed)), results(store, names(store)))


def test_a_lock_cut_short_is_refused(
    inject: Injector, study: Path, undisturbed: Store, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.study("small") / "study.lock"
    whole = path.read_bytes()
    with inject("cut short", "study.lock", "refused with what to do; planned anew it is the same") as injection:
        path.write_bytes(whole[: len(whole) // 3])
        assert run(study, store) in (1, 2)
        assert str(path) in capsys.readouterr().err
        path.unlink()
        assert run(study, store) == 0
        injection.compare(results(undisturbed, names(undisturbed)), results(store, names(store)))
