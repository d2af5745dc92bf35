"""What is known of a study on SLURM, by records and a scheduler that answers from a text."""

import signal

import pytest
from lock_factory import study_lock
from study_factory import make_stages, named

from trocar.errors import TrocarError
from trocar.slurm import graph, job_states, submissions
from trocar.slurm.graph import Graph
from trocar.slurm.profile import Profile
from trocar.slurm.submissions import Submission
from trocar.study.run.local_executor import LocalExecutor
from trocar.study.run.slurm_executor import SlurmExecutor, last_executor
from trocar.study.run.status import status_of
from trocar.study.stage_store import Store

PROFILE = Profile(cpus_per_task=2, gpus_per_node=4, nodes=2)


@pytest.fixture
def submitted(tmp_path):
    """A store and its stages, as elements 0 to 6 of job 12."""
    store, stages = Store(tmp_path / "store"), make_stages()
    out = store.study("small")
    elements = {str(index): name for index, name in enumerate(stages)}
    jobs = {name: f"12_{index}" for index, name in elements.items()}
    folder = submissions.folder_of(out)
    folder.mkdir(parents=True)
    Graph(out, "small", str(tmp_path), PROFILE, (), jobs).save()
    profile = PROFILE.model_dump(mode="json")
    record = Submission("12", "small", (), str(out), str(folder), str(tmp_path), profile, 0.0, elements)
    submissions.save(record, tmp_path)
    Graph(out, "small", str(tmp_path), PROFILE, tuple(_jobs(store, stages)), jobs).save()
    return store, stages, jobs


def _jobs(store, stages):
    executor = SlurmExecutor(store, "small", PROFILE, threads=3)
    return [executor._job(name, stage, set(stages)) for name, stage in stages.items()]


def answer(monkeypatch, states):
    """A scheduler that knows these jobs: id -> state, and no others."""
    said = "".join(f"{job}|{state}|None|node1\n" for job, state in states.items())
    monkeypatch.setattr(job_states, "run_command", lambda words: said if words[0] == "squeue" else "")


def test_each_stage_is_a_job_behind_its_parents_with_the_resources_of_its_kind(tmp_path):
    stages = make_stages()
    by_name = {job.name: job for job in _jobs(Store(tmp_path), stages)}
    pretrain, evaluate = by_name[named(stages, "a")], by_name[named(stages, "a on x")]
    report = by_name[named(stages, "report")]
    assert evaluate.after == (pretrain.name,)
    assert evaluate.words == ("study", "stage", str(Store(tmp_path).folder(evaluate.name)))
    threads = {"environment": {"OMP_NUM_THREADS": "3"}}
    assert dict(pretrain.resources) == threads
    assert dict(evaluate.resources) == {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1} | threads
    assert dict(report.resources) == {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0} | threads


def test_a_job_that_was_lost_before_its_stage_began_is_a_failure_with_the_log_of_the_job(submitted, monkeypatch):
    store, stages, jobs = submitted
    lost = named(stages, "a")
    answer(monkeypatch, {job: "OUT_OF_MEMORY" if name == lost else "PENDING" for name, job in jobs.items()})
    log = submissions.folder_of(store.study("small")) / f"{jobs[lost]}_0_log.err"
    log.write_text("slurmstepd: error: Detected 1 oom_kill event\n")
    status = status_of(study_lock(stages), last_executor(store, "small"))
    assert status.kinds["pretrain"] == {"failed": 1, "waiting": 1}
    assert status.kinds["evaluate"] == {"blocked": 2, "waiting": 2}
    assert list(status.lines())[3:5] == [
        f"FAILED {lost} (a), job {jobs[lost]} ended as OUT_OF_MEMORY before it began, log {log}:",
        "    slurmstepd: error: Detected 1 oom_kill event",
    ]


def test_a_stage_of_which_the_store_knows_more_is_not_judged_by_its_job(submitted, monkeypatch):
    store, stages, jobs = submitted
    answer(monkeypatch, dict.fromkeys(jobs.values(), "FAILED"))
    begun = named(stages, "a")
    store.put(stages[begun], None, "full")
    (store.folder(begun) / "attempts.jsonl").write_text("")
    assert last_executor(store, "small").states(stages)[begun] == "stopped"


def test_while_the_scheduler_does_not_answer_the_store_alone_is_asked(submitted, monkeypatch):
    store, stages, _ = submitted

    def silent(words):
        raise TrocarError("squeue has not answered for 60 s")

    monkeypatch.setattr(job_states, "run_command", silent)
    assert set(last_executor(store, "small").states(stages).values()) == {"waiting"}


def test_stopping_cancels_what_waits_or_runs(submitted, monkeypatch):
    store, stages, jobs = submitted
    states = dict.fromkeys(jobs.values(), "PENDING") | {jobs[named(stages, "a")]: "COMPLETED"}
    answer(monkeypatch, states)
    cancelled = []
    monkeypatch.setattr(graph, "run_command", lambda words: cancelled.extend(words[2:]) or "")
    last_executor(store, "small").stop(signal.SIGTERM)
    assert sorted(cancelled) == sorted(set(jobs.values()) - {jobs[named(stages, "a")]})


def test_a_study_that_was_never_submitted_is_one_of_this_machine(tmp_path):
    assert isinstance(last_executor(Store(tmp_path), "small"), LocalExecutor)
