"""Contenders in fresh processes, so that none inherits another's threads, caches or memory; and what commands cost.

    python -m trocar.diagnostics.bench.timed MODULE:FUNCTION IN.json OUT.json
    python -m trocar.diagnostics.bench.timed decode WORKERS THREADS VIDEO [VIDEO ...]
    python -m trocar.diagnostics.bench.timed < '{"commands": [["ffmpeg", ...], ...], "workers": 2}'

The last runs commands side by side and says what they cost, with all their descendants. It is a process of its own, for
only a parent learns the processor time of its children: it makes itself the one that orphaned grandchildren fall to
(Linux), so a pool's helper processes count as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trocar.errors import TrocarError

_PROGRAM = (sys.executable, "-m", "trocar.diagnostics.bench.timed")
_PR_SET_CHILD_SUBREAPER = 36


def fresh(
    function: str,
    arguments: dict[str, Any],
    threads: int,
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Call `module:function(**arguments)` in a new interpreter; arguments and result travel as JSON.

    `threads` is what OpenMP and the BLAS may use there. `python` names another environment's interpreter: then
    `function` is the path of a script that takes (input file, output file). `environment` replaces this process's.
    Raises TrocarError with the end of its output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "in.json", Path(folder) / "out.json"
        given.write_text(json.dumps(arguments), encoding="utf-8")
        start = [python, function] if python else [*_PROGRAM, function]
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run(
            [*start, str(given), str(found)],
            env={**(os.environ if environment is None else environment), **limits, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not found.exists():
            last = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
            raise TrocarError(f"{function} failed with exit code {done.returncode}:\n{last}")
        result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return result


def _call(name: str, given: str, found: str) -> None:
    """What `fresh` starts."""
    module, function = name.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(Path(given).read_text(encoding="utf-8")))
    Path(found).write_text(json.dumps(result), encoding="utf-8")


def bare_decode(workers: int, threads: int, paths: Sequence[str]) -> list[str]:
    """The command that decodes every frame of some videos and does nothing with it: what ingest cannot be faster than
    by decoding all.
    """
    return [*_PROGRAM, "decode", str(workers), str(threads), *paths]


def _decode(workers: int, threads: int, paths: Sequence[str]) -> None:
    # Decoding lets go of the interpreter's lock, so threads are as good as processes here.
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda path: _decode_one(path, threads), paths))


def _decode_one(path: str, threads: int) -> None:
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO" if threads > 1 else "NONE"
        stream.codec_context.thread_count = threads
        for _ in container.decode(stream):
            pass


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
        _PROGRAM,
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise TrocarError("\n".join(child.stderr.strip().splitlines()[-5:]) or "a command of the bench failed")
    return CommandCost(**json.loads(child.stdout))


def _measure() -> int:
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


def main(arguments: Sequence[str]) -> int:
    """One of the three programs above."""
    if not arguments:
        return _measure()
    if arguments[0] == "decode":
        workers, threads, *paths = arguments[1:]
        _decode(int(workers), int(threads), paths)
    else:
        _call(*arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
