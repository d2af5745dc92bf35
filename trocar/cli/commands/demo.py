"""`trocar demo`: the whole way from videos to a timm backbone and its report, as the commands one would type."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trocar.errors import ConfigError, TrocarError


def register(subparsers: Any) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo",
        help="videos -> shards -> pretraining -> evaluation -> report, on two CPU cores in minutes",
        description="Makes synthetic videos (or takes yours), ingests them, pretrains a small backbone, compares it "
        "with random weights and raw pixels, exports it and writes a report. Of synthetic videos the test cases are "
        "kept out of pretraining. Running it again continues.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: demo)")
    parser.add_argument("--data", type=Path, help="folder of your own videos (default: synthetic ones)")
    parser.add_argument("--config", default="small_simclr", help="pretraining configuration (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration: train.steps=100")
    parser.set_defaults(run=run, continues=True)


def run(args: argparse.Namespace) -> int:
    """Run the commands one after another; the first that fails ends the demo."""
    out, started = args.out, time.monotonic()
    videos = args.data if args.data is not None else out / "phantom"
    if not videos.is_dir() and args.data is not None:
        raise ConfigError(f"{videos} is not a folder; give the folder your videos are in: DATA=/path/to/videos")
    if args.data is None:
        _trocar("phantom", str(videos))
    source = videos / "videos" if (videos / "videos").is_dir() else videos
    _trocar("ingest", str(source), "--out", str(out / "shards"), "--allow-rejects")
    places = [f"data.catalog={out / 'shards'}", f"run.out={out / 'run'}"]
    if args.data is None:  # whose cases are split: the score is of patients that the backbone has never seen
        places += [f"data.composition.leak.against={json.dumps([str(videos)])}", "data.composition.leak.policy=exclude"]
    _trocar("pretrain", args.config, *places, *args.overrides)
    evaluation = _evaluate(out, videos)
    if not (out / "backbone" / "config.json").is_file():  # else an earlier demo in this folder has exported it
        _trocar("export", str(out / "run"), "--out", str(out / "backbone"))
    _trocar("report", str(out / "run"), *(["--evaluation", str(evaluation)] if evaluation else []))
    _summary(out, evaluation, time.monotonic() - started)
    return 0


def _evaluate(out: Path, videos: Path) -> Path | None:
    """Compare on the labels beside the videos, where there are any."""
    tasks = [
        task
        for task, folder in (("phase", "phase_annotations"), ("tools", "tool_annotations"))
        if (videos / folder).is_dir()
    ]
    if not tasks:
        print(f"\n{videos} has no phase_annotations or tool_annotations: nothing to evaluate on", flush=True)
        return None
    chosen = [word for task in tasks for word in ("--task", task)]
    both = ["--protocol", "knn", "--protocol", "linear"]
    run, target = f"pretrained={out / 'run'}", str(out / "evaluation")
    _trocar("evaluate", "--data", str(videos), "--backbone", run, *chosen, *both, "--out", target)
    return out / "evaluation"


def _trocar(*words: str) -> None:
    print(f"\n$ trocar {shlex.join(words)}", flush=True)
    # Ctrl-C reaches the command too, which saves and ends its workers: `subprocess.run` would kill it after a moment.
    with subprocess.Popen([sys.executable, "-m", "trocar", *words]) as command:
        interrupted = False
        while True:
            try:
                code = command.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
    if interrupted or code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise TrocarError(
            f"`trocar {words[0]}` ended with exit code {code}; its message is above. "
            f"The same command continues after what is finished"
        )


def _summary(out: Path, evaluation: Path | None, seconds: float) -> None:
    if evaluation is not None:
        print("\n" + (evaluation / "results.md").read_text(encoding="utf-8"))
    database = (out / "mlflow.db").resolve()
    rows = {
        "timm folder": f"{out / 'backbone'}   timm.create_model('local-dir:{out / 'backbone'}', pretrained=True)",
        "mlflow": f"{database}   {Path(sys.executable).parent / 'mlflow'} ui --backend-store-uri sqlite:///{database}",
        "report": str((out / "run" / "report" / "index.html").resolve()),
        "run folder": f"{out / 'run'}   (the same command resumes it)",
        "took": f"{seconds / 60:.1f} min",
    }
    for name, value in rows.items():
        print(f"{name:12s} {value}")
