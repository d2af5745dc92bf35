import os
import signal
import stat
import subprocess

import pytest

from trocar.slurm.remote_call import StopBeforeTraining
from trocar.slurm.requeue import after_stop, job_id, script_lines


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """squeue and scontrol of one's own: they note what they are asked, and squeue says what the test wants."""
    (tmp_path / "bin").mkdir()

    def says(state):
        for name, line in (("squeue", f"echo {state}"), ("scontrol", "true")):
            program = tmp_path / "bin" / name
            program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n{line}\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    says("RUNNING")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("SUBMITIT_EXECUTOR", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT", "TROCAR_MAX_REQUEUES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    says.asked = lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    return says


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_user_signal_makes_rank_0_ask_for_the_requeue(slurm, number):
    assert after_stop(number, True, print) == 128 + number
    assert slurm.asked() == ["squeue -h -j 12 -o %T", "scontrol requeue 12"]


def test_other_ranks_ask_nothing(slurm):
    assert after_stop(signal.SIGUSR2, False, print) == 128 + signal.SIGUSR2
    assert slurm.asked() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_job_that_is_told_to_end_never_comes_back(slurm, number):
    assert after_stop(number, True, print) == 128 + number
    assert slurm.asked() == []


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING"])
def test_a_job_that_slurm_is_ending_already_is_left_to_it(slurm, state):
    slurm(state)
    after_stop(signal.SIGUSR2, True, print)
    assert slurm.asked() == ["squeue -h -j 12 -o %T"]


def test_an_element_of_an_array_is_requeued_alone(slurm, monkeypatch):
    # SLURM_JOB_ID of one of the elements is that of the array
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert job_id(os.environ) == "12_3"
    after_stop(signal.SIGUSR2, True, print)
    assert slurm.asked()[1] == "scontrol requeue 12_3"


def test_a_job_does_not_come_back_for_ever(slurm, monkeypatch, capsys):
    monkeypatch.setenv("TROCAR_MAX_REQUEUES", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    after_stop(signal.SIGUSR2, True, print)
    assert slurm.asked() == []
    assert "came back 2 times" in capsys.readouterr().out


def test_where_there_is_no_scontrol_the_jobs_script_does_it(slurm, tmp_path, monkeypatch):
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TROCAR_JOB_FOLDER", str(tmp_path))
    after_stop(signal.SIGUSR2, True, print)
    assert (tmp_path / "requeue-12").exists()
    script = "\n".join(["(exit 7)", *script_lines(tmp_path)])
    for expected in (["scontrol requeue 12"], ["scontrol requeue 12"]):  # once: the file is gone the second time
        assert (
            subprocess.run(["bash", "-c", script], env={"PATH": path, "SLURM_JOB_ID": "12"}, check=False).returncode
            == 7
        )
        assert slurm.asked() == expected


def test_submitits_local_executor_starts_again_on_a_code_of_its_own(slurm, monkeypatch):
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    assert after_stop(signal.SIGUSR2, True, print) == LOCAL_REQUEUE_RETURN_CODE
    assert after_stop(signal.SIGTERM, True, print) == 143
    assert slurm.asked() == []


def test_a_signal_before_training_ends_the_process_at_once(slurm):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    try:
        StopBeforeTraining(is_main=True)
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGUSR2)
        assert end.value.code == 128 + signal.SIGUSR2
        assert slurm.asked()[-1] == "scontrol requeue 12"
        os.kill(os.getpid(), signal.SIGTERM)  # the next one is no news
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
