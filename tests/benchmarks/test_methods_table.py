"""The table of benchmarks/methods.py: means, spreads, and the difference in pooled standard deviations."""

import json
import sys
from pathlib import Path

import pytest
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("methods")
    for name in ("methods", "phantom_split"):
        sys.modules.pop(name, None)


def row(task, protocol, backbone, kind, headline, values):
    return {
        "task": task,
        "protocol": protocol,
        "backbone": backbone,
        "kind": kind,
        "headline": headline,
        "metrics": {headline: {"values": values}},
    }


def test_a_line_has_mean_spread_and_the_difference_in_pooled_standard_deviations(methods, tmp_path):
    rows = []
    for task, headline in (("phase", "f1@pooled_macro"), ("tools", "map@pooled")):
        for protocol in ("knn", "linear"):
            rows += [
                row(task, protocol, "simclr", "backbone", headline, [0.30, 0.32, 0.34]),
                row(task, protocol, "random resnet10t", "random", headline, [0.20, 0.22, 0.24]),
                row(task, protocol, "raw pixels", "baseline", headline, [0.1]),
            ]
    (tmp_path / "evaluation" / "simclr").mkdir(parents=True)
    (tmp_path / "evaluation" / "simclr" / "results.json").write_text(json.dumps({"rows": rows}))
    (tmp_path / "runs" / "simclr-0").mkdir(parents=True)
    config = {"backbone": {"name": "resnet10t"}}
    (tmp_path / "runs" / "simclr-0" / "config.yaml").write_text(yaml.safe_dump(config))
    bench = methods.Bench(tmp_path, None, cases=96, seeds=3, lanes=1, corpus="A")
    line = methods.table(bench, ["simclr"]).splitlines()[-1]
    # both have a standard deviation of .02, and their means are .1 apart
    assert line == "| simclr | resnet10t | " + " | ".join(["0.320 ± 0.020 / 0.220 ± 0.020 (+5.0)"] * 4) + " |"


@pytest.mark.parametrize("name", sorted(p.stem for p in (BENCHMARKS / "methods").glob("*.yaml") if p.stem != "base"))
def test_a_recipe_is_a_configuration_of_the_method_that_it_is_named_after(name):
    from trocar.core.config import load
    from trocar.ssl.run.pretrain_config import PretrainConfig

    config = load(PretrainConfig, BENCHMARKS / "methods" / f"{name}.yaml")
    assert config.method.name == name
    assert config.optim.lr == 4e-3
