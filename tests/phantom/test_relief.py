"""Depth is what the camera sees: a point of one frame, moved by depth and cameras, is found in the next."""

import itertools

import numpy as np
import pytest
from PIL import Image

from trocar.errors import ConfigError
from trocar.phantom import relief
from trocar.phantom.relief import Tissue, views, write_reliefs
from trocar.phantom.scene import TARGETS
from trocar.phantom.spec import PhantomSpec

SPEC = PhantomSpec(cases=2, minutes=0.1, size=(64, 64), fps=2, seed=5)


def taken(index, count=2, spec=SPEC):
    return list(itertools.islice(views(spec, index, 12), count))


def test_points_that_are_moved_by_depth_and_cameras_land_on_the_depth_of_the_next_frame():
    first, second = taken(0)
    rows, columns = np.mgrid[4:60:4, 4:60:4].reshape(2, -1)
    x, y = (columns + 0.5 - 32) / first.focal, (rows + 0.5 - 32) / first.focal
    rays = np.stack([x, y, np.ones_like(x)], axis=1)
    world = first.centre + first.depth[rows, columns, None] * (rays @ first.rotation)
    seen = (world - second.centre) @ second.rotation.T
    u, v = (seen[:, k] / seen[:, 2] * second.focal + 32 - 0.5 for k in (0, 1))
    inside = (u > 1) & (u < 62) & (v > 1) & (v < 62)
    assert inside.sum() > 80
    at = second.depth[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)]
    off = np.abs(at - seen[inside, 2])
    # Where an edge hides what lies behind it depth differs by far more.
    assert np.median(off) < 0.6
    assert (off < 3).mean() > 0.85


def test_a_point_on_the_tissue_has_the_tissues_height():
    view = taken(0, 1)[0]
    rows, columns = np.mgrid[0:64, 0:64]
    rays = np.stack([(columns + 0.5 - 32) / view.focal, (rows + 0.5 - 32) / view.focal, np.ones((64, 64))], axis=-1)
    world = view.centre + view.depth[..., None] * (rays @ view.rotation)
    assert world[..., 2].std() > 2
    assert np.abs(world[..., 2]).max() < 60


def test_odd_reliefs_breathe_and_even_ones_lie_still():
    for deforms in (False, True):
        tissue = Tissue(np.random.default_rng(0), TARGETS["cholecystectomy"], deforms)
        moved = np.abs(tissue.at(1.0) - tissue.at(0.0)).max()
        assert (moved > 0.5) == deforms


def test_the_files_are_whole_and_the_same_call_adds_nothing(tmp_path):
    write_reliefs(tmp_path / "out", SPEC)
    files = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()}
    depth = np.asarray(Image.open(tmp_path / "out" / "depth" / "relief01" / "relief01_000003.png"))
    assert depth.dtype == np.uint16
    exact = taken(0, 4)[3].depth
    assert np.abs(depth / relief.PER_MM - exact).max() <= 0.5 / relief.PER_MM + 1e-9
    lines = (tmp_path / "out" / "cameras.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 12
    assert (tmp_path / "out" / "reliefs.csv").read_text().splitlines()[1:] == [
        "relief01,cholecystectomy,0,2,6.0",
        "relief02,sleeve_gastrectomy,1,2,6.0",
    ]
    write_reliefs(tmp_path / "out", SPEC)
    assert {path: path.read_bytes() for path in files} == files
    with pytest.raises(ConfigError, match="holds other reliefs"):
        write_reliefs(tmp_path / "out", SPEC.model_copy(update={"seed": 6}))
