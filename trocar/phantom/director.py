"""Direct one operation: turn anatomy, timeline and bouts into a `Moment` per frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from trocar.phantom.anatomy import WORLD_HALF, Anatomy, Points
from trocar.phantom.materials import Rng
from trocar.phantom.optics import packing_poses, point_on_organ
from trocar.phantom.sampling import stream
from trocar.phantom.spec import (
    BIPOLAR,
    CLEANING,
    CLIPPER,
    CLIPPING,
    DISSECTION,
    GRASPER,
    HOOK,
    IRRIGATOR,
    NONE,
    PACKAGING,
    PEDICLE,
    PREPARATION,
    SCISSORS,
    Bout,
    CasePlan,
    PhantomSpec,
    make_bouts,
    make_timeline,
    progress,
)
from trocar.phantom.stage import Camera, Moment, SpritePose, Stamp, ToolPose, Track, ease, follow, wander

# Order of work on the two tubes: (tube, position along it, is it a cut?).
CLIP_STEPS: tuple[tuple[int, float, bool], ...] = (
    (0, 0.3, False),
    (0, 0.72, False),
    (0, 0.62, False),
    (0, 0.48, True),
    (1, 0.3, False),
    (1, 0.72, False),
    (1, 0.62, False),
    (1, 0.48, True),
)
STROKES = {HOOK: 0.045, BIPOLAR: 0.02, SCISSORS: 0.02, CLIPPER: 0.008, IRRIGATOR: 0.06, GRASPER: 0.05}
SMOKERS = {HOOK: 1.0, BIPOLAR: 0.6}
# How far the view may move off the world's centre: beyond, its corners would leave the canvas.
ROAM = (0.5, 0.42)


@dataclass(frozen=True)
class Works:
    """Cumulative progress [frames] of the work that changes the anatomy, each 0 to 1."""

    pedicle: Track
    clipping: Track
    peel: Track
    packing: Track


@dataclass(frozen=True)
class Manner:
    """How the camera is held in a hospital: `zoom` is a factor, `shake` and `drift` in view heights, `lag` in seconds,
    `swing` in radians.
    """

    zoom: float
    shake: float
    drift: float
    lag: float
    swing: float


MANNERS = {"north": Manner(1.12, 0.006, 0.04, 1.6, 0.08), "south": Manner(0.94, 0.02, 0.09, 0.8, 0.3)}
# The survey from afar, the work on the pedicle from near: each hospital does it by its own factor.
ZOOMS = {
    PREPARATION: (0.75, 1.0),
    PEDICLE: (1.15, 1.6),
    CLIPPING: (1.3, 1.75),
    DISSECTION: (0.95, 1.4),
    PACKAGING: (0.75, 1.0),
    CLEANING: (0.85, 1.25),
}
FLUID = {CLEANING: (0.55, 1.0)}
LEAK_SHARE = 0.15
"""Of the other segments, in which some fluid stands as well."""


class Director:
    """The script of one case. `moments()` yields one Moment per native frame, in order."""

    def __init__(self, spec: PhantomSpec, plan: CasePlan, anatomy: Anatomy) -> None:
        self.anatomy = anatomy
        self.frames, self.fps = plan.frames, float(spec.fps)
        self._seed, self._index, self._plan = spec.seed, plan.index, plan
        self.segments = make_timeline(self._rng("timeline"), plan.procedure, plan.frames)
        self.bouts = make_bouts(self._rng("bouts"), plan.procedure, self.segments, self.fps)
        self._bout_of = [number for number, bout in enumerate(self.bouts) for _ in range(bout.start, bout.end)]
        self.phase = np.empty(plan.frames, dtype=np.int64)
        for segment in self.segments:
            self.phase[segment.start : segment.end] = segment.phase
        self.works = self._works()
        rng = self._rng("ports")
        base, side = float(rng.uniform(0.1, np.pi - 0.1)), float(rng.choice([-1.0, 1.0]))
        angles = (base, base + side * float(rng.uniform(0.9, 1.9)), base - side * float(rng.uniform(0.7, 1.4)))
        self.ports = [np.array([1.75 * np.cos(a), 1.75 * np.sin(a)]) for a in angles]
        self.peel_side = float(rng.choice([-1.0, 1.0]))
        self.bag_home = anatomy.neck + np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.35, 0.05)])
        self.bleeds = self._bleeds(self._rng("bleeds"))

    def _rng(self, name: str) -> Rng:
        return stream(self._seed, "case", self._index, name)

    def _works(self) -> Works:
        done = {p: progress(self.segments, p, self.frames) for p in (PEDICLE, CLIPPING, DISSECTION, PACKAGING)}
        # Freeing the pedicle includes the lower end of the organ's bed, as the critical view demands.
        early = 0.3 * np.clip((done[PEDICLE] - 0.55) / 0.4, 0, 1)
        return Works(done[PEDICLE], done[CLIPPING], np.maximum(early, done[DISSECTION]), done[PACKAGING])

    def _bleeds(self, rng: Rng) -> list[tuple[int, Points, float]]:
        """(first frame, place, size) of every bleeding; cleaning begins with a large one."""
        found: list[tuple[int, Points, float]] = []
        for segment in self.segments:
            span = segment.end - segment.start
            count = int(
                rng.poisson({PEDICLE: 0.5, CLIPPING: 0.4, DISSECTION: 0.7, CLEANING: 0.8}.get(segment.phase, 0))
            )
            starts = [segment.start + int(f * span) for f in rng.uniform(0, 0.9, count)]
            if segment.phase == CLEANING:
                starts += [max(0, segment.start - int(rng.uniform(0, 2) * self.fps)) for _ in range(2)]
            for start in starts:
                found.append((start, self._work_point(start, rng), float(rng.uniform(0.04, 0.1))))
        return found

    def _work_point(self, frame: int, rng: Rng) -> Points:
        if self.phase[frame] in (PEDICLE, CLIPPING) or rng.random() < 0.3:
            return np.asarray(self.anatomy.cover_points[int(rng.integers(len(self.anatomy.cover_points)))])
        points = self.anatomy.bed_points
        return np.asarray(points[int(rng.integers(len(points)))])

    def moments(self) -> Iterator[Moment]:
        """One Moment per frame. Iterating twice gives the same moments."""
        rng = self._rng("motion")
        tips, goals = self._tip_tracks(rng)
        cameras = self._camera(rng, goals)
        sway = [wander(rng, self.frames, self.fps, 4) for _ in range(2)]
        smoke, fog = self._smoke(rng), self._fog(rng)
        veil, fluid = self._veil(), self._fluid(self._rng("fluid"))
        marks = self._rng("marks")
        pending = sorted(self.bleeds, key=lambda bleed: bleed[0])
        exposed = 0
        for i in range(self.frames):
            organ, bag = self._organ(i, sway[0][i], sway[1][i])
            stamps, exposed = self._marks(i, marks, exposed, tips[:, i], pending)
            criteria, margin = self._criteria(i)
            yield Moment(
                frame=i,
                phase=int(self.phase[i]),
                camera=cameras[i],
                tools=self._tools(i, tips[:, i], organ),
                organ=organ,
                bag=bag,
                stamps=tuple(stamps),
                smoke=float(smoke[i]),
                fog=float(fog[i]),
                veil=float(veil[i]),
                fluid=float(fluid[i]),
                criteria=criteria,
                cvs_margin=margin,
            )

    def _goal(self, i: int, bout: Bout, aim: Points) -> Points:
        """Where the main instrument of a bout works at frame i; `aim` is the bout's own random spot."""
        phase, a = bout.segment.phase, self.anatomy
        if phase == PEDICLE:
            return np.asarray(
                a.cover_points[min(len(a.cover_points) - 1, int(self.works.pedicle[i] * len(a.cover_points)))]
            )
        if phase == CLIPPING:
            tube, at, _ = CLIP_STEPS[self._clip_step(i)]
            return a.along_tube(tube, at)
        if phase == DISSECTION:
            return np.asarray(a.bed_points[min(len(a.bed_points) - 1, int(self.works.peel[i] * len(a.bed_points)))])
        if phase == PACKAGING:
            return np.asarray(self.bag_home + 0.4 * (aim - self.bag_home))
        if phase == CLEANING:
            past = [place for start, place, _ in self.bleeds if start <= i]
            return np.asarray(past[-1] + 0.3 * (aim - past[-1]) if past else aim)
        return aim

    def _clip_step(self, i: int) -> int:
        return min(len(CLIP_STEPS) - 1, int(self.works.clipping[i] * len(CLIP_STEPS)))

    def _tip_tracks(self, rng: Rng) -> tuple[Track, Track]:
        """Tips [3, frames, 2] of main, assistant and third instrument, and the main goals [frames, 2]."""
        goals, tips = np.empty((self.frames, 2)), np.empty((3, self.frames, 2))
        for bout in self.bouts:
            aim = rng.uniform((-0.5, -0.45), (0.5, 0.4))
            rest = aim + rng.uniform(-0.3, 0.3, 2)
            beside = rng.uniform(-0.15, 0.15, 2)
            for i in range(bout.start, bout.end):
                goals[i] = self._goal(i, bout, aim)
                tips[0, i] = goals[i]
                tips[1, i] = rest if bout.segment.phase in (PREPARATION, CLEANING) else goals[i] + beside
                tips[2, i] = goals[i] + 1.6 * beside[::-1]
            stroke = STROKES.get(bout.main, 0.0)
            beat, angle = float(rng.uniform(0.4, 0.9)), float(rng.uniform(0, 2 * np.pi))
            swing = stroke * np.sin(2 * np.pi * beat * np.arange(bout.end - bout.start) / self.fps)
            tips[0, bout.start : bout.end] += swing[:, None] * np.array([np.cos(angle), np.sin(angle)])
        jitter = np.stack([[wander(rng, self.frames, self.fps, 2.5) for _ in range(2)] for _ in range(3)])
        smooth = np.stack([follow(track, self.fps, 0.45) for track in tips])
        return smooth + 0.02 * jitter.transpose(0, 2, 1), goals

    def _camera(self, rng: Rng, goals: Track) -> list[Camera]:
        manner = MANNERS[self._plan.hospital]
        zoom, offset = np.empty(self.frames), np.empty((self.frames, 2))
        for bout in self.bouts:
            zoom[bout.start : bout.end] = manner.zoom * rng.uniform(*ZOOMS[bout.segment.phase])
            offset[bout.start : bout.end] = rng.uniform(-0.2, 0.2, 2)
        shake = [manner.shake * wander(rng, self.frames, self.fps, 1.1) for _ in range(2)]
        drift = [manner.drift * wander(rng, self.frames, self.fps, 9) for _ in range(2)]
        centre = follow(goals * 0.8 + offset, self.fps, manner.lag) + np.stack(shake, 1) + np.stack(drift, 1)
        zoom = follow(zoom, self.fps, 1.2) * (1 + 0.03 * wander(rng, self.frames, self.fps, 5))
        roam = np.clip(np.array(WORLD_HALF) - 0.62 / zoom[:, None] - 0.05, 0.08, ROAM)
        centre = np.clip(centre, -roam, roam)
        roll = float(rng.uniform(-1.0, 1.0)) + manner.swing * wander(rng, self.frames, self.fps, 14)
        return [Camera(float(x), float(y), float(z), float(r)) for (x, y), z, r in zip(centre, zoom, roll, strict=True)]

    def _organ(self, i: int, sway: float, pull: float) -> tuple[SpritePose | None, SpritePose | None]:
        a, peel, packed = self.anatomy, float(self.works.peel[i]), float(self.works.packing[i])
        held = 0.3 if self.phase[i] in (PREPARATION, PACKAGING, CLEANING) else 1.0
        angle = a.angle + self.peel_side * 1.15 * peel + 0.07 * held * sway
        lift = 1 - 0.22 * peel + 0.03 * held * pull
        home = SpritePose(float(a.neck[0]), float(a.neck[1]), angle, lift, 1 - 0.08 * peel)
        if packed <= 0:
            return home, None
        if packed >= 1 and self.phase[i] != PACKAGING:
            return None, None
        return packing_poses(home, self.ports[0], self.bag_home, packed, sway)

    def _tools(self, i: int, tips: Points, organ: SpritePose | None) -> tuple[ToolPose, ...]:
        bout = self.bouts[self._bout_of[i]]
        kinds = [self._main_kind(i, bout), bout.assistant, bout.third]
        poses = []
        for slot, kind in enumerate(kinds):
            if kind == NONE:
                continue
            tip = tips[slot]
            if slot == 1 and organ is not None and bout.segment.phase in (DISSECTION, CLIPPING, PEDICLE):
                # A retractor holds the fundus while the bed is dissected and the neck while the pedicle is.
                share = 0.75 if bout.segment.phase == DISSECTION else 0.22
                tip = point_on_organ(self.anatomy.shape, organ, share)
            poses.append(self._pose(i, bout, slot, kind, tip))
        return tuple(poses)

    def _stays(self, slot: int, here: int, there: int) -> bool:
        """Whether the instrument in `slot` remains in the body between two neighbouring bouts."""
        if not 0 <= there < len(self.bouts):
            return False
        one, two = self.bouts[here], self.bouts[there]
        if slot > 0:
            kinds = (one.assistant, two.assistant) if slot == 1 else (one.third, two.third)
            return kinds[0] == kinds[1] and one.segment.phase == two.segment.phase
        return one.main == two.main

    def _main_kind(self, i: int, bout: Bout) -> int:
        if bout.segment.phase == CLIPPING and bout.main == CLIPPER and CLIP_STEPS[self._clip_step(i)][2]:
            return SCISSORS
        return bout.main

    def _pose(self, i: int, bout: Bout, slot: int, kind: int, tip: Points) -> ToolPose:
        port = self.ports[slot]
        change = max(1.0, min(1.2 * self.fps, (bout.end - bout.start) / 4))
        number = self._bout_of[i]
        entering = 1.0 if self._stays(slot, number, number - 1) else (i - bout.start + 1) / change
        leaving = 1.0 if self._stays(slot, number, number + 1) else (bout.end - i) / change
        inside = min(entering, leaving, 1.0)
        reach = 0.25 + 0.75 * ease(inside)
        at = port + (tip - port) * reach
        axis = tip - port
        # Jaws close on tissue with the beat of the work; a grasper that holds stays closed.
        opening = 0 if slot == 1 else int((i * 0.9 / self.fps + bout.start * 0.37) % 1.0 * 3)
        return ToolPose(
            kind,
            float(at[0]),
            float(at[1]),
            float(np.arctan2(axis[1], axis[0])),
            1.15 + 0.2 * float(np.sin(bout.start * 1.7 + slot)),
            opening,
            bool((bout.start + slot) % 2),
            slot,
        )

    def _marks(
        self, i: int, rng: Rng, exposed: int, tips: Points, pending: list[tuple[int, Points, float]]
    ) -> tuple[list[Stamp], int]:
        stamps: list[Stamp] = []
        a = self.anatomy
        due = int(np.ceil(self.works.pedicle[i] * len(a.cover_points)))
        for point in a.cover_points[exposed:due]:
            stamps.append(Stamp("expose", point[0], point[1], float(rng.uniform(0.1, 0.15)), float(rng.random())))
        stamps += self._clip_marks(i)
        kinds = [t.kind for t in self._tools(i, tips, None)]
        cutting = self.phase[i] in (PEDICLE, DISSECTION) and kinds[:1] and kinds[0] in SMOKERS
        if cutting and rng.random() < 3.0 / self.fps:
            stamps.append(Stamp("char", tips[0][0], tips[0][1], float(rng.uniform(0.025, 0.05)), float(rng.random())))
        if kinds[:1] == [IRRIGATOR] or IRRIGATOR in kinds[1:]:
            at = tips[0] if kinds[0] == IRRIGATOR else tips[2]
            stamps.append(Stamp("wash", at[0], at[1], 0.12, float(rng.random())))
        for start, place, size in pending:
            age = (i - start) / self.fps
            if 0 <= age < 2.5:
                flow = 0.05 * age
                spot = place + rng.normal(0, 0.02, 2) + np.array([0, flow])
                stamps.append(Stamp("blood", spot[0], spot[1], size * (0.5 + 0.25 * age), float(rng.random())))
        return stamps, max(exposed, due)

    def _clip_marks(self, i: int) -> list[Stamp]:
        before = int(self.works.clipping[i - 1] * len(CLIP_STEPS)) if i else 0
        now = int(self.works.clipping[i] * len(CLIP_STEPS) + 1e-9)
        stamps = []
        for tube, at, is_cut in CLIP_STEPS[before:now]:
            x, y = self.anatomy.along_tube(tube, at)
            across = self.anatomy.tube_direction(tube, at) + np.pi / 2
            if is_cut:
                stamps.append(Stamp("divide", float(x), float(y), 0.052, 0.001))
            else:
                stamps.append(Stamp("clip", float(x), float(y), 0.055, across))
        return stamps

    def _smoke(self, rng: Rng) -> Track:
        source = np.zeros(self.frames)
        for bout in self.bouts:
            strength = SMOKERS.get(bout.main, 0.0) * float(rng.random() < 0.7) * float(rng.uniform(0.3, 1.0))
            source[bout.start : bout.end] = strength * (0 if bout.segment.phase == PREPARATION else 1)
        pulse = np.clip(0.5 + wander(rng, self.frames, self.fps, 3), 0, 1)
        return np.asarray(0.75 * follow(source * pulse, self.fps, 1.5))

    def _fog(self, rng: Rng) -> Track:
        return np.asarray(np.clip(wander(rng, self.frames, self.fps, 40) - 1.0, 0, 0.6))

    def _veil(self) -> Track:
        """Adhesions are taken down while the field is prepared; a recording that begins later shows none."""
        done = progress(self.segments, PREPARATION, self.frames)
        return np.asarray(1 - done if done[-1] > 0 else done)

    def _fluid(self, rng: Rng) -> Track:
        level = np.zeros(self.frames)
        for segment in self.segments:
            low, high = FLUID.get(segment.phase, (0.2, 0.5))
            stands = segment.phase in FLUID or rng.random() < LEAK_SHARE
            level[segment.start : segment.end] = float(rng.uniform(low, high)) * stands
        tide = 1 + 0.25 * wander(rng, self.frames, self.fps, 6)
        return np.asarray(np.clip(follow(level, self.fps, 2.0) * tide, 0, 1))

    def _criteria(self, i: int) -> tuple[tuple[bool, bool, bool] | None, tuple[float, float, float]]:
        if self.works.clipping[i] * len(CLIP_STEPS) >= 4:
            return None, (0.0, 0.0, 0.0)
        margin = (
            float(self.works.pedicle[i] - 0.6),
            float(self.works.pedicle[i] - 0.85),
            float((self.works.peel[i] - 0.2) / 0.5),
        )
        return (margin[0] >= 0, margin[1] >= 0, margin[2] >= 0), margin
