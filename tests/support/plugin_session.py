"""A process that uses the installed example package: from the command line, from Python and in a study.

`python plugin_session.py FOLDER` works on what `plugin_data` made there and writes what came of it to session.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "trocar_plugin"
PRETRAIN = {
    "backbone": {"name": "test_resnet"},
    "method": {"name": "barlow_twins", "views": {"size": 32}, "head": {"layers": [16, 8], "batch_norm": True}},
    "train": {"batch": 4},
    "run": {"workers": 0, "threads": 1},
    "tracking": {"uri": "none"},
}


def plugin_data(root: Path) -> None:
    """Frames to pretrain on, smoke in folders, labelled phases, the hospital's weights, and the files that use them."""
    import timm
    import torch
    from data_factory import make_catalog
    from downstream_factory import make_folder

    make_catalog(root / "shards", 4, 4)
    make_folder(root / "phases", cases=3, frames=6)
    generator = np.random.default_rng(0)
    for case in range(4):
        for second in range(6):
            smoke = second % 2
            pixels = generator.normal(60 + 120 * smoke, 8, (48, 64, 3)).clip(0, 255).astype(np.uint8)
            path = root / "smoke" / f"op{case}" / f"{second:04d}_{'smoke' if smoke else 'clear'}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    torch.manual_seed(0)
    state = {
        f"encoder.{key}": value for key, value in timm.create_model("test_resnet", num_classes=0).state_dict().items()
    }
    torch.save({"model": state | {"encoder.projector.weight": torch.zeros(2, 2)}}, root / "north.pth")
    (root / "recipe.yaml").write_text(yaml.safe_dump(PRETRAIN))
    run = PRETRAIN["run"] | {"out": str(root / "run")}
    data = {"catalog": str(root / "shards"), "composition": {"curate": "none"}}
    tree = {**PRETRAIN, "data": data, "run": run, "train": {"batch": 4, "steps": 2}}
    (root / "pretrain.yaml").write_text(yaml.safe_dump(tree))
    study = {
        "name": "mine",
        "store": str(root / "store"),
        "catalog": str(root / "shards"),
        "arms": {"all": {"curate": "none"}},
        "pretrain": {"recipe": str(root / "recipe.yaml"), "steps": 2},
        "match": "steps",
        "pretrain_seeds": 1,
        "threads": 1,
        "tasks": {
            "smoke": {"data": str(root / "smoke"), "protocol": ["knn"], "folds": 2, "metric": "sensitivity@smoke"},
            "phase": {
                "data": str(root / "phases"),
                "protocol": ["knn"],
                "folds": 3,
                "metric": "accuracy@first_half",
            },
        },
    }
    (root / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


def install(root: Path) -> Path:
    """The example in a folder as pip installs it, apart from the environment of the tests; returns its package."""
    shutil.copytree(EXAMPLE, root / "source", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(root / "site"), str(root / "source")]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
    return root / "site" / "trocar_plugin"


def command(*words: str | Path) -> dict[str, Any]:
    """A command line in this process: its exit code, and what it prints."""
    from trocar.cli.main import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main([str(word) for word in words])
    return {"code": code, "text": printed.getvalue()}


def evaluated(root: Path, out: str, *words: str | Path) -> dict[str, Any]:
    """An evaluation by k-NN into a folder of `root`."""
    few = ("size=32", "bootstrap=0", "figures=false", "baselines=[majority]", "seeds=1", "folds=3")
    return command("evaluate", *words, "--protocol", "knn", "--out", root / out, *few)


def from_python(root: Path) -> dict[str, Any]:
    """What the public functions find of it; the evaluation is the one that the command line has made."""
    import trocar

    said: list[str] = []
    few = {"size": 32, "bootstrap": 0, "figures": False, "baselines": ["majority"], "seeds": 1, "folds": 3}
    table = trocar.evaluate(
        {"run": root / "run"},
        root / "smoke",
        tasks=["smoke"],
        protocols=["knn"],
        out=root / "smoke-results",
        say=said.append,
        **few,
    ).table
    return {
        "said": "\n".join(said),
        "f1": table.set_index("backbone").loc["run", "value"],
        "methods": trocar.list_methods(),
        "tasks": trocar.list_tasks(),
        "datasets": trocar.list_datasets(),
        "backbones": trocar.list_backbones("north*"),
        "layout": trocar.open_dataset(root / "smoke").layout,
        "sensitivity": trocar.metrics.sensitivity_smoke([0, 1, 1], [0, 1, 0]),
        "first half": trocar.metrics.accuracy_first_half([0, 1, 1], [0, 0, 0]),
    }


def studied(root: Path) -> dict[str, Any]:
    """The study, run from Python: why it was refused, if it was, and then its scores by task and arm."""
    import trocar

    refused, file = "", root / "study.yaml"
    try:
        study = trocar.run_study(file)
    except trocar.ConfigError as error:
        refused, study = str(error), trocar.run_study(file, update=True)
    table = study.table
    scores = {f"{task} {arm}": list(rows["value"]) for (task, arm), rows in table.groupby(["task", "arm"])}
    return {"refused": refused, "scores": scores, "report": study.folder.parent.name}


def session(root: Path) -> dict[str, Any]:
    """All of it."""
    from trocar.backbones import load_backbone

    weights = f"north_tiny@{root / 'north.pth'}"
    found: dict[str, Any] = {"pretrain": command("pretrain", root / "pretrain.yaml")}
    smoke = ("--backbone", root / "run", "--data", root / "smoke", "--task", "smoke")
    found["smoke"] = evaluated(root, "smoke-results", *smoke)
    found["python"] = from_python(root)
    found["phase"] = evaluated(root, "phase-results", "--backbone", weights, "--data", root / "phases")
    found["mistyped"] = command("pretrain", root / "pretrain.yaml", "method.name=barlow_twin")
    found["features"] = load_backbone(weights).num_features
    found["study"] = studied(root)
    return found


if __name__ == "__main__":
    (Path(sys.argv[1]) / "session.json").write_text(json.dumps(session(Path(sys.argv[1]))))
