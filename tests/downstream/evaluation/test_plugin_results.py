"""A kept result is used only while the plugins that took part in it are as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from downstream_factory import make_folder
from finished_factory import settings
from registry_factory import imported_anew, plugin_module

from trocar.downstream.protocols.base import PROTOCOLS
from trocar.jobs.evaluate import evaluate

PROTOCOL = """
from typing import Literal
from trocar.downstream.protocols.probes import KNN
from trocar import register_protocol

@register_protocol
class Mine(KNN):
    name: Literal["mine"] = "mine"
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module `plugin_with_a_protocol` with the protocol `mine`; returns its file."""
    with plugin_module(PROTOCOLS, tmp_path, monkeypatch, "plugin_with_a_protocol", PROTOCOL) as file:
        yield file


def said_of_cache(root: Path) -> list[str]:
    """What an evaluation with the plugin's protocol and one of Trocar's says of finished parts."""
    said: list[str] = []
    words = {"task": ["phase"], "protocol": ["knn", "mine"], "baselines": [], "seeds": 1, "bootstrap": 0}
    config = settings(root, "out", plugins=["plugin_with_a_protocol"], **words)
    evaluate(config, said.append)
    return [line.strip() for line in said if "finished" in line]


def test_after_an_edit_of_the_plugin_its_results_are_made_again_and_no_others(plugin: Path, tmp_path: Path) -> None:
    make_folder(tmp_path / "data", cases=2, frames=6)
    assert said_of_cache(tmp_path) == []
    assert said_of_cache(tmp_path) == ["4 of 4 parts (protocol, seed, fold) were finished before"]
    plugin.write_text(PROTOCOL + "# edited\n", encoding="utf-8")
    imported_anew("plugin_with_a_protocol")
    assert said_of_cache(tmp_path) == ["2 of 4 parts (protocol, seed, fold) were finished before"]
