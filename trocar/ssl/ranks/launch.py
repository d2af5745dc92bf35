"""Several ranks on this machine: the same command, once per rank, with a rendezvous free of port clashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

Send = Callable[[int], object]
Passing = Callable[[Send], AbstractContextManager[None]]
"""Within, signals that this process receives go to the `Send` it was given: the command line installs handlers."""

GRACE_S = 60.0  # for the other ranks to notice that one has died, before they are killed


def launch(
    arguments: Sequence[str],
    ranks: int,
    say: Callable[[str], None],
    passing: Passing = lambda send: nullcontext(),
) -> int:
    """Run `python -m trocar ARGUMENTS` in `ranks` processes and return the first non-zero exit code, else 0.

    Stop signals are passed on by `passing`; whatever else ends the wait, such as Ctrl-C in a notebook, asks the ranks
    to save and stop, and waits for them. When one rank fails the others are ended: they would wait for it for ever.
    """
    with tempfile.TemporaryDirectory(prefix="trocar-rendezvous-") as folder:
        processes = [_start(arguments, rank, ranks, Path(folder) / "store") for rank in range(ranks)]
        with passing(lambda number: _pass_on(processes, number)):
            try:
                return _wait(processes, say)
            except BaseException:
                _pass_on(processes, signal.SIGTERM)
                _wait(processes, lambda line: None)
                raise


def _start(arguments: Sequence[str], rank: int, ranks: int, store: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "TROCAR_RENDEZVOUS": f"file://{store}",
    }
    # A session of its own: Ctrl-C reaches the ranks once, through us.
    return subprocess.Popen([sys.executable, "-m", "trocar", *arguments], env=environment, start_new_session=True)


def _pass_on(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]], say: Callable[[str], None]) -> int:
    failed, since = 0, 0.0
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        first = next((code for code in codes if code), 0)
        if first and not failed:
            failed, since = first, time.monotonic()
            for line in _who_was_killed(codes):
                say(line)
            _pass_on(processes, signal.SIGTERM)
        if failed and time.monotonic() - since > GRACE_S:
            for process in processes:
                process.kill()
        time.sleep(0.1)
    code = failed or next((p.returncode for p in processes if p.returncode), 0)
    return 128 - code if code < 0 else code


def _who_was_killed(codes: Sequence[int | None]) -> list[str]:
    """The rank itself can't say it, and the others only see a connection that broke."""
    return [
        f"trocar: rank {rank} of {len(codes)} was killed by signal {-code} (out of memory?), so the others "
        f"end; the same command continues from the last checkpoint"
        for rank, code in enumerate(codes)
        if code is not None and code < 0
    ]
