"""`pip install trocar` alone: what needs no extra works without their packages, and the rest says which to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from data_factory import make_catalog
from leak_factory import make_labelled, operation
from study_factory import make_study

ROOT = Path(__file__).parents[1]
MODULES = {"submitit": "slurm", "mlflow": "mlflow", "faiss": "index", "onnx": "onnx", "onnxscript": "onnx"}
OTHERS = ("aiohttp", "s3fs", "aiobotocore", "onnxruntime", "webdataset", "statsmodels", "torchmetrics")
BLOCKED = f"""
import importlib.machinery

missing = {(*MODULES, *OTHERS)!r}
find = importlib.machinery.PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in missing and path is None else find(name, path, target)

importlib.machinery.PathFinder.find_spec = find_spec
"""


def without_extras(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What Python says of `code` where none of these packages is installed."""
    command = [sys.executable, "-c", BLOCKED + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_packages_of_the_extras_are_those_that_are_blocked_here() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = {name: sum(part == name for part in MODULES.values()) for name in ("slurm", "mlflow", "index")}
    assert {name: len(extras[name]) for name in wanted} == wanted


@pytest.mark.slow
def test_pretraining_and_evaluation_need_no_extra(tmp_path: Path) -> None:
    make_catalog(tmp_path / "shards", videos=4, frames=8)
    cases = {f"p{i}": operation(i, frames=4) for i in range(4)}
    make_labelled(tmp_path / "labels", cases, {f"p{i}": ("train", "test")[i % 2] for i in range(4)})
    code = """
import trocar
from trocar.cli.main import main

assert trocar.load_backbone("random:test_resnet").num_features > 0
guard = "data.composition.leak.against=[labels]"
words = ["data.catalog=shards", "run.out=run", "train.steps=2", "train.batch=4", "backbone.name=test_resnet", guard]
assert main(["pretrain", "small_simclr", *words, "data.composition.curate=none", "run.workers=0"]) == 0
words = ["--data", "labels", "--task", "phase", "--protocol", "linear", "--size", "32", "--out", "out"]
assert main(["evaluate", "--backbone", "a=run/backbone", *words]) == 0
"""
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pip install 'trocar[mlflow]'" in done.stderr + done.stdout
    assert (tmp_path / "run" / "backbone").is_dir()
    assert (tmp_path / "out" / "results.json").is_file()


@pytest.mark.slow
def test_a_study_on_this_machine_needs_no_extra(tmp_path: Path) -> None:
    code = f"""
from trocar.cli.main import main
from trocar.study.stage_executors import LocalExecutor

assert main(["study", "plan", {str(make_study(tmp_path))!r}]) == 0
"""
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("import trocar.slurm.executor", "pip install 'trocar[slurm]'"),
        (
            "from trocar.ssl.neighbour_index import require_faiss; require_faiss()",
            "pip install 'trocar[index]'",
        ),
        ("import trocar; trocar.Catalog.open('s3://bucket/shards')", "pip install 'trocar[remote]'"),
        ("import trocar; trocar.Catalog.open('https://store/shards')", "pip install 'trocar[remote]'"),
        ("import trocar.runs.mlflow_server as s; s.client_of('http://nowhere')", "pip install 'trocar[mlflow]'"),
    ],
)
def test_what_needs_an_extra_says_which(code: str, line: str, tmp_path: Path) -> None:
    done = without_extras(code, tmp_path)
    assert done.returncode == 1
    assert line in done.stderr.splitlines()[-1]
    assert "ConfigError" in done.stderr.splitlines()[-1]
