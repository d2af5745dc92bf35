"""Runs of matching hashes on made-up hashes; real clips are in test_content_real.py."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trocar.data.leak.content import COMMON, RADIUS, RUN, Rule, different, find_copies
from trocar.data.leak.pictures import VARIANTS, Pictures, distance, variants


def hashes(rng, count):
    return rng.integers(0, 256, (count, 32), dtype=np.uint8)


def flipped(rng, wanted, bits):
    out = wanted.copy()
    for one in out:
        for bit in rng.choice(256, bits, replace=False):
            one[bit // 8] ^= 1 << (bit % 8)
    return out


def pictures(found, times=None, name="v"):
    times = np.arange(len(found), dtype=float) if times is None else np.asarray(times, float)
    return Pictures(found[:, None], np.zeros(len(found), np.int64), times, (name,), (("set", name),))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_copy_is_found_with_its_offset_and_place(rng):
    frames = hashes(rng, 40)
    pool = Pictures.join(
        [
            pictures(hashes(rng, 60), name="other"),
            pictures(np.concatenate([hashes(rng, 15), frames[10:20]]), name="copy"),
        ]
    )
    (copy,) = find_copies(pictures(flipped(rng, frames, RADIUS)), pool)
    assert (copy.query, copy.pool, copy.frames) == (0, 1, 10)
    assert copy.offset_s == pytest.approx(5)
    assert (copy.first_s, copy.last_s) == (10, 19)


def test_frames_beyond_the_radius_are_no_copy(rng):
    frames = hashes(rng, 20)
    assert find_copies(pictures(flipped(rng, frames, RADIUS + 1)), pictures(frames)) == []


def test_two_pictures_are_too_few_and_so_are_many_at_changing_offsets(rng):
    frames = hashes(rng, 20)
    pool = hashes(rng, 20)
    pool[5:7] = frames[2:4]
    assert find_copies(pictures(frames), pictures(pool)) == []
    shuffled = pictures(flipped(rng, frames, 20), times=7.3 * np.arange(20))
    assert find_copies(shuffled, pictures(frames)) == []


def test_a_still_scene_counts_once(rng):
    still = np.repeat(hashes(rng, 1), 30, axis=0)
    assert different(flipped(rng, still, 4)) == 1
    assert (
        find_copies(pictures(flipped(rng, still, 4)), pictures(flipped(rng, still, 4)), Rule(isolated_radius=-1)) == []
    )


def test_a_picture_that_many_videos_show_says_nothing(rng):
    menu = hashes(rng, RUN)
    pool = [pictures(np.concatenate([menu, hashes(rng, 5)]), name=str(i)) for i in range(COMMON)]
    query = pictures(np.concatenate([menu, hashes(rng, 5)]))
    assert find_copies(query, Pictures.join(pool)) == []
    assert len(find_copies(query, Pictures.join(pool[: COMMON - 1]))) == COMMON - 1


def test_black_frames_never_match(rng):
    black = np.zeros((20, 32), np.uint8)
    black[:, 0] = np.arange(20)
    assert find_copies(pictures(black), pictures(black)) == []


def test_isolated_pictures_have_no_offset(rng):
    frames = hashes(rng, 1)
    (copy,) = find_copies(pictures(frames), pictures(np.concatenate([hashes(rng, 30), frames])))
    assert copy.offset_s is None
    assert copy.frames == 1


def test_nothing_against_nothing_is_nothing(rng):
    assert find_copies(Pictures.join([]), pictures(hashes(rng, 3))) == []
    assert find_copies(pictures(hashes(rng, 3)), Pictures.join([])) == []


def scene(seed):
    noise = np.random.default_rng(seed).integers(60, 250, (120, 160, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(40))


@pytest.mark.parametrize("border", [0.0, 0.005, 0.04, 0.045, 0.08])
def test_a_lost_border_near_one_of_the_variants_stays_within_the_radius(border):
    image = scene(3)
    w, h = image.size
    cut = image.crop((round(w * border), round(h * border), round(w * (1 - border)), round(h * (1 - border))))
    (found,) = variants([image])
    (copy,) = variants([cut])
    assert found.shape == (VARIANTS, 32)
    assert distance(found, copy[0]).min() <= RADIUS


def test_a_black_surround_on_either_side_changes_nothing_much():
    image = scene(5)
    canvas = Image.new("RGB", (900, 520))
    canvas.paste(image, (130, 20))
    (found,), (copy,) = variants([canvas]), variants([image])
    assert distance(found[VARIANTS // 2], copy[0]) <= RADIUS
