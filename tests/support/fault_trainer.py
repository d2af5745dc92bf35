"""Pretraining runs for the fault suite: each a process of its own, and what it ends in by name.

A process that imports torch needs five seconds of a core. These are forked from one that has done so already (the
server of multiprocessing's `forkserver`), and run `trocar.cli.main.main` as the command does.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from run_factory import TIMING, small_run

from trocar.cli.main import main
from trocar.runs.run_folder import attempts, read_metrics
from trocar.ssl.engine import checkpoint
from trocar.ssl.ranks import rendezvous

STEPS = 24
HANGS_S = 240.0
Fault = Callable[[], object]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["trocar.cli.main", "trocar.ssl.run.pretrain", "trocar.ssl.run.run_description", "trocar.slurm.requeue", "psutil"]
)


def fresh_seeds(count: int) -> list[int]:
    """New ones each time, or those that follow from TROCAR_FAULT_SEED: the printed seed of a failure, for example."""
    given = os.environ.get("TROCAR_FAULT_SEED")
    first = int(given) if given else random.SystemRandom().randrange(2**31 - count)
    return list(range(first, first + count))


def write_config(shards: Path, out: Path, **sections: dict[str, Any]) -> Path:
    """A DINO run with noise inside the model, a checkpoint every two steps, each step logged; the file's path."""
    views = {
        "global": {"count": 2, "size": 32, "scale": [0.4, 1.0], "blur": [1.0, 0.1], "solarize": [0.0, 0.2]},
        "local": {"count": 2, "size": 32, "scale": [0.05, 0.4]},
    }
    head = {"prototypes": 32, "hidden": 32, "bottleneck": 16}
    own: dict[str, dict[str, Any]] = {
        "backbone": {"name": "test_convnext", "drop_path": 0.2},
        "method": {"name": "dino", "views": views, "head": head, "freeze_last_layer": "3 steps"},
        "optim": {"lr": 0.02, "warmup": "2 steps"},
        "train": {"batch": 4, "steps": STEPS},
        "run": {"workers": 1, "checkpoint_every": 2},
    }
    names = own.keys() | sections.keys()
    tree = small_run(shards, out, **{name: {**own.get(name, {}), **sections.get(name, {})} for name in names})
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree))
    return path


def next_run(root: Path, shards: Path, **sections: dict[str, Any]) -> Path:
    """The configuration of a run below `root` for the next fault: the last one's, or a new one when it has come far.

    Two thirds of the steps are before it, so that it doesn't end before the fault on a fast machine.
    """
    runs = sorted(root.glob("*/run"))
    if runs and max(checkpoint.steps(runs[-1]), default=0) <= STEPS // 3:
        return runs[-1].with_suffix(".yaml")
    return write_config(shards, root / f"{len(runs):02d}" / "run", **sections)


@dataclass
class Started:
    """A command that runs, in a session of its own; `log` gets what it prints."""

    process: Any
    log: Path

    @property
    def pid(self) -> int:
        """Its process number."""
        assert self.process.pid is not None
        return int(self.process.pid)

    def send(self, number: int) -> None:
        """A signal to this process alone, which has to be there to get it."""
        assert self.process.is_alive(), f"it ended before the fault:\n{self.said()}"
        os.kill(self.pid, number)

    def kill_all(self) -> None:
        """A machine that goes away: SIGKILL for all of the session at once."""
        assert self.process.is_alive(), f"it ended before the fault:\n{self.said()}"
        with suppress(ProcessLookupError):  # it is so young that it has no session
            os.killpg(self.pid, signal.SIGKILL)
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        """Waits for its end; the exit code, or minus the signal that ended it. One that hangs is an error."""
        self.process.join(HANGS_S)
        if self.process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs:\n{self.said()}")
        return int(self.process.exitcode)

    def said(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def start(
    arguments: Sequence[str],
    log: Path,
    fault: Fault | None = None,
    environment: Mapping[str, str] | None = None,
    file_limit: int | None = None,
) -> Started:
    """`trocar ARGUMENTS` in a new process, which calls `fault` before; `file_limit`: bytes that a file can grow to."""
    words = [str(argument) for argument in arguments]
    return fork(partial(_command, words, fault, dict(environment or {}), file_limit), log)


def fork(work: Callable[[], object], log: Path) -> Started:
    """`work` in a new process that has torch."""
    log.unlink(missing_ok=True)
    process = _server.Process(target=_alone, args=(work, str(log)))
    process.start()
    return Started(process, log)


def _alone(work: Callable[[], object], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell puts behind `&` is born without
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    work()


def _command(arguments: list[str], fault: Fault | None, environment: dict[str, str], file_limit: int | None) -> None:
    os.environ.update(environment)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if fault is not None:
        fault()
    sys.exit(main(arguments))


def pretrain(config: Path, *overrides: str, **options: Any) -> Started:
    """`trocar pretrain CONFIG` in a new process."""
    return start(["pretrain", str(config), *overrides], config.with_suffix(".log"), **options)


def finish(config: Path, *overrides: str, **options: Any) -> str:
    """The same command again, to its end; returns what it said."""
    run = pretrain(config, *overrides, **options)
    assert run.end() == 0, run.said()
    return run.said()


def wait_for_step(run: Started, out: Path, step: int, beyond: int = 0) -> None:
    """Until this step is logged, by an attempt later than number `beyond`, or the process has ended."""
    deadline = time.monotonic() + HANGS_S
    while run.process.is_alive() and time.monotonic() < deadline and newest_step(out, beyond) < step:
        time.sleep(0.003)


def newest_step(out: Path, beyond: int = 0) -> int:
    """The last step in the newest attempt's file, -1 before the first; attempts up to `beyond` don't count."""
    newest = max(attempts(out), default=0)
    lines = attempts(out)[newest].read_bytes().split(b"\n")[:-1] if newest > beyond else []
    return int(json.loads(lines[-1])["step"]) if lines else -1


def saved(out: Path, step: int) -> dict[str, str]:
    """Every tensor and number of a checkpoint by its name, as a hash; the backbone's weights too."""
    found = checkpoint.load(checkpoint.path_of(out, step))
    weights = (found.path / "backbone" / "model.safetensors").read_bytes()
    return {**_hashes(found.state, f"step {step}"), f"step {step} backbone": hashlib.sha256(weights).hexdigest()}


def logged(out: Path, stop: int = STEPS) -> dict[str, str]:
    """Each logged row before step `stop`, without how long things took."""
    kept = [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(out) if row["step"] < stop]
    return {f"row {row['step']}": repr(sorted(row.items())) for row in kept}


def results(out: Path, steps: int = STEPS) -> dict[str, str]:
    """What a finished run is: its last state, its backbone, its rows, and that it says so."""
    backbone = hashlib.sha256((out / "backbone" / "model.safetensors").read_bytes()).hexdigest()
    done = json.loads((out / "finished.json").read_text(encoding="utf-8"))["step"]
    return {**saved(out, steps), **logged(out, steps), "backbone": backbone, "finished": str(done)}


def _hashes(value: object, name: str) -> dict[str, str]:
    if isinstance(value, dict):
        return {key: text for k, v in value.items() for key, text in _hashes(v, f"{name} {k}").items()}
    if isinstance(value, (list, tuple)):
        return {key: text for k, v in enumerate(value) for key, text in _hashes(v, f"{name} {k}").items()}
    if isinstance(value, torch.Tensor):
        content = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return {name: f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"}
    return {name: repr(value)}


class ForkedRank:
    """A rank as the launcher starts one (`subprocess.Popen`), but forked from the launcher, which has torch."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], start_new_session: bool) -> None:
        assert start_new_session
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.environ.update(env)
            os._exit(_exit_code(list(command[3:])))  # behind [python, -m, trocar]

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """A signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    except Exception:
        traceback.print_exc()
        return 1


def fork_ranks() -> None:
    """A fault that is none: makes `run.ranks=2` cheap."""
    rendezvous.subprocess = SimpleNamespace(Popen=ForkedRank)  # type: ignore[assignment]
