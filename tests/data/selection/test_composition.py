import numpy as np
import pytest
from data_factory import make_catalog

from trocar.core.config import load, validate
from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD
from trocar.data.selection.composition import Amount, Composition, Curation, VideoFilter
from trocar.errors import ConfigError


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """12 videos of 20 frames in 6 cases of two parts; sources a, b; hospitals north, south by case."""
    return make_catalog(
        tmp_path_factory.mktemp("shards"),
        12,
        20,
        sources=("a", "b"),
        hospitals=("north", "north", "south"),
        splits=("train", "train", "test"),
        parts=2,
        flags=0.1,
    )


def rows(selection):
    parts = [pool.runs.rows(np.arange(len(pool))) for pool in selection.pools]
    return np.sort(np.concatenate(parts))


def free(**fields):
    return Composition(curate="none", **fields)


def test_everything_is_selected_by_default_and_sources_are_counted(catalog):
    selection = free().resolve(catalog)
    assert (rows(selection) == np.arange(240)).all()
    assert selection.source_rows == {"a": 120, "b": 120}
    assert selection.cases == ("a/case00", "a/case02", "a/case04", "b/case01", "b/case03", "b/case05")


def test_include_and_exclude_work_on_videos_fields(catalog):
    selection = free(include=[VideoFilter(source=["a"])], exclude=[VideoFilter(case=["case02"])]).resolve(catalog)
    assert selection.cases == ("a/case00", "a/case04")
    south = free(include=[VideoFilter(hospital=["south"])]).resolve(catalog)
    assert south.cases == ("a/case02", "b/case05")
    assert free(exclude=[VideoFilter(split=["test"])]).resolve(catalog).cases == (
        "a/case00",
        "a/case04",
        "b/case01",
        "b/case03",
    )


def test_a_name_that_does_not_occur_is_refused_with_the_nearest(catalog):
    with pytest.raises(ConfigError, match=r"no hospital 'nort' in the catalog \(did you mean 'north'\?\)"):
        free(include=[VideoFilter(hospital=["nort"])]).resolve(catalog)


def test_samples_are_nested_and_whole_cases(catalog):
    chosen = [set(free(sample=Amount(cases=n)).resolve(catalog).cases) for n in (1, 2, 4, 6)]
    assert [len(c) for c in chosen] == [1, 2, 4, 6]
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
    assert len(free(sample=Amount(cases=2)).resolve(catalog)) == 2 * 2 * 20
    other = {frozenset(free(sample=Amount(cases=2), sample_seed=s).resolve(catalog).cases) for s in range(8)}
    assert len(other) > 1


def test_a_cell_with_too_few_cases_is_an_error_or_skipped_never_filled(catalog):
    amount = Amount(cases=3, per=["hospital"])
    with pytest.raises(ConfigError, match=r"cell 'south' has 2 cases .* 3 cases were asked for"):
        free(sample=amount).resolve(catalog)
    selection = free(sample=amount, on_short="skip").resolve(catalog)
    assert len(selection.cases) == 3
    assert any("'south'" in note and "skipped" in note for note in selection.notes)


def test_a_frame_budget_is_exact_and_spread_over_all_videos(catalog):
    selection = free(sample=Amount(frames=60)).resolve(catalog)
    chosen = rows(selection)
    assert chosen.size == 60
    assert np.bincount(chosen // 20, minlength=12).tolist() == [5] * 12


def test_hours_take_whole_cases_until_reached(catalog):
    # a case is 40 s long
    selection = free(sample=Amount(hours=70 / 3600)).resolve(catalog)
    assert len(selection.cases) == 2


def test_fps_subsamples_by_time(tmp_path):
    fine = make_catalog(tmp_path, 2, 21, fps=5.0)
    selection = free(fps=1.0).resolve(fine)
    assert rows(selection).tolist() == [0, 5, 10, 15, 20, 21, 26, 31, 36, 41]
    third = rows(free(fps=2.0).resolve(fine))
    assert np.diff(fine.frames["time_s"][third[third < 21]]).max() <= 0.6 + 1e-5
    with pytest.raises(ConfigError, match="fps 25 asked for, but 'video00' was ingested at 5"):
        free(fps=25.0).resolve(fine)


def test_curation_leaves_out_what_the_verdicts_say(catalog):
    quality = catalog.quality(["black", "uniform", "blurred", "near_duplicate", "out_of_body"])
    flagged = quality["black"] | quality["uniform"] | quality["blurred"] | quality["near_duplicate"]
    default = ~(flagged | (quality["out_of_body"] >= OUT_OF_BODY_THRESHOLD))
    assert (rows(Composition().resolve(catalog)) == np.flatnonzero(default)).all()
    only_black = Curation(uniform=False, blurred=False, near_duplicate=False)
    assert (rows(Composition(curate=only_black).resolve(catalog)) == np.flatnonzero(~quality["black"])).all()


def test_weights_make_one_pool_per_source_and_proportional_one_for_all(catalog):
    assert [(p.name, p.share) for p in free().resolve(catalog).pools] == [("all", 1.0)]
    weighted = free(weights={"a": 3, "b": 1}).resolve(catalog)
    assert [(p.name, p.share) for p in weighted.pools] == [("a", 0.75), ("b", 0.25)]


def test_max_repeat_caps_epochs_and_says_where_the_surplus_went(tmp_path):
    catalog = make_catalog(tmp_path, 4, [10, 10, 200, 200], sources=("small", "large"), parts=2)
    selection = free(weights="uniform", max_repeat=5).resolve(catalog, samples=400)
    assert {p.name: p.share for p in selection.pools} == pytest.approx({"small": 0.25, "large": 0.75})
    assert any("small: 0.500 -> 0.250" in note and "large" in note for note in selection.notes)


def test_the_fingerprint_follows_the_selected_content_alone(catalog, tmp_path):
    one = free(include=[VideoFilter(case=["case00"])])
    assert one.resolve(catalog).fingerprint == one.resolve(catalog).fingerprint
    assert one.resolve(catalog).fingerprint != free().resolve(catalog).fingerprint
    assert free(sample=Amount(frames=60)).resolve(catalog).fingerprint != free().resolve(catalog).fingerprint
    other = make_catalog(tmp_path, 12, 20, sources=("a", "b"), parts=2, seed=9)
    assert free().resolve(other).fingerprint != free().resolve(catalog).fingerprint


def test_a_typo_in_the_composition_is_named(catalog):
    with pytest.raises(ConfigError, match=r"unknown key 'include.0.hospitl' \(did you mean 'hospital'\?\)"):
        validate(Composition, {"include": [{"hospitl": ["north"]}]}, "study.yaml")


def test_cases_of_equal_name_in_two_sources_are_two_cases(tmp_path):
    catalog = make_catalog(tmp_path, 4, 5, sources=("a", "b"), parts=1)
    table = catalog.videos.set_column(2, "case_id", [["01", "02", "01", "02"]])
    catalog.videos = table
    selection = free(sample=Amount(cases=1, per=["source"])).resolve(catalog)
    assert len(selection.cases) == 2
    assert {case[0] for case in selection.cases} == {"a", "b"}
    assert len(selection) == 10


def test_a_grown_catalog_keeps_fingerprint_and_rows_of_an_unchanged_selection(tmp_path):
    small = make_catalog(tmp_path / "small", 3, 6, sources=("m",))
    grown = make_catalog(tmp_path / "grown", 3, 6, sources=("m",))
    videos = grown.videos
    shifted = videos.set_column(videos.schema.get_field_index("first_row"), "first_row", [[100, 106, 112]])
    a = free().resolve(small)
    small_hash = a.fingerprint
    from trocar.data.selection.selection import Pool, RowRuns, hash_runs

    moved = tuple(
        Pool(p.name, RowRuns(p.runs.start + 100, p.runs.stride, p.runs.have, p.runs.take), p.share) for p in a.pools
    )
    named = list(zip(videos["name"].to_pylist(), videos["content_hash"].to_pylist(), strict=True))
    assert hash_runs(named, moved, shifted["first_row"].to_numpy()) == small_hash


def test_max_repeat_also_limits_a_proportional_mixture(catalog):
    with pytest.raises(ConfigError, match="the sources fill 480 samples at most, the run asks for 1000"):
        free(max_repeat=2).resolve(catalog, samples=1000)


def test_more_hours_than_there_are_is_an_error(catalog):
    # 6 cases of 40 s
    with pytest.raises(ConfigError, match=r"cell 'everything' has 6 cases \(0\.07 h\), 1 hours were asked for"):
        free(sample=Amount(hours=1)).resolve(catalog)
    some = Amount(hours=1, cases=3)  # whichever is reached first
    assert len(free(sample=some).resolve(catalog).cases) == 3


def test_case_ids_of_a_file_stay_as_they_are_written(tmp_path):
    (tmp_path / "c.yaml").write_text("include:\n- case: [001, 1_2, 7, 12:30, 2020-01-31, NA]\nweights: {01: 2, 7: 1}\n")
    found = load(Composition, tmp_path / "c.yaml", ["exclude=[{case: [010, 3]}]"])
    assert found.include[0].case == ["001", "1_2", "7", "12:30", "2020-01-31", "NA"]
    assert found.exclude[0].case == ["010", "3"]
    assert found.weights == {"01": 2, "7": 1}
    with pytest.raises(ConfigError, match=r"case\.0 = 1\.1: Input should be a valid string; write it in quotes"):
        load(Composition, None, ["include=[{case: [1.10]}]"])
    with pytest.raises(ConfigError, match=r"case\.0 = False: Input should be a valid string; write it in quotes"):
        load(Composition, None, ["include=[{case: [no]}]"])
