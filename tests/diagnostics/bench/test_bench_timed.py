import pytest

from trocar.diagnostics.bench.timed import fresh
from trocar.errors import TrocarError


def test_a_contender_runs_in_a_process_of_its_own_with_its_threads():
    assert fresh("os:cpu_count", {}, threads=1)
    assert fresh("os:getpid", {}, threads=1) != __import__("os").getpid()
    assert fresh("os:getenv", {"key": "OMP_NUM_THREADS"}, threads=3) == "3"


def test_a_failing_contender_is_an_error_with_its_last_words():
    with pytest.raises(TrocarError, match="No such file or directory: '/nowhere'"):
        fresh("os:listdir", {"path": "/nowhere"}, threads=1)
