"""Every benchmark can be started: what it imports is found from where it lies, without pytest's own search path."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOAD_EACH = """
import runpy, sys, traceback
before = list(sys.path)
for path in sys.argv[1:]:
    sys.path[:] = [path.rsplit("/", 1)[0], *before[1:]]  # as `python PATH` has it
    try:
        runpy.run_path(path, run_name="loaded")
    except Exception as error:
        print(path, repr(error))
"""


def test_every_benchmark_finds_what_it_imports(tmp_path):
    scripts = sorted(BENCHMARKS.rglob("*.py"))
    assert BENCHMARKS / "soak.py" in scripts
    done = subprocess.run(
        [sys.executable, "-c", LOAD_EACH, *map(str, scripts)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
