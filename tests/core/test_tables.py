"""Tables that people deliver: what is text stays as written, only an empty cell is empty, errors name the row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trocar.core import csv_text
from trocar.core.tables import Table, of_texts, read_table
from trocar.data.labelled_data import SPLITS
from trocar.errors import ConfigError, TrocarError


@pytest.fixture
def table(tmp_path):
    def written(text: str | bytes, name: str = "t.csv", **options) -> Table:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(tmp_path / name, **options)

    return written


@pytest.fixture
def stored(tmp_path):
    def written(**columns) -> Table:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return read_table(tmp_path / "t.parquet")

    return written


def test_ids_stay_as_they_are_written(table):
    assert table("case\n001\n1\n1e3\n 7 \n0x1F\n1.50\n").ids("case").tolist() == [
        "001",
        "1",
        "1e3",
        "7",
        "0x1F",
        "1.50",
    ]


@pytest.mark.parametrize("word", ["NA", "N/A", "None", "null", "NULL", "nan", "NaN", "-", "#N/A", "<NA>"])
def test_words_for_nothing_are_words(table, word):
    found = table(f"phase\n{word}\n\n")
    assert found.ids("phase").tolist() == [word]
    assert found.filled("phase").tolist() == [True]


def test_only_an_empty_cell_is_empty(table):
    found = table("path,phase\na,x\nb,\nc,  \nd,NA\n")
    assert found.texts("phase").tolist() == ["x", "", "", "NA"]
    assert found.filled("phase").tolist() == [True, False, False, True]


def test_an_id_that_is_missing_is_an_error_with_its_row(table):
    with pytest.raises(TrocarError, match=r"t\.csv: row 2: no case \(and 1 more row\)$"):
        table("path,case\na,7\nb,\nc,9\nd,\n").ids("case")


def test_a_number_that_is_missing_is_an_error_with_its_row_unless_gaps_are_allowed(table):
    found = table("path,time_s\na,0\nb,\nc,1.5\n")
    with pytest.raises(TrocarError, match=r"row 2: time_s is empty$"):
        found.numbers("time_s")
    assert np.array_equal(found.numbers("time_s", gaps=True), [0, np.nan, 1.5], equal_nan=True)


def test_numbers_are_rounded_correctly_and_take_either_sign(table):
    text = ["0.1", "+2.5", "-.5", "1e-3", "7.", "0.30000000000000004", "8.41470984807896504875"]
    assert table("x\n" + "\n".join(text) + "\n").numbers("x").tolist() == [float(one) for one in text]


@pytest.mark.parametrize("value", ["a", "1_000", "0x10", "1e", "nan", "inf", "-Infinity", "1 000", "--1"])
def test_what_is_no_finite_number_is_refused_by_row_and_value(table, value):
    with pytest.raises(TrocarError, match=r"row 2: x '.*': expected a number"):
        table(f"x\n1\n{value}\n").numbers("x")
    with pytest.raises(TrocarError, match=r"row 2: x '.*': expected a whole number"):
        table(f"x\n1\n{value}\n").whole("x")


def test_a_decimal_comma_is_named(table):
    with pytest.raises(TrocarError, match=r"row 1: x '0,5': expected a number; numbers have a decimal point$"):
        table('x\n"0,5"\n').numbers("x")


def test_limits_name_the_row(table):
    found = table("x\n0.5\n1.5\n-1\n")
    with pytest.raises(TrocarError, match=r"row 2: x '1\.5': expected a number from 0 to 1 \(and 1 more row\)"):
        found.numbers("x", 0, 1)
    with pytest.raises(TrocarError, match=r"row 3: x '-1': expected a number from 0$"):
        found.numbers("x", 0)


def test_whole_numbers_are_never_cut_off(table):
    found = table("x\n25\n2.5e+01\n25.0\n\n")
    assert found.whole("x").tolist() == [25, 25, 25]
    with pytest.raises(TrocarError, match=r"row 2: x '1\.5': expected a whole number$"):
        table("x\n1\n1.5\n").whole("x")
    with pytest.raises(TrocarError, match=r"row 1: x '-2': expected a whole number from -1"):
        table("x\n-2\n").whole("x", -1)
    assert table("x,y\n9007199254740991,a\n,b\n").whole("x", gap=-1).tolist() == [9007199254740991, -1]
    with pytest.raises(TrocarError, match=r"row 1: x '9007199254740993': expected a whole number$"):
        table("x\n9007199254740993\n").whole("x")


def test_flags_are_zero_or_one_in_any_of_their_spellings(table):
    found = table("x,y\n1,\nTrue,1\nyes,0\nY,\n1.0,1\n0,0\nfalse,\nNO,1\n0.0,0\n")
    assert found.flags("x").tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert found.flags("y", gaps=True).tolist() == [-1, 1, 0, -1, 1, 0, -1, 1, 0]
    with pytest.raises(TrocarError, match="row 1: y is empty"):
        found.flags("y")
    with pytest.raises(TrocarError, match=r"row 3: x '2': expected 0 or 1$"):
        table("x\n1\n0\n2\n").flags("x")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("Train", "train"), ("TEST", "test"), ("validation", "val"), ("valid", "val"), ("testing", "test")],
)
def test_a_choice_spelt_otherwise_names_the_one_that_is_meant(table, word, meant):
    with pytest.raises(TrocarError, match=rf"split '{word}': expected train, val, test \(did you mean '{meant}'\?\)"):
        table(f"split\ntrain\n{word}\n").choices("split", SPLITS)


def test_codes_are_looked_up_by_the_text(table):
    found = table("phase,x\nb,1\na,2\nNA,3\n,4\n")
    assert found.codes("phase", ["a", "b", "NA"].index, gap=-1).tolist() == [1, 0, 2, -1]

    def refuse(text: str) -> int:
        raise TrocarError(f"unknown name {text!r}")

    with pytest.raises(TrocarError, match=r"t\.csv: row 1: phase: unknown name 'b'"):
        found.codes("phase", refuse, gap=-1)


def test_rows_that_are_there_twice_are_named(table):
    with pytest.raises(TrocarError, match=r"row 3: video 'a', time_s '1' is there twice \(also in row 1\)"):
        table("video,time_s\na,1\na,2\na,1\n").once("video", "time_s")


def test_a_column_that_is_not_there_is_named_with_the_nearest(table):
    with pytest.raises(TrocarError, match=r"no column 'case' \(did you mean 'Case'\?\); found path, Case"):
        table("path,Case\na,b\n").need("case")


@pytest.mark.parametrize(("separator", "mark"), [(";", ";"), ("\t", "\\t"), ("|", "|")])
def test_another_separator_is_said_and_not_guessed(table, separator, mark):
    with pytest.raises(TrocarError) as caught:
        table(separator.join(("path", "case")) + "\n" + separator.join(("a", "0,5")) + "\n")
    assert f"its columns are separated by '{mark}'; write a CSV file with commas" in str(caught.value)


def test_a_table_of_tabs_with_commas_is_said(table):
    with pytest.raises(TrocarError, match="separated by ','; write a text file with tabs"):
        table("Frame,Phase\n0,a\n", separator="\t")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252", "latin-1"])
def test_an_encoding_other_than_utf8_is_an_error_that_says_what_to_do(table, encoding):
    data = "path,case\na,Müller\n".encode(encoding)
    if encoding == "utf-8-sig":
        assert table(data).ids("case").tolist() == ["Müller"]
        return
    with pytest.raises(TrocarError, match=r"save (it|the file) as UTF-8") as caught:
        table(data)
    assert ("line 2: byte 0xfc" if encoding in ("cp1252", "latin-1") else "UTF-16") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n", "row 2: 1 cell, but 2 cells in the first line; is the file cut off?"),
        ("a,b\n1,2\n3,4,5\n", "row 2: 3 cells, but 2 cells in the first line"),
        ("a,b\n\n1,2\n\n3\n", "row 4: 1 cell, but 2 cells"),
        ('a,b\n1,2\n"3,4\n5,6\n', "line 3: a quote is not closed"),
        ('a,b\n1,2\n"3"x,4\n', "line 3: a quote is not closed, or stands inside"),
        ("a,a\n1,2\n", "two columns are called 'a'; rename one"),
        ("a, a\n1,2\n", "two columns are called 'a'; rename one"),
        ("", "is empty, or its first line is"),
        ("\na,b\n1,2\n", "is empty, or its first line is"),
        ("a,b\n1,2\n3,\0\n", "line 3: holds a NUL byte"),
    ],
)
def test_a_damaged_table_is_refused_with_its_row(table, text, said):
    with pytest.raises(TrocarError) as caught:
        table(text)
    assert said in str(caught.value)


def test_rows_keep_their_numbers_where_others_are_blank(table):
    found = table('path,case\na,1\n\n,\n"b",\n')
    assert found.rows.tolist() == [1, 4]
    with pytest.raises(TrocarError, match="row 4: no case"):
        found.ids("case")
    assert table("path,case\na,1\n,\nb,2\n,\n").rows.tolist() == [1, 3]


def test_quotes_line_breaks_and_line_ends_are_csv(table):
    found = table('name,case\r\n"a, ""b""",1\r\n "two\nlines",2\r\nc d ,3')
    assert found.ids("name").tolist() == ['a, "b"', "two\nlines", "c d"]
    assert table("a\r1\r2\r").ids("a").tolist() == ["1", "2"]


def test_a_column_without_a_name_is_no_column(table):
    found = table(",path,case\n0,a,1\n1,b,2\n")  # what pandas writes with its index
    assert found.names == ("path", "case")
    assert found.ids("case").tolist() == ["1", "2"]


def test_a_header_alone_is_a_table_without_rows(table):
    found = table("path,case\n")
    assert (len(found), found.ids("case").tolist(), found.numbers("path").tolist()) == (0, [], [])


def test_a_table_without_a_header_counts_its_columns_and_its_rows_from_the_first_line(table):
    found = table("0,1,1\n1,0,x\n", header=False)
    assert found.names == ("column 1", "column 2", "column 3")
    with pytest.raises(TrocarError, match=r"row 2: column 3 'x': expected a whole number"):
        found.whole("column 3")


def test_a_file_that_is_not_there_is_the_callers_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv", failure=ConfigError)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(TrocarError, match=r"t\.parquet: "):
        read_table(tmp_path / "t.parquet")


def test_parquet_keeps_its_types_and_null_is_empty(stored):
    found = stored(
        case=pa.array([1, 2, None]),
        video=pa.array(["001", "NA", None]),
        kind=pa.array(["a", None, "a"]).dictionary_encode(),
        t=pa.array([0.5, None, 1.5]),
        flag=pa.array([True, None, False]),
        text=["1", "2.5", ""],
    )
    assert found.texts("case").tolist() == ["1", "2", ""]
    assert found.texts("video").tolist() == ["001", "NA", ""]
    assert found.texts("kind").tolist() == ["a", "", "a"]
    assert np.array_equal(found.numbers("t", gaps=True), [0.5, np.nan, 1.5], equal_nan=True)
    assert np.array_equal(found.numbers("text", gaps=True), [1, 2.5, np.nan], equal_nan=True)
    assert found.flags("flag", gaps=True).tolist() == [1, -1, 0]
    assert found.whole("case", gap=0).tolist() == [1, 2, 0]
    with pytest.raises(TrocarError, match="row 3: no case"):
        found.ids("case")


def test_parquet_ids_that_are_floating_point_numbers_are_refused(stored):
    with pytest.raises(TrocarError, match="column 'case' holds floating point numbers; store it as text"):
        stored(case=[1.0, 2.0]).ids("case")
    with pytest.raises(TrocarError, match=r"row 2: t nan: expected a number, finite"):
        stored(t=[1.0, float("nan")]).numbers("t")
    with pytest.raises(TrocarError, match="column 'x' holds list"):
        stored(x=[[1], [2]]).ids("x")


def test_cells_of_another_file_are_the_same_table():
    found = of_texts(Path("book.xlsx"), {"case": ["01", None]}, np.array([1, 3]))
    with pytest.raises(TrocarError, match=r"book\.xlsx: row 3: no case"):
        found.ids("case")


CELLS = st.one_of(
    st.text(alphabet=" ab01.\t;é", max_size=4),
    st.sampled_from(
        ['"a"', '""', '"a,b"', '"a\nb"', '"a""b"', ' "a"', '"a" ', 'a"b', '"', '"a', 'a"', '"\n\n"', '"a"b']
    ),
)


def read(text: str) -> object:
    """What is read, or that it is refused."""
    try:
        found = csv_text.parse(text.encode(), ",", True)
    except ValueError:
        return "refused"
    return found.rows.tolist(), {name: column.to_pylist() for name, column in found.columns.items()}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), max_size=5))
def test_any_text_is_read_alike_by_both_readers(rows):
    """Arrow's reader of simple text against Python's, which reads everything."""
    text = "\n".join(["p,q,r", *(",".join(row) for row in rows)]) + "\n"
    fast = read(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_text, "_simple", lambda *_: None)
        assert read(text) == fast
