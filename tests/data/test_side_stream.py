from trocar.data.side_stream import _one_ahead


def test_one_item_is_made_before_the_one_before_it_is_handed_out():
    made = []

    def make():
        for i in range(4):
            made.append(i)
            yield i

    items, seen = _one_ahead(make()), []
    for item in items:
        seen.append((item, len(made)))
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]
