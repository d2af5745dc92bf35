"""Generate a whole phantom: cases in parallel, restartable, the corpus tables last."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trocar.errors import ConfigError, TrocarError
from trocar.phantom.labels import CVS_COLUMNS, PLANTED_COLUMNS, VIDEO_COLUMNS, class_text, write_table
from trocar.phantom.planted import plan_case
from trocar.phantom.spec import CLASSES, GENERATOR_VERSION, PHASES, TOOLS, PhantomSpec
from trocar.phantom.writer import PARTIAL, marker, write_case

DESCRIPTION = "phantom.json"
Progress = Callable[[int, int], None]
"""Called with (frames written, frames in all) whenever a case is finished."""


def generate(out: Path, spec: PhantomSpec, workers: int = 1, progress: Progress | None = None) -> None:
    """Write the phantom `spec` describes to `out`; what is already there is kept.

    The result does not depend on `workers` (processes). A folder that holds the same phantom with fewer cases grows;
    an interrupted one is finished. Raises ConfigError when `out` holds anything else.
    """
    out = Path(out)
    check_folder(out, spec)
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / DESCRIPTION, json.dumps(_describe(spec), indent=2) + "\n")
    sizes = {i: plan_case(spec, i).frames for i in range(spec.cases)}
    todo = missing_cases(out, spec)
    done = sum(size for i, size in sizes.items() if i not in todo)
    for frames in _run(out, spec, todo, workers):
        done += frames
        if progress is not None:
            progress(done, sum(sizes.values()))
    _write_tables(out, spec)
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def missing_cases(out: Path, spec: PhantomSpec) -> list[int]:
    """Indices of the cases that are not finished."""
    return [i for i in range(spec.cases) if not marker(out, i).is_file()]


def is_complete(out: Path, spec: PhantomSpec) -> bool:
    """Whether `out` holds exactly this phantom, finished."""
    if _read_description(out) != _describe(spec) or missing_cases(out, spec):
        return False
    return all((out / name).is_file() for name in ("videos.csv", "all_metadata.csv", "planted.csv"))


def check_folder(out: Path, spec: PhantomSpec) -> None:
    """Raise ConfigError unless `out` is new, empty, or the same phantom with at most as many cases."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    found = _read_description(out)
    if found is None:
        raise ConfigError(f"{out} is not empty and holds no phantom: give a new folder")
    wanted = _describe(spec)
    differing = [key for key in wanted if key != "parameters" and found.get(key) != wanted[key]]
    old, new = found.get("parameters", {}), wanted["parameters"]
    differing += [f"{k} ({old.get(k)} there, {new[k]} asked)" for k in new if k != "cases" and old.get(k) != new[k]]
    if differing:
        raise ConfigError(f"{out} holds another phantom; differing: {', '.join(differing)}. Give a new folder")
    if old.get("cases", 0) > spec.cases:
        raise ConfigError(f"{out} already holds {old['cases']} cases, {spec.cases} asked: give a new folder")


def _describe(spec: PhantomSpec) -> dict[str, Any]:
    return {
        "generator_version": GENERATOR_VERSION,
        "parameters": spec.model_dump(mode="json"),
        "phases": list(PHASES),
        "tools": list(TOOLS),
        "classes": list(CLASSES),
    }


def _read_description(out: Path) -> dict[str, Any] | None:
    path = out / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ConfigError(f"{path} cannot be read: delete the folder or give a new one") from None
    return found if isinstance(found, dict) else None


def _run(out: Path, spec: PhantomSpec, todo: Sequence[int], workers: int) -> Iterator[int]:
    if workers < 1:
        raise ConfigError(f"workers = {workers}: at least 1")
    if workers == 1 or len(todo) < 2:
        for index in todo:
            yield write_case(out, spec, index)
        return
    context = multiprocessing.get_context("spawn")
    with _one_thread_each(), ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
        futures = {pool.submit(write_case, out, spec, index): index for index in todo}
        try:
            for future in as_completed(futures):
                yield _result(future.result, futures[future])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(result: Callable[[], int], index: int) -> int:
    try:
        return result()
    except TrocarError:
        raise
    except Exception as error:
        raise TrocarError(f"case {index + 1} failed: {type(error).__name__}: {error}") from error


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # Worker processes inherit the environment: several of them with a thread pool each slow one another down.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _write_tables(out: Path, spec: PhantomSpec) -> None:
    rows: dict[str, list[dict[str, Any]]] = {"videos": [], "cvs": [], "planted": []}
    for index in range(spec.cases):
        found = json.loads(marker(out, index).read_text())
        for table in rows:
            rows[table] += found[table]
    _write_text(out / "seg_label_map.txt", class_text())
    write_table(out / "all_metadata.csv", CVS_COLUMNS, rows["cvs"])
    write_table(out / "planted.csv", PLANTED_COLUMNS, rows["planted"])
    write_table(out / "videos.csv", VIDEO_COLUMNS, rows["videos"])


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
