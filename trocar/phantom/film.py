"""One case from script to recorded frames and labels, in memory and in order.

Which operation a case index stands for depends on (version, seed, index) only, never on the number of cases. Frames
that curation must find (black, out of the body, frozen) are planted where the script says, recorded as truth.

A moment is drawn by sampling the world through the camera, with organ, bag and instruments on top, then light and
smoke.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trocar.phantom import materials
from trocar.phantom.anatomy import WORLD_HALF, Anatomy, make_anatomy
from trocar.phantom.director import Director
from trocar.phantom.materials import TILE, Array, Rng, spectral
from trocar.phantom.optics import Optics
from trocar.phantom.sampling import Bytes, Matrix, Sprite, bounds, indices, stream, take
from trocar.phantom.scene import make_scene
from trocar.phantom.spec import (
    BAG,
    BLOOD,
    FAT_CONNECTIVE,
    HOSPITALS,
    INSTRUMENT,
    PROCEDURES,
    SPECIMEN_BAG,
    TARGET_ORGAN,
    TOOLS,
    CasePlan,
    PhantomSpec,
)
from trocar.phantom.stage import Camera, Moment, SpritePose, Theatre, ToolPose
from trocar.phantom.tools import TIP_LENGTHS, ToolStyle, draw_style, make_bag, make_tool

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


Kind = Literal["black", "out_of_body", "duplicate", "near_duplicate"]
KINDS: tuple[Kind, ...] = ("black", "out_of_body", "duplicate", "near_duplicate")


@dataclass(frozen=True)
class Event:
    """Frames [start, end) of one kind; a duplicate repeats frame start - 1, a near duplicate films its scene again."""

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


OPENINGS = (0.03, 0.2, 0.42)


Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


@dataclass(frozen=True)
class Shot:
    """One rendered frame before the camera chain."""

    linear: Array
    """Light, float32 [3, H, W], 0 to about 255."""
    mask: Bytes
    """Class ids [H, W]."""
    present: tuple[bool, ...]
    """Per tool: is the middle of its tip in the view?"""
    boxes: tuple[tuple[int, Box], ...]
    """Tool and box of everything drawn of it within the view."""
    pedicle: bool
    """Is the middle of the pedicle in the view?"""


@dataclass
class _Layers:
    """The picture while it is being composed: [3, H, W], [H, W], [H, W]."""

    rgb: Array
    gloss: Array
    label: Bytes


def world_to_view(camera: Camera, size: tuple[int, int]) -> Matrix:
    """3 x 3 matrix from world units to pixels."""
    width, height = size
    k = height * camera.zoom
    c, s = k * math.cos(camera.roll), k * math.sin(camera.roll)
    x, y = camera.x, camera.y
    return np.array([[c, -s, width / 2 - c * x + s * y], [s, c, height / 2 - s * x - c * y], [0, 0, 1]])


def _place(pose: SpritePose, sprite: Sprite) -> Matrix:
    """3 x 3 matrix from sprite pixels to world units."""
    c, s = math.cos(pose.angle), math.sin(pose.angle)
    along, across = pose.along / sprite.scale, pose.across / sprite.scale
    turn = np.array([[c * along, -s * across, pose.x], [s * along, c * across, pose.y], [0, 0, 1]])
    x, y = sprite.origin
    return np.asarray(turn @ np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1.0]]))


class Renderer:
    """Draws the moments of one case, in order (marks on the stage accumulate)."""

    def __init__(
        self, spec: PhantomSpec, stage: Theatre, optics: Optics, style: ToolStyle, anatomy: Anatomy, rng: Rng
    ) -> None:
        self._size, self._stage, self._optics, self._style = spec.size, stage, optics, style
        middle = (anatomy.neck + anatomy.hilum) / 2
        self._pedicle = float(middle[0]), float(middle[1])
        self._smoke = smoke_field(rng, spec.size)
        self._seeds = rng.integers(0, 2**63, (len(TOOLS), len(OPENINGS)))
        self._sprites: dict[tuple[int, int], Sprite] = {}
        self._bag = make_bag(rng, style, spec.size[1])
        repeats = (spec.size[1] // TILE + 2, spec.size[0] // TILE + 2)
        self._waves: Array = np.tile(spectral(rng, 8, 28), repeats).astype(np.float32)
        self._fluid = [float(v) for v in np.array([120, 52, 44]) * rng.uniform(0.75, 1.25)]
        self._haze = [float(v) for v in np.array([150, 150, 155]) * rng.uniform(0.8, 1.1)]

    def draw(self, moment: Moment) -> Shot:
        """Apply the moment's marks and draw it."""
        for stamp in moment.stamps:
            self._stage.apply(stamp)
        to_view = world_to_view(moment.camera, self._size)
        scene = self._world(np.linalg.inv(to_view))
        if moment.organ is not None:
            self._paste(scene, to_view, moment.organ, self._stage.scene.organ, TARGET_ORGAN)
            if moment.veil > 0.02:
                veils = self._stage.scene.veils
                veil = veils[min(len(veils) - 1, int(moment.veil * len(veils)))]
                self._paste(scene, to_view, moment.organ, veil, FAT_CONNECTIVE)
        self._flood(scene, to_view, moment)
        boxes: list[tuple[int, Box | None]] = []
        if moment.bag is not None:
            boxes.append((BAG, self._paste(scene, to_view, _facing_port(moment.bag), self._bag, SPECIMEN_BAG)))
        for pose in moment.tools:
            boxes.append((pose.kind, self._tool(scene, to_view, pose)))
        scene.rgb *= self._optics.light
        scene.gloss *= self._optics.gloss
        scene.rgb += scene.gloss
        self._veil(scene.rgb, moment)
        if self._optics.visible is not None:
            scene.label *= self._optics.visible
        seen = self._seen(to_view, *self._pedicle)
        found = tuple((tool, box) for tool, box in boxes if box is not None)
        return Shot(scene.rgb, scene.label, self._present(to_view, moment), found, seen)

    def _world(self, to_world: Matrix) -> _Layers:
        stage, scale = self._stage, self._stage.scene.scale
        to_canvas = np.array([[scale, 0, WORLD_HALF[0] * scale], [0, scale, WORLD_HALF[1] * scale], [0, 0, 1]])
        index = indices(to_canvas @ to_world, (0, 0, *self._size), stage.label.shape)
        pixels = take(stage.image, index)
        rgb = np.empty((3, *index.shape), dtype=np.float32)
        for channel in range(3):
            rgb[channel] = pixels[..., channel]
        return _Layers(rgb, pixels[..., 3].astype(np.float32), stage.label.reshape(-1)[index])

    def _tool(self, scene: _Layers, to_view: Matrix, pose: ToolPose) -> Box | None:
        across = -pose.size if pose.flipped else pose.size
        placed = SpritePose(pose.x, pose.y, pose.angle, pose.size, across)
        return self._paste(scene, to_view, placed, self._sprite(pose.kind, pose.opening), INSTRUMENT)

    def _sprite(self, kind: int, opening: int) -> Sprite:
        # Made when first used, from a seed of its own, so that the order of use doesn't matter.
        if (kind, opening) not in self._sprites:
            rng = np.random.Generator(np.random.Philox(int(self._seeds[kind, opening])))
            made = make_tool(rng, kind, OPENINGS[opening], self._style, self._size[1])
            self._sprites[kind, opening] = made
        return self._sprites[kind, opening]

    def _paste(self, scene: _Layers, to_view: Matrix, pose: SpritePose, sprite: Sprite, label: int) -> Box | None:
        """Draw a sprite; returns the box of what of it is in the view, None for nothing."""
        placed = to_view @ _place(pose, sprite)
        box = bounds(placed, sprite.pixels.shape, self._size)
        if box is None:
            return None
        pixels = take(sprite.pixels, indices(np.linalg.inv(placed), box, sprite.pixels.shape))
        row, column = np.nonzero(pixels[..., 3])
        drawn = pixels[row, column].astype(np.float32)
        at = (row + box[1]) * self._size[0] + column + box[0]
        keep = 1 - drawn[:, 3] * np.float32(1 / 255)
        for channel in range(3):
            plane = scene.rgb[channel].reshape(-1)
            plane[at] = plane[at] * keep + drawn[:, channel]
        gloss = scene.gloss.reshape(-1)
        gloss[at] *= keep
        solid = keep < 0.5
        scene.label.reshape(-1)[at[solid]] = label
        if self._optics.visible is not None:
            solid &= self._optics.visible.reshape(-1)[at]
        row, column = row[solid] + box[1], column[solid] + box[0]
        if not row.size:
            return None
        left, top = int(column.min()), int(row.min())
        return left, top, int(column.max()) - left + 1, int(row.max()) - top + 1

    def _flood(self, scene: _Layers, to_view: Matrix, moment: Moment) -> None:
        """Irrigation fluid stands in the lower part of the world, tinted and with glints that move."""
        if moment.fluid < 0.05:
            return
        to_world = np.linalg.inv(to_view)
        rows, columns = scene.label.shape
        x, y = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)[:, None]
        height = (to_world[1, 0] * x + to_world[1, 1] * y + to_world[1, 2]).astype(np.float32)
        dy, dx = (int(TILE * (0.5 + 0.5 * math.sin(moment.frame * rate))) % TILE for rate in (0.09, 0.05))
        waves = self._waves[dy : dy + rows, dx : dx + columns]
        depth = height - np.float32(0.75 - 0.8 * moment.fluid) + 0.04 * waves
        alpha = np.clip(depth / 0.05, 0, 1) * np.float32(0.62)
        glint = np.clip((waves - 1.7) * 2, 0, 1) * (depth > 0.02)
        for channel, tint in enumerate(self._fluid):
            scene.rgb[channel] += alpha * (np.float32(tint) - scene.rgb[channel])
            scene.rgb[channel] += glint * (np.float32(230) - scene.rgb[channel])
        scene.gloss *= 1 - alpha
        scene.label[alpha > 0.5] = BLOOD

    def _veil(self, rgb: Array, moment: Moment) -> None:
        if moment.smoke < 0.02 and moment.fog < 0.02:
            return
        rows, columns = rgb.shape[1:]
        x = int((0.5 + 0.5 * math.sin(moment.frame * 0.07)) * (self._smoke.shape[1] - columns))
        y = int((0.5 + 0.5 * math.cos(moment.frame * 0.05)) * (self._smoke.shape[0] - rows))
        density = self._smoke[y : y + rows, x : x + columns] * np.float32(moment.smoke) + np.float32(0.5 * moment.fog)
        for channel, haze in enumerate(self._haze):
            rgb[channel] += density * (np.float32(haze) - rgb[channel])

    def _present(self, to_view: Matrix, moment: Moment) -> tuple[bool, ...]:
        found = [False] * len(TOOLS)
        for pose in moment.tools:
            half = 0.5 * TIP_LENGTHS[pose.kind] * pose.size
            x, y = pose.x - half * math.cos(pose.angle), pose.y - half * math.sin(pose.angle)
            found[pose.kind] |= self._seen(to_view, x, y)
        if moment.bag is not None:
            found[BAG] = self._seen(to_view, moment.bag.x, moment.bag.y)
        return tuple(found)

    def _seen(self, to_view: Matrix, x: float, y: float) -> bool:
        px, py, _ = to_view @ np.array([x, y, 1.0])
        return self._optics.sees(float(px), float(py))


def _facing_port(bag: SpritePose) -> SpritePose:
    """The bag's mouth faces away from the port it came through."""
    return SpritePose(bag.x, bag.y, bag.angle + math.pi, bag.along, bag.across)


@dataclass(frozen=True)
class Frame:
    """A recorded frame: picture uint8 [H, W, 3], class ids uint8 [H, W], and its labels."""

    picture: Bytes
    mask: Bytes
    tools: tuple[bool, ...]
    moment: Moment
    planted: Kind | None
    pedicle: bool
    """Whether the pedicle can be seen: without it no CVS criterion can be confirmed."""
    boxes: tuple[tuple[int, Box], ...] = ()


def script(spec: PhantomSpec, plan: CasePlan) -> Director:
    """What is done when in a case, without a picture."""
    return Director(spec, plan, make_anatomy(stream(spec.seed, "case", plan.index, "anatomy"), plan.procedure))


def film(spec: PhantomSpec, plan: CasePlan) -> Iterator[Frame]:
    """All native frames of one case. A pure function of its arguments."""

    def rng(name: str) -> np.random.Generator:
        return stream(spec.seed, "case", plan.index, name)

    anatomy = make_anatomy(rng("anatomy"), plan.procedure)
    optics = Optics(spec, plan)
    scene = make_scene(rng("scene"), plan.procedure, anatomy, spec.size[1], optics.house.soften)
    stage = Theatre(scene, rng("brushes"))
    renderer = Renderer(spec, stage, optics, draw_style(rng("style"), plan.robotic), anatomy, rng("sprites"))
    room = OperatingRoom(rng("room"), spec.size)
    events = {i: e for e in plan_events(rng("events"), plan.frames, spec.fps, plan.cut) for i in range(e.start, e.end)}
    last: Frame | None = None
    filmed: Shot | None = None
    for moment in Director(spec, plan, anatomy).moments():
        shot = renderer.draw(moment)
        event = events.get(moment.frame)
        if event is None:
            last, filmed = _recorded(shot, moment, optics), shot
        elif event.kind == "near_duplicate" and filmed is not None:
            last = replace(_recorded(filmed, moment, optics), planted="near_duplicate")
        else:
            last = _planted(event, moment, optics, room, last)
        yield last


def _recorded(shot: Shot, moment: Moment, optics: Optics) -> Frame:
    picture = optics.develop(moment.frame, shot.linear)
    return Frame(picture, shot.mask, shot.present, moment, None, shot.pedicle, shot.boxes)


def _planted(event: Event, moment: Moment, optics: Optics, room: OperatingRoom, last: Frame | None) -> Frame:
    if event.kind == "duplicate" and last is not None:
        return replace(last, moment=moment, planted="duplicate")
    empty = np.zeros((optics.height, optics.width), dtype=np.uint8)
    nothing = (False,) * len(TOOLS)
    if event.kind == "black":
        return Frame(optics.blank(moment.frame), empty, nothing, moment, "black", False)
    view = room.view(moment.frame - event.start)
    return Frame(optics.develop(moment.frame, view), empty, nothing, moment, "out_of_body", False)
