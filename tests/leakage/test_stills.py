"""Copies of single pictures leave a pool as pictures, whatever was done to them; other pictures stay."""

import io

import numpy as np
import pandas as pd
import pytest
from leak_factory import make_labelled, make_pool, operation, resolve
from PIL import Image

from trocar.cli.main import main
from trocar.data.labelled_data import LeakConfig
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourRule, NeighbourSource
from trocar.downstream.datasets import open_dataset
from trocar.errors import ConfigError
from trocar.leakage.exposure import Exposure, Part
from trocar.leakage.guard import compared, guarding_of
from trocar.leakage.held_out_sources import held_out
from trocar.leakage.judge import Judge
from trocar.leakage.verdict import Verdict


def still(seed):
    """A picture as large as a small endoscope's, unlike that of any other seed."""
    (picture,) = operation(1000 + seed, frames=1, size=(320, 240))
    return picture


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def cut(image):
    w, h = image.size
    return image.crop((round(0.08 * w), round(0.08 * h), round(0.92 * w), round(0.92 * h)))


COPIES = {
    "jpeg": jpeg,
    "half": lambda image: image.resize((160, 120)),
    "squashed": lambda image: image.resize((250, 250)),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.2 * value + 10))),
    "cut": cut,
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by half": lambda image: image.transpose(Image.Transpose.ROTATE_180),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four held-out patients, one picture of each."""
    cases = {f"p{i}": [still(i)] for i in range(4)}
    return make_labelled(tmp_path_factory.mktemp("data") / "stills", cases)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Every copy of every held-out still, a case each, twenty stills of others; one more copy among two and three."""
    videos = {
        f"{i} {name}": ("web", f"{i}{name}", [alter(still(i))]) for name, alter in COPIES.items() for i in range(4)
    }
    videos |= {f"free{i}": ("web", f"free{i}", [still(100 + i)]) for i in range(20)}
    videos |= {
        f"trio{k}": ("web", "trio", [picture]) for k, picture in enumerate((still(200), jpeg(still(1)), still(201)))
    }
    videos |= {f"pair{k}": ("web", "pair", [picture]) for k, picture in enumerate((still(202), jpeg(still(2))))}
    return make_pool(tmp_path_factory.mktemp("pool"), videos)


def guarded(data, **fields):
    return Composition(curate="none", leak=LeakConfig(against=[str(data)], **fields))


def rows_of(selection):
    return np.sort(np.concatenate([p.runs.rows(np.arange(len(p))) for p in selection.pools]))


def names_of(catalog, rows):
    return sorted(catalog.videos["name"][int(catalog.frames["video"][row])].as_py() for row in rows)


def test_every_copy_leaves_and_nothing_else(data, pool):
    selection = resolve(guarded(data), pool)
    free = sorted([*(f"free{i}" for i in range(20)), "trio0", "trio2"])
    assert names_of(pool, rows_of(selection)) == free
    assert set(selection.cases) == {*(f"web/free{i}" for i in range(20)), "web/trio"}
    assert {leak.verdict for leak in guarding_of(selection).leaks} == {Verdict.SEEN}
    assert len(guarding_of(selection).leaks) == 4 * len(COPIES) + 2


def test_a_picture_leaves_alone_and_its_case_only_if_it_has_two(data, pool):
    selection = resolve(guarded(data), pool)
    assert names_of(pool, guarding_of(selection).rows) == ["trio1"]
    became = {leak["pool"]: leak["became"] for leak in guarding_of(selection).records()}
    assert (became["web/trio"], became["web/pair"]) == ("1 picture(s) left out", "left out")
    (trio,) = (leak for leak in guarding_of(selection).records() if leak["pool"] == "web/trio")
    assert (trio["pictures"], "rows" in trio) == (1, False)


def test_the_fingerprint_covers_single_pictures(data, pool):
    everything = Composition(curate="none", include=[{"case": ["trio"]}])
    without = everything.model_copy(update={"leak": LeakConfig(against=[str(data)])})
    of_others = everything.model_copy(update={"leak": LeakConfig(against=["heichole/1"])})
    prints = [resolve(one, pool).fingerprint for one in (everything, without, of_others)]
    assert prints[0] == prints[2] != prints[1]


def test_error_stops_on_copies_of_stills_and_allow_keeps_them(data, pool):
    with pytest.raises(
        ConfigError, match=r"the pool holds 4 held-out case.s.(?s:.*)web/0brighter has pictures of stills/p0"
    ):
        resolve(guarded(data, policy="error"), pool)
    kept = resolve(guarded(data, policy="allow"), pool)
    assert len(kept) == len(pool)
    assert {leak["became"] for leak in guarding_of(kept).records()} == {"kept in the pool"}


def test_what_was_compared_and_what_chance_gives_is_said(data, pool, capsys):
    (line,) = (note for note in resolve(guarded(data), pool).notes if "pairs of pictures" in note)
    assert f"{4 * len(pool):,} pairs of pictures compared, {4 * len(COPIES) + 2} within 24 bits" in line
    assert float(line.rpartition("about ")[2]) < 0.1
    assert main(["leaks", str(pool.root), "--against", str(data)]) == 1
    assert "within 24 bits; chance gives at most about" in capsys.readouterr().out


def test_a_still_in_a_video_takes_its_frames_and_a_frame_in_a_still_the_still(tmp_path):
    video = operation(5, frames=12, size=(320, 240))
    pool = make_pool(tmp_path / "pool", {"v": ("north", "op", video), "s": ("web", "w", [jpeg(video[9])])})
    data = make_labelled(tmp_path / "stills", {"p": [jpeg(video[3])]})
    selection = resolve(guarded(data), pool)
    assert len(selection) == len(pool) - 1
    assert guarding_of(selection).rows.tolist() == [3]
    whole = make_labelled(tmp_path / "videos", {"op": [jpeg(picture) for picture in video]})
    assert guarding_of(resolve(guarded(whole, policy="allow"), pool)).records()[1]["pool"] == "web/w"
    with pytest.raises(ConfigError, match="every case that it matches is held out"):
        resolve(guarded(whole), pool)


def test_a_left_out_picture_is_no_neighbour_either(tmp_path):
    video = operation(5, frames=12, size=(320, 240))
    pool = make_pool(tmp_path / "pool", {"v": ("north", "op", video)})
    selection = resolve(guarded(make_labelled(tmp_path / "stills", {"p": [jpeg(video[3])]})), pool)
    inside = np.ones(1, bool)
    rule = NeighbourRule(NeighbourSource(), pool, inside, 0, None, guarding_of(selection).rows)
    assert NeighbourRule(NeighbourSource(), pool, inside, 0).candidates(4) == [2, 3, 5, 6]
    assert rule.candidates(4) == [2, 5, 6]


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """A held-out video and a pool with its frames in another order: no common offset in time."""
    root = tmp_path_factory.mktemp("shuffled")
    video = operation(5, frames=8)
    mixed = [video[k] for k in (6, 1, 4, 7, 2, 5, 0, 3)]
    pool = make_pool(root / "pool", {"v": ("north", "op", mixed), "w": ("north", "free", operation(9))})
    return make_labelled(root / "own", {"one": video}), pool


def test_suspects_leave_unless_they_are_to_stay(shuffled):
    data, pool = shuffled
    selection = resolve(guarded(data), pool)
    assert [leak.verdict for leak in guarding_of(selection).leaks] == [Verdict.SUSPECT]
    assert selection.cases == ("north/free",)
    assert resolve(guarded(data, policy="error"), pool).cases == ("north/free",)


def test_a_held_out_set_that_is_wholly_suspect_stops_a_plan_that_keeps_suspects(shuffled, tmp_path):
    data, pool = shuffled
    with pytest.raises(ConfigError, match=r"what looks like every held-out case(?s:.*)north/op may be own/one"):
        resolve(guarded(data, suspects="keep"), pool)
    two = make_labelled(tmp_path / "own", {"one": operation(5), "two": operation(77)})
    kept = resolve(guarded(two, suspects="keep"), pool)
    assert len(kept.cases) == 2
    assert [leak["became"] for leak in guarding_of(kept).records()] == ["kept in the pool"]
    assert any("by leak.suspects: keep" in note for note in kept.notes)
    assert len(resolve(guarded(data, policy="allow", suspects="keep"), pool).cases) == 2


def part_of(selection, pool, left_out=None, found=None):
    root, known_as = str(pool.root), pool.fingerprint
    return Part("pretraining", "run", (), selection.cases, root, known_as, found or {}, left_out or {})


def test_what_left_the_pool_does_not_count_as_seen_now_or_by_another_test_set(data, pool, tmp_path):
    selection = resolve(guarded(data), pool)
    (row,) = guarding_of(selection).rows.tolist()
    content = pool.videos["content_hash"][int(pool.frames["video"][row])].as_py()
    found = compared(held_out([str(data)]), guarding_of(selection).kept, selection.cases)
    assert set(found.values()) == {()}
    other = make_labelled(tmp_path / "other", {"q": [still(1).resize((160, 120))]})
    judge = Judge(open_dataset(other), ["q"])
    for left_out, verdict in (({content: (0,)}, Verdict.CLEAN), ({}, Verdict.SEEN)):
        part = part_of(selection, pool, left_out)
        assert Part.from_json(part.as_json()) == part
        findings = judge.of_exposure(Exposure((part,)))
        assert Verdict.worst(finding.verdict for finding in findings) is verdict


def without_times(root):
    table = pd.read_csv(root / "frames.csv", dtype=str, keep_default_na=False)
    table.drop(columns="time_s").to_csv(root / "frames.csv", index=False)
    return root


def test_pictures_without_times_are_stills_however_many_a_case_has(tmp_path):
    labelled = {"p": [still(k) for k in range(5)]}
    pool = make_pool(tmp_path / "pool", {"copy": ("web", "w", [jpeg(still(3))]), "free": ("web", "f", [still(70)])})
    assert open_dataset(without_times(make_labelled(tmp_path / "stills", labelled))).untimed
    selection = resolve(guarded(tmp_path / "stills", policy="allow"), pool)
    assert [(leak.pool, leak.rows) for leak in guarding_of(selection).leaks] == [("web/w", (0,))]


def test_pictures_without_times_that_are_a_video_in_order_are_found_as_one(tmp_path):
    video = operation(5, frames=8)
    pool = make_pool(tmp_path / "pool", {"v": ("north", "op", operation(6, 3) + video)})
    data = without_times(make_labelled(tmp_path / "own", {"p": video}))
    (leak,) = guarding_of(resolve(guarded(data, policy="allow"), pool)).leaks
    assert "+3.0 s away" in leak.how
    assert leak.rows == ()
