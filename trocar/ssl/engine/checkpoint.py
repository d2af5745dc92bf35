"""Checkpoints: folders that are complete and hashed, or not there.

    checkpoints/step-00000100/
        state.pt        everything a step changes (torch.load with weights_only=True)
        backbone/       config.json, model.safetensors: timm's local-dir layout
        best/           the same of the best look of a probe, where one chooses
        manifest.json   step, recipe, environment, sha256 of each file and of itself

A folder is written under a temporary name, files and folders are fsynced, then it is renamed once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from trocar.backbones.identify import same_value
from trocar.core.files import HashedFile, fsync_folder, fsync_tree, sha256_of
from trocar.core.messages import Say
from trocar.errors import ConfigError, TrocarError

FOLDER = "checkpoints"
BEST = "best"
"""The folder of a checkpoint with the weights that a probe chose so far."""
_NAME = re.compile(r"step-(\d{8})")

State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: `state` as saved, `manifest` as written."""

    step: int
    path: Path
    state: State
    manifest: dict[str, Any]


def save(
    run: Path,
    step: int,
    state: State,
    write_backbone: Callable[[Path], Mapping[str, str]],
    about: Mapping[str, Any],
    confirm: Callable[[], None] = lambda: None,
    go_on: Callable[[], None] = lambda: None,
    write_best: Callable[[Path], Mapping[str, str]] | None = None,
) -> Path:
    """Publish `checkpoints/step-N`. `about` goes into the manifest.

    `write_backbone(folder)` makes and fills `backbone/`; it returns {name: sha256} of what it wrote. `write_best` does
    so for `best/`. `confirm` raises
    when this process may publish no more; it is asked when all is written. `go_on` is called while the state is
    written, and what it raises ends that. Raises TrocarError when it can't be written (a full disk); nothing
    half-written stays behind.
    """
    folder = run / FOLDER
    # A name that no other process has: one that slept through its lease must not meddle with its successor's files.
    final, temporary = folder / _name(step), folder / f".{_name(step)}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        temporary.mkdir(parents=True)
        hashes = {"state.pt": _write_state(temporary / "state.pt", state, go_on)}
        hashes |= {f"backbone/{name}": digest for name, digest in write_backbone(temporary / "backbone").items()}
        if write_best is not None:
            hashes |= {f"{BEST}/{name}": digest for name, digest in write_best(temporary / BEST).items()}
        manifest = _sealed({"step": step, "files": hashes, **about})
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")
        fsync_tree(temporary)
        confirm()
        if final.exists():  # left by an attempt whose later checkpoint turned out broken
            shutil.rmtree(final)
        temporary.rename(final)
        fsync_folder(folder)
    except (OSError, RuntimeError) as error:
        why = _why(error, run)
        last = max(steps(run), default=None)
        kept = (
            f"the newest complete checkpoint is step {last}" if last is not None else "there is no earlier checkpoint"
        )
        raise TrocarError(
            f"cannot write a checkpoint to {folder}: {why}; {kept}. Free some space and run again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _write_state(path: Path, state: State, go_on: Callable[[], None]) -> str:
    """Returns the sha256."""
    with path.open("wb") as raw:  # torch's own file keeps to itself why a write failed
        file = HashedFile(raw, go_on)
        torch.save(state, cast(IO[bytes], file))
    return file.sha256()


def _why(error: Exception, run: Path) -> str:
    """What went wrong, in the system's words where they are known: torch raises an error of its own on top of them."""
    system = error if isinstance(error, OSError) else error.__context__
    if isinstance(system, OSError):
        return system.strerror or str(system)
    return f"{str(error).splitlines()[0]} ({shutil.disk_usage(run).free >> 20} MiB free there)"


def load_latest(run: Path, warn: Say) -> Checkpoint | None:
    """The newest checkpoint whose files match their hashes, or None. What kills left half-written is removed.

    A damaged one is set aside as `damaged-step-N`, and `warn` says so. Only for the writer of the run.
    Raises TrocarError when there are checkpoints and none is whole.
    """
    for left in (run / FOLDER).glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    found = sorted(steps(run), reverse=True)
    for step in found:
        path = run / FOLDER / _name(step)
        problem = verify(path)
        if problem is None:
            return load(path)
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        warn(
            f"checkpoint {path.name} is damaged ({problem}), set aside as {aside.name}; falling back to the one before"
        )
    if found:
        raise TrocarError(
            f"{run}: none of its {len(found)} checkpoints is whole; restore one, or start again in another run.out"
        )
    return None


def load(path: Path) -> Checkpoint:
    """Read one checkpoint folder without checking hashes again."""
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(int(manifest["step"]), path, state, manifest)


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        expected, step = dict(manifest["files"]), int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    if manifest != _sealed(manifest):
        return "its manifest does not match its own sha256"
    if path.name != _name(step):
        return f"its manifest says step {step}"
    for name, digest in expected.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_of(file) != digest:
            return f"{name} does not match its sha256"
    return None


def steps(run: Path) -> list[int]:
    """Steps of all checkpoint folders, ascending."""
    found = (run / FOLDER).glob("step-*") if (run / FOLDER).is_dir() else iter(())
    return sorted(int(m[1]) for p in found if (m := _NAME.fullmatch(p.name)))


def prune(run: Path, keep_last: int, milestone_every: int | None) -> None:
    """Delete all but the last `keep_last` and the milestones (multiples of `milestone_every`)."""
    for step in steps(run)[:-keep_last]:
        if not (milestone_every and step % milestone_every == 0):
            # A kill halfway through leaves a folder without manifest otherwise: rename first, then delete.
            doomed = run / FOLDER / f".{_name(step)}.tmp"
            (run / FOLDER / _name(step)).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def check_same(saved: Mapping[str, Any], current: Mapping[str, Any], allow: tuple[str, ...], run: Path) -> list[str]:
    """Refuse to resume when data or recipe differ, naming the fields; `allow` lists fields that may.

    Returns the allowed differences, as lines to log. Raises ConfigError.
    """
    old, new = _flatten(saved), _flatten(current)
    differing = [k for k in sorted(old.keys() | new.keys()) if not same_value(old.get(k), new.get(k))]
    lines = {k: f"{k}: {old.get(k)!r} in the checkpoint, {new.get(k)!r} now" for k in differing}
    refused = [k for k in differing if not any(k == a or k.startswith(f"{a}.") for a in allow)]
    if refused:
        listed = "\n".join(f"  {lines[k]}" for k in refused)
        raise ConfigError(
            f"{run} was started with other data or another recipe:\n{listed}\nUse the old values, another run.out, or "
            f"resume.allow=[{', '.join(refused)}] if the change is meant"
        )
    return list(lines.values())


def path_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` steps."""
    return run / FOLDER / _name(step)


def _sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the sha256 of all else in it."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping):
        return {k: v for key, value in tree.items() for k, v in _flatten(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): list(tree) if isinstance(tree, tuple) else tree}
