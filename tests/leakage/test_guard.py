"""Held-out cases leave a pool before anything is sampled, by name and by content."""

import numpy as np
import pandas as pd
import pytest
from leak_factory import make_labelled, make_pool, operation, resolve

from trocar.cli.main import main
from trocar.core.files import user_cache
from trocar.data.labelled_data import LabelledFolder, LeakConfig
from trocar.data.selection.composition import Amount, Composition
from trocar.errors import ConfigError, TrocarError
from trocar.leakage import held_out_sources
from trocar.leakage.guard import guarding_of
from trocar.leakage.held_out_sources import held_out
from trocar.leakage.verdict import Verdict

SPLITS = {"train1": "train", "test1": "test", "val1": "val"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three labelled cases; `test1` and `val1` are held out."""
    cases = {name: operation(seed) for seed, name in enumerate(SPLITS)}
    return make_labelled(tmp_path_factory.mktemp("data") / "clinic", cases, SPLITS)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """Six cases: one a smaller copy of `test1` that begins four seconds later under another name, one the case `val1`
    by name, one Cholec80's video 61, and three of nobody's.
    """
    copied = operation(99, 4) + [image.resize((120, 90)) for image in operation(1)]
    videos = {
        "a": ("north", "op17", copied),
        "b": ("clinic", "val1", operation(50)),
        "c": ("cholec80", "video61", operation(51)),
        **{f"free{i}": ("north", f"free{i}", operation(60 + i)) for i in range(3)},
    }
    return make_pool(tmp_path_factory.mktemp("pool"), videos)


def guarded(*against, policy="exclude", **fields):
    return Composition(curate="none", leak=LeakConfig(against=list(against), policy=policy), **fields)


def free_cases():
    return {f"north/free{i}" for i in range(3)}


def test_cases_leave_by_content_by_name_and_by_published_identity(data, catalog):
    selection = resolve(guarded(str(data), "m2cai16_tool/11"), catalog)
    assert set(selection.cases) == free_cases()
    found = {(leak.pool, leak.test): leak for leak in guarding_of(selection).leaks}
    assert found.keys() == {
        ("north/op17", "clinic/test1"),
        ("clinic/val1", "clinic/val1"),
        ("cholec80/video61", "m2cai16_tool/11"),
    }
    assert "+4.0 s away" in found["north/op17", "clinic/test1"].how
    assert any("3 case(s) left out before sampling" in note for note in selection.notes)


def test_exclusion_comes_before_sampling_so_arms_keep_their_size(data, catalog):
    everything = guarded(str(data), "m2cai16_tool", sample=Amount(cases=3))
    assert set(resolve(everything, catalog).cases) == free_cases()
    with pytest.raises(ConfigError, match=r"has 3 cases .* 4 cases were asked for"):
        resolve(guarded(str(data), "m2cai16_tool", sample=Amount(cases=4)), catalog)


def test_the_fingerprint_changes_with_what_was_left_out_and_only_then(data, catalog):
    plain = Composition(curate="none").resolve(catalog).fingerprint
    assert resolve(guarded("heichole/1"), catalog).fingerprint == plain
    by_name = resolve(guarded("cholec80/61"), catalog).fingerprint
    both = resolve(guarded("cholec80/61", str(data)), catalog).fingerprint
    assert len({plain, by_name, both}) == 3


def test_error_names_case_task_and_the_ways_out(data, catalog):
    with pytest.raises(ConfigError) as caught:
        resolve(guarded(str(data), policy="error"), catalog)
    text = str(caught.value)
    for part in ("north/op17 is clinic/test1", f"phase of {data}", "policy: exclude", "policy: allow", "leak.against"):
        assert part in text


def test_allow_keeps_the_cases_and_records_them(data, catalog):
    selection = resolve(guarded(str(data), policy="allow"), catalog)
    assert len(selection.cases) == 6
    assert {leak.verdict for leak in guarding_of(selection).leaks} == {Verdict.SEEN}


def test_training_cases_of_the_labelled_data_are_no_leak(tmp_path, data):
    pool = make_pool(tmp_path, {"a": ("north", "x", operation(0)), "b": ("north", "y", operation(70))})
    assert guarding_of(resolve(guarded(str(data)), pool)).leaks == ()


def test_data_without_a_split_is_held_out_as_a_whole(tmp_path):
    data = make_labelled(tmp_path / "own", {"one": operation(1), "two": operation(2)})
    assert held_out([str(data)]).cases == {("own", "one"), ("own", "two")}


def test_published_splits_and_lists_are_read(tmp_path):
    cases = held_out(["cholec80:40-8-32"]).cases
    assert {int(n) for _, n in cases} == set(range(41, 81))
    (tmp_path / "cases.txt").write_text("# ours\ncholec80/video07\nclinic/op 3  # known\n")
    assert held_out([str(tmp_path / "cases.txt")]).cases == {("cholec80", "7"), ("clinic", "op 3")}
    (tmp_path / "bad.txt").write_text("video07\n")
    with pytest.raises(ConfigError, match=r"bad.txt:1: expected data set/case"):
        held_out([str(tmp_path / "bad.txt")])
    (tmp_path / "range.txt").write_text("cholec80/07\ncholec80/41-43\nclinic/1-2\n")
    named = {("cholec80", n) for n in ("7", "41", "42", "43")} | {("clinic", "1-2")}
    assert held_out([str(tmp_path / "range.txt")]).cases == named
    (tmp_path / "strange.txt").write_text("\ncholec80/81\n")
    with pytest.raises(ConfigError, match=r"strange.txt:2: .*cholec80 has no case 81"):
        held_out([str(tmp_path / "strange.txt")])
    with pytest.raises(ConfigError, match="which cases are in the split 'official' of m2cai16_tool only its folders"):
        held_out(["m2cai16_tool:official"])
    with pytest.raises(ConfigError, match="'data/clinic' is no folder, no file and no published data set"):
        held_out(["data/clinic"])
    with pytest.raises(ConfigError, match="did you mean '40-8-32'"):
        held_out(["cholec80:40-8-3"])


@pytest.mark.parametrize("held", ["cholec80/07", "cholec80_cvs/vid 7", "cholec80:rivoir-60-20"])
def test_a_pool_of_published_cases_is_found_however_their_numbers_are_written(tmp_path, held):
    names = {"07": "a", "video08": "b", "20": "c"}
    pool = make_pool(tmp_path, {v: ("cholec80", case, operation(i)) for i, (case, v) in enumerate(names.items())})
    found = [leak.pool for leak in guarding_of(resolve(guarded(held, policy="allow"), pool)).leaks]
    assert found == (["cholec80/07", "cholec80/video08"] if ":" in held else ["cholec80/07"])


def test_a_composition_with_a_guard_cannot_be_resolved_without_it(catalog):
    with pytest.raises(TypeError, match=r"trocar\.leakage\.guard"):
        guarded("cholec80").resolve(catalog)


def test_a_pool_of_nothing_but_held_out_cases_is_refused(tmp_path):
    pool = make_pool(tmp_path, {"a": ("cholec80", "video61", operation(1))})
    with pytest.raises(ConfigError, match="every case that it matches is held out"):
        resolve(guarded("cholec80"), pool)


def test_hashes_are_computed_once(data):
    said = []
    for _ in range(2):
        held_out([LabelledFolder(data=data)], said.append)
    assert len(said) == 1
    assert "hashing 16 frames" in said[0]


def test_hashes_in_a_cache_of_before_are_not_used(data):
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out_sources, "FORMAT", held_out_sources.FORMAT - 1)
        old = held_out([LabelledFolder(data=data)], said.append)
        (path,) = (user_cache() / "leak").glob(f"hashes-{held_out_sources.FORMAT}-*.npy")
    np.save(path, np.zeros_like(np.load(path)))
    new = held_out([LabelledFolder(data=data)], said.append)
    assert len(said) == 2
    assert np.array_equal(new.pictures.hashes, old.pictures.hashes)
    assert new.pictures.hashes.any()


def test_the_command_prints_what_it_found_and_exits_1(data, catalog, capsys):
    assert main(["leaks", str(catalog.root), "--against", str(data), "m2cai16_tool/11"]) == 1
    out = capsys.readouterr().out
    for part in (
        "3 held-out cases (2 with pictures, 16 frames)",
        "north/op17",
        "test case seen unlabelled",
        "phase of",
    ):
        assert part in out
    assert main(["leaks", str(catalog.root), "--against", "heichole/1-24"]) == 0
    assert "none of them is in the pool" in capsys.readouterr().out
    assert main(["leaks", str(catalog.root), "--against", "cholec81"]) == 2


def with_sources(root, sources):
    """The labelled folder with a column `source` by case."""
    table = pd.read_csv(root / "frames.csv", dtype=str, keep_default_na=False)
    table.assign(source=table["case"].map(sources)).to_csv(root / "frames.csv", index=False)
    return root


def test_frames_csv_says_which_data_set_a_case_is_of(tmp_path):
    cases = {"video61": operation(1), "op2": operation(2)}
    data = with_sources(make_labelled(tmp_path / "mix", cases), {"video61": "Cholec80", "op2": ""})
    assert held_out([str(data)]).cases == {("cholec80", "61"), ("mix", "op2")}
    pool = make_pool(tmp_path / "pool", {"a": ("m2cai16_tool", "tool_video_11", operation(30))})
    (leak,) = guarding_of(resolve(guarded(str(data), policy="allow"), pool)).leaks
    assert leak.test == "cholec80/61"


def test_a_case_of_two_sources_is_refused(tmp_path):
    data = make_labelled(tmp_path / "mix", {"op": operation(1)})
    table = pd.read_csv(data / "frames.csv")
    table.assign(source=["a"] * 4 + ["b"] * 4).to_csv(data / "frames.csv", index=False)
    with pytest.raises(TrocarError, match=r"case 'op' is of source 'b' here and of 'a' above"):
        held_out([str(data)])
    with_sources(data, {"op": "a"})
    pd.DataFrame({"video": ["op"], "source": ["b"]}).to_csv(data / "videos.csv", index=False)
    with pytest.raises(TrocarError, match="case 'op' is of "):
        held_out([str(data)])


def test_equal_ids_of_other_sources_and_other_zeros_are_said_and_known_differences_are_not(tmp_path):
    videos = {
        "a": ("north", "op1", operation(60)),
        "b": ("clinic", "002", operation(61)),
        "c": ("cholec80", "video03", operation(62)),
    }
    pool = make_pool(tmp_path / "pool", videos)
    cases = {"op1": operation(1), "2": operation(2), "3": operation(3)}
    data = with_sources(make_labelled(tmp_path / "clinic", cases), {"op1": "", "2": "", "3": "heichole"})
    selection = resolve(guarded(str(data)), pool)
    assert len(selection.cases) == 3
    (line,) = (note for note in selection.notes if "called as held-out ones" in note)
    assert "2 case(s)" in line
    assert "clinic/002 and clinic/2, north/op1 and clinic/op1." in line
    assert "heichole" not in line
