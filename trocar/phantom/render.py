"""Draw one moment: sample the world through the camera, put organ, bag and instruments on top, then light and smoke."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.phantom.anatomy import WORLD_HALF, Anatomy
from trocar.phantom.motion import Camera, Moment, SpritePose, ToolPose
from trocar.phantom.optics import Optics
from trocar.phantom.planted import smoke_field
from trocar.phantom.spec import BAG, INSTRUMENT, SPECIMEN_BAG, TARGET_ORGAN, TOOLS, PhantomSpec
from trocar.phantom.stage import Stage
from trocar.phantom.textures import Array, Rng
from trocar.phantom.tools import TIP_LENGTHS, Sprite, ToolStyle, make_bag, make_tool

Bytes = npt.NDArray[np.uint8]
Affine = tuple[float, float, float, float, float, float]
OPENINGS = (0.03, 0.2, 0.42)


@dataclass(frozen=True)
class Shot:
    """One rendered frame before the camera chain."""

    linear: Array
    """Light, float32 [H, W, 3], 0 to about 255."""
    mask: Bytes
    """Class ids [H, W]."""
    present: tuple[bool, ...]
    """Per tool: is the middle of its tip in the view?"""
    pedicle: bool
    """Is the middle of the pedicle in the view?"""


def world_to_view(camera: Camera, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """3 x 3 matrix from world units to pixels."""
    width, height = size
    k = height * camera.zoom
    c, s = k * math.cos(camera.roll), k * math.sin(camera.roll)
    x, y = camera.x, camera.y
    return np.array([[c, -s, width / 2 - c * x + s * y], [s, c, height / 2 - s * x - c * y], [0, 0, 1]])


def _affine(view_to_source: npt.NDArray[np.float64], left: int = 0, top: int = 0) -> Affine:
    m = view_to_source
    a, b, c = m[0, 0], m[0, 1], m[0, 2] + m[0, 0] * left + m[0, 1] * top
    d, e, f = m[1, 0], m[1, 1], m[1, 2] + m[1, 0] * left + m[1, 1] * top
    return float(a), float(b), float(c), float(d), float(e), float(f)


def _place(
    x: float, y: float, angle: float, sx: float, sy: float, origin: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """3 x 3 matrix from sprite pixels to world units."""
    c, s = math.cos(angle), math.sin(angle)
    turn = np.array([[c * sx, -s * sy, x], [s * sx, c * sy, y], [0, 0, 1]])
    return np.asarray(turn @ np.array([[1, 0, -origin[0]], [0, 1, -origin[1]], [0, 0, 1.0]]))


class Renderer:
    """Draws the moments of one case, in order (marks on the stage accumulate)."""

    def __init__(
        self, spec: PhantomSpec, stage: Stage, optics: Optics, style: ToolStyle, anatomy: Anatomy, rng: Rng
    ) -> None:
        self._size, self._stage, self._optics, self._style = spec.size, stage, optics, style
        self._pedicle = tuple((anatomy.neck + anatomy.hilum) / 2)
        self._smoke = smoke_field(rng, spec.size)
        self._seeds = rng.integers(0, 2**63, (len(TOOLS), len(OPENINGS)))
        self._sprites: dict[tuple[int, int], Sprite] = {}
        self._bag = make_bag(rng, style, spec.size[1])
        self._haze = np.asarray([150, 150, 155], dtype=np.float32) * float(rng.uniform(0.8, 1.1))

    def draw(self, moment: Moment) -> Shot:
        """Apply the moment's marks and draw it."""
        for stamp in moment.stamps:
            self._stage.apply(stamp)
        to_view = world_to_view(moment.camera, self._size)
        rgb, gloss, label = self._world(np.linalg.inv(to_view))
        light = self._optics.light
        gloss *= self._optics.gloss
        scene = _Layers(rgb, gloss, label)
        if moment.organ is not None:
            self._organ(scene, to_view, moment.organ)
        if moment.bag is not None:
            self._paste(scene, to_view @ self._bag_matrix(moment.bag), self._bag.image, SPECIMEN_BAG)
        for pose in moment.tools:
            self._tool(scene, to_view, pose)
        linear = scene.rgb * light
        linear += (scene.gloss * 0.75)[..., None]
        self._smear(linear, moment)
        return Shot(
            linear, self._mask(scene.label), self._present(to_view, moment), self._seen(to_view, *self._pedicle)
        )

    def _world(self, to_world: npt.NDArray[np.float64]) -> tuple[Array, Array, Bytes]:
        scale = self._stage.scene.scale
        to_canvas = (
            np.array([[scale, 0, WORLD_HALF[0] * scale], [0, scale, WORLD_HALF[1] * scale], [0, 0, 1]]) @ to_world
        )
        affine = _affine(to_canvas)
        pixels = self._stage.image.transform(self._size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
        label = self._stage.label.transform(self._size, Image.Transform.AFFINE, affine, Image.Resampling.NEAREST)
        array = np.asarray(pixels).astype(np.float32)
        return array[..., :3].copy(), array[..., 3].copy(), np.asarray(label).copy()

    def _organ(self, scene: _Layers, to_view: npt.NDArray[np.float64], pose: SpritePose) -> None:
        source = self._stage.scene
        k = 1 / source.scale
        place = _place(pose.x, pose.y, pose.angle, pose.along * k, pose.across * k, source.organ_origin)
        self._paste(scene, to_view @ place, source.organ, TARGET_ORGAN)

    def _bag_matrix(self, pose: SpritePose) -> npt.NDArray[np.float64]:
        k = 1 / self._bag.scale
        # The mouth faces away from the port it came through.
        return _place(pose.x, pose.y, pose.angle + math.pi, pose.along * k, pose.across * k, self._bag.tip)

    def _tool(self, scene: _Layers, to_view: npt.NDArray[np.float64], pose: ToolPose) -> None:
        sprite = self._sprite(pose.kind, pose.opening)
        k = pose.size / sprite.scale
        place = _place(pose.x, pose.y, pose.angle, k, -k if pose.flipped else k, sprite.tip)
        self._paste(scene, to_view @ place, sprite.image, INSTRUMENT)

    def _sprite(self, kind: int, opening: int) -> Sprite:
        if (kind, opening) not in self._sprites:
            rng = np.random.Generator(np.random.Philox(int(self._seeds[kind, opening])))
            made = make_tool(rng, kind, OPENINGS[opening], self._style, self._size[1])
            self._sprites[kind, opening] = made
        return self._sprites[kind, opening]

    def _paste(self, scene: _Layers, to_view: npt.NDArray[np.float64], sprite: Image.Image, label: int) -> None:
        box = self._bounds(to_view, sprite.size)
        if box is None:
            return
        left, top, right, bottom = box
        affine = _affine(np.linalg.inv(to_view), left, top)
        drawn = sprite.transform(
            (right - left, bottom - top), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        pixels = np.asarray(drawn).astype(np.float32)
        keep = 1 - pixels[..., 3:] / 255
        area = np.s_[top:bottom, left:right]
        scene.rgb[area] *= keep
        scene.rgb[area] += pixels[..., :3]
        scene.gloss[area] *= keep[..., 0]
        scene.label[area][keep[..., 0] < 0.5] = label

    def _bounds(self, to_view: npt.NDArray[np.float64], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        corners = to_view @ np.array([[0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
        left, right = max(0, math.floor(corners[0].min())), min(self._size[0], math.ceil(corners[0].max()))
        top, bottom = max(0, math.floor(corners[1].min())), min(self._size[1], math.ceil(corners[1].max()))
        return (left, top, right, bottom) if left < right and top < bottom else None

    def _smear(self, linear: Array, moment: Moment) -> None:
        if moment.smoke < 0.02 and moment.fog < 0.02:
            return
        rows, columns = linear.shape[:2]
        x = int((0.5 + 0.5 * math.sin(moment.frame * 0.07)) * (self._smoke.shape[1] - columns))
        y = int((0.5 + 0.5 * math.cos(moment.frame * 0.05)) * (self._smoke.shape[0] - rows))
        density = self._smoke[y : y + rows, x : x + columns] * moment.smoke + 0.5 * moment.fog
        linear += density[..., None] * (self._haze - linear)

    def _mask(self, label: Bytes) -> Bytes:
        if self._optics.visible is not None:
            label[~self._optics.visible] = 0
        return label

    def _present(self, to_view: npt.NDArray[np.float64], moment: Moment) -> tuple[bool, ...]:
        found = [False] * len(TOOLS)
        for pose in moment.tools:
            half = 0.5 * TIP_LENGTHS[pose.kind] * pose.size
            x, y = pose.x - half * math.cos(pose.angle), pose.y - half * math.sin(pose.angle)
            found[pose.kind] |= self._seen(to_view, x, y)
        if moment.bag is not None:
            found[BAG] = self._seen(to_view, moment.bag.x, moment.bag.y)
        return tuple(found)

    def _seen(self, to_view: npt.NDArray[np.float64], x: float, y: float) -> bool:
        px, py, _ = to_view @ np.array([x, y, 1.0])
        return self._optics.sees(float(px), float(py))


@dataclass
class _Layers:
    """The picture while it is being composed."""

    rgb: Array
    gloss: Array
    label: Bytes
