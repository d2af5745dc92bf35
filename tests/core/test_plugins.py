import importlib
import sys

import pytest
from registry_factory import forget, imported_anew, installed

from trocar.core import plugins
from trocar.core.config import WithPlugins, validate
from trocar.core.plugins import changed_plugins, import_plugins, note_plugin, plugins_in
from trocar.errors import ConfigError


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package `plugin_of_mine` with two modules and a table, imported and noted."""
    forget(monkeypatch)
    folder = tmp_path / "plugin_of_mine"
    folder.mkdir()
    for name, text in {"__init__.py": "", "method.py": "A = 1\n", "table.csv": "a\n1\n"}.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    imported_anew("plugin_of_mine.method")
    note_plugin("plugin_of_mine.method")
    yield folder
    for module in ("plugin_of_mine", "plugin_of_mine.method"):
        del sys.modules[module]


def source():
    note_plugin("plugin_of_mine.method")
    return plugins_in(["plugin_of_mine"])["plugin_of_mine"]["source"]


def test_a_plugin_is_known_by_distribution_version_and_the_source_of_its_files(plugin):
    found = plugins_in(["plugin_of_mine.method", "trocar.core.config", "torch.nn"])
    assert found == {"plugin_of_mine": {"distribution": "", "version": "", "source": source()}}
    assert len(source()) == 16


def test_packages_that_register_nothing_and_trocar_itself_are_no_plugins(plugin):
    note_plugin("trocar.ssl.methods.simclr")
    assert plugins_in(["trocar.ssl.methods.simclr", "json", "plugin_of_theirs"]) == {}


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("method.py", "A = 2\n", True),
        ("table.csv", "a\n2\n", True),
        ("losses/deep.py", "", True),
        ("__pycache__/method.cpython-311.pyc", "new", False),
        ("picture.png", "new", False),
        (".cache/notes.txt", "new", False),
    ],
)
def test_any_edit_of_a_plugin_s_files_changes_its_source(plugin, name, text, counts):
    before = source()
    (plugin / name).parent.mkdir(exist_ok=True)
    (plugin / name).write_text(text, encoding="utf-8")
    assert (source() != before) == counts


def test_of_a_large_file_only_the_size_counts(plugin, monkeypatch):
    monkeypatch.setattr(plugins, "HASHED_WHOLE", 4)
    before = source()
    (plugin / "method.py").write_text("A = 2\n", encoding="utf-8")
    assert source() == before
    (plugin / "method.py").write_text("A = 22\n", encoding="utf-8")
    assert source() != before


def test_the_distribution_is_the_one_that_declares_entry_points_in_the_package(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, {"their_module.py": ""}, {"trocar.things": {"x": "their_module:X"}})
    importlib.import_module("their_module")
    note_plugin("their_module")
    found = plugins_in(["their_module"])["their_module"]
    assert (found["distribution"], found["version"]) == ("their-plugin", "1.2")


def test_what_changed_since_a_result_was_planned_is_said_field_by_field(plugin):
    before = plugins_in(["plugin_of_mine"])
    assert changed_plugins(before) == []
    (plugin / "method.py").write_text("A = 3\n", encoding="utf-8")
    (line,) = changed_plugins(before)
    assert line.startswith(f"plugin plugin_of_mine: source was {before['plugin_of_mine']['source']!r} and is ")


def test_what_is_typed_into_a_notebook_is_never_the_same_twice(monkeypatch):
    forget(monkeypatch)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    monkeypatch.delattr(sys.modules["__main__"], "__path__", raising=False)
    found = set()
    for _ in range(2):
        note_plugin("__main__")
        found.add(plugins_in(["__main__"])["__main__"]["source"])
    assert len(found) == 2


def test_a_plugin_that_cannot_be_imported_is_named_with_the_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wrong_plugin.py").write_text("\n1 / 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"plugin 'wrong_plugin': .* ZeroDivisionError: .*wrong_plugin\.py:2"):
        import_plugins(["wrong_plugin"])
    (tmp_path / "needy_plugin.py").write_text("import not_here_at_all\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"plugin 'needy_plugin': .*No module named 'not_here_at_all'.*needy_plugin\.py:1"
    ):
        import_plugins(["needy_plugin"])
    with pytest.raises(
        ConfigError, match=r"plugin 'absent\.one': there is no package 'absent'; install it, or add .*PYTHONPATH"
    ):
        import_plugins(["absent.one"])


def test_a_configuration_imports_its_plugins_before_it_looks_at_anything_else(tmp_path, monkeypatch):
    class Listed(WithPlugins):
        steps: int

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "listed_plugin.py").write_text("", encoding="utf-8")
    assert validate(Listed, {"plugins": ["listed_plugin"], "steps": 3}, "file.yaml").plugins == ("listed_plugin",)
    assert "listed_plugin" in sys.modules
    words = (
        r"bad configuration\n  file\.yaml: plugins = \['absent'\]: plugin 'absent': there is no package 'absent'[^\n]*$"
    )
    with pytest.raises(ConfigError, match=words):
        validate(Listed, {"plugins": ["absent"], "steps": "many"}, "file.yaml")
    with pytest.raises(ConfigError, match=r"file\.yaml: plugins = 'listed_plugin': "):
        validate(Listed, {"plugins": "listed_plugin", "steps": 3}, "file.yaml")
