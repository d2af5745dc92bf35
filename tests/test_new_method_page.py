"""The method on the page about new methods is found, trains, and passes the tests that stand beside it."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from data_factory import make_catalog
from registry_factory import changeable

from trocar.core.config import validate
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine.method import METHODS
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig

PAGE = (Path(__file__).parents[1] / "docs" / "new-method.md").read_text(encoding="utf-8")
MODULE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(PRESET,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def byol(tmp_path, monkeypatch):
    """The page's file as a module that registers its method."""
    changeable(METHODS, monkeypatch)
    (tmp_path / "byol.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("byol")
    yield METHODS.get("byol")
    del sys.modules["byol"]


def config_of(tree):
    return validate(PretrainConfig, tree, "docs/new-method.md")


def small(tmp_path):
    tree = yaml.safe_load(PRESET)
    tree["backbone"]["name"] = "test_resnet"
    tree["method"] |= {"views": {"size": 32}, "momentum": "auto"}
    tree["method"] |= {name: {"layers": [16, 8], "batch_norm": True} for name in ("head", "predictor")}
    tree["train"] = {"batch": 4, "steps": 2}
    tree["run"] = {"out": str(tmp_path / "run"), "workers": 0, "log_every": 1}
    tree["tracking"] = {"uri": "none"}
    tree["data"] = {"catalog": str(tmp_path / "shards"), "composition": {"curate": "none"}}
    return tree


def test_the_page_s_preset_has_the_paper_s_values(byol, tmp_path):
    config = config_of(yaml.safe_load(PRESET) | {"data": {"catalog": "shards"}, "run": {"out": "run"}})
    assert config.method == byol()
    assert (config.optim.lr, config.optim.weight_decay, config.train.batch, config.train.epochs) == (
        0.2,
        1.5e-6,
        4096,
        1000,
    )


def test_the_page_s_method_trains_two_steps_in_a_run_folder(byol, tmp_path):
    make_catalog(tmp_path / "shards", 2, 8)
    said = []
    run(Pretraining(config_of(small(tmp_path)), World(), said.append, RunGuard()))
    lines = (tmp_path / "run/metrics/0001.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [record for record in map(json.loads, lines) if "loss" in str(record)]
    assert len(logged) >= 2
    assert "method     byol" in said
    assert (tmp_path / "run/backbone/model.safetensors").is_file()


def test_the_tests_on_the_page_pass(byol):
    namespace = {}
    exec(compile(TEST, "docs/new-method.md", "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
