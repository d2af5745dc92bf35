import pytest

from trocar.downstream.datasets.triplets import CHOLECT50_SPLITS
from trocar.errors import ConfigError
from trocar.leakage.identities import identities, numbers

TABLE = identities()


def closed(*cases):
    return TABLE.closure(cases)


def test_every_row_of_the_table_names_its_source():
    rows = [*TABLE.table.datasets.values(), *TABLE.table.overlaps, *TABLE.table.unrelated]
    assert len(rows) > 30
    assert all(len(row.source) > 10 for row in rows)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("cholect50", "1"), ("cholec80", "1")),
        (("m2cai16_tool", "10"), ("cholec80", "76")),
        (("m2cai16_tool", "11"), ("cholec80", "61")),
        (("m2cai16_tool", "15"), ("cholec80", "66")),
        (("endoscapes", "7"), ("cholec80", "72")),
        (("endoscapes", "33"), ("cholect50", "110")),
        (("endoscapes", "127"), ("cholect50", "103")),
        (("cholecseg8k", "1"), ("cholecinstanceseg", "1")),
        (("phakir", "7"), ("heichole", "2")),
    ],
)
def test_one_operation_under_two_names_is_closed_over_both_ways(one, other):
    assert other in closed(one)
    assert one in closed(other)


def test_closure_goes_through_a_third_data_set():
    assert ("m2cai16_tool", "1") in closed(("endoscapes", "1"))
    assert ("endoscapes", "121") in closed(("m2cai16_tool", "15"))


def test_cholect50s_videos_beyond_cholec80_are_not_in_it():
    beyond = {("cholect50", str(n)) for n in (92, 96, 103, 110, 111)}
    assert not any(slug == "cholec80" for slug, _ in TABLE.closure(beyond))


def test_the_test_videos_of_endoscapes_are_not_in_cholec80():
    cholec80 = TABLE.closure(TABLE.cases_of("cholec80"))
    assert sorted(int(n) for slug, n in cholec80 if slug == "endoscapes") == [1, 2, 3, 4, 7, 121]


def test_numbers_of_cholect50_are_those_of_its_published_split():
    split = {n for part in CHOLECT50_SPLITS["rdv"].values() for n in part}
    assert {int(n) for _, n in TABLE.cases_of("cholect50")} == split


@pytest.mark.parametrize(
    ("source", "case", "published"),
    [
        ("cholec80", "video02", ("cholec80", "2")),
        ("Cholec-80", "VID26_0692", ("cholec80", "26")),
        ("cholect50", "VID103", ("cholect50", "103")),
        ("m2cai16_tool", "tool_video_03", ("m2cai16_tool", "3")),
        ("m2cai16_workflow", "test_workflow_video_03", ("m2cai16_workflow", "test_3")),
        ("cholecinstanceseg", "t80_VID03", ("cholecinstanceseg", "3")),
        ("endoscapes", "121_12345", ("endoscapes", "121")),
        ("m2cai16_workflow", "test_03", ("m2cai16_workflow", "test_3")),
        ("m2cai16_workflow", "workflow_video_03", ("m2cai16_workflow", "3")),
        ("heichole", "Hei-Chole07", ("heichole", "7")),
        ("PhaKIR", "Video_07", ("phakir", "7")),
        ("MultiBypass140", "BBP01", ("multibypass140", "bbp1")),
        ("dsad", "04", ("dsad", "4")),
        ("cholecseg8k", "video09_00080", ("cholecseg8k", "9")),
    ],
)
def test_a_catalogs_case_maps_to_a_published_one_by_source_and_number(source, case, published):
    assert TABLE.identify(source, case) == published


NUMBERED = [slug for slug, about in TABLE.table.datasets.items() if not about.series]


def first_number(slug):
    """A number of the data set with one digit."""
    return min(int(n) for _, n in TABLE.cases_of(slug) or {(slug, "7")})


@pytest.mark.parametrize("slug", NUMBERED)
def test_zeros_before_a_number_and_usual_spellings_change_no_published_case(slug):
    n = first_number(slug)
    assert n < 10
    spellings = (f"0{n}", f"00{n}", f" 0{n} ", f"video0{n}", f"Video 0{n}", f"VID0{n}", f"vid-{n}", f"v0{n}")
    named = (f"{slug}_0{n}", f"{slug.upper()}-video0{n}.mp4")
    for spelling in (str(n), *spellings, *named):
        assert TABLE.identify(slug, spelling) == (slug, str(n)), spelling
        assert TABLE.named(f"{slug}/{spelling}") == {(slug, str(n))}
    assert TABLE.is_numbered((slug, str(n)))
    assert not TABLE.is_numbered((slug, f"0{n}"))


def test_cases_that_are_not_known_by_their_number_are_not_known_to_differ():
    for other in (("cholec80", "07"), ("cholec80", "95"), ("multibypass140", "7")):
        assert not TABLE.is_numbered(other)
    assert not TABLE.differ(("cholec80", "07"), ("cholec80", "7"))
    assert not TABLE.differ(("multibypass140", "7"), ("multibypass140", "bbp7"))
    assert TABLE.differ(("multibypass140", "bbp7"), ("multibypass140", "sbp7"))


@pytest.mark.parametrize("case", ["video81", "case0001", "video2a", "clip_07", "2023-07", "0", "1e1"])
def test_a_name_that_is_no_case_of_the_data_set_stays_as_it_is(case):
    assert TABLE.identify("cholec80", case) == ("cholec80", case)
    assert not TABLE.is_numbered(("cholec80", case))


def test_a_private_case_stays_itself():
    assert TABLE.identify("our hospital", "video02") == ("our hospital", "video02")
    assert closed(("our hospital", "video02")) == {("our hospital", "video02")}
    assert TABLE.identify("our hospital", "002") == ("our hospital", "002")


def test_cases_differ_only_where_the_table_says_so():
    assert TABLE.differ(("cholec80", "1"), ("cholec80", "2"))
    assert TABLE.differ(("cholec80", "1"), ("endoscapes", "5"))
    assert not TABLE.differ(("cholec80", "67"), ("endoscapes", "1"))
    assert TABLE.differ(("cholec80", "1"), ("heichole", "1"))  # other centres
    assert TABLE.differ(("cholec80", "1"), ("multibypass140", "BBP01"))  # another procedure
    assert not TABLE.differ(("cholec80", "1"), ("m2cai16_workflow", "1"))  # not stated
    assert not TABLE.differ(("cholec80", "1"), ("our hospital", "1"))


def test_published_cases_are_named_by_set_range_or_video():
    assert TABLE.named("cholec80/41-43") == {("cholec80", "41"), ("cholec80", "42"), ("cholec80", "43")}
    assert TABLE.named("cholec80/video07") == {("cholec80", "7")}
    assert len(TABLE.named("cholec80")) == 80
    with pytest.raises(ConfigError, match="did you mean 'cholec80'"):
        TABLE.named("cholec81")
    with pytest.raises(ConfigError, match="name them, such as multibypass140/bbp01"):
        TABLE.named("multibypass140")


def test_numbers_that_a_data_set_does_not_have_hold_nothing_out_and_are_refused():
    with pytest.raises(ConfigError, match=r"cholec80 has no case 81, 82; it has the numbers 1-80"):
        TABLE.named("cholec80/79-82")
    with pytest.raises(ConfigError, match="multibypass140 has no case 1; it names its cases by series and number"):
        TABLE.named("multibypass140/1")
    assert TABLE.named("multibypass140/SBP02") == {("multibypass140", "sbp2")}


def test_lists_of_numbers_are_read_strictly():
    assert numbers("1-3, 7") == {1, 2, 3, 7}
    with pytest.raises(ConfigError, match="expected numbers"):
        numbers("76 of 80")
