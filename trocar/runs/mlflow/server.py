"""Which mlflow it is, and how one talks to it: address, client, experiments, and what may be said of its errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trocar.privacy.credentials import redact, secrets_in


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
