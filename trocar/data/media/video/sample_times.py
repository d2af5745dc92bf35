"""The times at which a video is looked at, in whole ticks of its clock."""

from __future__ import annotations

from fractions import Fraction


class SampleTimes:
    """k / fps for k = 0, 1, ..., counted in ticks (of `tick` seconds) from the first picture.

    Time k reaches one tick further, at most 1 ms: containers that count in milliseconds round up. The picture
    on display at time k is the last one whose timestamp is at most `due(k)`.
    """

    def __init__(self, fps: float, tick: Fraction) -> None:
        step = 1 / (Fraction(fps).limit_denominator(100_000) * tick)
        tolerance = min(Fraction(1), Fraction(1, 1000) / tick)
        # Whole numbers: this is asked for every picture of a video, and a Fraction costs as much as demuxing it.
        self._step = step.numerator * tolerance.denominator
        self._tolerance = tolerance.numerator * step.denominator
        self._scale = step.denominator * tolerance.denominator

    def due(self, k: int) -> int:
        """The last tick at which a picture may begin that is the one of time k."""
        return (k * self._step + self._tolerance) // self._scale

    def within(self, begin: int, end: int) -> bool:
        """Whether a picture displayed from tick `begin` until before tick `end` is on display at some time k."""
        k = max(0, -((self._tolerance - begin * self._scale) // self._step))
        return begin <= self.due(k) < end
