"""Frames that curation must find: black, out of the body, frozen. Planted where the script says, recorded as truth.

Which operation a case index stands for. Depends on (version, seed, index) only, never on the number of cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trocar.phantom import materials
from trocar.phantom.materials import TILE, Array, Rng, spectral
from trocar.phantom.sampling import stream
from trocar.phantom.spec import HOSPITALS, PROCEDURES, CasePlan, PhantomSpec

# Fixed over six cases (one of every hospital and procedure), so that four cases already hold all three splits.
SPLIT_CYCLE: tuple[Literal["train", "val", "test"], ...] = ("train", "test", "train", "val", "train", "test")
ROBOTIC_SHARE = {"cholecystectomy": 0.15, "sleeve_gastrectomy": 0.3, "hysterectomy": 0.6}
TWO_FILE_CYCLE = 5


def plan_case(spec: PhantomSpec, index: int) -> CasePlan:
    """The plan of case `index` (0-based). Six consecutive cases cover hospitals x procedures in a random order."""
    combinations = [(h, p) for h in HOSPITALS for p in PROCEDURES]
    order = stream(spec.seed, "plan", index // len(combinations)).permutation(len(combinations))
    hospital, procedure = combinations[int(order[index % len(combinations)])]
    rng = stream(spec.seed, "plan", "case", index)
    frames = max(12, round(spec.minutes * 60 * spec.fps * rng.uniform(0.8, 1.2)))
    at = rng.uniform(0.35, 0.65)
    return CasePlan(
        index=index,
        hospital=hospital,
        procedure=procedure,
        robotic=bool(rng.random() < ROBOTIC_SHARE[procedure]),
        split=SPLIT_CYCLE[index % len(SPLIT_CYCLE)],
        frames=frames,
        cut=round(frames * at) if index % TWO_FILE_CYCLE == 2 else None,
    )


Kind = Literal["black", "out_of_body", "duplicate"]
KINDS: tuple[Kind, ...] = ("black", "out_of_body", "duplicate")


@dataclass(frozen=True)
class Event:
    """Frames [start, end) of one kind; a duplicate repeats frame start - 1."""

    kind: Kind
    start: int
    end: int


def plan_events(rng: Rng, frames: int, fps: int, cut: int | None) -> list[Event]:
    """One to three runs of each kind, 2 to 8 frames at 5 fps, never overlapping nor across the cut of two files."""
    taken = np.zeros(frames + 2, dtype=bool)
    taken[:2] = True
    if cut is not None:
        taken[max(0, cut - 1) : cut + 2] = True
    events: list[Event] = []
    longest = max(2, min(round(1.6 * fps), frames // 20))
    for kind in KINDS:
        for _ in range(int(rng.integers(1, 3)) if frames >= 200 else 1):
            length = int(rng.integers(2, longest + 1))
            for _attempt in range(20):
                start = int(rng.integers(2, max(3, frames - length - 1)))
                if not taken[start - 1 : start + length + 1].any():
                    taken[start : start + length] = True
                    events.append(Event(kind, start, start + length))
                    break
    return sorted(events, key=lambda event: event.start)


class OperatingRoom:
    """What the camera sees outside the body: drapes, a lamp, gloves, out of focus and moving."""

    def __init__(self, rng: Rng, size: tuple[int, int]) -> None:
        width, height = size
        tile = materials.drape(rng)
        dy, dx = np.gradient(tile[..., 3])
        cloth = tile[..., :3] * np.asarray(np.clip(1 - 2.0 * (dx + dy), 0.3, 1.5))[..., None]
        side = 2 * max(width, height)
        image = Image.fromarray((np.clip(cloth, 0, 1) * 255).astype(np.uint8)).resize((side, side))
        draw = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(2, 5))):
            self._thing(draw, rng, side)
        self._image = image.filter(ImageFilter.GaussianBlur(height * float(rng.uniform(0.005, 0.03))))
        self._size, self._path = size, rng.uniform(-1, 1, 4)

    def _thing(self, draw: ImageDraw.ImageDraw, rng: Rng, side: int) -> None:
        x, y = rng.uniform(0.1, 0.9, 2) * side
        r = float(rng.uniform(0.05, 0.16)) * side
        kind = int(rng.integers(3))
        if kind == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 245))
        elif kind == 1:
            draw.rounded_rectangle((x - 2 * r, y - 0.6 * r, x + 2 * r, y + 0.6 * r), 0.5 * r, fill=(226, 214, 190))
        else:
            draw.rectangle((x - 2 * r, y - 0.2 * r, x + 2 * r, y + 0.2 * r), fill=(150, 155, 160))

    def view(self, step: int) -> Array:
        """Frame `step` of one excursion, float32 [3, H, W] of linear light."""
        width, height = self._size
        reach = (self._image.width - width) / 2, (self._image.height - height) / 2
        x = reach[0] * (1 + 0.9 * np.sin(0.35 * step * self._path[0] + 3 * self._path[1]))
        y = reach[1] * (1 + 0.9 * np.sin(0.35 * step * self._path[2] + 3 * self._path[3]))
        cut = self._image.crop((int(x), int(y), int(x) + width, int(y) + height))
        return np.asarray(np.asarray(cut, dtype=np.float32).transpose(2, 0, 1))


def smoke_field(rng: Rng, size: tuple[int, int]) -> Array:
    """Billows in [0, 1], larger than the view by half so that they can drift across it."""
    width, height = size
    tile = spectral(rng, 1, 4) + 0.4 * spectral(rng, 4, 12)
    image = Image.fromarray(np.clip(0.6 + 0.22 * np.tile(tile, (2, 2)), 0, 1)[: TILE * 3 // 2, : TILE * 3 // 2])
    return np.asarray(image.resize((width * 3 // 2, height * 3 // 2), Image.Resampling.BICUBIC), dtype=np.float32)
