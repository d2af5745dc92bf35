"""The blocks of docs/leaks.md work."""

import re
import shlex
from pathlib import Path

import yaml
from leak_factory import make_labelled, make_pool, operation

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.cli.main import main
from trocar.core.config import validate
from trocar.data.selection.composition import Composition
from trocar.leakage import matching as content
from trocar.leakage import pictures
from trocar.leakage.held_out_sources import held_out

PAGE = (Path(__file__).parents[2] / "docs" / "leaks.md").read_text(encoding="utf-8")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def test_the_pages_configuration_validates_and_its_names_exist():
    guard = validate(Composition, yaml.safe_load(blocks("yaml")[0])["data"]["composition"], "docs/leaks.md").leak
    assert guard.policy == "exclude"
    by_name = [entry for entry in guard.against if isinstance(entry, str) and "/" not in entry and "." not in entry]
    assert by_name == ["cholect50:rdv", "endoscapes"]
    assert len(held_out(by_name).cases) == 15 + 201


def test_the_pages_commands_and_python_run(tmp_path, monkeypatch, capsys):
    make_pool(tmp_path / "shards", {"a": ("north", "x", operation(1)), "b": ("cholec80", "video41", operation(3))})
    make_labelled(tmp_path / "data" / "clinic", {"op1": operation(1), "op2": operation(2)})
    save_backbone(load_backbone("random:test_resnet"), tmp_path / "runs" / "a", extra={})
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line)[1:] for line in blocks("bash")[0].splitlines()]
    assert [main(command) for command in commands] == [1, 1]
    out = capsys.readouterr().out
    assert "north/x" in out
    assert "cholec80/video41" in out
    exec(compile(blocks("python")[0], "docs/leaks.md", "exec"), {})
    assert "'verdict': 'unknown'" in capsys.readouterr().out


def test_the_page_states_the_thresholds_in_use():
    assert f"at least {content.RUN} *different* pictures match within {content.RADIUS} bits" in PAGE
    assert f"that {content.COMMON} or more videos" in PAGE
    assert f"different pictures within {content.ISOLATED_RADIUS} bits at no common offset" in PAGE
    assert f"two matches within {content.RADIUS} bits, or one within {content.ISOLATED_RADIUS}" in PAGE
    assert f"from {content.TAIL - 6} to {content.TAIL} bits" in PAGE
    assert pictures.VARIANTS == 20
    assert pictures.BORDERS == (0.0, 0.04, 0.08)
