"""What a run is called in mlflow, what it is tagged with, and which run it stands below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trocar.privacy.marks import Withheld, withheld
from trocar.runs.run_folder import read_record, update_record

KEY = "shown_as"
PARTS = "rows"
"""A folder in a run's own, with a run folder for every part that has a line of its own in mlflow's table."""


@dataclass(frozen=True)
class Placement:
    """`name` in mlflow, the mlflow run it stands below, a line about it, and `labels`: tags to filter and group by.

    `hidden`: names that mlflow must not get, besides those that the run itself withholds.
    """

    name: str
    parent: str | None = None
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    hidden: Withheld = field(default_factory=Withheld)

    @classmethod
    def of(cls, folder: Path) -> Placement:
        """As the run folder says (`describe`), else by the folder's name."""
        about: Mapping[str, Any] = read_record(folder).get(KEY, {})
        return cls(str(about.get("name", folder.name)), labels=dict(about.get("labels", {})))

    def below(self, parent: str) -> Placement:
        """The same below another mlflow run."""
        return replace(self, parent=parent)

    def tags(self, hidden: Withheld) -> dict[str, str]:
        """Tags in mlflow's own names, and the labels, without the names in `hidden`."""
        found = {"mlflow.parentRunId": self.parent, "mlflow.note.content": hidden.text(self.note)}
        labels = {key: hidden.text(value) for key, value in self.labels.items()}
        return {key: value for key, value in (found | labels).items() if value}

    def withheld(self, folder: Path) -> Withheld:
        """All names that mlflow must not get of the run in `folder`."""
        return Withheld([*withheld(folder).names, *self.hidden.names])


def describe(folder: Path, name: str, labels: Mapping[str, str]) -> None:
    """Note in run.json what mlflow is to call the run and tag it with: its folder is then all that a sync needs."""
    update_record(folder, **{KEY: {"name": name, "labels": dict(labels)}})
