import re
import sys
from typing import Annotated, Literal

import pytest
from pydantic import SerializeAsAny
from registry_factory import installed

from trocar.core import plugins
from trocar.core.config import Config, load, validate
from trocar.core.registry import ByName, NameOf, Registry, modules_of
from trocar.errors import ConfigError


class Shape(Config):
    name: str


SHAPES: Registry[type[Shape]] = Registry(
    "shapes", "shape", accepts=lambda thing: isinstance(thing, type) and issubclass(thing, Shape), expected="a Shape"
)


@SHAPES.register
class Circle(Shape):
    name: Literal["circle"] = "circle"
    radius: int = 1


@SHAPES.register
class Square(Shape):
    name: Literal["square"] = "square"
    side: int = 1


COLOURS: Registry[str] = Registry("colours", "colour")
COLOURS.register("#ff0000", "red")
COLOURS.register("#00ff00", "green")


class Drawing(Config):
    shape: Annotated[SerializeAsAny[Shape], ByName(SHAPES)]
    colour: Annotated[str, NameOf(COLOURS)] = "red"


def test_things_are_found_by_the_names_they_have_or_were_given():
    assert SHAPES.get("circle") is Circle
    assert SHAPES.names() == ["circle", "square"]
    assert dict(COLOURS.items()) == {"green": "#00ff00", "red": "#ff0000"}
    assert "circle" in SHAPES
    assert "triangle" not in SHAPES
    assert SHAPES.module_of("circle") == __name__


def test_an_unknown_name_is_refused_with_the_nearest_one_and_all_others():
    with pytest.raises(ConfigError, match=r"no shape 'sqare' \(did you mean 'square'\?\); shapes: circle, square"):
        SHAPES.get("sqare")


def test_what_is_not_of_the_kind_or_has_no_name_is_refused():
    with pytest.raises(ConfigError, match="cannot be registered as a shape: expected a Shape"):
        SHAPES.register(Drawing)
    with pytest.raises(ConfigError, match="cannot be registered as a shape: it has no `name`"):
        SHAPES.register(Shape)


def test_two_things_of_one_name_are_an_error_that_names_both_unless_it_is_one_defined_again():
    registry: Registry[type] = Registry("classes", "class")
    first = type("Mine", (), {"__module__": "one", "name": "mine"})
    registry.register(first)
    registry.register(first)
    again = type("Mine", (), {"__module__": "one", "name": "mine"})
    assert registry.register(again) is again
    assert registry.get("mine") is again
    with pytest.raises(ConfigError, match=r"two classes are called 'mine': one\.Mine and two\.Other"):
        registry.register(type("Other", (), {"__module__": "two", "name": "mine"}))


def test_a_section_becomes_the_model_that_its_name_says_and_is_written_back_with_its_own_fields():
    drawing = validate(Drawing, {"shape": {"name": "square", "side": 3}}, "file.yaml")
    assert drawing.shape == Square(side=3)
    assert drawing.model_dump() == {"shape": {"name": "square", "side": 3}, "colour": "red"}
    assert Drawing(shape=Circle(radius=2)).shape == Circle(radius=2)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"shape": {"name": "sqare"}}, "shape.name = 'sqare' (did you mean 'square'?); one of: circle, square"),
        ({"shape": {"side": 1}}, "'shape.name' is required; one of: circle, square"),
        ({"shape": "square"}, "shape = 'square': expected a section, such as {name: circle}"),
        (
            {"shape": {"name": "square", "sid": 1}},
            "unknown key 'shape.sid' (did you mean 'side'?); allowed here: name, side",
        ),
        ({"shape": {"name": "square", "side": "x"}}, "shape.side = 'x': Input should be a valid integer"),
        (
            {"shape": {"name": "circle"}, "colour": "gren"},
            "colour = 'gren' (did you mean 'green'?); one of: green, red",
        ),
        ({"shape": {"name": "circle"}, "colour": 3}, "colour = 3; one of: green, red"),
    ],
)
def test_a_wrong_name_or_setting_is_refused_with_file_key_value_and_what_is_allowed(tree, words):
    with pytest.raises(ConfigError, match=re.escape(f"file.yaml: {words}")):
        validate(Drawing, tree, "file.yaml")


def test_an_override_is_blamed_for_the_name_it_set(tmp_path):
    (tmp_path / "a.yaml").write_text("shape: {name: circle}\n", encoding="utf-8")
    assert load(Drawing, tmp_path / "a.yaml", ["shape.radius=3"]).shape == Circle(radius=3)
    with pytest.raises(ConfigError, match=r"with override 'shape\.name=cirle': shape\.name = 'cirle'"):
        load(Drawing, tmp_path / "a.yaml", ["shape.name=cirle"])


def test_a_name_registered_later_is_legal_from_then_on(monkeypatch):
    monkeypatch.setattr(SHAPES, "_entries", dict(SHAPES._entries))
    with pytest.raises(ConfigError, match="one of: circle, square"):
        validate(Drawing, {"shape": {"name": "star"}}, "file.yaml")
    star = type("Star", (Shape,), {"__annotations__": {"name": Literal["star"]}, "name": "star", "__module__": "sky"})
    SHAPES.register(star)
    assert validate(Drawing, {"shape": {"name": "star"}}, "file.yaml").shape == star()


def test_who_watches_sees_what_is_there_and_what_comes():
    registry: Registry[str] = Registry("words", "word")
    registry.register("a", "a")
    seen: list[str] = []
    registry.on_register(seen.append)
    registry.register_each([Circle])
    assert seen == ["a", Circle]


def test_modules_of_a_configuration_are_those_of_all_in_it_and_of_what_it_names(monkeypatch):
    monkeypatch.setattr(COLOURS, "_entries", dict(COLOURS._entries))
    monkeypatch.setattr(Circle, "__module__", "round_things")
    COLOURS.register(lambda: "", "blue")
    found = modules_of([Drawing(shape=Circle(), colour="blue")])
    assert {"round_things", __name__, "trocar.core.config"} <= found


TWO = "from trocar.core.registry import Registry\nONE, TWO = object(), object()\n"


def test_entry_points_are_imported_when_their_name_is_asked_for_and_listed_with_the_others(tmp_path, monkeypatch):
    files = {
        "their_plugin/__init__.py": "",
        "their_plugin/things.py": TWO,
        "their_broken.py": "import nowhere_to_be_found\n",
    }
    points = {"trocar.things": {"one": "their_plugin.things:ONE", "broken": "their_broken:X"}}
    installed(tmp_path, monkeypatch, files, points)
    registry: Registry[object] = Registry("things", "thing")
    registry.register(own := object(), "own")
    assert registry.get("own") is own
    assert "their_plugin.things" not in sys.modules
    assert registry.get("one") is sys.modules["their_plugin.things"].ONE
    assert registry.module_of("one") == "their_plugin.things"
    with pytest.raises(
        ConfigError,
        match=r"thing 'broken': their_broken:X of their-plugin 1\.2 cannot be imported: ModuleNotFoundError: .*nowhere",
    ):
        registry.names()
    (tmp_path / "their_broken.py").write_text("X = 3\n", encoding="utf-8")
    assert registry.names() == ["broken", "one", "own"]


def test_an_entry_point_with_a_name_that_is_taken_is_an_error_naming_both(tmp_path, monkeypatch):
    points = {"trocar.things": {"own": "their_other_plugin:ONE"}}
    installed(tmp_path, monkeypatch, {"their_other_plugin.py": TWO}, points)
    registry: Registry[object] = Registry("things", "thing")
    registry.register(object(), "own")
    with pytest.raises(ConfigError, match=f"two things are called 'own': {__name__} and their_other_plugin"):
        registry.get("own")


def test_the_entry_points_of_a_plugin_are_those_of_groups_that_begin_with_trocar(tmp_path, monkeypatch):
    points = {"trocar.things": {"one": "x:ONE"}, "console_scripts": {"x": "x:main"}}
    installed(tmp_path, monkeypatch, {}, points)
    assert [point.name for point in plugins.entry_points()["things"]] == ["one"]
    assert not any("console" in kind for kind in plugins.entry_points())
