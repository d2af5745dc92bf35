import pytest
from data_factory import make_catalog

from trocar.data.loading.dali_pipeline import ENGINE_BYTES_PER_PIXEL, MOST, PADDING, Reserved, reserve, usual_frame
from trocar.data.selection.composition import Composition

HD, UHD = (1920, 1080), (3840, 2160)


def test_small_frames_get_what_they_need():
    assert reserve((854, 480), 256, 8, 0.65) == Reserved(854, 480, PADDING)
    assert reserve(UHD, 4, 2, 1.0) == Reserved(*UHD, 8 * 3840 * 2160)


def test_an_engine_that_decodes_nothing_reserves_nothing():
    assert reserve(HD, 1024, 8, 0.0) == Reserved(1, 1, PADDING)


@pytest.mark.parametrize("frame", [(64, 48), (854, 480), HD, UHD, (1080, 1920), (20_000, 3_000)])
@pytest.mark.parametrize("batch", [1, 64, 1024, 65_536])
@pytest.mark.parametrize("threads", [1, 8, 256])
@pytest.mark.parametrize("decoders", [1, 3])
def test_all_decoders_together_stay_below_the_cap(frame, batch, threads, decoders):
    for load in (0.0, 0.5, 1.0):
        found = reserve(frame, batch, threads, load, decoders)
        assert 1 <= found.width <= frame[0] or load == 0
        assert 1 <= found.height <= frame[1] or load == 0
        engine = ENGINE_BYTES_PER_PIXEL * batch * found.width * found.height
        assert decoders * (found.padding * threads + engine) <= MOST


def test_a_shrunken_room_keeps_the_shape_of_the_frame():
    found = reserve(HD, 1024, 8, 1.0)
    assert found.width < 1920
    assert found.width / found.height == pytest.approx(16 / 9, rel=0.01)
    engine = ENGINE_BYTES_PER_PIXEL * 1024 * found.width * found.height
    assert engine + 8 * found.padding > 0.98 * MOST


def test_a_rare_large_frame_decides_nothing(tmp_path):
    mostly = make_catalog(tmp_path / "a", 1, 200, size=[(64, 48)] * 199 + [(400, 300)])
    often = make_catalog(tmp_path / "b", 1, 200, size=[(64, 48)] * 9 + [(400, 300)])
    everything = Composition(curate="none")
    assert usual_frame(everything.resolve(mostly), mostly) == (64, 48)
    assert usual_frame(everything.resolve(often), often) == (400, 300)
