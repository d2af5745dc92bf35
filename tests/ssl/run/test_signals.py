import os
import signal

import pytest

from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.signals import STOPPING, StopSignals, shell_code


@pytest.fixture
def signals():
    before = {name: signal.getsignal(getattr(signal, name)) for name in STOPPING}
    yield StopSignals()
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("order", [(signal.SIGUSR2, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR2)])
def test_sigterm_outranks_a_request_to_come_back_whichever_is_first(signals, order):
    for number in order:
        os.kill(os.getpid(), number)
    assert signals.received == signal.SIGTERM


def test_a_second_ctrl_c_ends_at_once(signals):
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.received == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_without_a_cluster_a_stop_is_what_shells_expect():
    assert shell_code(signal.SIGTERM, World()) == 143
