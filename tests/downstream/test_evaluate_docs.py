"""Every command of docs/evaluate.md runs as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from downstream_factory import make_cholec80

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.cli import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluate.md"


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```console\n(.*?)```", text, re.S) for line in block.splitlines()]
    (configuration,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(commands) == 6
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    make_cholec80(tmp_path / "phantom")
    save_backbone(load_backbone("resnet18"), tmp_path / "runs/dino/backbone", extra={})
    Path("evaluate.yaml").write_text(configuration, encoding="utf-8")
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "trocar"
        assert main(arguments) == 0, command
    assert Path("evaluation/results.json").is_file()
    assert Path("exported/README.md").is_file()
