"""What the display times of a video's pictures say of it: its usual interval, a hole in the middle, a missing end.

The times at which a video is looked at, in whole ticks of its clock.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from trocar.data.media.input_file import RejectError
from trocar.data.media.video.container import VideoInfo


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


@dataclass(frozen=True)
class Missing:
    """A number of pictures that are not there, and where."""

    frames: int
    where: str


@dataclass
class Timeline:
    """Display times of pictures in ticks (of `tick` seconds), in the order in which they are shown."""

    tick: Fraction
    first: int | None = None
    last: int = 0
    """Ticks from the first picture to the latest."""
    gaps: Counter[int] = field(default_factory=Counter)
    _largest: tuple[int, int] = (0, 0)

    def add(self, pts: int) -> bool:
        """Note the next picture; False for one that is not later than the one before it, which does not count."""
        if self.first is None:
            self.first = pts
            return True
        now = pts - self.first
        if now <= self.last:
            return False
        gap = now - self.last
        self.gaps[gap] += 1
        self._largest = max(self._largest, (gap, self.last))
        self.last = now
        return True

    @property
    def usual(self) -> int:
        """The most frequent interval in ticks, 0 where there is but one picture."""
        return self.gaps.most_common(1)[0][0] if self.gaps else 0

    @property
    def is_constant(self) -> bool:
        """Whether nearly all intervals are the usual one, give or take the rounding of the stream's clock."""
        usual, gaps = self.usual, self.gaps
        return usual > 0 and gaps[usual] + gaps[usual - 1] + gaps[usual + 1] >= 0.98 * sum(gaps.values())

    def end(self, duration: int | None) -> int:
        """Ticks from the first picture to the end of the last one, which lasts `duration` ticks as its frame says.

        In a constant frame rate it lasts as long as the others, whatever the container claims.
        """
        return self.last + (self.usual if self.is_constant else duration or self.usual or 1)

    def hole(self) -> Missing | None:
        """One hole in an otherwise constant frame rate is lost data; in a variable one, a picture that stood still."""
        width, start = self._largest
        if not (self.is_constant and width * self.tick > 1 and width > 10 * self.usual):
            return None
        seconds = float(start * self.tick)
        where = f"no frames from {seconds:.2f} s to {seconds + float(width * self.tick):.2f} s"
        return Missing(width // self.usual, where)

    def missing_end(self, info: VideoInfo, end: int) -> Missing | None:
        """What is missing of the duration that the container claims, where the pictures end at tick `end`.

        Raises RejectError for an AVI that lacks pictures: they may be missing anywhere, and all later ones are then
        taken too early.
        """
        if info.duration_s is None:
            return None
        # Without a duration of the stream's own there is the container's: some count it from time 0, and sound may last
        # longer than the picture.
        frame_s, own = float((self.usual or 1) * self.tick), float(end * self.tick)
        slack = 2 * frame_s + (0.1 if info.exact_duration else 2.0)
        is_counted = info.is_counted and self.usual > 0
        if is_counted:
            slack = frame_s / 2
        reached = own if info.exact_duration else max(own, float(((self.first or 0) + end) * self.tick))
        missing = info.duration_s - reached
        if missing <= slack:
            return None
        frames = max(1, round(missing / frame_s))
        if is_counted:
            lost = f"{frames} pictures that the file should have are not in it"
            raise RejectError("damaged", f"{lost}, and {info.container} files do not say where they are missing")
        return Missing(frames, f"ends at {own:.2f} s of {info.duration_s:.2f} s")
