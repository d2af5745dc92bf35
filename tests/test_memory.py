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
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*rules):
    done = subprocess.run([sys.executable, "-c", PROBE, *rules], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_reused_without_page_faults():
    usual = faults()
    assert faults("keep_freed") < usual / 10
