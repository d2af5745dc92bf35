import numpy as np
import pyarrow.parquet as pq
import pytest
from data_factory import make_catalog

from trocar.data.catalog.catalog import DEFAULT_CURATION, fails
from trocar.data.selection.composition import Composition
from trocar.data.selection.curation import LeftOut
from trocar.errors import TrocarError


@pytest.fixture
def catalog(tmp_path):
    return make_catalog(tmp_path, 5, [7, 30, 1, 40, 22], flags=0.2)


def in_groups_of(catalog, rows):
    path = catalog.root / "catalog" / "quality.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=rows)


def expected(catalog):
    columns = catalog.quality(list(DEFAULT_CURATION))
    return np.logical_or.reduce([fails(columns[name], limit) for name, limit in DEFAULT_CURATION.items()])


@pytest.mark.parametrize("group", [1, 9, 64, 1000])
def test_any_range_of_rows_is_judged_as_the_whole_columns_are(catalog, group):
    whole = expected(catalog)
    in_groups_of(catalog, group)
    assert 0 < whole.sum() < whole.size
    with LeftOut(catalog, DEFAULT_CURATION) as left_out:
        for start, stop in ((0, 7), (7, 37), (37, 38), (38, 78), (78, 100), (5, 95), (0, 100), (50, 50)):
            assert (left_out.rows(start, stop) == whole[start:stop]).all()


def test_ascending_ranges_decode_each_touched_group_once_and_the_others_never(catalog, monkeypatch):
    in_groups_of(catalog, 10)
    read = []
    with LeftOut(catalog, DEFAULT_CURATION) as left_out:
        original = left_out._file.read_row_group
        monkeypatch.setattr(left_out._file, "read_row_group", lambda i, **kw: read.append(i) or original(i, **kw))
        left_out.rows(7, 37)
        left_out.rows(37, 38)
        left_out.rows(78, 100)
    assert read == [0, 1, 2, 3, 7, 8, 9]


def test_a_selection_does_not_depend_on_the_row_groups(catalog):
    before = Composition().resolve(catalog)
    in_groups_of(catalog, 3)
    after = Composition().resolve(catalog)
    assert after.fingerprint == before.fingerprint
    assert len(after) == len(before) == int((~expected(catalog)).sum())


def test_verdicts_of_another_catalog_are_refused(catalog, tmp_path):
    other = make_catalog(tmp_path / "other", 1, 9)
    (catalog.root / "catalog/quality.parquet").write_bytes((other.root / "catalog/quality.parquet").read_bytes())
    with pytest.raises(TrocarError, match=r"quality\.parquet: not the verdicts of this catalog \(9 rows"):
        Composition().resolve(catalog)
