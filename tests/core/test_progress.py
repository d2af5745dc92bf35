"""How far a long loop is, for a log."""

from __future__ import annotations

import io

from trocar.core.progress import Bar, Console, Pace, duration, progress_bar, track


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


def test_a_long_work_says_a_line_a_minute_where_there_is_no_terminal():
    now, written = [0.0], io.StringIO()
    bar = Bar("phase, net, fold 1 of 2: fine-tuning", 10, Console(file=written), clock=lambda: now[0])
    for part in range(4):
        now[0] += 40
        bar.advance(f"epoch {part + 1} of 10")
    assert written.getvalue().splitlines() == [
        "phase, net, fold 1 of 2: fine-tuning, epoch 2 of 10: about 5 min left",
        "phase, net, fold 1 of 2: fine-tuning, epoch 4 of 10: about 4 min left",
    ]


def test_inside_a_bar_another_one_shows_nothing_of_its_own(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    with progress_bar("whole", 2) as bar:
        assert list(track(range(3), "part", 3)) == [0, 1, 2]  # two displays at a time would raise
        bar.advance("first")
    assert list(track(range(2), "alone", 2)) == [0, 1]
