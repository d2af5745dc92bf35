"""The scripts of examples/, run as somebody would run them."""

import runpy
from pathlib import Path

import pytest
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def test_a_backbone_and_labels_of_ones_own_go_from_videos_to_a_plot(here, capsys):
    found = runpy.run_path(str(EXAMPLES / "own_model_and_labels.py"), run_name="__main__")
    table = found["result"].table.set_index("backbone")
    assert set(table.index) == {"pretrained", "first weights", "raw pixels", "majority"}
    assert table["leak"][["pretrained", "first weights"]].tolist() == ["unknown", "unknown"]
    assert table["value"].between(0, 1).all()
    assert (here / "own_model_and_labels" / "table.png").stat().st_size > 1000
    # The plain function gives the number of the table.
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[-1]) == pytest.approx(table["value"]["pretrained"])
    # What was saved is safetensors, and what the class's own weights have become.
    weights = load_file(here / "own_model_and_labels" / "run" / "backbone" / "model.safetensors")
    assert {*weights} == {*found["first"].state_dict()}
    assert any((weights[name] != value).any() for name, value in found["first"].state_dict().items())
