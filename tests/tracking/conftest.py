import pytest

from trocar.tracking.mlflow_server import quiet_mlflow


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Making mlflow's tables takes a second; every test copies the result."""
    quiet_mlflow()
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path
