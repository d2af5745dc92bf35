"""Which mlflow it is, and how one talks to it: settings, address, client, experiments, what may be said of its errors.

What a run is called in mlflow, what it is tagged with, and which run it stands below.

Files of a run that has ended, in mlflow: tables, the report page, the model card, figures, predictions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from trocar.core.config import Config
from trocar.core.files import sha256_of
from trocar.errors import extra
from trocar.privacy.aliases import Aliases, withheld
from trocar.privacy.redaction import redact, secrets_in
from trocar.runs.run_folder import read_record, update_record


class TrackingConfig(Config):
    """mlflow beside the local record."""

    uri: str = Field(
        default="sqlite", description="a tracking URI, `sqlite` for a database beside the run folder, or `none`"
    )
    experiment: str = Field(default="trocar", description="mlflow's experiment")


def resolve_uri(folder: Path, tracking_uri: str | None = None) -> str:
    """The tracking URI: the argument, else TROCAR_TRACKING_URI, else MLFLOW_TRACKING_URI, else `mlflow.db`
    beside the run folder. Relative sqlite paths become absolute.
    """
    given = tracking_uri or os.environ.get("TROCAR_TRACKING_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not given or given == "sqlite":
        return f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"
    prefix = "sqlite:///"
    if given.startswith(prefix) and not given.startswith(prefix + "/"):
        return f"{prefix}{Path(given.removeprefix(prefix)).resolve()}"
    return given


def quiet_mlflow() -> None:
    """mlflow sends no usage reports, and gives up on a dead server in a minute instead of a quarter of an
    hour.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


def scrub(message: str, uri: str) -> str:
    """`message` without the credentials of `uri`, in whatever form a library repeats them."""
    for secret in secrets_in(uri):
        message = message.replace(secret, "***")
    return redact(message)


def client_of(uri: str) -> Any:
    """A client of the tracking server, and of the model registry that goes with it."""
    with extra("mlflow"):
        from mlflow import MlflowClient

    quiet_mlflow()
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: Any, uri: str, experiment: str) -> str:
    """The id of the experiment of this name, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(experiment)
    if known is not None:
        return str(known.experiment_id)
    # A local database would put artifacts under whatever folder this process was started in.
    artifacts = None
    if uri.startswith("sqlite:///"):
        artifacts = (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(experiment, artifact_location=artifacts))
    except MlflowException:
        known = client.get_experiment_by_name(experiment)  # another run made it in between
        if known is None:
            raise
        return str(known.experiment_id)


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
    hidden: Aliases = field(default_factory=Aliases)

    @classmethod
    def of(cls, folder: Path) -> Placement:
        """As the run folder says (`describe`), else by the folder's name."""
        about: Mapping[str, Any] = read_record(folder).get(KEY, {})
        return cls(str(about.get("name", folder.name)), labels=dict(about.get("labels", {})))

    def below(self, parent: str) -> Placement:
        """The same below another mlflow run."""
        return replace(self, parent=parent)

    def tags(self, hidden: Aliases) -> dict[str, str]:
        """Tags in mlflow's own names, and the labels, without the names in `hidden`."""
        found = {"mlflow.parentRunId": self.parent, "mlflow.note.content": hidden.text(self.note)}
        labels = {key: hidden.text(value) for key, value in self.labels.items()}
        return {key: value for key, value in (found | labels).items() if value}

    def withheld(self, folder: Path) -> Aliases:
        """All names that mlflow must not get of the run in `folder`."""
        return Aliases.join([self.hidden, withheld(folder)])


def describe(folder: Path, name: str, labels: Mapping[str, str]) -> None:
    """Note in run.json what mlflow is to call the run and tag it with: its folder is then all that a sync needs."""
    update_record(folder, **{KEY: {"name": name, "labels": dict(labels)}})


ARTIFACTS = (
    *("results.json", "results.md", "results.csv", "predictions.parquet", "figures"),
    *("index.html", "report/index.html", "backbone/README.md"),
)
"""Files and folders of a run folder that mlflow gets, where they are there."""
ABOUT_CASES = (".parquet", ".png", ".html")
"""Files with these endings stay where they are when anything is private: they have rows about frames, or pictures of
them. A page may have been made with --share-frames."""


def log_artifacts(client: Any, run_id: str, folder: Path, hidden: Aliases, known: dict[str, str]) -> None:
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


def without(file: Path, hidden: Aliases) -> str:
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
