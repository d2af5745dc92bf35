"""Copies between the training and the test cases of one labelled set are named, by inspect and by evaluate."""

import json

import numpy as np
import pytest
from leak_factory import make_labelled, operation
from PIL import Image

from trocar.cli.main import main
from trocar.downstream.datasets import open_dataset
from trocar.downstream.features.frame_cache import decoded
from trocar.leakage.judge import copies_within, rows_to_compare

SPLITS = {"a": "train", "b": "train", "c": "test", "d": "test"}


def labelled(root, cases, splits=SPLITS):
    return make_labelled(root, cases, splits)


def found(root):
    data = open_dataset(root)
    images = {row: image for row, (image,) in decoded(data, [96])}
    rows = rows_to_compare(data)
    return copies_within(data, rows, (images[row] for row in rows.tolist()))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Test case `c` is training case `a` mirrored and three seconds later; `d` is nobody's."""
    video = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in operation(1)]
    cases = {"a": operation(1), "b": operation(2), "c": operation(70, 3) + video, "d": operation(4)}
    return labelled(tmp_path_factory.mktemp("data") / "set", cases)


def test_the_case_is_named_with_its_place_and_the_pairs_compared(copied):
    first, second = found(copied)
    assert first.startswith("1 pair(s) of cases show the same pictures (304 pairs of pictures compared)")  # 16 x 19
    assert second == "case c and the training case a: 8 picture(s), -3.0 s away"


def test_other_cases_and_copies_inside_one_half_are_not(tmp_path):
    clean = labelled(tmp_path / "clean", {name: operation(seed) for seed, name in enumerate(SPLITS)})
    assert found(clean) == []
    twice = labelled(tmp_path / "twice", {"a": operation(1), "b": operation(1), "c": operation(2), "d": operation(2)})
    assert found(twice) == []


def test_without_a_split_every_pair_of_cases_is_compared_once_and_none_with_itself(tmp_path):
    cases = {"a": operation(1), "b": operation(2), "c": operation(1)}
    first, second = found(make_labelled(tmp_path / "set", cases))
    assert "(384 pairs of pictures compared)" in first  # 24 x 24 without 3 x 8 x 8
    assert second == "case a and the other case c: 8 picture(s), +0.0 s away"


def test_a_large_set_is_compared_at_the_same_seconds_of_every_video(copied):
    data = open_dataset(copied)
    rows = rows_to_compare(data, 10)
    assert len(rows) <= 14
    assert set(data.frames["time_s"].iloc[rows]) == {0.0, 4.0, 8.0}
    assert np.array_equal(rows_to_compare(data), np.arange(len(data)))


def test_inspect_and_evaluate_say_it(copied, tmp_path, capsys):
    for verify in ([], ["--verify"]):
        assert main(["inspect", str(copied), *verify]) == 0
        assert "note: case c and the training case a: 8 picture(s)" in capsys.readouterr().out
    command = ["evaluate", "--backbone", "random:test_resnet", "--data", str(copied), "--task", "phase"]
    assert main([*command, "--protocol", "knn", "--out", str(tmp_path / "out"), "figures=false"]) == 0
    assert "case c and the training case a" in capsys.readouterr().err
    notes = json.loads((tmp_path / "out" / "results.json").read_text())["data"]["notes"]
    assert any("case c and the training case a" in note for note in notes)
