"""A run whose networks are no longer numbers saves nothing over the last good checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from data_factory import make_catalog
from run_factory import small_run

from trocar.cli.main import main
from trocar.ssl.engine import checkpoint, checkpoint_writer
from trocar.ssl.engine.method import Progress
from trocar.ssl.methods.simclr import Simclr

VIEWS = {"size": 32, "scale": [0.4, 1.0]}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_catalog(tmp_path / "shards", 2, 8)
    tree = small_run(
        tmp_path / "shards",
        tmp_path / "run",
        backbone={"name": "test_resnet"},
        method={"name": "simclr", "views": VIEWS},
        train={"batch": 8, "steps": 2},
        run={"checkpoint_every": 1, "workers": 0},
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_weights_that_break_in_the_last_step_end_the_run_with_the_checkpoint_before(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaking(method: Simclr, progress: Progress) -> dict[str, float]:
        if progress.step == 1:
            with torch.no_grad():
                next(method.head.parameters()).fill_(torch.nan)
        return {}

    monkeypatch.setattr(Simclr, "after_step", breaking)
    assert main(["pretrain", str(config)]) == 1
    assert "the networks after step 2" in capsys.readouterr().err
    run = config.parent / "run"
    assert checkpoint.steps(run) == [1]
    assert not (run / "backbone").exists()
    monkeypatch.undo()
    assert main(["pretrain", str(config)]) == 0
    assert (run / "finished.json").is_file()


def test_a_checkpoint_with_such_weights_is_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config.parent / "run"
    monkeypatch.setattr(checkpoint_writer, "require_finite", lambda *_: None)  # as a version that did not look

    def breaking(method: Simclr, progress: Progress) -> dict[str, float]:
        with torch.no_grad():
            next(method.head.parameters()).fill_(torch.nan)
        return {}

    monkeypatch.setattr(Simclr, "after_step", breaking)
    assert main(["pretrain", str(config), "train.steps=1"]) == 0
    capsys.readouterr()
    assert main(["pretrain", str(config), "resume.allow=[recipe]"]) == 1
    assert f"{checkpoint.path_of(run, 1)} (delete it to go on from the checkpoint before)" in capsys.readouterr().err


def test_a_run_of_which_no_step_counted_is_an_error_and_not_finished(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = Simclr.loss
    monkeypatch.setattr(Simclr, "loss", lambda *words: {k: v * torch.nan for k, v in loss(*words).items()})
    run = config.parent / "run"
    for _ in range(2):  # also when it is run again
        assert main(["pretrain", str(config)]) == 1
        assert "none of the 2 steps counted" in capsys.readouterr().err
        assert not (run / "finished.json").exists()
        assert not (run / "backbone").exists()
