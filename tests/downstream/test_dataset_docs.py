"""docs/datasets.md says what the adapters do."""

from __future__ import annotations

import shlex
from pathlib import Path

from trocar.cli.main import parse
from trocar.downstream.datasets.base import DATASETS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    """Name of a data set -> its row of the table."""
    table = PAGE[PAGE.index("| name | tasks") :].split("\n\n")[0]
    return {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}


def test_every_row_is_a_data_set_and_names_its_splits() -> None:
    known = dict(DATASETS.items())
    assert rows().keys() == known.keys()
    for name, row in rows().items():
        for split in known[name].splits:
            assert f"`{split}`" in row or (split[-1] != "0" and f"`{split[:-1]}0`" in row), (name, split)
        default = known[name].default_split
        assert default is None or f"**`{default}`**" in row, name


def test_the_commands_of_the_page_parse() -> None:
    commands = [line for line in PAGE.splitlines() if line.startswith("trocar ")]
    assert len(commands) == 2
    for command in commands:
        parse(shlex.split(command)[1:])
