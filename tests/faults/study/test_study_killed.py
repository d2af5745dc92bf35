"""A study killed at any moment, in any of its processes, ends as one that was not, and does nothing twice."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from fault_record import Injector
from study_factory import results, starts
from study_process import files_in, names, run_study, start_study, wait_until

from trocar.study.stages import Store

SAME = "the same command ends in the results of an undisturbed run; no finished stage runs again"
KINDS = (
    ("SIGKILL", "study runner"),
    ("SIGTERM", "study runner"),
    ("SIGKILL", "study runner and its stages"),
    ("SIGKILL", "study stage"),
)


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments_it_ends_like_one_that_was_not(
    inject: Injector, study: Path, undisturbed: Store, tmp_path: Path, seed: int
) -> None:
    rng, store, finished = random.Random(seed), Store(tmp_path / "store"), {}
    moments = sorted(rng.sample(range(files_in(undisturbed.root) * 8 // 10), 4))
    with ExitStack() as stack:
        injections = []
        for (fault, into), moment in zip(rng.sample(KINDS, 4), moments, strict=True):
            at = f"{moment} files"
            injections.append(stack.enter_context(inject(fault, into, SAME, seed=seed, at=at)))
            strike(study, store, tmp_path / "said.txt", fault, into, moment, rng)
            for name in names(store):
                if store.is_done(name):
                    finished.setdefault(name, starts(store, name))
        assert run_study(study, store.root, tmp_path / "said.txt") == 0, (tmp_path / "said.txt").read_text()
        assert finished
        for injection in injections:
            injection.compare(results(undisturbed, names(undisturbed)), results(store, names(store)))
            injection.compare(finished, {name: starts(store, name) for name in finished})


def strike(study: Path, store: Store, said: Path, fault: str, into: str, moment: int, rng: random.Random) -> None:
    """Run the study until its stages have `moment` files and a little longer, then kill what is to be killed."""
    runner = start_study(study, store.root, said)
    wait_until(lambda: (workers(store) and files_in(store.root) >= moment) or not runner.is_alive())
    time.sleep(rng.uniform(0, 0.3))
    assert runner.is_alive(), "it had ended before"
    if into != "study stage":
        os.kill(runner.pid or 0, getattr(signal, fault))
        runner.join(300)
        # Asked before it could answer, while it plans, it ends by the signal itself.
        assert runner.exitcode in (
            (-signal.SIGKILL,) if fault == "SIGKILL" else (128 + signal.SIGTERM, -signal.SIGTERM)
        )
    if into == "study stage":
        wait_until(lambda: kill_workers(store))
    elif into != "study runner":
        kill_workers(store)
    # What a runner left behind ends well by itself, and one whose stage was killed does what it still can.
    runner.join(300)
    assert runner.exitcode != 128 + signal.SIGTERM or not workers(store)


def kill_workers(store: Store) -> int:
    """Kill the stages that are running; returns how many there were."""
    pids = workers(store)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def workers(store: Store) -> list[int]:
    return [worker.pid for name in names(store) if (worker := store.worker(name)) is not None]
