"""Two runs on one output directory: the second is refused, or takes over from a dead or silent one for good."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from functools import partial
from pathlib import Path

from fault_record import Injector
from fault_trainer import finish, fresh_seeds, pretrain, results, wait_for_step, write_config

from trocar.core.files import sha256_of
from trocar.runs.lease import Lease
from trocar.ssl.engine.trainer import Trainer


def beat_fast(stand_still_s: float = 30.0) -> None:
    """Many beats a second, so that who lives is seen at once; so many seconds of silence are enough to take over."""
    acquire = Lease.acquire.__func__  # type: ignore[attr-defined]
    acquire.__kwdefaults__.update(stand_still_s=stand_still_s, poll_s=0.05, beat_s=0.05)


def slow() -> None:
    """Steps that take a while, so that both are there at the same time, on a busy machine too."""
    beat_fast()
    step = Trainer._step
    Trainer._step = lambda *a: (time.sleep(1.5), step(*a))[1]  # type: ignore[method-assign,assignment]


def files_of(out: Path, *but: str) -> dict[str, str]:
    """The sha256 of every file of a run but for these names and the locks."""
    paths = (path for path in out.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(out)): sha256_of(path) for path in paths if path.name not in but}


def test_a_second_run_is_refused_and_takes_over_when_the_holder_is_killed(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    out = tmp_path / "run"
    config = write_config(shards, out)
    second = config.with_name("second.yaml")
    second.write_text(config.read_text())
    with inject("second run", "output directory", "refused with host, pid and job of the holder") as injection:
        holder = pretrain(config, fault=slow, environment={"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "2"})
        wait_for_step(holder, out, 1)
        refused = pretrain(second, fault=beat_fast)
        assert refused.end() == 1, refused.said()
        for words in (socket.gethostname(), f"process {holder.pid} on", "SLURM job 4711 (restart 2)", "`scancel 4711`"):
            assert words in refused.said()
        assert holder.process.is_alive()
        injection.compare({"attempts": 1}, {"attempts": len(list((out / "metrics").iterdir()))})
    with inject("second run", "output directory", "takes over from a dead holder, equal to the bit") as injection:
        holder.kill_all()
        finish(second)  # with the usual two minutes: it doesn't need them
        injection.compare(results(undisturbed), results(out))


def test_a_writer_that_slept_through_its_lease_publishes_nothing(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    promise = "another run takes over, ends equal to the bit, and the sleeper publishes nothing any more"
    for seed in fresh_seeds(3):
        out = tmp_path / str(seed) / "run"
        config = write_config(shards, out)
        draw = random.Random(seed)
        step, seconds = draw.randrange(1, 8), draw.uniform(0, 0.1)
        at = f"step {step} and {seconds:.2f} s"
        with inject("SIGSTOP beyond the lease", "trainer", promise, seed=seed, at=at) as injection:
            sleeper = pretrain(config, fault=beat_fast)
            wait_for_step(sleeper, out, step)
            time.sleep(seconds)
            sleeper.send(signal.SIGSTOP)
            try:
                second = config.with_name("second.yaml")
                second.write_text(config.read_text())
                finish(second, fault=partial(beat_fast, 0.5))
                before = files_of(out)
            finally:
                os.kill(sleeper.pid, signal.SIGCONT)
            assert sleeper.end() == 1, sleeper.said()
            assert "taken over by another process" in sleeper.said()
            # Its own attempt's rows may have gone on; the newer attempt's count.
            injection.compare({**before, "metrics/0001.jsonl": ""}, {**files_of(out), "metrics/0001.jsonl": ""})
            injection.compare(results(undisturbed), results(out))
