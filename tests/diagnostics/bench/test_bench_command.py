import json

import pytest
from data_factory import make_catalog

from trocar.cli.main import main
from trocar.diagnostics.bench.loader import PilDino


@pytest.mark.slow
def test_every_loader_delivers_and_the_figures_are_kept(tmp_path, capsys):
    make_catalog(tmp_path / "shards", 2, 10)
    words = ["--workers", "1", "--batch", "4", "--seconds", "0.1", "--repeats", "1"]
    assert main(["bench", "loader", str(tmp_path / "shards"), *words, "--json", str(tmp_path / "out.json")]) == 0
    tree = json.loads((tmp_path / "out.json").read_text())
    names = [trial["contender"] for trial in tree["trials"]]
    assert {"trocar, torch", "DINO, PIL + torchvision", "lightly DINOTransform"} < set(names)
    assert all(trial["items"] % 4 == 0 and trial["items"] > 0 for trial in tree["trials"])
    assert tree["summary"]["DINO, PIL + torchvision"]["ratios"] == [1.0]
    assert "images/s" in capsys.readouterr().out


@pytest.mark.slow
def test_trainer_and_bare_loop_are_timed_after_the_warm_up(tmp_path):
    make_catalog(tmp_path / "shards", 2, 10)
    words = ["--backbone", "test_convnext", "--batch", "2", "--steps", "2", "--repeats", "1", "--prototypes", "64"]
    assert main(["bench", "trainer", str(tmp_path / "shards"), *words, "--json", str(tmp_path / "out.json")]) == 0
    trials = {t["contender"]: t for t in json.loads((tmp_path / "out.json").read_text())["trials"]}
    assert set(trials) == {"trocar, float32", "bare loop, float32", "trocar, bfloat16", "bare loop, bfloat16"}
    assert all(t["items"] == 4 and 0 <= t["% waiting for data"] <= 100 for t in trials.values())


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--json", "/nowhere/at/all.json"], "its folder does not exist"),
        (["--device", "cuda"], "--device cuda: torch sees no GPU"),
    ],
)
def test_a_bad_option_is_refused_before_anything_runs(tmp_path, capsys, words, what):
    assert main(["bench", "loader", str(tmp_path), *words]) == 2
    assert what in capsys.readouterr().err


def test_the_reference_makes_dinos_views():
    from PIL import Image

    views = PilDino()(Image.new("RGB", (320, 240), (90, 40, 30)))
    assert [tuple(view.shape) for view in views] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8
