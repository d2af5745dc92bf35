import re
import shlex
from pathlib import Path

import pytest

from trocar.cli.main import main
from trocar.runs.run_folder import Run, read_record

PAGE = Path(__file__).parents[2] / "docs" / "tracking.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_every_command_and_program_on_the_page_works(tmp_path, monkeypatch, capsys):
    for name in ("TROCAR_TRACKING_URI", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with Run.open("runs/dino", {"method": {"name": "dino"}}) as run:
        for step in range(5):
            run.log(step, {"loss": 9.0 - step})
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert [command[:2] for command in commands] == [
        ["trocar", "track"],
        ["trocar", "track"],
        ["trocar", "report"],
        ["trocar", "track"],
    ]
    for command in commands:
        assert main(command[1:]) == 0, command
    assert "The run is finished after 5 steps" in (tmp_path / "runs/dino/report/index.html").read_text()
    assert len(read_record("runs/dino")["mlflow_run_id"]) == 32
    capsys.readouterr()
    for program in blocks("python"):
        exec(program, {})
    assert capsys.readouterr().out.splitlines()[-1] == "4 5.0"


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics/0001.jsonl"])
def test_the_files_the_page_names_are_the_files_of_a_run(tmp_path, name):
    Run.open(tmp_path / "r", {})
    assert f"`{name}`" in PAGE.read_text(encoding="utf-8")
    assert (tmp_path / "r" / name).is_file()
