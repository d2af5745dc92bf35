"""Run commands side by side and say what they cost, with all their descendants.

    python -m trocar.diagnostics.bench.timed < '{"commands": [["ffmpeg", ...], ...], "workers": 2}'

A process of its own, for only a parent learns the processor time of its children: it makes itself the one that
orphaned grandchildren fall to (Linux), so a pool's helper processes count as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trocar.errors import TrocarError

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class CommandCost:
    """Seconds on the clock from the first start to the last end, and of processor time (user and system)."""

    seconds: float
    cpu_seconds: float


def timed(commands: Sequence[Sequence[str]], workers: int) -> CommandCost:
    """The cost of these commands, at most `workers` at a time, each in a fresh process.

    Raises TrocarError with the last lines of a command that fails.
    """
    request = json.dumps({"commands": [list(command) for command in commands], "workers": workers})
    child = subprocess.run(
        [sys.executable, "-m", "trocar.diagnostics.bench.timed"],
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise TrocarError("\n".join(child.stderr.strip().splitlines()[-5:]) or "a command of the bench failed")
    return CommandCost(**json.loads(child.stdout))


def main() -> int:
    """Read the request from standard input, write the cost to standard output."""
    request = json.load(sys.stdin)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.perf_counter()
    with ThreadPoolExecutor(request["workers"]) as pool:
        results = list(pool.map(_run, request["commands"]))
    seconds = time.perf_counter() - started
    for command, result in zip(request["commands"], results, strict=True):
        if result.returncode:
            sys.stderr.write(f"{' '.join(command)}\n{result.stderr.decode(errors='replace')}")
            return 1
    _reap()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    json.dump({"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime}, sys.stdout)
    return 0


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


if __name__ == "__main__":
    sys.exit(main())
