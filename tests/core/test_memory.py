import os
import subprocess
import sys

import pytest

from trocar.core.resources import available

PROBE = """
import resource, sys, torch
from trocar.core import resources as memory
for rule in sys.argv[1:]:
    assert getattr(memory, rule)()
def step():
    return float(torch.ones(32 << 20).sum())  # 128 MiB
for _ in range(8):  # the heap finds its size
    step()
found = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(found)[7])
"""


def faults(*rules):
    """Page faults of a step; the median, because something small may lie down where a large block was."""
    done = subprocess.run([sys.executable, "-c", PROBE, *rules], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_reused_without_page_faults():
    usual = faults()
    assert faults("keep_freed") < usual / 10


RESTART = """
import os, sys
from pathlib import Path
from trocar.core import resources as memory
pid = os.getpid()
print("started", pid, flush=True)
memory.restart_on_huge_pages(Path(sys.argv[1]))
print(pid, os.environ.get("GLIBC_TUNABLES"), sys.argv[2:])
"""


def restarted(tmp_path, setting, tunables=None):
    path = tmp_path / "enabled"
    path.write_text(setting)
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"GLIBC_TUNABLES": tunables} if tunables else {}
    done = subprocess.run(
        [sys.executable, "-c", RESTART, str(path), "a b", "c=*"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    *starts, end = done.stdout.splitlines()
    assert {line.split()[1] for line in starts} == {end.split()[0]}  # always the same process
    return len(starts), end.partition(" ")[2]


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux")
def test_a_program_restarts_on_huge_pages_once_as_the_same_process_with_the_same_arguments(tmp_path):
    one = "glibc.malloc.hugetlb=1 ['a b', 'c=*']"
    assert restarted(tmp_path, "always [madvise] never") == (2, one)
    both = "glibc.malloc.arena_max=2:" + one
    assert restarted(tmp_path, "always [madvise] never", "glibc.malloc.arena_max=2") == (2, both)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux")
def test_a_program_does_not_restart_where_huge_pages_are_for_all_or_none_or_decided_by_the_user(tmp_path):
    nothing = "None ['a b', 'c=*']"
    assert restarted(tmp_path, "[always] madvise never") == (1, nothing)
    assert restarted(tmp_path, "always madvise [never]") == (1, nothing)
    decided = "glibc.malloc.hugetlb=0"
    assert restarted(tmp_path, "always [madvise] never", decided) == (1, decided + " ['a b', 'c=*']")


GIB = 1 << 30


def system(tmp_path, free, lines, groups):
    """A /proc and a /sys/fs/cgroup: GiB free, the process's groups, and {folder: {file: text}}."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(f"MemTotal: 999999999 kB\nMemAvailable: {free << 20} kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(lines)
    for folder, files in groups.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "cgroup" / folder / name).write_text(str(text))
    return available(tmp_path / "proc", tmp_path / "cgroup")


def group(limit, used, files=0):
    return {"memory.max": limit, "memory.current": used, "memory.stat": f"anon 1\ninactive_file {files}\n"}


def old_group(limit, used, files=0):
    stat = f"cache 1\ninactive_file 5\ntotal_inactive_file {files}\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def test_what_can_be_had_is_what_the_machine_has_or_what_the_job_has_left(tmp_path):
    slurm = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"
    job = "system.slice/slurmstepd.scope/job_7"
    open_ended = {f"{job}/step_0/user/task_0": group("max", 3 * GIB)}
    assert system(tmp_path / "no limit", 8, slurm, open_ended) == 8 * GIB
    limited = {**open_ended, job: group(6 * GIB, 5 * GIB, 2 * GIB)}  # what was read of files is given up
    assert system(tmp_path / "job", 8, slurm, limited) == 3 * GIB
    assert system(tmp_path / "busy machine", 1, slurm, limited) == 1 * GIB
    assert system(tmp_path / "full", 8, slurm, {job: group(6 * GIB, 7 * GIB)}) == 0


def test_a_container_sees_its_limit_at_the_top(tmp_path):
    assert system(tmp_path / "v2", 8, "0::/\n", {"": group(2 * GIB, GIB)}) == GIB
    lines = "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n0::/docker/abc\n"
    assert system(tmp_path / "v1", 8, lines, {"memory": old_group(4 * GIB, 2 * GIB, GIB)}) == 3 * GIB
    inside = {"memory": old_group(1 << 62, GIB), "memory/docker/abc": old_group(2 * GIB, GIB)}
    assert system(tmp_path / "v1 group", 8, lines, inside) == GIB


def test_where_nothing_is_known_of_the_memory_nothing_is_claimed(tmp_path):
    assert available(tmp_path, tmp_path) is None
