"""Runs of matching hashes on made-up hashes; real clips are in test_content_real.py."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from trocar.data.ingest.quality import distance
from trocar.leakage.matching import COMMON, ISOLATED_RADIUS, RADIUS, RUN, Rule, compare, different, find_copies
from trocar.leakage.pictures import BORDERS, CROPS, VARIANTS, Pictures, variants


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


@pytest.mark.parametrize(("bits", "found"), [(RADIUS, True), (RADIUS + 1, False)])
def test_one_match_between_stills_takes_the_picture(rng, bits, found):
    frames = hashes(rng, 1)
    pool = [
        pictures(flipped(rng, frames, bits), name="copy"),
        *(pictures(hashes(rng, 1), name=str(i)) for i in range(5)),
    ]
    copies = find_copies(pictures(frames), Pictures.join(pool))
    assert [(copy.pool, copy.offset_s, copy.rows) for copy in copies] == ([(0, None, (0,))] if found else [])


@pytest.mark.parametrize("turned", [False, True], ids=["still in video", "video in still"])
@pytest.mark.parametrize(
    ("bits", "rows"),
    [((ISOLATED_RADIUS,), 1), ((ISOLATED_RADIUS + 1,), 0), ((RADIUS, RADIUS), 2), ((RADIUS, RADIUS + 1), 0)],
)
def test_between_a_still_and_a_video_one_close_match_or_two_take_the_frames(rng, turned, bits, rows):
    frame = hashes(rng, 1)
    near = np.concatenate([flipped(rng, frame, count) for count in bits])
    video = pictures(np.concatenate([hashes(rng, 20), near]), name="video")
    still = pictures(frame, name="still")
    copies = find_copies(video, still) if turned else find_copies(still, video)
    found = [copy.rows for copy in copies]
    assert found == ([((0,) if turned else tuple(range(20, 20 + rows)))] if rows else [])


def test_pictures_without_times_are_stills_however_many_a_case_has(rng):
    frames = hashes(rng, 30)
    without_times = pictures(frames, times=np.zeros(30))
    pool = pictures(flipped(rng, frames[7:8], RADIUS), name="copy")
    assert [copy.rows for copy in find_copies(without_times, pool)] == [(0,)]
    assert find_copies(pictures(frames), pool) == []


def test_chance_is_what_near_misses_lead_to_expect(rng):
    queries = hashes(rng, 200)
    assert compare(pictures(queries), pictures(hashes(rng, 400))).chance < 0.05
    # 100 pairs within 40 bits, 4.4 times fewer every four bits below, as on real frames: 1 in 4.4^4 of them within 24.
    near = np.concatenate(
        [flipped(rng, queries[i : i + 1], 40 if i < 77 else 36 if i < 95 else 32) for i in range(100)]
    )
    found = compare(pictures(queries), pictures(near))
    assert (found.pairs, found.near, found.copies) == (200 * 100, 0, ())
    assert 100 / 4.4**4 / 3 < found.chance < 100 / 4.4**4 * 3


def test_variants_that_repeat_change_nothing(rng):
    frames = hashes(rng, 4)
    repeated = Pictures(np.repeat(frames[:, None], VARIANTS, axis=1), np.arange(4), np.zeros(4), *[tuple("abcd")] * 2)
    pool = pictures(flipped(rng, frames, 20))
    assert compare(repeated, pool).near == 4
    assert compare(repeated, pool).pairs == 16


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


@pytest.mark.parametrize("border", [0.0, 0.08])
def test_a_mirrored_picture_is_among_the_variants_with_every_border(border):
    image = scene(3)
    w, h = image.size
    cut = image.crop((round(w * border), round(h * border), round(w * (1 - border)), round(h * (1 - border))))
    (found,) = variants([image])
    for flip, least in (("FLIP_LEFT_RIGHT", 0.08), ("FLIP_TOP_BOTTOM", 0), ("ROTATE_180", 0)):
        (copy,) = variants([cut.transpose(Image.Transpose[flip])])
        near = distance(found, copy[0]).min() <= RADIUS
        assert near == (border <= least), flip
    assert (distance(found[:CROPS], variants([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])[0][0]) > RADIUS).all()


def test_a_black_surround_on_either_side_changes_nothing_much():
    image = scene(5)
    canvas = Image.new("RGB", (900, 520))
    canvas.paste(image, (130, 20))
    (found,), (copy,) = variants([canvas]), variants([image])
    assert distance(found[len(BORDERS)], copy[0]) <= RADIUS
