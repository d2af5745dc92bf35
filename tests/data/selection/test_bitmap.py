import numpy as np
import pytest

from trocar.data.selection.selection import BLOCK, Bitmap, pack


@pytest.mark.parametrize("share", [0.001, 0.3, 0.96, 1.0])
@pytest.mark.parametrize("size", [1, 7, 8, 512, 513, 20_000])
def test_select_finds_every_member_in_order(size, share):
    members = np.random.default_rng(size).random(size) < share
    members[-1] = True
    positions = np.flatnonzero(members)
    assert (Bitmap(pack(members)).select(np.arange(positions.size)) == positions).all()


def test_counts_go_on_over_joined_bitmaps_and_empty_blocks():
    first, empty, last = (np.zeros(513, bool) for _ in range(3))
    first[[0, 512]] = True
    last[[5, 6]] = True
    parts = [pack(first), pack(empty), pack(last)]
    joined = Bitmap(np.concatenate(parts))
    assert joined.before.tolist() == [0, 1, 2, 2, 2, 4]
    start = 8 * (parts[0].size + parts[1].size)
    assert joined.select(np.array([3, 0, 2, 1])).tolist() == [start + 6, 0, start + 5, 512]


def test_a_bitmap_of_broken_blocks_is_refused():
    with pytest.raises(ValueError, match=f"whole blocks of {BLOCK} bytes, got 65"):
        Bitmap(np.zeros(65, np.uint8))
