"""What the measurement of the leak thresholds counts."""

import sys
from pathlib import Path

import pytest
from leak_factory import operation

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import leak_threshold


@pytest.fixture
def found(tmp_path):
    for seed in range(3):
        folder = tmp_path / f"patient{seed}"
        folder.mkdir()
        for k, image in enumerate(operation(seed, 5)):
            image.save(folder / f"{k:06d}.png")
    return list(leak_threshold.videos(tmp_path))


def test_folders_of_images_are_operations_with_times(found):
    assert [name for name, _, _ in found] == ["patient0", "patient1", "patient2"]
    assert found[0][2] == [0, 1, 2, 3, 4]


def test_different_patients_and_copies_are_counted(found, capsys):
    pools = [leak_threshold.as_pool(*video) for video in found]
    queries = [leak_threshold.as_query(*video) for video in found]
    leak_threshold.negatives(pools, queries)
    leak_threshold.positives(found, queries)
    out = capsys.readouterr().out
    assert "| 24 | 0 | 150 | 0.0e+00 | 0, 0, 0, 0 |" in out
    assert "6 ordered pairs of videos" in out
    assert "| JPEG 30 | 3 of 3 |" in out
    assert "| mirrored | 3 of 3 | 3 of 3 |" in out


def test_parts_of_a_patients_name_are_no_other_patient():
    assert leak_threshold.operation("VID26_0692") == leak_threshold.operation("VID26_0693") == "VID26"
    assert leak_threshold.operation("00001-21711") == "00001-21711"
