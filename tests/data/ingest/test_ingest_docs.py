"""Every command of docs/ingest.md works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from data_factory import random_jpeg
from ingest_clips import constant, make_clip

from trocar.cli.main import main
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
    for line in block.strip().splitlines():
        command, *arguments = shlex.split(line)
        assert command == "trocar"
        assert main(arguments) == 0
    assert len(Catalog.open("SHARDS")) in (1, 2)


def test_the_page_names_every_column_and_verdict() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks()) == 3
    for name in (*COLUMNS, *DEFAULT_CURATION):
        assert f"`{name}`" in text
