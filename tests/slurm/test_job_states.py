import os

import pytest

from trocar.errors import TrocarError
from trocar.slurm import job_states
from trocar.slurm.job_states import Submission, states
from trocar.slurm.submit import max_elements, remarks


def submission(job, tmp_path, elements=(), cluster="slurm", started=None):
    numbered = {str(i): name for i, name in enumerate(elements)}
    return Submission(job, "x", (), str(tmp_path), str(tmp_path), "/", {"cluster": cluster}, 0.0, numbered, started)


def answers(squeue, sacct=None):
    asked = []

    def run(command):
        asked.append(command)
        if command[0] == "sacct" and sacct is None:
            raise TrocarError("Slurm accounting storage is disabled")
        return squeue if command[0] == "squeue" else sacct

    run.asked = asked
    return run


def found(submissions, run):
    return {job: (state.state, state.reason) for job, state in states(submissions, run).items()}


def test_squeue_is_believed_and_accounting_is_not_asked(tmp_path):
    # sacct would say NODE_FAIL, which SLURM has put back into the queue
    run = answers("7|PENDING|BeginTime|\n", "7|NODE_FAIL|0:0|n1\n")
    assert found([submission("7", tmp_path)], run) == {"7": ("PENDING", "BeginTime")}
    assert [command[0] for command in run.asked] == ["squeue"]


def test_what_squeue_has_forgotten_is_in_the_accounting(tmp_path):
    run = answers("", "7|CANCELLED by 1000|0:0|n1\n8|FAILED|1:0|n2\n")
    both = [submission("7", tmp_path), submission("8", tmp_path)]
    assert found(both, run) == {"7": ("CANCELLED", ""), "8": ("FAILED", "exit code 1:0")}
    assert len(run.asked) == 2


def test_without_accounting_a_job_is_what_it_left_behind(tmp_path):
    job_states.begin(tmp_path, "7", 0, None)
    job_states.end(tmp_path, "7", 0)
    job_states.begin(tmp_path, "8", 0, None)
    job_states.end(tmp_path, "8", 1)
    job_states.begin(tmp_path, "9", 0, None)
    run = answers("")
    three = [submission(job, tmp_path) for job in "789"]
    assert found(three, run) == {"7": ("COMPLETED", ""), "8": ("FAILED", "exit code 1"), "9": ("UNKNOWN", "")}


def test_thousands_of_elements_are_one_question(tmp_path):
    lines = "".join(f"7_{i}|RUNNING|None|n1\n" for i in range(3000))
    run = answers(lines)
    array = submission("7", tmp_path, [f"s{i}" for i in range(3000)])
    assert set(found([array], run).values()) == {("RUNNING", "")}
    assert len(run.asked) == 1


def test_an_element_that_was_taken_out_of_its_array_was_cancelled(tmp_path):
    run = answers("7_1|PENDING|Dependency|\n")
    array = submission("7", tmp_path, ["a", "b"])
    assert found([array], run) == {"7_0": ("CANCELLED", "before it ran"), "7_1": ("PENDING", "Dependency")}


def test_a_controller_that_does_not_answer_is_an_error_and_not_the_end_of_all_jobs(tmp_path):
    def run(command):
        raise TrocarError("squeue: Unable to contact slurm controller")

    with pytest.raises(TrocarError, match="Unable to contact"):
        states([submission("7", tmp_path)], run)


def test_a_local_job_is_its_process(tmp_path):
    from trocar.core.resources import start_time

    mine = submission(str(os.getpid()), tmp_path, cluster="local", started=start_time(os.getpid()))
    gone = submission(str(os.getpid()), tmp_path, cluster="local", started="another process of that number")
    assert states([mine])[mine.job].state == "RUNNING"
    assert states([gone])[gone.job].state == "FAILED"


def test_waiting_and_running_add_up_over_requeues():
    events = [
        {"event": "start", "time": 110.0, "seen": None},
        {"event": "end", "time": 150.0, "code": 140},
        {"event": "start", "time": 170.0, "seen": 150.0},
        # killed without a word; its lease beat last at 195
        {"event": "start", "time": 300.0, "seen": 195.0},
        {"event": "end", "time": 310.0, "code": 0},
    ]
    total = job_states.summarise("7", 100.0, events)
    assert (total.requeues, total.waiting_s, total.running_s) == (2, 10 + 20 + 105, 40 + 25 + 10)
    assert job_states.summarise("7", 100.0, events[:1], now=130.0).running_s == 20
    assert job_states.summarise("7", 100.0, []).requeues == 0


def test_a_torn_line_of_a_life_is_left_out(tmp_path):
    job_states.begin(tmp_path, "7", 0, None)
    with (tmp_path / "lives" / "7.jsonl").open("a") as file:
        file.write('{"event": "en')
    assert [event["event"] for event in job_states.read(tmp_path, "7")] == ["start"]


def test_remarks_say_what_a_cluster_does_to_preempted_jobs():
    plain = {"PreemptMode": "REQUEUE", "KillWait": "30 sec", "JobRequeue": "1", "MaxArraySize": "501"}
    said = "\n".join(remarks(plain))
    assert "SIGKILL after the partition's GraceTime or 30 s" in said
    assert "waits at least 120 s" in said
    assert "no accounting" in said
    assert max_elements(plain) == 501
    polite = plain | {"PreemptParameters": "send_user_signal", "AccountingStorageType": "accounting_storage/slurmdbd"}
    said = "\n".join(remarks(polite | {"AuthInfo": "cred_expire=30"}))
    assert "SIGKILL" not in said
    assert "accounting" not in said
    assert "waits at least 30 s" in said
