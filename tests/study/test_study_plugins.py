"""A plan names its stages after the plugins that take part in them, and says when one was edited since."""

import pytest
from registry_factory import imported_anew, plugin_module
from study_factory import make_study

from trocar.downstream.protocols.base import PROTOCOLS
from trocar.study.config import load_study
from trocar.study.study_lock import drift
from trocar.study.study_plan import make_lock, make_plan

PROTOCOL = """
from typing import Literal
from trocar import register_protocol
from trocar.downstream.protocols.probes import KNN

@register_protocol
class Mine(KNN):
    name: Literal["mine"] = "mine"
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module `plugin_for_a_study` with the protocol `mine`; returns its file."""
    with plugin_module(PROTOCOLS, tmp_path, monkeypatch, "plugin_for_a_study", PROTOCOL) as file:
        yield file


def planned(root):
    """A plan with one task by the plugin's protocol and one by Trocar's own."""
    task = {"data": str(root / "labels"), "folds": 2}
    tasks = {"phase": task | {"protocol": ["mine"]}, "tools": task | {"protocol": ["knn"]}}
    return make_plan(load_study(make_study(root, plugins=["plugin_for_a_study"], tasks=tasks)))


def test_the_lock_knows_the_plugins_that_take_part_and_an_edit_of_one_is_drift(plugin, tmp_path):
    before = planned(tmp_path)
    locked = make_lock(before)
    assert locked.plugins.keys() == {"plugin_for_a_study"}
    assert drift(locked, make_lock(planned(tmp_path))) == []
    plugin.write_text(PROTOCOL + "# edited\n", encoding="utf-8")
    imported_anew("plugin_for_a_study")
    after = planned(tmp_path)
    sources = [plan.plugins["plugin_for_a_study"]["source"] for plan in (before, after)]
    (line,) = drift(locked, make_lock(after))
    assert line == f"plugin plugin_for_a_study: source was {sources[0]!r} and is {sources[1]!r}"
    anew = {after.labels[name] for name in after.stages.keys() - before.stages.keys()}
    scored = {f"{arm}: phase, mine, 100% of the labels" for arm in ("north, seed 0", "south, seed 0", "init")}
    assert anew == {*scored, "report of small"}


def test_a_plugin_that_is_listed_and_not_used_is_in_no_name_and_not_in_the_lock(plugin, tmp_path):
    without, listed = (
        make_plan(load_study(make_study(tmp_path, plugins=plugins))) for plugins in ([], ["plugin_for_a_study"])
    )
    assert listed.plugins == {}
    assert list(listed.stages) == list(without.stages)
