"""Real clips: overlapping windows and altered copies are found, different patients never."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
from PIL import Image

from trocar.data.ingest.quality import dhash
from trocar.leakage.matching import Rule, find_copies
from trocar.leakage.pictures import Pictures, variants

pytestmark = pytest.mark.slow  # decodes all clips

FPS = 1
SMALL = (427, 240)


def clip(path):
    images, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if frame.time >= len(times) / FPS:
                images.append(frame.to_image().resize(SMALL))
                times.append(float(frame.time))
    return images, times


@pytest.fixture(scope="module")
def operations(shared_data):
    """Name -> (pictures, seconds) of the clips and of every frame folder of `cholect50_val`."""
    folder = shared_data / "cholec80_clips" / "clips"
    if not folder.is_dir():
        pytest.skip(f"no clips at {folder}")
    found = {path.stem: clip(path) for path in sorted(folder.glob("*.mp4"))}
    for video in sorted((shared_data / "cholect50_val" / "videos").glob("VID*")):
        paths = sorted(video.glob("*.jpg"))[::3]
        found[video.name] = (
            [Image.open(path).convert("RGB").resize(SMALL) for path in paths],
            [float(path.stem) for path in paths],
        )
    return found


def as_pool(name, images, times):
    hashes = np.frombuffer(b"".join(map(dhash, images)), np.uint8).reshape(-1, 1, 32)
    return Pictures(hashes, np.zeros(len(images), np.int64), np.array(times), (name,), (("set", name),))


@pytest.fixture(scope="module")
def hashed(operations):
    pools = {name: as_pool(name, *video) for name, video in operations.items()}
    queries = {name: replace(pools[name], hashes=variants(images)) for name, (images, _) in operations.items()}
    return pools, queries


def patient(name):
    return name.split("_")[0]


def test_different_patients_are_never_flagged(hashed):
    pools, queries = hashed
    compared = 0
    for name, query in queries.items():
        others = [pool for other, pool in pools.items() if patient(other) != patient(name)]
        compared += len(others)
        assert find_copies(query, Pictures.join(others)) == []
        assert find_copies(query, Pictures.join(others), Rule(run=2)) == []
    assert compared > 150


@pytest.mark.parametrize(("one", "other"), [("VID26_0692", "VID26_0693"), ("VID43_0297", "VID43_0299")])
def test_overlapping_windows_of_one_operation_are_found(hashed, one, other):
    pools, queries = hashed
    (copy,) = find_copies(queries[one], pools[other])
    assert copy.offset_s is not None
    assert abs(copy.offset_s) <= 3
    assert copy.frames >= 3


def recoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def cropped(border):
    def cut(image):
        w, h = image.size
        return image.crop((round(w * border), round(h * border), round(w * (1 - border)), round(h * (1 - border))))

    return cut


@pytest.mark.parametrize(
    "alter",
    [recoded, lambda image: image.resize((250, 250)), cropped(0.02), cropped(0.06), cropped(0.08)],
    ids=["re-encoded", "resized", "border 2 %", "border 6 %", "border 8 %"],
)
def test_altered_copies_are_found_at_their_offset(operations, hashed, alter):
    _, queries = hashed
    for name in ("VID05_1858", "VID25_0324", "VID47_1131", "VID70", "VID74"):
        images, times = operations[name]
        pool = as_pool("copy", [alter(image) for image in images], [t + 90 for t in times])
        (copy,) = find_copies(queries[name], pool)
        assert copy.offset_s == pytest.approx(90, abs=1), name
