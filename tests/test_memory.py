import os
import subprocess
import sys

import pytest

PROBE = """
import resource, sys, torch
from trocar import memory
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
from trocar import memory
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
