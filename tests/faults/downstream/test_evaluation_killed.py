"""An evaluation that trains is killed, interrupted or out of space: the same command ends in the same bytes."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from downstream_factory import make_folder
from fault_record import Injector
from fault_trainer import Started, fresh_seeds, start
from mask_factory import make_mask_folder

from trocar.downstream.evaluation.result_cache import FOLDER, NETWORK

FILES = ("predictions.parquet", "results.json", "results.md", "metrics.json")
TUNED = {"name": "finetune", "epochs": 3, "batch": 8, "augment": None}
HEAD = {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 8}, "epochs": 2}
HEAD["finetune"] = {name: value for name, value in TUNED.items() if name != "name"}
MASKS = {"name": "segmentation", "epochs": 2, "batch": 4, "decoder": "linear"}
# By name: the task, whose frames are in the folder of that name, and its protocols.
WORK = {"phase": ("phase", [TUNED]), "two stages": ("phase", [TUNED, HEAD]), "segmentation": ("segmentation", [MASKS])}
PROMISE = "the same command ends in the bytes of an undisturbed one; no finished fold is trained again"
KILLS = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled frames in phase/ and segmentation/, and an evaluation of each that nothing disturbed."""
    root = tmp_path_factory.mktemp("evaluations")
    make_folder(root / "phase")
    make_mask_folder(root / "segmentation")
    for work in WORK:
        run = evaluate(root, work, f"whole-{work}")
        assert run.end() == 0, run.said()
    return root


def one_thread() -> None:
    """The order of sums is then the same in every process."""
    torch.set_num_threads(1)


def evaluate(root: Path, work: str, out: str, **options: int) -> Started:
    """`trocar evaluate` of two networks with 2 folds, in a new process."""
    task, protocols = WORK[work]
    config = {
        "backbone": ["random:test_resnet"],
        "data": str(root / task),
        "task": [task],
        "protocol": protocols,
        "baselines": [],
        "seeds": 2,
        "size": 32,
        "folds": 2,
        "bootstrap": 20,
        "figures": False,
        "cache": str(root / f"cache-{task}"),
        "out": str(root / out),
    }
    (root / f"{out}.yaml").write_text(yaml.safe_dump(config))
    return start(["evaluate", str(root / f"{out}.yaml")], root / f"{out}.log", fault=one_thread, **options)


def kept(root: Path, out: str) -> dict[str, int]:
    """When each finished fold was written."""
    files = [path for path in (root / out / FOLDER).glob("*.npz") if not path.name.endswith(NETWORK)]
    return {path.name: path.stat().st_mtime_ns for path in files}


def results(root: Path, out: str) -> dict[str, bytes]:
    folder = root / out
    masks = sorted((folder / "masks").rglob("*.png"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in (*(folder / name for name in FILES), *masks)}


def wait_for_folds(run: Started, root: Path, out: str, count: int) -> None:
    """Until so many are done, and the command has begun: before that a signal meets nothing of ours."""
    until = time.monotonic() + 120
    while len(kept(root, out)) < count or "frames of" not in run.said():
        assert run.process.is_alive(), f"it ended before the fault:\n{run.said()}"
        assert time.monotonic() < until, run.said()
        time.sleep(0.005)


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_at_random_moments_it_ends_like_one_that_was_not(
    root: Path, inject: Injector, work: str, number: signal.Signals
) -> None:
    for seed in fresh_seeds(KILLS):
        draw, out = random.Random(seed), f"{work}-{number.name}-{seed}"
        folds, seconds = draw.randrange(0, 3), draw.uniform(0, 0.2)
        at = f"{folds} folds and {seconds:.2f} s"
        with inject(number.name, "evaluation", PROMISE, seed=seed, at=at) as injection:
            run = evaluate(root, work, out)
            wait_for_folds(run, root, out, folds)
            time.sleep(seconds)
            run.send(number)
            assert run.end() in (-number, 128 + number), run.said()
            assert not (root / out / "results.json").exists()
            if number == signal.SIGINT:
                assert "the same command continues where it stopped" in run.said()
            before = kept(root, out)
            again = evaluate(root, work, out)
            assert again.end() == 0, again.said()
            assert before.items() <= kept(root, out).items()
            assert not list((root / out / FOLDER).glob(f"*{NETWORK}"))
            injection.compare(results(root, f"whole-{work}"), results(root, out))


def test_a_full_disk_names_the_file_and_loses_no_fold(root: Path, inject: Injector) -> None:
    promise = "names the file; with space again the same command ends in the bytes of an undisturbed one"
    largest = max(path.stat().st_size for path in (root / "whole-phase" / FOLDER).glob("*.npz"))
    for limit in (largest - 200, largest + 200):  # the first result of a fold doesn't fit, or the table of all
        out = f"full-{limit}"
        with inject("full (file limit)", "evaluation", promise, at=f"{limit} bytes") as injection:
            run = evaluate(root, "phase", out, file_limit=limit)
            assert run.end() == 1, run.said()
            assert "File too large" in run.said()
            assert str(root / out) in run.said()
            assert "Traceback" not in run.said()
            before = kept(root, out)
            assert len(before) == (4 if limit > largest else 0)
            again = evaluate(root, "phase", out)
            assert again.end() == 0, again.said()
            assert before.items() <= kept(root, out).items()
            injection.compare(results(root, "whole-phase"), results(root, out))
