"""docs/python.md: every block runs, in order, on small data."""

import re
import shlex
from pathlib import Path

import pytest
from downstream_factory import make_folder, write_clip
from registry_factory import changeable, forget

import trocar
from trocar.cli.main import main
from trocar.downstream.tasks.base import METRICS

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
TINY = {
    "method": {"views": {"size": 32}, "head": {"layers": [16, 8]}},
    "train": {"batch": 4, "steps": 2, "precision": "float32"},
    "run": {"workers": 0, "checkpoint_every": 2},
    "tracking": {"uri": "none"},
    "data.composition.curate": "none",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def small(text):
    """The page's own sizes, made small."""
    return text.replace("16, 2, 3, 96, 96", "4, 2, 3, 32, 32").replace("arange(16)", "arange(4)")


def test_the_blocks_of_the_page_run_in_order(here, monkeypatch, capsys):
    make_folder(here / "labels", cases=3, frames=8)
    for name in "ab":
        write_clip(here / "videos" / f"{name}.mp4", 30)
    pretrain, evaluate = trocar.pretrain, trocar.evaluate
    monkeypatch.setattr("trocar.api.pretrain", lambda *args, **given: pretrain(*args, **given | TINY))
    light = {"bootstrap": 0, "figures": False, "size": 32, "baselines": ["majority"]}
    monkeypatch.setattr("trocar.api.evaluate", lambda *args, **given: evaluate(*args, **light | given))
    changeable(METRICS, monkeypatch)
    forget(monkeypatch)
    names = {"__name__": "__main__"}  # as in a notebook
    for block in blocks("python"):
        exec(compile(small(block), str(PAGE), "exec"), names)
    assert set(names["result"].table["backbone"]) == {"a", "random", "majority"}
    assert names["page"].is_file()
    assert names["recall"] == 0.5
    for command in (line for block in blocks("bash") for line in block.splitlines()):
        assert main(shlex.split(command)[1:]) == 0
    assert (here / "features.npy").is_file()


def test_the_page_names_every_public_function():
    text = PAGE.read_text(encoding="utf-8")
    functions = {name for name in trocar.__all__ if name[0].islower() and not name.startswith("_")}
    assert {name for name in functions if f"`{name}(" not in text and f"`{name}." not in text} == set()
