"""A scene of its own whose depth is known: an endoscope moves over tissue that lies still or breathes.

The tissue is a height field over a plane, seen by a pinhole camera with its light beside the lens, so that what is far
is dark. Depth is measured along the optical axis. Millimetres everywhere; x right, y down in the picture, z into it.

OUT/videos/relief01.mp4                        as the phantom's other videos
OUT/depth/relief01/relief01_000000.png         uint16, hundredths of a millimetre; of every frame
OUT/cameras.csv                                per frame: centre and rotation of the camera, focal length in pixels
OUT/reliefs.csv                                per video: procedure, and whether the tissue deforms
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trocar.core.files import write_json_atomic
from trocar.errors import ConfigError
from trocar.phantom.corpus import MARKERS, PARTIAL, Progress
from trocar.phantom.labels import Row, write_table
from trocar.phantom.materials import TILE, Array, Material, Rng, spectral
from trocar.phantom.recorder import Recorder
from trocar.phantom.sampling import Bytes, stream
from trocar.phantom.scene import NEIGHBOURS, TARGETS
from trocar.phantom.spec import GENERATOR_VERSION, PROCEDURES, PhantomSpec
from trocar.phantom.stage import wander

DESCRIPTION = "reliefs.json"
SPAN_MM = 120.0
"""Side of a tile of tissue, which repeats."""
RELIEF_MM = 9.0
"""Standard deviation of its height."""
BREATH_MM, BREATH_S = 4.0, 4.0
STEPS, REFINEMENTS = 40, 6
PER_MM = 100
"""Stored values of a millimetre of depth."""
CAMERA_COLUMNS = ("video", "frame", "focal", *"xyz", *(f"r{i}{j}" for i in range(3) for j in range(3)))
F64 = npt.NDArray[np.float64]
RELIEF_COLUMNS = ("video", "procedure", "deforms", "fps", "duration_s")


@dataclass(frozen=True)
class View:
    """One frame: picture uint8 [H, W, 3], depth in mm [H, W], the camera's centre [3] and rotation [3, 3], whose rows
    are its axes in the world, and its focal length in pixels.
    """

    picture: Bytes
    depth: F64
    centre: F64
    rotation: F64
    focal: float


class Tissue:
    """A periodic height field with its colours; `height` may change in time."""

    def __init__(self, rng: Rng, material: Material, deforms: bool) -> None:
        tile = material(rng)
        rolling = spectral(rng, 1, 3) + 0.35 * spectral(rng, 3, 8)
        self.albedo: Array = np.clip(tile[..., :3], 0, 1)
        self._height: Array = np.asarray(RELIEF_MM * rolling + 0.4 * tile[..., 3], dtype=np.float32)
        self._breath: Array = np.asarray(BREATH_MM * spectral(rng, 1, 2) * deforms, dtype=np.float32)
        self._phase = float(rng.uniform(0, 2 * np.pi))

    def at(self, second: float) -> Array:
        """Height in mm [TILE, TILE]; larger is nearer to the camera."""
        return self._height + self._breath * np.float32(math.sin(2 * np.pi * second / BREATH_S + self._phase))


def views(spec: PhantomSpec, index: int, frames: int) -> Iterator[View]:
    """The frames of relief `index`; odd ones deform. A pure function of its arguments."""
    rng = stream(spec.seed, "relief", index)
    procedure = PROCEDURES[index % len(PROCEDURES)]
    materials = (TARGETS[procedure], *NEIGHBOURS[procedure])
    tissue = Tissue(rng, materials[int(rng.integers(len(materials)))], deforms=index % 2 == 1)
    width, height = spec.size
    focal = 0.8 * width
    tracks = [wander(rng, frames, spec.fps, period) for period in (11, 13, 9, 10, 12, 17)]
    for i in range(frames):
        x, y, z, pitch, yaw, roll = (float(track[i]) for track in tracks)
        centre = np.array([18 * x + 6 * i / spec.fps, 18 * y, 70 + 9 * z])
        rotation = _rotation(0.3 * pitch, 0.3 * yaw, 0.2 * roll)
        depth, u, v = _cast(tissue.at(i / spec.fps), centre, rotation, focal, (width, height))
        picture = _shade(tissue.albedo, tissue.at(i / spec.fps), u, v, centre, rng)
        yield View(picture, depth, centre, rotation, focal)


def _rotation(pitch: float, yaw: float, roll: float) -> F64:
    """Rows: right, down and forward of a camera that looks down on the plane."""
    cx, sx, cy, sy, cz, sz = (f(a) for a in (pitch, yaw, roll) for f in (math.cos, math.sin))
    down = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1.0]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x @ down)


def _cast(
    height: Array,
    centre: F64,
    rotation: F64,
    focal: float,
    size: tuple[int, int],
) -> tuple[F64, F64, F64]:
    """Depth of every pixel, and where on the plane its ray meets the tissue; marching, then halving the last step."""
    columns, rows = size
    px, py = np.meshgrid((np.arange(columns) + 0.5 - columns / 2) / focal, (np.arange(rows) + 0.5 - rows / 2) / focal)
    # Of unit length along the optical axis: the parameter is the depth.
    rays = px[..., None] * rotation[0] + py[..., None] * rotation[1] + rotation[2]
    top = float(height.max()) + 0.01
    near = (centre[2] - top) / -rays[..., 2]
    far = (centre[2] - float(height.min())) / -rays[..., 2]

    def above(depth: F64) -> npt.NDArray[np.bool_]:
        x, y, z = (centre[k] + depth * rays[..., k] for k in range(3))
        return np.asarray(z > _look(height, x, y))

    low, high, found = near.copy(), far.copy(), np.zeros(near.shape, dtype=bool)
    for step in range(1, STEPS + 1):
        depth = near + (far - near) * (step / STEPS)
        hit = ~found & ~above(depth)
        high[hit] = depth[hit]
        found |= hit
        low[~found] = depth[~found]
    for _ in range(REFINEMENTS):
        middle = (low + high) / 2
        over = above(middle)
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    depth = (low + high) / 2
    return depth, centre[0] + depth * rays[..., 0], centre[1] + depth * rays[..., 1]


def _look(tile: Array, x: F64, y: F64) -> Array:
    """Bilinear values of a periodic tile [TILE, TILE, ...] at places in mm."""
    column, row = x * (TILE / SPAN_MM), y * (TILE / SPAN_MM)
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    a, b = (column - left).astype(np.float32), (row - top).astype(np.float32)
    if tile.ndim == 3:
        a, b = a[..., None], b[..., None]
    x0, x1, y0, y1 = left % TILE, (left + 1) % TILE, top % TILE, (top + 1) % TILE
    upper, lower = tile[y0, x0] * (1 - a) + tile[y0, x1] * a, tile[y1, x0] * (1 - a) + tile[y1, x1] * a
    return np.asarray(upper * (1 - b) + lower * b)


def _shade(
    albedo: Array,
    height: Array,
    x: F64,
    y: F64,
    centre: F64,
    rng: Rng,
) -> Bytes:
    step = SPAN_MM / TILE
    slope_y = (np.roll(height, -1, 0) - np.roll(height, 1, 0)) / (2 * step)
    slope_x = (np.roll(height, -1, 1) - np.roll(height, 1, 1)) / (2 * step)
    dx, dy, z = (_look(field, x, y) for field in (slope_x, slope_y, height))
    to_light = np.stack([centre[0] - x, centre[1] - y, centre[2] - z], axis=-1)
    distance = np.linalg.norm(to_light, axis=-1)
    facing = (to_light[..., 2] - dx * to_light[..., 0] - dy * to_light[..., 1]) / (
        distance * np.sqrt(1 + dx**2 + dy**2)
    )
    light = np.clip(facing, 0.05, 1) * (70 / distance) ** 2
    linear = _look(albedo, x, y) * light[..., None] + 0.5 * (np.clip(facing, 0, 1) ** 60)[..., None]
    noise = rng.normal(0, 0.008, linear.shape)
    return np.asarray(np.clip((np.clip(linear, 0, None) ** 0.8 + noise) * 235, 0, 255), dtype=np.uint8)


def write_reliefs(out: Path, spec: PhantomSpec, progress: Progress = lambda done, total: None) -> None:
    """Write `spec.cases` reliefs of `spec.minutes` each below `out`; the same call continues where one was interrupted.

    Raises ConfigError for a folder that holds anything else.
    """
    wanted = {"generator_version": GENERATOR_VERSION, "parameters": spec.model_dump(mode="json", exclude={"talk"})}
    _check(out, wanted)
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / DESCRIPTION, wanted)
    frames = max(2, round(spec.minutes * 60 * spec.fps))
    rows: list[dict[str, Any]] = []
    for index in range(spec.cases):
        marker = out / MARKERS / f"relief{index + 1:04d}.json"
        if not marker.is_file():
            _write_relief(out, spec, index, frames, marker)
        rows.append(json.loads(marker.read_text(encoding="utf-8")))
        progress((index + 1) * frames, spec.cases * frames)
    write_table(out / "cameras.csv", CAMERA_COLUMNS, [row for relief in rows for row in relief["cameras"]])
    write_table(out / "reliefs.csv", RELIEF_COLUMNS, [relief["relief"] for relief in rows])
    shutil.rmtree(out / PARTIAL, ignore_errors=True)


def _check(out: Path, wanted: Mapping[str, object]) -> None:
    try:
        found = json.loads((out / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no reliefs: give a new folder") from None
        return
    except ValueError:
        raise ConfigError(f"{out / DESCRIPTION} cannot be read: delete the folder or give a new one") from None
    if found != wanted:
        raise ConfigError(f"{out} holds other reliefs ({found.get('parameters')}): give a new folder")


def _write_relief(out: Path, spec: PhantomSpec, index: int, frames: int, marker: Path) -> None:
    video = f"relief{index + 1:02d}"
    work = out / PARTIAL / video
    shutil.rmtree(work, ignore_errors=True)
    (work / video).mkdir(parents=True)
    cameras: list[Row] = []
    with Recorder(work / f"{video}.mp4", spec, crf=21) as recorder:
        for i, view in enumerate(views(spec, index, frames)):
            recorder.add(view.picture)
            stored = np.clip(np.rint(view.depth * PER_MM), 1, 65535).astype(np.uint16)
            Image.fromarray(stored).save(work / video / f"{video}_{i:06d}.png", compress_level=1)
            values = [round(float(v), 6) for v in (view.focal, *view.centre, *view.rotation.ravel())]
            cameras.append(dict(zip(CAMERA_COLUMNS, [video, i, *values], strict=True)))
    about = [video, PROCEDURES[index % len(PROCEDURES)], index % 2, spec.fps, round(frames / spec.fps, 3)]
    for name, folder in ((f"{video}.mp4", "videos"), (video, "depth")):
        (out / folder).mkdir(exist_ok=True)
        if (out / folder / name).is_dir():
            shutil.rmtree(out / folder / name)
        (work / name).replace(out / folder / name)
    marker.parent.mkdir(exist_ok=True)
    relief = dict(zip(RELIEF_COLUMNS, about, strict=True))
    write_json_atomic(marker, {"cameras": cameras, "relief": relief})
