"""A clock that jumps: what is newer is told by steps and attempts, who is alive by a clock that doesn't jump."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from fault_record import Injector
from fault_trainer import finish, fresh_seeds, pretrain, results, wait_for_step, write_config

from trocar.runs.lease import Lease
from trocar.runs.run_folder import read_rows
from trocar.ssl.engine import checkpoint

DAY = 86400.0


def jump(seed: int, start: float) -> None:
    """Each look at the wall clock of this process is up to a day before or after the last, `start` seconds off."""
    draw, real = random.Random(seed), time.time
    offset = itertools.accumulate(iter(lambda: draw.uniform(-DAY, DAY), None), initial=start)
    time.time = lambda: real() + next(offset)
    format_now, in_utc = time.strftime, time.gmtime
    time.strftime = lambda form, *when: format_now(form, *(when or (in_utc(time.time()),)))
    time.gmtime = lambda *seconds: in_utc(*(seconds or (time.time(),)))
    acquire = Lease.acquire.__func__  # type: ignore[attr-defined]
    acquire.__kwdefaults__.update(stand_still_s=30.0, poll_s=0.05, beat_s=0.05)


def test_a_clock_that_jumps_back_and_forth_changes_nothing_but_the_times(
    shards: Path, undisturbed: Path, tmp_path: Path, inject: Injector
) -> None:
    out = tmp_path / "run"
    config = write_config(shards, out)
    seeds = fresh_seeds(2)
    promise = "the lease holds, rows and checkpoints go by steps; ends equal to the bit"
    with inject("clock jumps", "trainer", promise, seed=seeds[0]) as injection:
        run = pretrain(config, fault=partial(jump, seeds[0], 0.0))
        wait_for_step(run, out, 5)
        second = config.with_name("second.yaml")
        second.write_text(config.read_text())
        refused = pretrain(second, fault=partial(jump, seeds[1], -100 * DAY))
        run.send(signal.SIGTERM)
        assert run.end() == 143, run.said()
        # Whether it was refused or came when the holder had just ended, it did what the lease says.
        assert refused.end() in (0, 1), refused.said()
        for age, step in enumerate(reversed(checkpoint.steps(out))):
            os.utime(checkpoint.path_of(out, step), (time.time() + age * DAY,) * 2)
        finish(config, fault=partial(jump, seeds[1], -100 * DAY))
        injection.compare(results(undisturbed), results(out))
    times = [row.time for row in read_rows(out)]
    assert times != sorted(times), "the clock did not jump"
