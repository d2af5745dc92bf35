"""How far a long loop is, for a log."""

from __future__ import annotations

from trocar.core.progress import Pace, duration


def test_a_log_hears_once_a_minute_how_long_the_rest_takes() -> None:
    now = [1000.0]
    pace = Pace(10, 110, clock=lambda: now[0])
    said = []
    for done in range(11, 111):  # 25 s each: 100 steps are 41 min 40 s
        now[0] += 25
        if left := pace.left(done):
            said.append((done, left))
    assert [done for done, _ in said] == list(range(13, 110, 3))
    assert said[0] == (13, "about 40 min left")
    assert said[-1] == (109, "about 0 min left")


def test_a_quick_loop_says_nothing() -> None:
    pace = Pace(0, 5, clock=lambda: 0.0)
    assert [pace.left(done) for done in range(1, 6)] == [""] * 5


def test_hours_are_told_in_minutes_below_two() -> None:
    assert [duration(hours) for hours in (0.5, 1.99, 2.0)] == ["30 min", "119 min", "2.0 h"]
