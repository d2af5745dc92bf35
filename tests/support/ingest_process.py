"""`trocar ingest` as a program of its own: begun, watched, killed at a moment, and what it has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

OPTIONS = ("--fps", "5", "--short-side", "32")

# Python announces what it does to files, so a process can be made to die at exactly the n-th time.
DIES = """
import os, signal, sys
left = int(sys.argv.pop(1))
out = sys.argv[sys.argv.index("--out") + 1]
def hook(event, args):
    global left
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        path = args[0]
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(out):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from trocar.cli.main import main
code = main(sys.argv[1:])
print("file events left:", left)
raise SystemExit(code)
"""


def words(source: Path, out: Path, workers: int = 1) -> list[str]:
    """The command's words."""
    return ["ingest", str(source), "--out", str(out), "--workers", str(workers), *OPTIONS]


def start(source: Path, out: Path, workers: int = 1, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Begin, in a session of its own; `before` is called in the child."""

    def prepare() -> None:
        # A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    command = [sys.executable, "-m", "trocar", *words(source, out, workers)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stderr=pipe, stdout=pipe, text=True, start_new_session=True, preexec_fn=prepare)


def whole(source: Path, out: Path, workers: int = 1) -> None:
    """Run to the end, which must be a good one."""
    process = start(source, out, workers)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def dies_at(source: Path, out: Path, event: int) -> subprocess.CompletedProcess[str]:
    """Run with one worker, killed when it opens for writing, renames, makes or removes a file for the n-th time."""
    command = [sys.executable, "-c", DIES, str(event), *words(source, out)]
    return subprocess.run(command, text=True, capture_output=True, timeout=120, check=False)


def file_events(source: Path, out: Path) -> int:
    """How many such moments a run from the beginning has."""
    done = dies_at(source, out, 1 << 40)
    assert done.returncode == 0, done.stderr
    return (1 << 40) - int(done.stdout.rsplit(maxsplit=1)[-1])


def tree(root: Path) -> dict[str, bytes]:
    """Every file but the lock's."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "ingest.lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until so many videos have been packed, or the process has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "shards").is_dir() and len(list((out / "shards").glob("*.tar"))) >= count:
            return
        time.sleep(0.005)


def decoders(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes, which are children of the server that forks them."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.ppid() != process.pid]


def wait_for_end_of_group(group: int) -> None:
    """Until nobody of a process group is left."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a worker is still there")
