"""What YAML 1.1 makes of ids is undone; plain numbers stay numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml

from trocar.core import config


@pytest.mark.parametrize(
    "text", ["001", "010", "0x1F", "0b11", "0o17", "1_2", "12:30", "4:00:00", "2020-01-31", "1:2.5", "1_0.5"]
)
def test_ids_that_look_like_numbers_stay_text(text: str) -> None:
    assert config.parse_yaml(f"case: [{text}]") == {"case": [text]}
    assert not isinstance(yaml.safe_load(f"[{text}]")[0], str) or text == "0o17"  # what YAML's own rules make of it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("7", 7), ("-12", -12), ("1.10", 1.1), (".5", 0.5), ("1.5e+3", 1500.0), (".inf", math.inf),
        ("true", True), ("no", False), ("null", None), ("~", None), ("", None), ("'7'", "7"), ("NA", "NA"),
    ],
)  # fmt: skip
def test_everything_else_is_as_before(text: str, value: Any) -> None:
    found = config.parse_yaml(f"key: {text}")["key"]
    assert (found, type(found)) == (value, type(value))
    assert yaml.safe_load(f"key: {text}")["key"] == value


def test_what_is_dumped_comes_back() -> None:
    tree = {"a": ["001", "1_2", "12:30", "2020-01-31", "7", 7, 1e-05, None, True, "yes"], "b": {"c": "1.0", "d": 1.0}}
    assert config.parse_yaml(yaml.safe_dump(tree)) == tree


def test_objects_are_not_made() -> None:
    with pytest.raises(yaml.YAMLError):
        config.parse_yaml("!!python/object/apply:os.system ['true']")


def test_lists_of_names_are_text_throughout() -> None:
    assert config.parse_yaml_texts("phase: [null, no, 01, 1.10, ~, NA, 'x']\n") == {
        "phase": ["null", "no", "01", "1.10", "~", "NA", "x"]
    }
    with pytest.raises(yaml.YAMLError):
        config.parse_yaml_texts("a: [")
    assert config.parse_yaml_texts("!!python/object/apply:os.system [echo]") == ["echo"]
