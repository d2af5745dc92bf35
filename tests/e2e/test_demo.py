"""The demo on a tiny phantom: every stage, and continuing after it is finished."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest

from trocar.cli.main import main
from trocar.phantom import PhantomSpec, generate


def demo(*words):
    command = [sys.executable, "-m", "trocar", "demo", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
def test_the_demo_goes_from_videos_to_report_and_runs_again(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    generate(videos, PhantomSpec(cases=4, minutes=0.25, size=(128, 96), seed=1))
    small = ["train.steps=2", "train.batch=4", "data.composition.curate=none"]
    first = demo("--data", str(videos), "--out", str(out), *small)
    assert first.returncode == 0, first.stderr[-2000:]
    results = json.loads((out / "evaluation" / "results.json").read_text())
    arms = {(row["task"], row["protocol"], row["kind"]) for row in results["rows"]}
    for task in ("phase", "tools"):
        for protocol in ("knn", "linear"):
            assert {(task, protocol, "backbone"), (task, protocol, "random"), (task, protocol, "baseline")} <= arms
    assert (out / "backbone" / "config.json").is_file()
    assert "<html" in (out / "run" / "report" / "index.html").read_text()
    assert (out / "mlflow.db").is_file()
    for promised in ("timm folder", "mlflow", "report", "index.html"):
        assert promised in first.stdout
    again = demo("--data", str(videos), "--out", str(out), *small)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "is finished" in again.stderr


def test_ctrl_c_waits_for_the_command_to_end_in_order(tmp_path):
    """A terminal sends it to all of them."""
    command = [sys.executable, "-m", "trocar", "demo", "--out", str(tmp_path / "out")]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    makes = tmp_path / "out" / "phantom"
    while not (makes.is_dir() and len(psutil.Process(run.pid).children(recursive=True)) > 2):
        assert run.poll() is None
        time.sleep(0.05)
    below = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "interrupted" in said
    _, left = psutil.wait_procs(below, timeout=20)
    assert left == []


@pytest.mark.parametrize("own", [True, False])
def test_test_cases_of_synthetic_videos_are_kept_out_of_pretraining(tmp_path, monkeypatch, capsys, own):
    videos = tmp_path / ("own" if own else "out/phantom")

    def small(command, *words):
        if command == "phantom":
            generate(videos, PhantomSpec(cases=4, minutes=0.1, size=(128, 96), seed=1))
        elif command == "ingest":
            assert main(["ingest", *words]) == 0
        elif command == "pretrain":
            assert main(["pretrain", *words, "train.batch=4", "data.composition.curate=none", "--dry-run"]) == 0

    monkeypatch.setattr("trocar.cli.commands.demo._trocar", small)
    monkeypatch.setattr("trocar.cli.commands.demo._evaluate", lambda out, videos: None)
    if own:
        small("phantom")
    main(["demo", "--out", str(tmp_path / "out"), *(["--data", str(videos)] if own else [])])
    table = pd.read_csv(videos / "videos.csv")
    held_out = sorted(table.case_id[table.split != "train"]) if not own else []
    assert sorted(re.findall(r"phantom/(\w+) is phantom", capsys.readouterr().out)) == held_out
    assert own or held_out
