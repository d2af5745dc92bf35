"""examples/trocar_plugin, installed by pip, is used like what is built in; after an edit of it no old result is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plugin_session import EXAMPLE, install, plugin_data

SUPPORT = Path(__file__).parent / "support"

pytestmark = pytest.mark.slow


def run_session(root: Path) -> dict[str, Any]:
    """What comes of using it, in a process of its own, and the stages of the study by name."""
    path = os.pathsep.join([str(root / "site"), str(SUPPORT)])
    words = [sys.executable, str(SUPPORT / "plugin_session.py"), str(root)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((root / "session.json").read_text(encoding="utf-8"))
    lock = json.loads((root / "store/studies/mine/study.lock").read_text(encoding="utf-8"))
    found["stages"] = {stage["label"]: name for name, stage in lock["stages"].items()}
    found["plugins"] = lock["plugins"]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    plugin_data(folder)
    install(folder)
    return folder


@pytest.fixture(scope="module")
def first(root: Path) -> dict[str, Any]:
    """Before the edit."""
    return run_session(root)


@pytest.fixture(scope="module")
def second(root: Path, first: dict[str, Any]) -> dict[str, Any]:
    """After an edit of the metric's file: it is an eighth, always."""
    file = root / "site" / "trocar_plugin" / "first_half.py"
    text = file.read_text(encoding="utf-8")
    edited = text.replace("return float(counted @ (outcome.gt == outcome.pred) / counted.sum())", "return 0.125")
    assert edited != text
    file.write_text(edited, encoding="utf-8")
    return run_session(root)


def test_its_method_trains(root: Path, first: dict[str, Any]) -> None:
    assert first["pretrain"]["code"] == 0, first["pretrain"]["text"]
    assert (root / "run/backbone/model.safetensors").is_file()
    plugins = json.loads((root / "run/finished.json").read_text(encoding="utf-8"))["identity"]["recipe"]["plugins"]
    assert plugins.keys() == {"trocar_plugin"}
    assert (plugins["trocar_plugin"]["distribution"], plugins["trocar_plugin"]["version"]) == ("trocar-plugin", "0.1.0")


def test_its_task_and_data_set_are_evaluated(root: Path, first: dict[str, Any]) -> None:
    assert first["smoke"]["code"] == 0, first["smoke"]["text"]
    results = json.loads((root / "smoke-results/results.json").read_text(encoding="utf-8"))
    (row,) = [row for row in results["rows"] if row["kind"] == "backbone"]
    assert row["task"] == "smoke"
    assert row["metrics"].keys() == {"f1@pooled_macro", "sensitivity@smoke"}
    assert row["metrics"]["f1@pooled_macro"]["mean"] == 1.0  # brightness tells smoke
    assert "2 of" not in first["smoke"]["text"]


def test_its_metric_is_computed_for_a_task_of_trocar_s_and_its_backbone_loads(
    root: Path, first: dict[str, Any]
) -> None:
    assert first["phase"]["code"] == 0, first["phase"]["text"]
    rows = json.loads((root / "phase-results/metrics.json").read_text(encoding="utf-8"))["rows"]
    assert all(0 <= row["metrics"]["accuracy@first_half"]["value"] <= 1 for row in rows)
    assert first["features"] == 96


def test_python_knows_what_it_has(first: dict[str, Any]) -> None:
    found = first["python"]
    assert "barlow_twins" in found["methods"]
    assert "smoke" in found["tasks"]
    assert "smoke_folders" in found["datasets"]
    assert found["backbones"] == ["north_resnet18", "north_tiny"]
    assert found["layout"] == "smoke_folders"
    assert found["sensitivity"] == 0.5  # one of two frames with smoke
    assert found["first half"] == 0.5  # of two frames in the first half one is right


def test_python_finds_the_evaluation_that_the_command_line_has_made(first: dict[str, Any]) -> None:
    assert "3 of 3 parts (protocol, seed, fold) were finished before" in first["python"]["said"]
    assert first["python"]["f1"] == 1.0


def test_a_study_compares_by_its_metrics_what_its_method_has_trained(root: Path, first: dict[str, Any]) -> None:
    found = first["study"]
    assert found["refused"] == ""
    assert found["scores"].keys() == {"smoke all", "smoke init", "phase all", "phase init"}
    assert found["scores"]["smoke all"] == [1.0]
    assert all(value not in (0.125, None) for value in found["scores"]["phase all"])


def test_a_mistyped_name_of_it_gets_the_nearest(first: dict[str, Any]) -> None:
    assert first["mistyped"]["code"] == 2
    assert "method.name = 'barlow_twin' (did you mean 'barlow_twins'?); one of: augmented_" in first["mistyped"]["text"]


def test_after_an_edit_a_run_is_not_resumed_and_the_field_is_named(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert second["pretrain"]["code"] == 2
    assert "recipe.plugins.trocar_plugin.source: '" in second["pretrain"]["text"]


def test_after_an_edit_a_kept_evaluation_is_made_again(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert "were finished before" not in first["smoke"]["text"]
    assert "were finished before" not in second["smoke"]["text"]
    assert "3 of 3 parts (protocol, seed, fold) were finished before" in second["python"]["said"]


def test_after_an_edit_a_study_names_the_plugin_until_that_is_accepted(
    root: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    before, after = first["plugins"]["trocar_plugin"], second["plugins"]["trocar_plugin"]
    assert (before["distribution"], before["version"]) == ("trocar-plugin", "0.1.0")
    line = f"plugin trocar_plugin: source was {before['source']!r} and is {after['source']!r}"
    assert line in second["study"]["refused"]


def test_after_an_edit_the_stages_that_use_it_are_made_anew_and_only_these(
    root: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    before, after = first["stages"], second["stages"]
    assert before.keys() == after.keys()
    same = {label for label in before if before[label] == after[label]}
    # The weights that the study begins from are random ones, and phases are labels of Trocar's own.
    assert same == {label for label in before if label.startswith("init") and "phase" in label}
    assert len(same) == 1
    made = {name for name in after.values() if (root / "store/stages" / name / "done.json").is_file()}
    assert made == {*after.values()}


def test_after_an_edit_the_study_s_scores_are_of_the_new_code(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert second["study"]["scores"]["phase all"] == second["study"]["scores"]["phase init"] == [0.125]
    assert second["study"]["report"] != first["study"]["report"]


def test_the_method_is_the_paper_s_loss() -> None:
    sys.path.insert(0, str(EXAMPLE))
    try:
        import torch
        from trocar_plugin.barlow_twins import cross_correlation_loss
    finally:
        sys.path.remove(str(EXAMPLE))
    first, second = (
        torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]]),
        torch.tensor([[0.0, 1.0], [2.0, 2.0], [1.0, 9.0]]),
    )
    c = [[_correlation(first[:, i], second[:, j]) for j in range(2)] for i in range(2)]
    expected = (1 - c[0][0]) ** 2 + (1 - c[1][1]) ** 2 + 0.5 * (c[0][1] ** 2 + c[1][0] ** 2)
    assert float(cross_correlation_loss(first, second, 0.5)) == pytest.approx(expected, rel=1e-4)


def _correlation(x: Any, y: Any) -> float:
    import numpy as np

    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1])
