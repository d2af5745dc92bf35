"""The pages of the tasks and of `trocar reproduce` name presets, metrics and commands that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from trocar.cli.main import parse
from trocar.core.config import preset_names, validate
from trocar.downstream.metrics.segmentation import SEGMENTATION_METRICS, SURFACE_METRICS
from trocar.downstream.reproduce import PublishedExperiment, names, read
from trocar.downstream.tasks.base import TASKS

DOCS = Path(__file__).parents[1] / "docs"
REPRODUCE = DOCS / "reproduce.md"
PAGES = sorted((DOCS / "tasks").glob("*.md"))
PRESETS = {name.removeprefix("downstream/") for name in preset_names() if name.startswith("downstream/")}


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def quoted(page: Path) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text(page)))


def test_every_preset_is_on_one_page_of_a_task_and_no_other_is() -> None:
    found = [name for page in PAGES for name in re.findall(r"^\| (`.*?`) \|", text(page), re.M)]
    listed = [name for cell in found for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(set(listed)) == sorted(PRESETS)


@pytest.mark.parametrize("page", [*PAGES, REPRODUCE], ids=lambda page: page.stem)
def test_every_metric_named_with_a_convention_is_there(page: Path) -> None:
    known = {name for task in TASKS.values() for name in task.named} | {*SEGMENTATION_METRICS, *SURFACE_METRICS}
    conventions = {name for name in quoted(page) if re.fullmatch(r"\w+@\w+", name) and not name.startswith("@")}
    assert conventions - known == set()


@pytest.mark.parametrize("page", [*PAGES, REPRODUCE], ids=lambda page: page.stem)
def test_every_command_parses(page: Path) -> None:
    commands = [line for block in re.findall(r"```console\n(.*?)```", text(page), re.S) for line in block.splitlines()]
    assert commands
    for command in commands:
        parse(shlex.split(command)[1:])
    presets = re.findall(r"downstream/(\w+)", " ".join(commands))
    assert set(presets) <= PRESETS


@pytest.mark.parametrize("page", [*PAGES, REPRODUCE], ids=lambda page: page.stem)
def test_every_linked_page_is_there(page: Path) -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", text(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_table_of_what_can_be_reproduced_says_what_the_files_say() -> None:
    rows = {row.split("`")[1]: row for row in text(REPRODUCE).splitlines() if row.startswith("| `")}
    assert sorted(rows) == sorted(names())
    for name, row in rows.items():
        experiment = read(name)
        target = experiment.target
        _, published, preset, metric, tolerance, here = [cell.strip() for cell in row.strip("|").split("|")]
        assert f"{target.value:.4f}" in published
        assert ("†" in published) == target.secondary
        assert preset == f"`{experiment.preset.removeprefix('downstream/')}`"
        assert metric == f"`{target.metric}`"
        assert tolerance == f"{target.tolerance:.4f}"
        assert here.startswith("*not run here: ")


def test_the_file_on_the_page_validates() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text(REPRODUCE), re.S)
    assert validate(PublishedExperiment, yaml.safe_load(block), "docs/reproduce.md").target.value == 0.7
