"""A contact sheet is dense, fair to every group, and marks what is flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_factory import make_catalog
from PIL import Image

from trocar.data.catalog.contact_sheet import Cell, Groups, draw_sheet, fair_shares
from trocar.data.catalog.inspection import contact_sheet

ROW = 112 + 2 * 12 + 4
RED = (200, 30, 30)


@pytest.mark.parametrize(
    ("sizes", "total", "shares"),
    [
        ([100, 100], 10, [5, 5]),
        ([2, 100, 100], 12, [2, 5, 5]),
        ([1] * 100, 4, [1 if i in (12, 37, 62, 87) else 0 for i in range(100)]),
        ([3, 1], 10, [3, 1]),
        ([50, 50, 50], 4, [1, 2, 1]),
        ([], 5, []),
    ],
)
def test_groups_get_equally_much_as_far_as_they_have_it(sizes: list[int], total: int, shares: list[int]) -> None:
    assert fair_shares(sizes, total) == shares


def test_rows_are_picked_over_groups_and_evenly_within_them() -> None:
    cases = {f"c{i}": Groups(rows=np.arange(10 * i, 10 * i + 10)) for i in range(3)}
    groups = Groups({"small": Groups({"s": Groups(rows=np.array([99]))}), "large": Groups(cases)})
    assert len(groups) == 31
    assert groups.pick(7) == [99, 2, 7, 12, 17, 22, 27]
    assert groups.pick(1000) == [99, *range(30)]


def red_bars(sheet: Image.Image) -> list[int]:
    """Places of the cells that have one."""
    columns, rows = sheet.width // 160, sheet.height // ROW
    return [
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if sheet.getpixel((column * 160 + 80, row * ROW + 12 + 112 + 1)) == RED
    ]


def test_flagged_cells_have_a_bar_and_pictures_stand_in_reading_order() -> None:
    cells = [Cell(Image.new("RGB", (300, 200), (0, 10 * i, 0)), "g", str(i), flagged=i == 9) for i in range(11)]
    sheet = draw_sheet(cells, [("liver", (1, 2, 3))])
    assert sheet.size == (1280, 2 * ROW + 24)
    assert [sheet.getpixel((i % 8 * 160 + 60, i // 8 * ROW + 50)) for i in range(11)] == [
        (0, 10 * i, 0) for i in range(11)
    ]
    assert red_bars(sheet) == [9]
    assert sheet.getpixel((6, 2 * ROW + 8)) == (1, 2, 3)


def test_a_sheet_of_shards_is_full_and_ends_with_what_curation_leaves_out(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, 6, [40, 1, 1, 1, 1, 200], sources=("a", "b"), flags=0.02)
    sheet = contact_sheet(catalog)
    assert sheet.size == (1280, 12 * ROW)
    flagged = int(sum(np.logical_or.reduce([catalog.quality([n])[n] for n in ("black", "uniform", "blurred")])))
    assert flagged > 5
    assert set(range(91, 96)) <= set(red_bars(sheet))


def test_an_empty_catalog_is_a_white_page(tmp_path: Path) -> None:
    assert contact_sheet(make_catalog(tmp_path, 0)).size == (1280, ROW)
