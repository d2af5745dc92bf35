"""A sweep as an array of jobs: what sbatch is given, what a second submission leaves out, when there is a choice."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import yaml
from data_factory import make_catalog
from probe_factory import make_probed, probed_run
from sbatch_stand_in import SbatchStandIn

from trocar.cli.main import main
from trocar.slurm import job_states
from trocar.slurm.graph import Graph

RATES = ("0.001", "5e-2", "0.3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    make_catalog(folder / "shards", 2, 8)
    make_probed(folder / "labels", seed=3)
    return folder


@pytest.fixture
def file(made, tmp_path, monkeypatch):
    probe = {"name": "tools", "data": str(made / "labels"), "task": "tools", "protocol": "knn", "frames": 24}
    config = probed_run(made / "shards", tmp_path / "run", probe=[probe])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump({"time_min": 10, "nodes": 2, "array_limit": 2}))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    return SbatchStandIn(tmp_path / "bin", monkeypatch)


def words(file, *more):
    return ["pretrain", str(file), "--sweep", f"optim.lr={','.join(RATES)}", "train.steps=4", *more]


def submit(file, *more):
    return main(words(file, "--slurm", "profile.yaml", *more))


def calls(sweep: Path, job: str) -> dict[int, tuple[str, ...]]:
    """What each element of a job was submitted to run."""
    found = {}
    for path in (sweep / "slurm").glob(f"{job}_*_submitted.pkl"):
        found[int(path.name.split("_")[1])] = pickle.loads(path.read_bytes()).function.words
    return dict(sorted(found.items()))


def do(sweep: Path, job: str, index: int, code: int | None = None) -> int:
    """Run an element in this process, as its job would; with `code` it only ends like that."""
    code = main(calls(sweep, job)[index]) if code is None else code
    job_states.begin(sweep / "slurm", f"{job}_{index}", 0, None)
    job_states.end(sweep / "slurm", f"{job}_{index}", code)
    return code


def test_a_dry_run_prints_an_array_of_all_arms_and_the_table_behind_it(file, cluster, capsys):
    assert submit(file, "--dry-run") == 0
    arms, table = capsys.readouterr().out.split("# array ")[1:]
    assert arms.startswith("a0: optim.lr=0.001, optim.lr=5e-2, optim.lr=0.3\n")
    assert "#SBATCH --array=0-2%2\n" in arms
    assert "#SBATCH --nodes=2\n" in arms
    assert "#SBATCH --dependency" not in arms
    assert "#SBATCH --dependency=afterany:a0\n" in table
    assert "#SBATCH --nodes=1\n" in table
    assert not (file.parent / "run").exists()
    assert cluster.scripts() == []


@pytest.mark.slow
def test_jobs_leave_the_table_and_the_choice_of_a_sweep_on_this_machine(file, cluster, tmp_path, capsys):
    assert submit(file) == 0
    sweep = tmp_path / "run" / "sweep"
    arms, table = calls(sweep, "1"), calls(sweep, "2")
    assert [call[-4:-2] for call in arms.values()] == [("train.steps=4", f"optim.lr={rate}") for rate in RATES]
    assert [call[-2:] for call in arms.values()] == [
        (f"run.out={sweep / f'optim.lr={rate}'}", "run.ranks=1") for rate in RATES
    ]
    assert table[0][-4:] == ("train.steps=4", "--sweep", f"optim.lr={','.join(RATES)}", "--table")
    assert [do(sweep, "1", index) for index in arms] == [0, 0, 0]
    assert do(sweep, "2", 0) == 0
    by_jobs, chosen = json.loads((sweep / "sweep.json").read_text()), (sweep / "chosen.yaml").read_text()
    assert yaml.safe_load(chosen)["train"]["steps"] == 12  # the file's length, not that of the arms
    assert yaml.safe_load(chosen)["optim"]["lr"] == float(by_jobs["chosen"]["optim.lr"])
    assert main(words(file)) == 0  # finds all arms finished
    assert json.loads((sweep / "sweep.json").read_text()) == by_jobs
    assert (sweep / "chosen.yaml").read_text() == chosen
    capsys.readouterr()
    assert submit(file) == 0  # as does this: nothing is submitted, and there is the table
    assert "was chosen on the validation cases of probe tools" in " ".join(capsys.readouterr().out.split())
    assert len(cluster.scripts()) == 2


def test_only_what_is_missing_is_submitted_again_and_nothing_is_chosen_before(file, cluster, tmp_path, capsys):
    assert submit(file) == 0
    sweep = tmp_path / "run" / "sweep"
    assert do(sweep, "1", 0) == 0
    do(sweep, "1", 1, code=143)  # cancelled; the third was killed and left nothing
    assert do(sweep, "2", 0) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 arms have not ended, so none is chosen yet" in said
    rows = {arm["settings"]["optim.lr"]: arm for arm in json.loads((sweep / "sweep.json").read_text())["arms"]}
    assert [rows[rate]["ended"] for rate in RATES] == [True, False, False]
    assert rows["5e-2"]["failed"] == "no result: it has not begun; job 1_1 ended with exit code 143"
    assert rows["0.3"]["failed"] == "no result: it has not begun; job 1_2"
    assert not (sweep / "chosen.yaml").exists()

    cluster.active = ["1_2|RUNNING|None|node-1"]
    assert submit(file) == 2  # as long as a job of these works
    assert main(words(file)) == 2
    assert "job 1_2 (sweep) for" in capsys.readouterr().err
    cluster.active = []
    assert submit(file) == 0
    assert [call[-3] for call in calls(sweep, "3").values()] == ["optim.lr=5e-2", "optim.lr=0.3"]
    assert "#SBATCH --dependency=afterany:3\n" in cluster.scripts()[-1]
    assert [do(sweep, "3", 0), do(sweep, "3", 1), do(sweep, "4", 0)] == [0, 0, 0]
    assert (sweep / "chosen.yaml").exists()


def test_an_arm_that_diverged_is_an_answer_until_its_words_change(file, cluster, tmp_path, capsys):
    diverging = ["pretrain", str(file), "--sweep", "optim.lr=0.001,1e30", "train.steps=4", "train.max_skipped=0"]
    diverging += ["--slurm", "profile.yaml"]
    assert main(diverging) == 0
    sweep = tmp_path / "run" / "sweep"
    assert do(sweep, "1", 0) == 0
    capsys.readouterr()
    assert do(sweep, "1", 1) == 1
    (sweep / "slurm/1_1_0_log.err").write_text(capsys.readouterr().err)
    assert do(sweep, "2", 0) == 0
    bad = json.loads((sweep / "sweep.json").read_text())["arms"][1]
    assert (bad["ended"], bad["value"]) == (True, None)
    assert "step" in bad["failed"]
    assert bad["failed"].endswith("slurm/1_1_0_log.err)")
    assert main(diverging) == 0  # nothing to submit
    assert len(cluster.scripts()) == 2
    assert main([*diverging, "train.max_skipped=1"]) == 0
    assert [call[-3] for call in calls(sweep, "3").values()] == ["optim.lr=1e30"]
    job_states.end(sweep / "slurm", "3_0", 1)
    job_states.end(sweep / "slurm", "4_0", 0)
    assert main(["jobs", "resubmit", str(sweep)]) == 0  # tries it again all the same, and the table after it
    assert [call[-3] for call in calls(sweep, "5").values()] == ["optim.lr=1e30"]
    assert calls(sweep, "6")[0][-1] == "--table"


def test_an_arm_of_another_recipe_is_refused_before_anything_is_submitted(file, cluster, tmp_path, capsys):
    assert submit(file) == 0
    sweep = tmp_path / "run" / "sweep"
    assert do(sweep, "1", 0) == 0
    assert submit(file, "optim.weight_decay=0.2") == 2
    assert "recipe.optim.weight_decay: 0.04 in the checkpoint, 0.2 now" in capsys.readouterr().err
    assert Graph.load(sweep).jobs["table"] == "2_0"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--slurm", "local"], "leave out --slurm, or name the profile of a cluster"),
        (["--slurm", "profile.yaml", "--slurm-set", "tasks_per_node=3"], "does not divide by the profile's ranks"),
        (["--slurm", "profile.yaml", "--sweep", "train.batch=8,9"], "train.batch 9 does not divide"),
        (["--dry-run"], "or submit them with --slurm"),
    ],
)
def test_what_cannot_be_submitted_is_told_before_any_job(file, cluster, tmp_path, capsys, more, message):
    assert main(words(file, *more)) == 2
    assert message in capsys.readouterr().err
    assert cluster.scripts() == []
    assert not (tmp_path / "run").exists()


def test_the_table_alone_needs_a_sweep(file, capsys):
    assert main(["pretrain", str(file), "--table"]) == 2
    assert "it needs --sweep KEY=A,B" in capsys.readouterr().err
