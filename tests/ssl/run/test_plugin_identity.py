"""What a run is includes the source of the plugins that it uses, so an edit is noticed."""

import pytest
from data_factory import make_catalog
from registry_factory import imported_anew, plugin_module
from run_factory import small_run

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine.method import METHODS
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run
from trocar.ssl.run.pretrain_config import PretrainConfig

METHOD = """
from typing import Literal
from trocar import register_method
from trocar.ssl.methods.simclr import SimclrConfig

@register_method
class MineConfig(SimclrConfig):
    name: Literal["mine"] = "mine"
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module `plugin_with_a_method` with the method `mine`; returns its file."""
    with plugin_module(METHODS, tmp_path, monkeypatch, "plugin_with_a_method", METHOD) as file:
        yield file


def config_of(root, name, **sections):
    make_catalog(root / "shards", 2, 4) if not (root / "shards").exists() else None
    method = {"name": name, "views": {"size": 32}, "head": {"layers": [16, 8]}}
    tree = small_run(
        root / "shards",
        root / name,
        backbone={"name": "test_resnet"},
        method=method,
        train={"batch": 4, "steps": 1},
        run={"workers": 0},
        plugins=["plugin_with_a_method"],
        **sections,
    )
    return validate(PretrainConfig, tree, "file.yaml")


def recipe_of(config):
    return Pretraining(config, World(), lambda line: None, RunGuard()).identity()["recipe"]


def test_only_a_plugin_that_is_used_is_in_a_run_s_identity(plugin, tmp_path):
    assert "plugins" not in recipe_of(config_of(tmp_path, "simclr"))
    found = recipe_of(config_of(tmp_path, "mine"))["plugins"]
    assert found.keys() == {"plugin_with_a_method"}
    assert found["plugin_with_a_method"].keys() == {"distribution", "version", "source"}


def test_after_an_edit_of_the_plugin_the_run_is_refused_by_the_field_s_name_unless_it_is_allowed(plugin, tmp_path):
    config = config_of(tmp_path, "mine")
    run(Pretraining(config, World(), lambda line: None, RunGuard()))
    run(Pretraining(config, World(), lambda line: None, RunGuard()))  # finished: nothing is done
    plugin.write_text(METHOD + "# edited\n", encoding="utf-8")
    imported_anew("plugin_with_a_method")
    with pytest.raises(ConfigError, match=r"recipe\.plugins\.plugin_with_a_method\.source: '\w{16}' in the checkpoint"):
        run(Pretraining(config_of(tmp_path, "mine"), World(), lambda line: None, RunGuard()))
    run(
        Pretraining(
            config_of(tmp_path, "mine", resume={"allow": ["recipe.plugins"]}), World(), lambda line: None, RunGuard()
        )
    )
