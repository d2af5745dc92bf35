"""docs/backbones.md: its table is the registry's, its commands and its Python run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from published_files import CASES

from trocar.backbones.published.family import BACKBONES
from trocar.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")


def test_the_table_lists_every_entry_with_architecture_licence_and_data() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]+) \| ([\w.-]+) \|", PAGE, re.MULTILINE)
    expected = [
        (e.name, e.architecture, ", ".join(seen.dataset for seen in e.seen), e.family.licence)
        for e in BACKBONES.values()
    ]
    assert sorted(rows) == expected


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TROCAR_WEIGHTS", str(tmp_path / "store"))
    case = next(case for case in CASES if case.name == "surgenetxl_caformer_s18")
    torch.save(case.build()[1], tmp_path / "teacher.pth")
    return tmp_path


@pytest.mark.slow
def test_the_commands_and_the_python_work_one_after_another(at_home: Path) -> None:
    commands = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert commands is not None
    lines = commands[1].splitlines()
    assert [line.split()[1] for line in lines] == ["fetch", "fetch", "inspect", "export", "export"]
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0, line
    assert (at_home / "backbone.onnx").is_file()
    assert (at_home / "exported" / "architectures.py").is_file()
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1].replace("/data/teacher.pth", str(at_home / "teacher.pth")), names)
    assert names["model"].feature_info.reduction() == [4, 8, 16, 32]  # type: ignore[attr-defined]
