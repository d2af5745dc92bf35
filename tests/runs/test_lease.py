import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trocar.runs.lease import JobIdentity, Lease, LeaseHeld, LeaseLost, read_holder

HOLD = """
import sys, time
from trocar.runs.lease import JobIdentity, Lease
job = JobIdentity(sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else None
lease = Lease.acquire(sys.argv[1], job=job, stand_still_s=1, poll_s=0.05, beat_s=0.1)
print("held", flush=True)
while True:
    time.sleep(0.05)
    lease.check()
"""

RACE = """
import sys, time
from trocar.runs.lease import Lease, LeaseHeld
while time.time() < float(sys.argv[2]):
    pass
try:
    lease = Lease.acquire(sys.argv[1], stand_still_s=30, poll_s=0.02, beat_s=0.02)
    print("won", flush=True)
    sys.stdin.read()
except LeaseHeld:
    print("refused", flush=True)
"""

SHORT = {"stand_still_s": 1.0, "poll_s": 0.05, "beat_s": 0.1}


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def hold(tmp_path):
    """Start a process that holds the lease of `tmp_path`; killed at the end of the test."""
    processes = []

    def start(*job):
        args = [sys.executable, "-c", HOLD, str(tmp_path), *map(str, job)]
        process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_second_writer_is_refused_and_told_who_writes_and_what_to_do(tmp_path, hold):
    holder = hold("4711", 2)
    with pytest.raises(LeaseHeld) as refused:
        Lease.acquire(tmp_path, **SHORT)
    message = str(refused.value)
    assert f"process {holder.pid} on {os.uname().nodename}" in message
    assert "SLURM job 4711 (restart 2)" in message
    assert "scancel 4711" in message


def test_the_same_process_cannot_hold_it_twice(tmp_path):
    with Lease.acquire(tmp_path, **SHORT), pytest.raises(LeaseHeld, match=f"`kill {os.getpid()}`"):
        Lease.acquire(tmp_path, **SHORT)


def test_release_frees_the_folder(tmp_path):
    with Lease.acquire(tmp_path, **SHORT) as lease:
        assert read_holder(tmp_path).token == lease.holder.token
    assert read_holder(tmp_path) is None
    start = time.monotonic()
    Lease.acquire(tmp_path).release()
    assert time.monotonic() - start < 1


@pytest.mark.faults
def test_a_killed_holder_is_succeeded_at_once(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    start = time.monotonic()
    with Lease.acquire(tmp_path, stand_still_s=600) as lease:
        assert time.monotonic() - start < 1
        lease.check()


@pytest.mark.faults
def test_a_killed_holder_nobody_reaped_counts_as_dead(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGKILL)
    while " Z " not in open(f"/proc/{holder.pid}/stat").read():  # noqa: PTH123, SIM115
        time.sleep(0.01)
    start = time.monotonic()
    with Lease.acquire(tmp_path, stand_still_s=600):
        assert time.monotonic() - start < 1


def test_a_reused_pid_counts_as_dead(tmp_path):
    with Lease.acquire(tmp_path, **SHORT) as lease:
        record = json.loads((tmp_path / "lease.json").read_text())
    # This very process lives under that pid, but it started at another time than the holder did.
    (tmp_path / "lease.json").write_text(json.dumps({**record, "started": "1", "token": "other"}))
    start = time.monotonic()
    with Lease.acquire(tmp_path, stand_still_s=600) as lease:
        assert time.monotonic() - start < 1
        assert read_holder(tmp_path).token == lease.holder.token


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"pid_space": "another boot"}])
def test_a_pid_of_another_host_or_container_is_never_judged_by_its_number(tmp_path, change):
    with Lease.acquire(tmp_path, **SHORT):
        record = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**record, "pid": 2**22 + 1, **change}))
    start = time.monotonic()
    with Lease.acquire(tmp_path, stand_still_s=0.5, poll_s=0.05):
        assert time.monotonic() - start >= 0.5


def test_the_requeued_job_takes_over_from_its_earlier_life(tmp_path, hold):
    holder = hold("4711", 0)
    start = time.monotonic()
    with Lease.acquire(tmp_path, job=JobIdentity("4711", 1), stand_still_s=600) as lease:
        assert time.monotonic() - start < 1
        assert holder.wait(timeout=10) == 1
        assert b"LeaseLost" in holder.stderr.read()
        lease.check()
        assert read_holder(tmp_path).job == JobIdentity("4711", 1)


@pytest.mark.parametrize(
    "job",
    [JobIdentity("4711", 1), JobIdentity("4711", 0), JobIdentity("4712", 5), JobIdentity("4711", 9, "other")],
)
def test_no_other_job_takes_over_from_a_living_one(tmp_path, hold, job):
    hold("4711", 1)
    with pytest.raises(LeaseHeld):
        Lease.acquire(tmp_path, job=job, **SHORT)


@pytest.mark.faults
def test_a_counter_that_stands_still_is_taken_over_and_the_sleeper_finds_out(tmp_path, hold):
    holder = hold()
    holder.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    with Lease.acquire(tmp_path, **SHORT) as lease:
        assert 1.0 <= time.monotonic() - start < 5
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(timeout=10) == 1
        assert b"taken over by another process" in holder.stderr.read()
        lease.check()
    assert read_holder(tmp_path) is None


def test_a_loser_removes_nothing_when_it_releases(tmp_path):
    lease = Lease.acquire(tmp_path, **SHORT)
    record = json.loads((tmp_path / "lease.json").read_text())
    (tmp_path / "lease.json").write_text(json.dumps({**record, "token": "other"}))
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert read_holder(tmp_path).token == "other"


def test_the_heartbeat_notices_a_takeover_by_itself_and_stops(tmp_path):
    lease = Lease.acquire(tmp_path, **SHORT)
    other = json.dumps({**json.loads((tmp_path / "lease.json").read_text()), "token": "other", "counter": 7})
    (tmp_path / "lease.json").write_text(other)
    deadline = time.monotonic() + 5
    while not lease.lost and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lease.lost
    time.sleep(0.3)
    assert (tmp_path / "lease.json").read_text() == other


def test_an_unreadable_lease_is_waited_for_not_trusted(tmp_path):
    (tmp_path / "lease.json").write_bytes(b"\0\0\0")
    start = time.monotonic()
    with Lease.acquire(tmp_path, stand_still_s=0.4, poll_s=0.05):
        assert time.monotonic() - start >= 0.4


@pytest.mark.faults
@pytest.mark.parametrize("left_behind", [False, True])
def test_of_starters_at_one_moment_exactly_one_wins(tmp_path, hold, left_behind):
    if left_behind:
        dead = hold()
        dead.kill()
        dead.wait()
    go = str(time.time() + 0.7)
    args = [sys.executable, "-c", RACE, str(tmp_path), go]
    starters = [subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    verdicts = [starter.stdout.readline().strip() for starter in starters]
    assert sorted(verdicts) == ["refused"] * 4 + ["won"]
    for starter in starters:
        starter.communicate()


def test_creation_has_one_winner_where_locks_do_nothing(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError("ENOLCK")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with Lease.acquire(tmp_path, **SHORT), pytest.raises(LeaseHeld):
        Lease.acquire(tmp_path, **SHORT)


def test_job_identity_comes_from_the_environment_slurm_sets():
    environ = {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3", "SLURM_CLUSTER_NAME": "c"}
    assert JobIdentity.from_environment(environ) == JobIdentity("12", 3, "c")
    assert JobIdentity.from_environment({"SLURM_JOB_ID": "12"}) == JobIdentity("12", 0)
    assert JobIdentity.from_environment({}) is None


def test_a_holder_that_slept_in_the_middle_of_a_beat_does_not_write_over_its_successor(tmp_path, monkeypatch):
    lease = Lease.acquire(tmp_path, beat_s=600)
    write = os.pwrite

    def sleep_first(descriptor, content, offset):
        with monkeypatch.context() as awake:
            awake.setattr(os, "pwrite", write)
            Lease.acquire(tmp_path, stand_still_s=0.1, poll_s=0.02, beat_s=600)
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", sleep_first)
    with pytest.raises(LeaseLost):
        lease.check()
    assert read_holder(tmp_path).token != lease.holder.token
