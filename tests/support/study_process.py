"""`trocar study run` as a process that can be killed, with its stages as processes of their own.

All are forked from one server that has imported torch, which would cost more than the work itself.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = [
    "study_process",
    "torch",
    "timm",
    "trocar.ssl.run.pretrain",
    "trocar.study.study_plan",
    "trocar.study.stage_executors",
]


class Forked:
    """A stage's process, as the executor sees one."""

    def __init__(self, pid: int) -> None:
        self.pid, self.code = pid, None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int | None:
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def fork_stage(folder: Path, environment: Mapping[str, str]) -> Any:
    """Runs `trocar study stage FOLDER` in a fork of this process, in a session of its own."""
    from trocar.cli.main import main

    log = os.open(folder / "process.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    pid = os.fork()
    if pid:
        os.close(log)
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.environ.update(environment)
        os.dup2(log, 1), os.dup2(log, 2)
        code = main(["study", "stage", str(folder)])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def _run(words: list[str], said: str, limit: int) -> None:
    from trocar.cli.main import main
    from trocar.study import stage_executors

    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    stage_executors.launch_stage = fork_stage
    with open(said, "w") as out:  # noqa: PTH123 - as fast as can be
        os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
    code = main(["study", "run", *words, "--jobs", "2", "--uri", "none"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_study(study: Path, store: Path, said: Path, limit: int = 0) -> BaseProcess:
    """Begin to run `study` in `store`; what it says goes to `said`. `limit`: bytes that any file may have."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_run, args=([str(study), f"store={store}"], str(said), limit))
    process.start()
    return process


def run_study(study: Path, store: Path, said: Path, limit: int = 0) -> int | None:
    """Run it to the end; returns the exit code."""
    process = start_study(study, store, said, limit)
    process.join(300)
    return process.exitcode


def names(store: Any) -> list[str]:
    """The stages that have a folder in a store."""
    folder = store.root / "stages"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def files_in(store: Path) -> int:
    """How many files the stages of a store have: how far it is."""
    return sum(len(files) for _, _, files in os.walk(store / "stages"))


def wait_until(what: Callable[[], Any], timeout_s: float = 300) -> None:
    """Raises AssertionError when it does not come true."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
