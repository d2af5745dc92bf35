"""Files of a run that has ended, in mlflow: tables, the report page, the model card, figures, predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trocar.core.files import sha256_of
from trocar.privacy.marks import Withheld

ARTIFACTS = (
    *("results.json", "results.md", "results.csv", "predictions.parquet", "figures"),
    *("index.html", "report/index.html", "backbone/README.md"),
)
"""Files and folders of a run folder that mlflow gets, where they are there."""
ABOUT_CASES = (".parquet", ".png", ".html")
"""Files with these endings stay where they are when anything is private: they have rows about frames, or pictures of
them. A page may have been made with --share-frames."""


def log_artifacts(client: Any, run_id: str, folder: Path, hidden: Withheld, known: dict[str, str]) -> None:
    """Log what is new or has changed; `known` (path -> sha256 of the file when it was logged) is brought up to date."""
    for file, name in _files(folder):
        digest = sha256_of(file)
        if known.get(name) == digest or (hidden and file.suffix in ABOUT_CASES):
            continue
        if hidden:
            client.log_text(run_id, without(file, hidden), name)
        else:
            client.log_artifact(run_id, str(file), artifact_path=name.rpartition("/")[0] or None)
        known[name] = digest


def without(file: Path, hidden: Withheld) -> str:
    """The text of a file without names that must not be shown."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return json.dumps(hidden.tree(json.loads(text)), indent=1) + "\n"
    return hidden.text(text)


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file with its name in mlflow, which is its place in the folder."""
    for name in ARTIFACTS:
        path = folder / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from ((file, file.relative_to(folder).as_posix()) for file in found if file.is_file())
