import numpy as np

from trocar.core.random import below, make_key, philox, uniform, words


def test_philox_matches_the_known_answers_of_random123():
    ones = 0xFFFFFFFF
    zeros = philox(np.zeros(4, np.uint32), (0, 0))
    full = philox(np.full(4, ones, np.uint32), (ones, ones))
    pi = philox(np.array([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], np.uint32), (0xA4093822, 0x299F31D0))
    assert [hex(w) for w in zeros.tolist()] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    assert [hex(w) for w in full.tolist()] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]
    assert [hex(w) for w in pi.tolist()] == ["0xd16cfe09", "0x94fdcceb", "0x5001e420", "0x24126ea1"]


def test_words_of_a_point_do_not_depend_on_which_others_are_asked_for():
    key = make_key(7, "views")
    grid = words(key, 10, 3, np.arange(5)[:, None], np.arange(4)[None])
    assert grid.shape == (5, 4, 10)
    assert (grid[2, 1] == words(key, 10, 3, 2, 1)).all()
    assert (grid[2, 1, :6] == words(key, 6, 3, 2, 1)).all()
    assert not (grid[2, 1] == words(key, 10, 4, 2, 1)).any()


def test_keys_differ_for_every_part_and_type():
    keys = {make_key(1, "a"), make_key(2, "a"), make_key(1, "b"), make_key("1", "a"), make_key(1, "a", 0)}
    assert len(keys) == 5


def test_uniform_and_below_cover_their_ranges_evenly():
    bits = words(make_key(0, "test"), 4, np.arange(25_000)).ravel()
    u = uniform(bits)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    counts = np.bincount(below(bits, 7), minlength=7)
    assert counts.size == 7
    # chi-square with 6 degrees of freedom: 22.5 is the 0.1 % point
    assert ((counts - bits.size / 7) ** 2 / (bits.size / 7)).sum() < 22.5
