"""One piece of work at a time, its errors for the main thread, signals not for it, an end when nobody waits."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from trocar.ssl.engine.checkpoint_writer import Background, GoOn


def test_the_second_piece_waits_for_the_first() -> None:
    background, order = Background(), []

    def slow(go_on: GoOn) -> None:
        time.sleep(0.05)
        order.append("first")

    background.start(slow, "first")
    background.start(lambda go_on: order.append("second"), "second")
    background.wait()
    assert order == ["first", "second"]


def test_an_error_is_raised_in_the_thread_that_asks_once_it_is_there() -> None:
    background, go = Background(), threading.Event()

    def fail(go_on: GoOn) -> None:
        go.wait()
        raise OSError(28, "No space left on device")

    background.start(fail, "fails")
    background.check()  # still running
    go.set()
    background.wait()
    with pytest.raises(OSError, match="No space left"):
        background.check()
    background.check()  # it has been heard


def test_work_after_one_that_failed_does_not_begin() -> None:
    background, begun = Background(), []

    def fail(go_on: GoOn) -> None:
        raise OSError(28, "No space left on device")

    background.start(fail, "fails")
    with pytest.raises(OSError, match="No space left"):
        background.start(begun.append, "follows")
    assert begun == []


def test_the_thread_leaves_signals_to_the_main_thread_and_is_no_daemon() -> None:
    background, seen = Background(), {}

    def look(go_on: GoOn) -> None:
        seen["blocked"] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        seen["daemon"] = threading.current_thread().daemon

    background.start(look, "looks")
    background.wait()
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2} <= seen["blocked"]
    assert seen["daemon"] is False
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def endless(go_on: GoOn) -> None:
    """A library that has words of its own for what its file raises."""
    try:
        while True:
            go_on()
            time.sleep(0.001)
    except Exception as error:
        raise RuntimeError("unexpected pos 64 vs 0") from error


def test_what_is_given_up_ends_soon_and_says_nothing() -> None:
    background = Background()
    background.start(endless, "endless")
    background.wait(give_up=True)
    assert background.trouble() is None


def test_ctrl_c_while_it_is_waited_for_gives_it_up_and_its_end_is_still_waited_for() -> None:
    background, cleared = Background(), threading.Event()

    def clearing(go_on: GoOn) -> None:
        try:
            endless(go_on)
        finally:
            time.sleep(0.2)
            cleared.set()

    background.start(clearing, "endless")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    killer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    killer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            background.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not cleared.is_set()
    background.wait()
    assert cleared.is_set()
    assert background.trouble() is None
