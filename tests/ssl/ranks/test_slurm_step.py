"""Which processes of a SLURM job are ranks, from the variables they see."""

import os

import pytest

from trocar.ssl.ranks import distributed
from trocar.ssl.ranks.distributed import World

TASK = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_TASK_PID": "12345",
}


def world(typed=False, **changes):
    environ = {**TASK, **changes}
    given = {name: value for name, value in environ.items() if value is not None}
    task = distributed.of(given, lambda pid: typed)
    return None if task is None else (task.rank, task.size, task.local_rank, task.step)


def test_a_task_of_srun_is_a_rank_and_its_step_has_a_name_of_its_own():
    assert world() == (3, 4, 1, "step-4711.0-0")
    others = [world(SLURM_STEP_ID="1"), world(SLURM_RESTART_COUNT="1"), world(SLURM_JOB_ID="4712"), world()]
    assert len({step for *_, step in others}) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_ID": None},  # a job's script, or the shell of salloc on the login node
        {"SLURM_STEP_ID": "4294967291"},  # a job's script as some versions number it
        {"SLURM_STEP_ID": "4294967290"},  # the shell of salloc on a compute node
        {"SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 in a job of four tasks
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "1"},
        {"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": None},
        {"SLURM_PROCID": None},
    ],
)
def test_what_srun_did_not_start_as_one_of_several_is_alone(changes):
    assert world(**changes) is None


def test_a_command_typed_into_a_shell_of_srun_pty_is_alone_whatever_number_of_tasks_the_shell_has():
    shell = {"SLURM_PTY_PORT": "43017", "SLURM_PTY_WIN_COL": "120"}
    assert world(typed=True, **shell) is None
    # An srun typed there hands those variables on to tasks that have no terminal.
    assert world(typed=False, **shell) == (3, 4, 1, "step-4711.0-0")


def test_a_terminal_makes_a_shell_of_the_steps_process_but_not_of_the_command_itself():
    """`srun --pty trocar` starts Trocar as the task; in `srun --pty bash` it is the shell."""
    assert not distributed._is_typed(os.getpid())
    pid, terminal = os.forkpty()
    if pid == 0:
        os.write(1, b"here")
        os.read(0, 1)
        os._exit(0)
    try:
        assert os.read(terminal, 4) == b"here"
        assert distributed._is_typed(pid)
        assert not distributed._is_typed(1)  # no terminal there
    finally:
        os.write(terminal, b"\n")
        os.waitpid(pid, 0)
        os.close(terminal)


def test_what_another_launcher_says_comes_first(monkeypatch):
    monkeypatch.setattr(distributed, "_is_typed", lambda pid: False)
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    assert World.from_environment({**TASK, **torchrun}) == World(1, 2, 0)
    assert World.from_environment(TASK) == World(3, 4, 1, "step-4711.0-0")
    assert World.from_environment({}) is None
