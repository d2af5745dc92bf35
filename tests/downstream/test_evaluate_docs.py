"""Every command of docs/evaluate.md runs as it is written, and its tables name what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.cli.main import main
from trocar.downstream.protocols.base import PROTOCOLS
from trocar.downstream.tasks.base import TASKS
from trocar.phantom import PhantomSpec, generate

ORDER = ("knn", "linear", "finetune", "temporal_frozen", "temporal_finetuned", "segmentation")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "evaluate.md"


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```console\n(.*?)```", text, re.S) for line in block.splitlines()]
    (configuration,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    assert len(commands) == 14
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    generate(tmp_path / "phantom", PhantomSpec(cases=4, minutes=0.15, size=(96, 64), seed=1))
    save_backbone(load_backbone("resnet18"), tmp_path / "runs/dino/backbone", extra={})
    Path("evaluate.yaml").write_text(configuration, encoding="utf-8")
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "trocar"
        assert main(arguments) == 0, command
    for file in ("results.json", "results.md", "predictions.parquet", "metrics.json", "figures", "cache"):
        assert Path("evaluation", file).exists()
    assert list(Path("masks/masks/gt").glob("*.png"))
    assert Path("exported/README.md").is_file()


def table(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, without the head."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    block = re.search(r"(?:^\|.*\n)+", section, re.M)
    assert block is not None
    rows = block[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_the_tables_have_every_task_and_every_protocol() -> None:
    assert [row[0].strip("`") for row in table("Protocols")] == sorted(PROTOCOLS.names(), key=ORDER.index)
    assert {row[0].strip("`") for row in table("Tasks")} == {*TASKS.names(), "phase+tools"}


def test_the_table_of_metrics_has_what_the_tasks_show_the_headline_first() -> None:
    found = {name: row for row in table("Metrics") for name in row[0].split(", ")}
    assert set(found) == set(TASKS.names())
    for name, task in TASKS.items():
        _, headline, beside = found[name]
        assert headline.split("`")[1] == task.headline
        said = tuple(re.findall(r"`([^`]+)`", beside))
        assert said == (task.shown if name != "segmentation" else (*task.shown, *task.shown_where(0)))
