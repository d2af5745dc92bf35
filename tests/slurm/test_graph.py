"""On a real SLURM: stages as arrays that wait for each other, element by element."""

from __future__ import annotations

import pytest
from ingest_clips import constant, make_clip
from slurm_factory import ask, only_job, state, until, until_state, write_profile

from trocar.cli.main import main
from trocar.data.catalog.catalog import Catalog
from trocar.slurm import job_states
from trocar.slurm.arrays import JobStage
from trocar.slurm.graph import Graph, resubmit, submit_graph
from trocar.slurm.profile import Profile

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

WELL = ("presets", "list")
ARMS = 4


def stages(obstacle):
    """Arms that are pretrained, then have features, then two tasks each; and one report on all. Arm 2 can't work."""
    first = [JobStage(f"pretrain-{i}", WELL) for i in range(ARMS)]
    first[2] = JobStage("pretrain-2", ("presets", "copy", "small_dino", str(obstacle)))
    features = [JobStage(f"features-{i}", WELL, (f"pretrain-{i}",)) for i in range(ARMS)]
    tasks = [JobStage(f"{task}-{i}", WELL, (f"features-{i}",)) for i in range(ARMS) for task in ("phase", "tools")]
    return [*first, *features, *tasks, JobStage("report", WELL, tuple(task.name for task in tasks))]


def settled(graph):
    def now():
        states = graph.states()
        return None if any(state.is_active for state in states.values()) else states

    return {name: state.state for name, state in until("all stages have ended", now, limit_s=240).items()}


def test_a_failed_element_stops_its_dependents_alone_and_a_resubmission_finishes_the_graph(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    obstacle = tmp_path / "small_dino.yaml"
    obstacle.touch()
    graph = submit_graph(stages(obstacle), tmp_path / "study", Profile(time_min=10, array_limit=3))
    # 17 stages are five arrays: sbatch is called once for each, not for each stage
    assert len({job.partition("_")[0] for job in graph.jobs.values()}) == 5
    ended = settled(graph)
    stopped = {"features-2", "phase-2", "tools-2", "report"}
    assert {name for name, state in ended.items() if state == "CANCELLED"} == stopped
    assert {name for name, state in ended.items() if state == "FAILED"} == {"pretrain-2"}
    assert {state for name, state in ended.items() if name not in {*stopped, "pretrain-2"}} == {"COMPLETED"}
    assert main(["jobs"]) == 0
    assert f"{graph.jobs['pretrain-2']} pretrain-2 FAILED" in capsys.readouterr().out

    obstacle.unlink()
    before = dict(graph.jobs)
    again = resubmit(tmp_path / "study")
    changed = {name for name, job in again.jobs.items() if job != before[name]}
    assert changed == {*stopped, "pretrain-2"}
    assert set(settled(again).values()) == {"COMPLETED"}
    # what is finished is not submitted again
    assert submit_graph(stages(obstacle), tmp_path / "study", Profile(time_min=10)).jobs == again.jobs


def test_resubmitting_an_element_cancels_what_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waiting = Profile(time_min=10, extra={"hold": True})
    chain = [JobStage("a", WELL), JobStage("b", WELL), JobStage("c", WELL, ("a",)), JobStage("d", WELL, ("c",))]
    first = submit_graph(chain, tmp_path / "study", waiting)
    second = resubmit(tmp_path / "study", ["a"])
    assert first.jobs["b"] == second.jobs["b"]
    for name in ("a", "c", "d"):
        # an element that never ran is taken out of its array, and squeue knows it no more
        until(f"{name} is cancelled", lambda job=first.jobs[name]: state(job) in ("", "CANCELLED"))
        assert second.jobs[name] != first.jobs[name]
    assert ask("squeue", "-h", "-r", "-j", second.jobs["b"], "-o", "%T") == "PENDING"
    held = sorted({job.partition("_")[0] for job in second.jobs.values()})
    ask("scontrol", "release", *held)
    assert set(settled(Graph.load(tmp_path / "study")).values()) == {"COMPLETED"}


def test_no_more_elements_run_at_once_than_the_profile_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    many = [JobStage(f"s{i}", WELL) for i in range(6)]
    graph = submit_graph(many, tmp_path / "study", Profile(time_min=10, array_limit=2, extra={"hold": True}))
    job = graph.jobs["s0"].partition("_")[0]
    assert "ArrayTaskThrottle=2" in ask("scontrol", "show", "job", job)


def test_an_ingest_as_an_array_makes_the_catalog_of_an_ingest_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = tmp_path / "clips"
    clips.mkdir()
    for name, first in (("a", 0), ("b", 500), ("c", 1000)):
        make_clip(clips / f"{name}.mp4", constant(25, 50), numbers=range(first, first + 50))
    (clips / "broken.mp4").write_bytes(b"no video")
    words = ["ingest", "clips", "--out", "shards", "--fps", "2", "--workers", "1"]
    assert main([*words[:3], "here", *words[4:]]) == 1  # the broken one is rejected, and said to be
    profile = write_profile(tmp_path, array_limit=2, cpus_per_task=1)
    assert main([*words, "--slurm", profile, "--allow-rejects"]) == 0
    graph = Graph.load(tmp_path / "shards")
    assert [stage.name for stage in graph.stages] == ["part-0000", "part-0001", "part-0002", "part-0003", "merge"]
    assert set(settled(graph).values()) == {"COMPLETED"}
    assert Catalog.open("shards").fingerprint == Catalog.open("here").fingerprint
    # one video gets lost: only that one is decoded again
    (tmp_path / "shards/videos/b.json").unlink()
    assert main([*words, "--slurm", profile, "--allow-rejects"]) == 0
    graph = Graph.load(tmp_path / "shards")
    assert [stage.name for stage in graph.stages] == ["part-0000", "part-0001", "merge"]
    assert set(settled(graph).values()) == {"COMPLETED"}
    assert Catalog.open("shards").fingerprint == Catalog.open("here").fingerprint
    assert main(["jobs", "list", "shards"]) == 0
    assert "COMPLETED" in capsys.readouterr().out


def test_a_command_with_another_exit_code_than_0_is_a_failed_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    profile = write_profile(tmp_path)
    words = [
        "evaluate",
        "--data",
        "nowhere",
        "--backbone",
        "random:test_convnext",
        "--task",
        "phase",
        "--out",
        "scores",
    ]
    assert main([*words, "--slurm", profile]) == 0
    job = only_job(tmp_path / "scores").job
    until_state(job, "FAILED")
    assert "nowhere" in only_job(tmp_path / "scores").log().read_text()
    capsys.readouterr()
    assert main(["jobs"]) == 0
    assert "FAILED" in capsys.readouterr().out


def test_the_doctor_examines_a_node(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--slurm", write_profile(tmp_path), "--wait", "240"]) == 0
    said = capsys.readouterr().out
    assert "a requeued job waits at least 5 s" in said
    assert "all that is needed for a run on a CPU works" in said
    assert "COMPLETED" in said


def test_the_doctor_fails_on_a_node_whose_gpus_torch_does_not_see(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--slurm", write_profile(tmp_path, gpus_per_node=2), "--wait", "240"]) == 1
    said = capsys.readouterr().out
    assert "FAILED  cuda" in said
    assert "there are GPUs here (CUDA_VISIBLE_DEVICES=0), but torch sees none" in said


def test_a_job_with_a_wrong_partition_is_refused_in_sbatchs_words_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "--data", "x", "--backbone", "y", "--task", "phase", "--out", "scores"]
    assert main([*words, "--slurm", write_profile(tmp_path, partition="nonesuch")]) == 1
    assert "invalid partition" in capsys.readouterr().err
    assert job_states.submitted_from(tmp_path) == []
