"""`trocar evaluate` with several ranks: what it refuses, what SLURM is asked for, and whole ones in processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from downstream_factory import make_folder
from finished_factory import TUNED, files

from trocar.backbones.load import load_backbone
from trocar.cli.main import main
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.result_cache import FOLDER
from trocar.errors import ConfigError
from trocar.jobs import evaluate as job
from trocar.ssl.ranks.distributed import World

HEAD = {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 8}, "epochs": 2}
HEAD["finetune"] = {name: value for name, value in TUNED.items() if name != "name"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled frames in data/, and evaluate.yaml about them."""
    root = tmp_path_factory.mktemp("ranks")
    make_folder(root / "data")
    tree = {
        "backbone": ["random:test_resnet"],
        "data": str(root / "data"),
        "protocol": ["linear", TUNED, HEAD],
        "baselines": ["mean colour", "majority"],
        "seeds": 2,
        "size": 32,
        "batch": 8,
        "folds": 2,
        "bootstrap": 20,
        "figures": False,
    }
    (root / "evaluate.yaml").write_text(yaml.safe_dump(tree))
    return root


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "usable_cores", lambda: 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ranks=0"], "greater than or equal to 1"),
        (["ranks=many"], "should be 'auto'"),
        (["--ranks", "5", "out=x"], "this process may run on 4 core(s), and each rank takes one; take ranks=4"),
        (["--ranks", "2"], "ranks=2: give out, the folder that ranks share their work in"),
        (["--ranks", "2", "out=x", "--slurm", "gpu"], "the profile has 1 node(s) with 4 task(s) each"),
    ],
)
def test_ranks_that_cannot_be_are_refused_in_words(
    root: Path, cores: None, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["evaluate", str(root / "evaluate.yaml"), "device=cpu", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("x").exists()


def test_more_ranks_than_gpus_are_refused_and_auto_takes_each(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert job.ranks_of(EvaluateConfig(data=root / "data", ranks="auto")) == 2
    with pytest.raises(ConfigError, match=r"2 GPU\(s\) are visible, and each rank takes one; take ranks=2"):
        job.ranks_of(EvaluateConfig(data=root / "data", ranks=3))


def test_a_rank_takes_the_gpu_of_its_number_on_its_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[object] = []
    monkeypatch.setattr(job, "choose_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(job, "_share", lambda world, where, device: nullcontext(device))
    monkeypatch.setattr(job.comparison, "take_part", lambda config, share, device: taken.extend([share, device]))
    job.take_part(EvaluateConfig(data=root / "data", out=root / "gpu"), World(6, 8, 2))
    assert taken == [2, "cuda:2", "cuda:2"]


def test_modules_and_labels_of_ones_own_stay_with_one_rank(root: Path, cores: None) -> None:
    config = EvaluateConfig(data=root / "data", ranks=2, out=root / "own", size=32, device="cpu")
    with pytest.raises(ConfigError, match="modules or labels of your own stay in the process that made them"):
        job.evaluate(config, modules={"mine": [load_backbone("random:test_resnet")]})


def test_a_dry_run_says_how_many_ranks_there_are(root: Path, cores: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(root / "evaluate.yaml"), "device=cpu", "out=x", "--dry-run"]
    for ranks, last in (("1", "majority: prior"), ("2", "2 ranks share the features and what is learned from them")):
        assert main([*words, "--ranks", ranks]) == 0
        assert capsys.readouterr().out.splitlines()[-1].strip() == last


@pytest.mark.parametrize(
    ("ranks", "nodes", "tasks", "gpus"),
    [("1", 1, 1, 1), ("auto", 2, 4, 4), ("8", 2, 4, 4)],
    ids=["one", "all", "eight"],
)
def test_the_script_for_slurm_has_a_task_per_rank(
    root: Path, capsys: pytest.CaptureFixture[str], ranks: str, nodes: int, tasks: int, gpus: int
) -> None:
    pytest.importorskip("submitit")
    profile = ["--slurm", "gpu", "--slurm-set", "nodes=2", "--slurm-set", "gpus_per_node=4"]
    words = ["evaluate", str(root / "evaluate.yaml"), "--out", str(root / "job"), "--ranks", ranks, *profile]
    assert main([*words, "--dry-run"]) == 0
    script = capsys.readouterr().out
    asked = dict(re.findall(r"^#SBATCH --(nodes|ntasks-per-node|gpus-per-node)=(\d+)", script, re.M))
    assert asked == {"nodes": str(nodes), "ntasks-per-node": str(tasks), "gpus-per-node": str(gpus)}
    assert not (root / "job").exists()


def start(root: Path, out: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trocar", "evaluate", str(root / "evaluate.yaml"), f"out={root / out}", *words]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and standard error."""
    said = process.communicate(timeout=240)[1]
    return process.returncode, said


def everything(out: Path) -> dict[str, bytes]:
    folders = [path for name in ("cache", FOLDER) for path in (out / name).iterdir()]
    # What a killed process was about to write may be left beside, under a name of its own.
    whole = [path for path in folders if path.suffix != ".tmp"]
    return {str(path.relative_to(out)): path.read_bytes() for path in whole} | files(out)


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, bytes]:
    """What one process leaves that nothing disturbs."""
    code, said = end(start(root, "whole"))
    assert code == 0, said
    return everything(root / "whole")


@pytest.mark.slow
def test_two_processes_leave_the_bytes_of_one(root: Path, whole: dict[str, bytes]) -> None:
    code, said = end(start(root, "two", "ranks=2", "device=cpu"))
    assert code == 0, said
    assert everything(root / "two") == whole


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("victim", ["rank 0, SIGKILL", "rank 1, SIGKILL", "rank 0, SIGINT", "rank 0, SIGTERM"])
def test_when_a_rank_is_ended_all_end_and_the_same_command_ends_in_the_same_bytes(
    root: Path, whole: dict[str, bytes], victim: str
) -> None:
    out = victim.replace(", ", "-").replace(" ", "-")
    number = getattr(signal, victim.rpartition(" ")[2])
    first = start(root, out, "ranks=2", "device=cpu")
    deadline = time.monotonic() + 120
    while not list((root / out / FOLDER).glob("*.npz")):
        assert first.poll() is None, end(first)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (helper,) = psutil.Process(first.pid).children()
    os.kill(helper.pid if "rank 1" in victim else first.pid, number)
    code, said = end(first)
    assert not (root / out / "results.json").exists()
    gone, _ = psutil.wait_procs([helper], timeout=20)
    assert gone or helper.status() == psutil.STATUS_ZOMBIE  # of an init that waits for nobody
    if "rank 1" in victim:
        assert (code, "rank 1 of 2 was killed by signal 9" in said) == (1, True)
    elif number == signal.SIGINT:
        assert code == 130
        assert said.count("trocar evaluate: ") == said.count("interrupted; the same command continues") == 1
    else:
        assert code in (-number, 128 + number)
    code, said = end(start(root, out, "ranks=2", "device=cpu"))
    assert code == 0, said
    assert everything(root / out) == whole
