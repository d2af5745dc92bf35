import json

import pandas as pd
import pytest
from data_factory import make_catalog
from downstream_factory import make_folder
from study_factory import make_study, successes

from trocar.cli.main import main
from trocar.slurm import graph
from trocar.study import whole_study
from trocar.study.config import load_study
from trocar.study.results import StudyResults
from trocar.study.stages import Store
from trocar.study.study_lock import require_lock
from trocar.study.whole_study import sync_study


def test_a_plan_says_what_is_compared_and_what_is_left_and_writes_the_lock(tmp_path, capsys):
    path = make_study(tmp_path)
    assert main(["study", "plan", str(path), "speed.images_per_s=12"]) == 0
    said = capsys.readouterr().out
    assert "small: arms, equal steps" in said
    assert "stated" in said
    assert "contrasts: north - init, south - init" in said
    lock = require_lock(Store(tmp_path / "store"), "small")
    assert sum(stage.kind == "evaluate" for stage in lock.stages.values()) == 3


def test_other_data_than_planned_is_refused_until_it_is_accepted(tmp_path, capsys):
    path = make_study(tmp_path)
    assert main(["study", "plan", str(path)]) == 0
    make_catalog(tmp_path / "grown", 80, 6)
    words = ["study", "plan", str(path), f"catalog={tmp_path / 'grown'}"]
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "arm north, seed 0: 2 cases" in said
    assert "--update" in said
    assert main(["study", "run", *words[2:]]) == 2  # nothing is computed on it either
    assert not (tmp_path / "store" / "stages").exists()
    assert main([*words, "--update"]) == 0
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status"], "has not been planned"),
        (["report"], "has not been planned"),
        (["run", "--dry-run"], "prints the scripts for --slurm"),
        (["run", "--slurm", "local"], "a graph of stages needs SLURM"),
    ],
)
def test_what_cannot_be_is_said(words, said, tmp_path, capsys):
    path = make_study(tmp_path)
    assert main(["study", words[0], str(path), *words[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_prints_an_array_for_each_step_of_the_graph(tmp_path, capsys):
    path = make_study(tmp_path)
    assert main(["study", "run", str(path), "--slurm", "cpu", "--slurm-set", "partition=long", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert script.count("#SBATCH --array=") == 4
    assert "#SBATCH --partition=long" in script
    assert "aftercorr" in script
    assert script.count("export OMP_NUM_THREADS=1\n") == 4  # the study's threads, as for local processes


def test_a_submission_brings_mlflow_up_to_date_and_ends_with_what_to_look_at(tmp_path, capsys, monkeypatch):
    happened = []
    monkeypatch.setattr(graph, "submit_graph", lambda jobs, *_, **__: happened.append(len(jobs)))
    monkeypatch.setattr(whole_study, "sync_study", lambda lock, *_: happened.append(lock.study.name))
    path = make_study(tmp_path)
    assert main(["study", "run", str(path), "--slurm", "cpu"]) == 0
    assert happened == [6, "small"]
    said = capsys.readouterr().out
    assert said == f"6 stages are submitted; `trocar study status {path}` or `trocar jobs` to follow\n"


def test_a_folder_that_is_no_stage_is_refused(tmp_path, capsys):
    assert main(["study", "stage", str(tmp_path)]) == 2
    assert "is no stage of a study" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small study that has been run, once for all tests of it."""
    root = tmp_path_factory.mktemp("study")
    path = make_study(
        root, budget_draws=2, tasks={"phase": _task(root), "red": _task(root) | {"task": "tools", "budgets": [None]}}
    )
    assert main(["study", "run", str(path), "--jobs", "2", "--uri", f"sqlite:///{root / 'mlflow.db'}"]) == 0
    return root, load_study(path), Store(root / "store")


def _task(root):
    return {"data": str(root / "labels"), "task": "phase", "protocol": ["knn"], "folds": 2, "budgets": [None, 1]}


@pytest.mark.slow
def test_a_study_runs_from_its_file_to_its_report(finished):
    _, study, store = finished
    results = StudyResults.load(study, store)
    assert results.missing == []
    assert results.arms == {"north": "pretrained", "south": "pretrained", "init": "init"}
    table = results.table()
    # three arms: on one task all labels and two draws of one case, on the other all labels
    assert len(table) == 3 * (3 + 1)
    assert table["value"].between(0, 1).all()
    assert set(table["labelled_cases"]) == {1.0, 2.0}
    out = store.out(results.lock.report)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), table)
    # the numbers of the evaluation itself
    for score, value in zip(results.scores, table["value"], strict=True):
        row = results.about(score)
        place = row["runs"].index({"replicate": score.key.replicate, "draw": score.draw, "start": score.start})
        assert row["metrics"][results.metric(score.task)]["values"][place] == pytest.approx(value)


@pytest.mark.slow
def test_finished_pretrainings_keep_backbone_and_milestones(finished):
    _, study, store = finished
    for run in StudyResults.load(study, store).pretrained:
        assert (run.folder / "backbone" / "model.safetensors").is_file()
        assert [path.name for path in sorted((run.folder / "checkpoints").iterdir())] == ["step-00000002"]
        assert (run.steps, run.samples, run.done.attempts) == (3, 12, 1)


@pytest.mark.slow
def test_another_task_runs_its_own_stages_and_no_other(finished, capsys):
    root, _, store = finished
    before = {name: store.done(name).ended for name in require_lock(store, "small").stages}
    tasks = {"phase": _task(root), "more": _task(root) | {"protocol": ["linear"], "budgets": [None]}}
    path = make_study(root, name="second", budget_draws=2, tasks=tasks)
    assert main(["study", "run", str(path), "--jobs", "2", "--uri", "none"]) == 0
    lock = require_lock(store, "second")
    own = [name for name in lock.stages if name not in before]
    assert len(own) == 3 + 1
    assert all(store.done(name).ended == when and successes(store, name) == 1 for name, when in before.items())
    assert main(["study", "status", str(path)]) == 0
    assert "left: nothing" in capsys.readouterr().out


def files_of(client, run, folder=None):
    """Names of the artifacts in a folder of a run."""
    return {file.path.rpartition("/")[2] for file in client.list_artifacts(run.info.run_id, folder)}


@pytest.mark.slow
def test_mlflow_has_an_experiment_with_a_run_per_arm_and_stages_below_it(finished):
    from mlflow import MlflowClient

    root, _, store = finished
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    lock = require_lock(store, "small")
    called = {stage.label for stage in lock.stages.values()}
    assert set(by_name) == called | {"north", "south", "init"}
    assert {"north, seed 0", "north, seed 0: phase, knn, 100% of the labels", "report of small"} <= called
    for place in (*lock.runs, *lock.evaluations):
        run = by_name[lock.stages[place.stage].label]
        assert run.data.tags["mlflow.parentRunId"] == by_name[place.arm].info.run_id
        assert run.info.status == "FINISHED"
        tags = {name: run.data.tags.get(name) for name in ("arm", "task", "protocol", "budget", "stage")}
        wanted = {name: getattr(place, name, None) for name in ("arm", "protocol", "budget", "stage")}
        assert tags == wanted | {"task": getattr(place, "task", "phase, red")}
    scored = by_name["north, seed 0: phase, knn, 1 labelled case"]
    assert 0 <= scored.data.metrics["f1_pooled_macro"] <= 1
    assert {"predictions.parquet", "results.json"} <= files_of(client, scored)
    assert {"README.md", "config.json", "model.safetensors"} <= files_of(client, by_name["north, seed 0"], "backbone")
    assert {"index.html", "results.csv"} <= files_of(client, by_name["report of small"])
    assert {model.name for model in client.search_registered_models()} == {"small-north", "small-south"}
    # an arm has a column a task, whatever the number of its stages, and none that is called after a stage
    arm = by_name["north"]
    assert not [key for key in (*arm.data.params, *arm.data.metrics) if any(name in key for name in lock.stages)]
    metric = lock.tasks["phase"].metric.replace("@", "_")
    keys = {f"phase/knn/{metric}", f"phase/knn/1 labelled case/{metric}"}
    assert {key for key in arm.data.metrics if key.startswith("phase")} == keys
    assert arm.data.tags["done"] == "3 of 3 evaluations"
    assert arm.data.params["steps"] == "3"
    (whole,) = [one for one in lock.evaluations if (one.arm, one.task, one.budget) == ("north", "phase", "100%")]
    (row,) = json.loads((store.out(whole.stage) / "results.json").read_text())["rows"]
    assert arm.data.metrics[f"phase/knn/{metric}"] == row["metrics"][lock.tasks["phase"].metric]["mean"]
    # a second sync logs nothing twice
    assert sync_study(lock, store, print, uri)
    assert len(client.search_runs([experiment.experiment_id])) == len(runs)
    assert len(client.search_model_versions("name='small-north'")) == 1


@pytest.mark.slow
def test_tracking_trouble_is_said_and_stops_nothing(finished):
    root, _, store = finished
    said = []
    no_folder = root / "recipe.yaml"
    assert not sync_study(require_lock(store, "small"), store, said.append, f"sqlite:///{no_folder}/mlflow.db")
    assert said
    assert said[0].startswith("mlflow: ")


@pytest.mark.slow
def test_track_sync_brings_a_server_up_to_a_study(finished, capsys):
    root, _, store = finished
    assert main(["track", "sync", str(store.study("small")), "--uri", f"sqlite:///{root / 'later.db'}"]) == 0
    assert "has all finished stages of study small" in capsys.readouterr().out
    assert json.loads((store.study("small") / "study.lock").read_text())["format"] == 5


def unprepared(root):
    """A study whose labels are made by a command that has not been run."""
    (root / "notes.yaml").unlink(missing_ok=True)
    task = {"data": str(root / "later"), "task": "phase", "protocol": ["knn"], "folds": 2}
    return make_study(root, prepare=[f"presets copy small_dino {root / 'notes.yaml'}"], tasks={"phase": task})


def test_a_plan_makes_no_data_but_says_what_would(tmp_path, capsys):
    path = unprepared(tmp_path)
    assert main(["study", "plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"the data are not there yet ({tmp_path / 'later'})" in said
    assert f"\n  trocar presets copy small_dino {tmp_path / 'notes.yaml'}\n" in said
    assert main(["study", "run", str(path), "--slurm", "cpu", "--dry-run"]) == 2  # a dry run makes none either
    assert not (tmp_path / "notes.yaml").exists()


def test_a_plan_makes_the_data_where_it_is_asked_to(tmp_path, capfd):
    path = unprepared(tmp_path)
    make_folder(tmp_path / "later")
    assert main(["study", "plan", str(path)]) == 0
    assert "planned on the data that are there; `study run` and --prepare run first: trocar" in capfd.readouterr().err
    assert not (tmp_path / "notes.yaml").exists()
    assert main(["study", "plan", str(path), "--prepare"]) == 0
    assert (tmp_path / "notes.yaml").exists()
