"""The commands and settings of docs/privacy.md work, in their order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from ingest_clips import constant, make_clip

from trocar.cli.main import main, parse
from trocar.core.config import validate
from trocar.data.catalog.catalog import OUT_OF_BODY_THRESHOLD, REVIEW_THRESHOLD, Catalog
from trocar.privacy.private_data import Marks, PrivacyConfig

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("VIDEOS").mkdir()
    Path("keys").mkdir()
    blue = np.zeros((32, 96, 3), np.uint8)
    blue[...], blue[::4] = (30, 60, 200), 90
    make_clip(Path("VIDEOS") / "a.mp4", constant(25, 50), numbers=[2730] * 50)
    make_clip(Path("VIDEOS") / "b.mp4", constant(25, 25), pictures=[blue] * 25)
    commands = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("    trocar ")]
    assert [command[1] for command in commands] == ["ingest", "inspect", "ingest"]
    assert main(commands[0][1:]) == 0
    assert len(Catalog.open("SHARDS")) == 3
    assert Path("keys/ours.key.names.csv").is_file()
    assert main(commands[1][1:]) == 0
    assert len(Path("review.csv").read_text().splitlines()) == 2
    # All of b is outside of the body: nothing of it is left, which is said as a rejection.
    assert main([*commands[2][1:], "--pseudonymize", "keys/ours.key"]) == 1
    assert len(Catalog.open("SHARDS")) == 2


def test_settings_and_options_of_the_page_are_legal() -> None:
    block, marks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert validate(PrivacyConfig, yaml.safe_load(block)["privacy"], "docs/privacy.md") == PrivacyConfig()
    assert validate(Marks, yaml.safe_load(marks), "docs/privacy.md").names == ("Inselspital",)
    assert parse(["report", "RUN", "--share-frames"]).share_frames
    assert f"From {OUT_OF_BODY_THRESHOLD} on" in PAGE
    assert f"From {REVIEW_THRESHOLD} on" in PAGE
