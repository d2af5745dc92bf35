"""The presets of published data sets load, and say what the publications say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from trocar.cli.main import main
from trocar.core.config import PRESETS, load, preset_names
from trocar.downstream.datasets.base import DATASETS
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.protocols import get_protocol
from trocar.errors import ConfigError


class Published(NamedTuple):
    """Data set, split, task and protocol; settings that are in the publication or its code."""

    layout: str
    split: str
    task: str
    protocol: str
    settings: dict[str, Any] = {}
    fields: dict[str, Any] = {}


HEAD = {"name": "mstcn", "causal": True, "stages": 2, "layers": 9, "maps": 64}
TCN = {"head": HEAD, "lr": 7e-4, "epochs": 100}
PUBLISHED = {
    "cholec80_phase_linear": Published("cholec80", "40-8-32", "phase", "linear"),
    "cholec80_phase_finetune": Published(
        "cholec80", "40-8-32", "phase", "finetune", {"epochs": 30, "batch": 256, "select": "fixed_epochs"}
    ),
    "cholec80_phase_tecno": Published(
        "cholec80",
        "40-8-32",
        "phase",
        "temporal_finetuned",
        {**TCN, "loss": {"class_weights": [1.641, 0.191, 1.0, 0.250, 1.918, 0.984, 2.175], "smoothing": 0.0}},
        {"size": 224},
    ),
    "cholec80_tools_linear": Published("cholec80", "40-40", "tools", "linear", fields={"val": "within_budget"}),
    "cholec80_endonet": Published("cholec80", "40-40", "phase+tools", "finetune", {"select": "fixed_epochs"}),
    "autolaparo_phase_linear": Published("autolaparo", "official", "phase", "linear"),
    "autolaparo_phase_tecno": Published("autolaparo", "official", "phase", "temporal_finetuned", TCN),
    "m2cai16_phase": Published(
        "m2cai16_workflow", "official", "phase", "temporal_finetuned", TCN, {"val": "within_budget"}
    ),
    "heichole_phase": Published("heichole", "surgbenchkit", "phase", "temporal_finetuned", TCN),
    "multibypass140_phase": Published("multibypass140", "bern-fold0", "phase", "temporal_finetuned", TCN),
    "multibypass140_step": Published("multibypass140", "bern-fold0", "step", "temporal_finetuned", TCN),
    "pitvis_step": Published("pitvis", "held-out-common", "step", "temporal_frozen", TCN),
    "cholect50_triplet": Published("cholect50", "rdv", "triplet", "finetune"),
    "cholect45_triplet_fewshot": Published(
        "cholect45", "crossval-5", "triplet", "finetune", fields={"budget": "endovit-2-videos", "draws": 3}
    ),
    "endoscapes_cvs_finetune": Published(
        "endoscapes",
        "official",
        "cvs",
        "finetune",
        {
            "lr": 1e-5,
            "batch": 32,
            "epochs": 20,
            "class_weights": [3.19852941, 4.46153846, 2.79518072],
            "labels": "rounded",
            "batch_norm": "frozen",
            "augment": {
                "scale": [1.0, 1.0],
                "ratio": [1.0, 1.0],
                "flip": 0.5,
                "jitter": {"p": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.4, "hue": 0.0},
            },
        },
    ),
    "cholec80_cvs": Published("cholec80_cvs", "official", "cvs", "finetune", fields={"fps": 5}),
    "endoscapes_segmentation": Published("endoscapes", "official", "segmentation", "segmentation", {"decoder": "fpn"}),
    "cholecseg8k_segmentation": Published(
        "cholecseg8k",
        "silva22",
        "segmentation",
        "segmentation",
        {"decoder": "dpt", "lr": 5e-4, "weight_decay": 0, "layer_decay": 0.65, "epochs": 10, "batch": 64, "dice": 0},
        {"remap": "cholecseg8k_8", "size": 224, "repeats": 3},
    ),
    "dsad_segmentation": Published("dsad", "kolbinger23", "segmentation", "segmentation", {"decoder": "segformer"}),
}


def preset(name: str) -> EvaluateConfig:
    return load(EvaluateConfig, f"downstream/{name}", ["data=folder"])


def test_every_preset_is_compared_with_its_publication() -> None:
    assert {name for name in preset_names() if name.startswith("downstream/")} == {f"downstream/{n}" for n in PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_data_protocol_and_settings_are_the_published_ones(name: str) -> None:
    config, published = preset(name), PUBLISHED[name]
    assert (config.layout, config.split, config.task) == (published.layout, published.split, [published.task])
    (asked,) = config.protocol
    settings = {"name": asked} if isinstance(asked, str) else asked
    assert settings["name"] == published.protocol
    assert {key: settings[key] for key in published.settings} == published.settings
    assert {key: getattr(config, key) for key in published.fields} == published.fields


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_preset_names_is_there(name: str) -> None:
    config = preset(name)
    (asked,) = config.protocol
    wanted = asked if isinstance(asked, str) else str(asked["name"])
    assert get_protocol(asked).name == wanted
    assert config.layout is not None
    assert config.split in DATASETS.get(config.layout).splits


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_begins_with_what_it_is_and_names_source_and_differences(name: str) -> None:
    lines = (PRESETS / "downstream" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert 20 < len(lines[0]) <= 120
    assert lines[1].startswith("# Source: ")
    assert any(line.startswith("# Differences: ") for line in lines)


def test_data_is_given_on_the_command_line_and_its_absence_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="'data' is required"):
        load(EvaluateConfig, "downstream/cholec80_phase_linear")
    assert main(["evaluate", "downstream/cholec80_phase_linear"]) == 2
    assert "'data' is required" in capsys.readouterr().err
    missing = str(tmp_path / "cholec80")
    assert main(["evaluate", "downstream/cholec80_phase_linear", "--data", missing]) == 2
    assert f"no data folder '{missing}'" in capsys.readouterr().err
