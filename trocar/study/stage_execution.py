"""One stage, run in this process: the command, its log, its attempts, and done.json when all of it is there.

The process that works holds the stage's lease, so it makes no difference who started it: a runner that was killed
meanwhile leaves a stage that ends well, and the next runner waits for it.

What a stage ran on, for its record: the device, and the state of the code.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import trocar
from trocar import __version__
from trocar.core.files import sha256_of, write_atomic, write_json_atomic
from trocar.core.plugins import changed_plugins
from trocar.core.resources import host_name
from trocar.errors import StoppedError, TrocarError
from trocar.runs.lease import Lease, LeaseHeld
from trocar.runs.run_folder import Run
from trocar.study.stages import (
    DONE,
    FAILED,
    LOG,
    RESULTS,
    FailedAttempt,
    FinishedStage,
    Keep,
    Stage,
    Store,
    attempts,
    check_content,
    note,
    read_spec,
)


def device_of(stage: Stage) -> str:
    """`cpu`, or the name of the GPU that the stage's command worked on. To be asked in the process that ran it."""
    settings: Any = stage.config.get("run") if stage.kind == "pretrain" else stage.config
    wanted = str((settings or {}).get("device", "auto"))
    # Who has not loaded torch has used no GPU, and shall not wait for it.
    torch: Any = sys.modules.get("torch")
    if stage.kind == "report" or wanted == "cpu" or torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())


def git_state(folder: Path | None = None) -> str | None:
    """The commit that the code in `folder` (None: of Trocar) is at, with `, changed` if tracked files differ from it;
    None outside a git checkout or without git.
    """
    folder = folder or Path(trocar.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    # A package that was installed inside some other project's checkout is no part of it.
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + (", changed" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git says, None if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


HELD = 75
"""Exit code where another process works on the stage: sysexits' EX_TEMPFAIL, try again later."""

Command = Callable[[Sequence[str]], int]


def run_stage(folder: Path, command: Command) -> int:
    """Run the stage in `folder` unless it is done; returns an exit code: 0 for done, HELD while another one runs it.

    `command` is given the words of a trocar command line. What it prints goes to the stage's log. Raises what the
    command raises to stop (StoppedError, KeyboardInterrupt).
    """
    folder = folder.absolute()
    store = Store(folder.parents[1])
    spec = read_spec(folder)
    stage = spec.stage
    words = prepare(stage, store)
    if int(os.environ.get("RANK") or 0):
        # Another rank of one training: the first keeps the books.
        return 0 if store.is_done(stage.name) else command(words)
    try:
        lease = Lease.acquire(folder)
    except LeaseHeld:
        return HELD
    with lease:
        if store.is_done(stage.name):
            return 0
        code = _attempt(folder, lambda: _run(stage, store, command, words, spec.keep))
        if code == 0:
            done = _record(stage, store)
            lease.check()
            write_json_atomic(folder / DONE, done.model_dump(mode="json"))
        return code


def _run(stage: Stage, store: Store, command: Command, words: Sequence[str], keep: Keep) -> int:
    for parent in stage.parents:
        check_content(store, parent)
    _check_plugins(stage)
    return command(words) or finish(stage, store, keep)


def _check_plugins(stage: Stage) -> None:
    """Raises TrocarError if the stage is named after another state of a plugin than would run here."""
    if changes := changed_plugins(stage.inputs.get("plugins", {})):
        listed = "; ".join(changes)
        raise TrocarError(
            f"{stage.name} was planned with other code: {listed}; `trocar study plan --update` plans it anew"
        )


def prepare(stage: Stage, store: Store) -> list[str]:
    """Write config.yaml with everything in its place; returns the command's words."""
    folder, out = store.folder(stage.name), store.out(stage.name)
    tree, file = dict(stage.config), folder / "config.yaml"
    words = [stage.kind, str(file)]
    if stage.kind == "pretrain":
        tree["run"] = tree["run"] | {"out": str(out)}
    elif stage.kind == "evaluate":
        tree |= {"out": str(out), "cache": str(store.cache)}
        if stage.parent_backbone is not None:
            tree["backbone"] = [f"{stage.parent_backbone}={store.out(stage.parent_backbone)}"]
    else:
        tree["store"] = str(store.root.absolute())
        words = ["study", "report", str(file), "--out", str(out)]
    write_atomic(file, yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    return words


def finish(stage: Stage, store: Store, keep: Keep) -> int:
    """Check that the result is there, delete what is not kept; returns 0. Raises TrocarError."""
    out = store.out(stage.name)
    if not (out / RESULTS[stage.kind]).is_file():
        raise TrocarError(f"{stage.name} ended without {out / RESULTS[stage.kind]}")
    if stage.kind == "pretrain":
        _check_data(stage, out)
        if keep == "backbone":
            _drop_checkpoints(stage, out)
    if stage.kind == "evaluate":
        record_scores(out, stage.config)
    return 0


def record_scores(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder of an evaluation a run folder: its settings, and the mean of every metric as step 0."""
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    rows = results["rows"]
    values = {
        (f"{row['task']}_" if len(rows) > 1 else "") + name.replace("@", "_"): metric["mean"]
        for row in rows
        for name, metric in row["metrics"].items()
        if metric["mean"] is not None
    }
    with Run.open(out, config) as run:
        run.log(0, values)


def _check_data(stage: Stage, out: Path) -> None:
    """Raises TrocarError if the pretraining found other data than the stage is named after."""
    trained_on = json.loads((out / "finished.json").read_text(encoding="utf-8"))["identity"]["data"]
    if trained_on != stage.inputs["selection"]:
        raise TrocarError(
            f"{stage.name} was planned on other data than it was trained on ({trained_on}): the catalog or the labels "
            "have changed since; `trocar study plan --update` plans it anew"
        )


def _drop_checkpoints(stage: Stage, out: Path) -> None:
    from trocar.ssl.engine import checkpoint

    every = stage.config["run"].get("milestone_every")
    for step in checkpoint.steps(out):
        if not (every and step % int(every) == 0):
            shutil.rmtree(checkpoint.path_of(out, step))


def _attempt(folder: Path, command: Callable[[], int]) -> int:
    """One attempt with its log and its failure on record."""
    identity = uuid.uuid4().hex
    (folder / FAILED).unlink(missing_ok=True)
    note(folder, event="start", attempt=identity, host=host_name(), pid=os.getpid())
    code = 1
    try:
        with _logged(folder / LOG):
            code = _call(command, folder / LOG)
        return code
    except StoppedError as stop:
        code = stop.code
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    finally:
        note(folder, event="end", attempt=identity, code=code)
        if 0 < code < 128:  # beyond: stopped by a signal, which is no failure
            failed = FailedAttempt(attempt=identity, code=code, host=host_name())
            write_json_atomic(folder / FAILED, failed.model_dump(mode="json"))


def _call(command: Callable[[], int], log: Path) -> int:
    """The command's exit code; an error that nobody expected goes to the log, whole."""
    try:
        return command()
    except TrocarError as error:
        words, code = f"{error}\n", error.exit_code
    except Exception:
        words, code = traceback.format_exc(), 1
    sys.stderr.flush()
    with log.open("a", encoding="utf-8") as file:
        file.write(words)
    return code


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Standard output and error go to `path`, those of child processes too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        for number in (1, 2):
            os.dup2(log, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(log)


def _record(stage: Stage, store: Store) -> FinishedStage:
    folder, out = store.folder(stage.name), store.out(stage.name)
    events = attempts(folder)
    result = RESULTS[stage.kind]
    return FinishedStage.of(
        stage,
        seconds=round(_seconds(events), 3),
        attempts=sum(event["event"] == "start" for event in events),
        ended=round(time.time(), 3),
        host=host_name(),
        device=device_of(stage),
        git=git_state(),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        versions=_versions(),
        sizes={result: (out / result).stat().st_size},
        outputs={result: sha256_of(out / result)},
    )


def _seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """How long all attempts took; one that was killed without a word counts as nothing."""
    started = {event["attempt"]: event["time"] for event in events if event["event"] == "start"}
    ended = [event for event in events if event["event"] == "end"]
    return float(sum(event["time"] - started[event["attempt"]] for event in ended))


def _versions() -> dict[str, str]:
    found = {"trocar": __version__, "python": platform.python_version()}
    for name in ("torch", "timm", "numpy", "scikit-learn"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
