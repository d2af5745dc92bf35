"""Every command of docs/ingest.md works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from data_factory import random_jpeg
from ingest_clips import constant, make_clip
from tar_factory import write_tar

from trocar.cli.main import main, parse
from trocar.data.catalog.catalog import DEFAULT_CURATION, Catalog
from trocar.data.ingest.sources.metadata import COLUMNS

PAGE = Path(__file__).parents[3] / "docs" / "ingest.md"


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks())
def test_commands_of_the_page_work(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("VIDEOS").mkdir()
    make_clip(Path("VIDEOS") / "a.mp4", constant(25, 50))
    (Path("FRAMES") / "v1").mkdir(parents=True)
    (Path("FRAMES") / "v1" / "000007.jpg").write_bytes(random_jpeg(np.random.default_rng(0)))
    (Path("ATLAS") / "patient7").mkdir(parents=True)
    (Path("ATLAS") / "patient7" / "polyp (3).jpg").write_bytes(random_jpeg(np.random.default_rng(1)))
    for number in range(2):
        write_tar(Path(f"TARS/data-00{number}.tar"), {"a.jpg": random_jpeg(np.random.default_rng(number))})
    for line in block.strip().splitlines():
        command, *arguments = shlex.split(line)
        assert command == "trocar"
        assert main(arguments) == 0
    assert len(Catalog.open("CATALOG" if "--in-place" in block else "SHARDS")) in (1, 2)


def test_the_page_names_every_column_and_verdict() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks()) == 4
    for name in (*COLUMNS, *DEFAULT_CURATION):
        assert f"`{name}`" in text


def test_the_other_commands_of_the_page_parse() -> None:
    commands = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    trocar ")]
    assert len(commands) == 2
    for command in commands:
        assert parse(shlex.split(command)[1:]).in_place
