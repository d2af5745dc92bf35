import os
import signal

import pytest

from trocar.cli.terminal import StopSignals, answered, raise_stopped, stopping
from trocar.errors import StoppedError
from trocar.ssl.engine.trainer import shell_code
from trocar.ssl.ranks.distributed import World


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number in stopping()}
    yield StopSignals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("order", [(signal.SIGUSR2, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR2)])
def test_sigterm_outranks_a_request_to_come_back_whichever_is_first(stop, order):
    for number in order:
        os.kill(os.getpid(), number)
    assert stop() == signal.SIGTERM


def test_a_second_ctrl_c_ends_at_once(stop):
    os.kill(os.getpid(), signal.SIGINT)
    assert stop() == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_without_a_cluster_a_stop_is_what_shells_expect():
    assert shell_code(signal.SIGTERM, World()) == 143


def test_answered_signals_call_the_answer_and_later_what_they_called_before(stop):
    heard = []
    with answered([signal.SIGUSR1, signal.SIGTERM], heard.append):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGUSR1, signal.SIGTERM]
    assert stop() == 0
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop() == signal.SIGUSR1


@pytest.mark.parametrize(("before", "expected"), [(signal.SIG_IGN, []), (signal.SIG_DFL, [signal.SIGHUP])])
def test_the_end_of_the_terminal_is_answered_unless_nohup_has_it_ignored(before, expected):
    heard, restored = [], signal.signal(signal.SIGHUP, before)
    try:
        with answered([signal.SIGHUP], heard.append):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == before
    finally:
        signal.signal(signal.SIGHUP, restored)
    assert heard == expected


def test_a_stop_is_no_error_that_a_handler_of_errors_could_take():
    assert not issubclass(StoppedError, Exception)
    with pytest.raises(StoppedError) as end:
        raise_stopped(signal.SIGTERM)
    assert end.value.code == 143
