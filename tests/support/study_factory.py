"""Stages that cost nothing, run with all the bookkeeping of real ones; and a small study on real data.

`python study_factory.py FOLDER` stands for `trocar study stage FOLDER`. Its command is told by the stage's config:
`takes_s` in ten parts, each kept like a checkpoint, and `fails` while the file of that name exists.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PARTS = 10


def command(words: Sequence[str]) -> int:
    """The command of a stage: its result follows from its configuration and from what it is made of."""
    report = words[0] == "study"
    config = yaml.safe_load(Path(words[2] if report else words[1]).read_text())
    out = Path(words[4]) if report else Path(config["run"]["out"] if words[0] == "pretrain" else config["out"])
    out.mkdir(parents=True, exist_ok=True)
    print(f"working on {config['what']}", flush=True)
    if Path(config.get("fails", "nowhere")).exists():
        print("it is broken", flush=True)
        return 3
    done = out / "parts.txt"
    for part in range(len(done.read_text().splitlines()) if done.exists() else 0, PARTS):
        time.sleep(config.get("takes_s", 0) / PARTS)
        with done.open("a") as file:
            file.write(f"{part}\n")
    made_of = [Path(text.partition("=")[2]) / "backbone/model.safetensors" for text in config.get("backbone", [])]
    digest = hashlib.sha256(b"".join([config["what"].encode(), *(path.read_bytes() for path in made_of)])).hexdigest()
    _write(out, words[0], digest)
    return 0


def _write(out: Path, kind: str, digest: str) -> None:
    name = {"pretrain": "backbone/model.safetensors", "evaluate": "predictions.parquet", "study": "results.csv"}[kind]
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text(digest)
    if kind == "pretrain":
        (out / "finished.json").write_text(json.dumps({"identity": {"data": "these"}}))
    if kind == "evaluate":
        rows = [{"metrics": {"f1@pooled_macro": {"mean": 0.5}, "none": {"mean": None}}}]
        (out / "results.json").write_text(json.dumps({"rows": rows}))


def make_stages(takes_s: float = 0.0, fails: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Two pretrainings `a` and `b`, each with evaluations `x` and `y`, and a report, by name."""
    from trocar.study.stages import Stage

    def config(what: str) -> dict[str, Any]:
        broken = {"fails": str(fails[what])} if fails and what in fails else {}
        return {"what": what, "takes_s": takes_s, "run": {}, **broken}

    trained = {what: Stage("pretrain", {"what": what, "selection": "these"}, config(what)) for what in "ab"}
    scored = [
        Stage("evaluate", {"task": task}, config(f"{what} on {task}"), (stage.name,), stage.name)
        for what, stage in trained.items()
        for task in "xy"
    ]
    report = Stage("report", {}, config("report"), tuple(sorted(stage.name for stage in scored)))
    return {stage.name: stage for stage in (*trained.values(), *scored, report)}


def launch(folder: Path, environment: Mapping[str, str]) -> Any:
    """Starts this file in place of `trocar study stage`."""
    from trocar.study.stage_executors import launch_process

    return launch_process([sys.executable, __file__, str(folder)], folder, environment)


def named(stages: Mapping[str, Any], what: str) -> str:
    """The name of a stage of `make_stages`."""
    return next(name for name, stage in stages.items() if stage.config["what"] == what)


def successes(store: Any, name: str) -> int:
    """How often a stage's command has ended well."""
    from trocar.study.stages import attempts

    return sum(event["event"] == "end" and event["code"] == 0 for event in attempts(store.folder(name)))


def starts(store: Any, name: str) -> int:
    """How often a stage's command has been started."""
    from trocar.study.stages import attempts

    return sum(event["event"] == "start" for event in attempts(store.folder(name)))


def results(store: Any, stages: Iterable[str]) -> dict[str, Any]:
    """Stage -> checksums of what it has made."""
    return {name: done.outputs if (done := store.done(name)) is not None else None for name in stages}


RECIPE = {
    "backbone": {"name": "test_resnet"},
    "method": {"name": "simclr", "views": {"size": 32}, "head": {"layers": [16, 8]}},
    "train": {"batch": 4},
    "run": {"workers": 0, "threads": 1, "checkpoint_every": 2, "milestone_every": 2},
}


def make_study(root: Path, **changes: Any) -> Path:
    """A study file below `root`: two hospitals of four cases each, one labelled data set, `changes` to its keys."""
    from data_factory import make_catalog
    from downstream_factory import make_folder

    if not (root / "shards").exists():
        make_catalog(root / "shards", 8, 6)
        make_folder(root / "labels")
        (root / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    arm = {"sample": {"cases": 2}, "curate": "none"}
    tree = {
        "name": "small",
        "store": str(root / "store"),
        "catalog": str(root / "shards"),
        "arms": {
            "north": {"include": [{"hospital": ["north"]}], **arm},
            "south": {"include": [{"hospital": ["south"]}], **arm},
        },
        "pretrain": {"recipe": str(root / "recipe.yaml"), "steps": 3},
        "match": "steps",
        "tasks": {"phase": {"data": str(root / "labels"), "protocol": ["knn"], "folds": 2}},
        "pretrain_seeds": 1,
        "threads": 1,
        **changes,
    }
    path = root / f"{tree['name']}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


if __name__ == "__main__":
    import signal

    from trocar.cli.terminal import answered, raise_stopped
    from trocar.errors import StoppedError
    from trocar.study.stage_execution import run_stage

    try:
        with answered([signal.SIGTERM], raise_stopped):
            code = run_stage(Path(sys.argv[1]), command)
    except StoppedError as stop:
        code = stop.code
    raise SystemExit(code)
