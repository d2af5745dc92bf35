"""A compiler that doesn't work costs a warning, and no view."""

import pytest
import torch

from trocar.data.views.pixel_ops import Compiler


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


def warnings(caplog):
    return [record for record in caplog.records if record.name == "trocar.data.views.pixel_ops"]


def without_triton(graph, inputs):
    raise RuntimeError("Cannot find a working triton installation\nand more")


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()


def test_where_compiling_fails_everything_runs_as_it_is_and_one_warning_says_why(caplog):
    run, x = Compiler(without_triton), torch.ones(2)
    for function, factor in ((double, 2), (triple, 3), (double, 2)):
        assert torch.equal(run(function, x), factor * x)
    (record,) = warnings(caplog)
    assert "torch.compile" in record.message
    assert "Cannot find a working triton installation" in record.message
    assert not run.works


def test_a_function_s_own_error_is_no_failure_of_the_compiler(caplog):
    run = Compiler("eager")
    with pytest.raises(RuntimeError, match="must match the size"):
        run(torch.add, torch.ones(2), torch.ones(3))
    assert run.works
    assert not warnings(caplog)


def test_out_of_memory_is_raised_and_not_tried_again():
    called = []

    def compiled(*arguments):
        called.append(arguments)
        raise torch.OutOfMemoryError("out of memory")

    run = Compiler(lambda graph, inputs: compiled)
    with pytest.raises(torch.OutOfMemoryError):
        run(double, torch.ones(2))
    assert len(called) == 1
    assert run.works
