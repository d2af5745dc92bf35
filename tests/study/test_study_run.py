import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from study_factory import command, launch, make_stages, named, successes

from trocar.errors import StoppedError
from trocar.runs.lease import Lease
from trocar.slurm import graph
from trocar.slurm.profile import Profile
from trocar.study.stage_execution import HELD, run_stage
from trocar.study.stage_executors import Ended, LocalExecutor, SlurmExecutor, run_stages
from trocar.study.stages import Store, attempts

RUN = """
import signal, sys
from pathlib import Path
from study_factory import command, launch, make_stages
from trocar.cli.terminal import answered
from trocar.study.stage_executors import LocalExecutor, run_stages
from trocar.study.stages import Store
stages = make_stages(takes_s=float(sys.argv[2]))
executor = LocalExecutor(Store(Path(sys.argv[1])), 2, launch=launch, keep="full", say=print)
with answered([signal.SIGINT], executor.stop):
    ended = run_stages(executor, stages)
raise SystemExit(1 if ended.failed else 0)
"""


def run(store, stages, jobs=2):
    said = []
    return run_stages(LocalExecutor(store, jobs, launch=launch, keep="full", say=said.append), stages), said


def start(root, takes_s=1.0):
    """A runner as a program of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", RUN, str(root), str(takes_s)], env=environment)


def wait_for(what, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def begun(store, stages):
    return sum(bool(attempts(store.folder(name))) for name in stages)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_all_stages_are_done_parents_first_and_never_again(store):
    stages = make_stages()
    ended, said = run(store, stages)
    assert set(ended.done) == set(stages)
    assert not ended.failed
    ends = {name: store.done(name).ended for name in stages}
    assert all(ends[parent] < ends[name] for name, stage in stages.items() for parent in stage.parents)
    assert "[7/7]" in said[-1]
    again, said = run(store, stages)
    assert set(again.done) == set(stages)
    assert all("was there" in line for line in said)
    assert [successes(store, name) for name in stages] == [1] * 7


def test_done_says_what_went_in_what_came_out_and_how_long_it_took(store):
    stages = make_stages(takes_s=0.2)
    run(store, stages)
    name = named(stages, "a on x")
    done = store.done(name)
    assert done.inputs == {"task": "x"}
    assert done.parents == (named(stages, "a"),)
    assert done.attempts == 1
    assert 0.2 <= done.seconds < 60
    assert set(done.versions) >= {"trocar", "torch", "python"}
    assert list(done.outputs) == ["predictions.parquet"]
    assert "working on a on x" in "\n".join(store.log_tail(name))


def test_a_stage_that_fails_stops_only_what_depends_on_it_and_is_tried_again(store, tmp_path):
    broken = tmp_path / "broken"
    broken.touch()
    stages = make_stages(fails={"a": broken})
    ended, said = run(store, stages)
    assert ended.failed == {named(stages, "a"): 3}
    assert {stages[name].config["what"] for name in ended.blocked} == {"a on x", "a on y", "report"}
    assert {stages[name].config["what"] for name in ended.done} == {"b", "b on x", "b on y"}
    assert "    it is broken" in said
    assert store.state(named(stages, "a")) == "failed"
    broken.unlink()
    ended, _ = run(store, stages)
    assert set(ended.done) == set(stages)
    assert store.failure(named(stages, "a")) is None
    assert [successes(store, name) for name in stages] == [1] * 7


def test_a_stage_whose_process_is_killed_is_a_failure_that_the_next_run_mends(store):
    stages = make_stages(takes_s=2)
    killed = named(stages, "a")

    def kill():
        wait_for(lambda: store.worker(killed) is not None)
        os.kill(store.worker(killed).pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    ended, _ = run(store, {killed: stages[killed]})
    thread.join()
    assert ended.failed == {killed: -signal.SIGKILL}
    ended, _ = run(store, {killed: stages[killed]})
    assert ended.done == [killed]
    assert [e.get("code") for e in attempts(store.folder(killed))] == [None, None, 0]


def test_a_result_that_is_missing_is_a_failure(store, capfd):
    stages = make_stages()
    name = named(stages, "a")
    with capfd.disabled():
        assert run_stage(store.put(stages[name], None, "full"), lambda words: 0) == 1
    assert store.state(name) == "failed"
    assert f"{name} ended without" in store.log_tail(name)[-1]


def test_a_pretraining_on_other_data_than_planned_is_a_failure(store, capfd):
    stages = make_stages()
    name = named(stages, "a")
    out = store.out(name)

    def other_data(words):
        command(words)
        (out / "finished.json").write_text(json.dumps({"identity": {"data": "those"}}))
        return 0

    with capfd.disabled():
        assert run_stage(store.put(stages[name], None, "full"), other_data) == 1
    assert "was planned on other data than it was trained on (those)" in store.log_tail(name)[-1]
    assert not store.is_done(name)


def test_a_stage_that_was_planned_before_an_edit_of_its_plugin_fails_before_it_works(store, capfd, monkeypatch):
    monkeypatch.syspath_prepend(store.root.parent)
    (store.root.parent / "plugin_of_a_stage.py").write_text("")
    planned = {"plugin_of_a_stage": {"distribution": "", "version": "", "source": "planned"}}
    stages = make_stages()
    stage = replace(stages[named(stages, "a")], inputs={"plugins": planned})
    with capfd.disabled():
        assert run_stage(store.put(stage, None, "full"), command) == 1
    words = f"{stage.name} was planned with other code: plugin plugin_of_a_stage: source was 'planned' and is '"
    assert words in store.log_tail(stage.name)[-1]
    assert not store.out(stage.name).exists()


def test_an_unexpected_error_is_in_the_log(store, capfd):
    stages = make_stages()
    name = named(stages, "a")

    def broken(words):
        raise ZeroDivisionError("by nothing")

    with capfd.disabled():
        assert run_stage(store.put(stages[name], None, "full"), broken) == 1
    assert store.log_tail(name)[-1] == "ZeroDivisionError: by nothing"
    assert json.loads((store.folder(name) / "failed.json").read_text())["code"] == 1


def test_a_stage_that_another_process_holds_is_left_to_it(store):
    stages = make_stages()
    name = named(stages, "a")
    folder = store.put(stages[name], None, "full")
    with Lease.acquire(folder, beat_s=0.2):
        assert store.state(name) == "running"
        assert run_stage(folder, lambda words: pytest.fail("it ran")) == HELD
    assert attempts(folder) == []


def test_two_runners_at_once_share_the_work_and_do_nothing_twice(store):
    stages = make_stages(takes_s=0.5)
    first, second = start(store.root, 0.5), start(store.root, 0.5)
    assert [first.wait(120), second.wait(120)] == [0, 0]
    assert [successes(store, name) for name in stages] == [1] * 7
    assert all(store.done(name).attempts == 1 for name in stages)


def test_ctrl_c_lets_stages_stop_and_leaves_everything_resumable(store):
    stages = make_stages(takes_s=1)
    runner = start(store.root)
    wait_for(lambda: begun(store, stages) >= 2)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(60) != 0
    assert all(store.worker(name) is None for name in stages)  # nothing runs on behind the user's back
    assert not any(store.failure(name) for name in stages)  # stopped is not failed
    assert "stopped" in {store.state(name) for name in stages}
    assert start(store.root).wait(120) == 0
    assert all(store.is_done(name) for name in stages)
    assert [successes(store, name) for name in stages] == [1] * 7


def test_a_stop_ends_the_stages_and_then_the_process_by_the_signal(store):
    stages = make_stages(takes_s=20)
    executor = LocalExecutor(store, 2, launch=launch, keep="full")
    thread = threading.Thread(
        target=lambda: (wait_for(lambda: begun(store, stages) == 2), executor.stop(signal.SIGTERM))
    )
    thread.start()
    with pytest.raises(StoppedError) as stop:
        run_stages(executor, stages)
    thread.join()
    assert stop.value.code == 128 + signal.SIGTERM
    assert [store.state(named(stages, what)) for what in "ab"] == ["stopped", "stopped"]


def test_on_slurm_every_stage_is_a_job_behind_its_parents_that_nobody_here_waits_for(store, monkeypatch):
    submitted = []
    monkeypatch.setattr(graph, "submit_graph", lambda jobs, out, profile, **how: submitted.extend(jobs))
    stages = make_stages()
    slurm = SlurmExecutor(store, "small", Profile(gpus_per_node=4, nodes=2), threads=3, keep="full")
    assert run_stages(slurm, stages) == Ended()
    by_name = {job.name: job for job in submitted}
    assert {name: job.after for name, job in by_name.items()} == {n: s.parents for n, s in stages.items()}
    assert all(job.words == ("study", "stage", str(store.folder(name))) for name, job in by_name.items())
    assert all((store.folder(name) / "stage.yaml").is_file() for name in stages)
    threads = {"environment": {"OMP_NUM_THREADS": "3"}}
    pretrain, evaluate, report = (by_name[named(stages, what)].resources for what in ("a", "a on x", "report"))
    assert pretrain == threads
    assert evaluate == {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 1} | threads
    assert report == {"nodes": 1, "tasks_per_node": 1, "gpus_per_node": 0} | threads


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, StoppedError)])
def test_a_signal_ends_the_submission_to_slurm_at_once(store, number, error):
    with pytest.raises(error):
        SlurmExecutor(store, "small", Profile(), None, "full").stop(number)
