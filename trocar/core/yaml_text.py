"""YAML as people mean it: what is no plain number stays the text it is.

YAML 1.1 makes the number 1 of `001`, 12 of `1_2`, 750 of `12:30` and a date of `2020-01-31`; case ids, class names and
times are written so. Only `-?(0|[1-9][0-9]*)` and decimals with a point are numbers here. A field that is a number
takes `1_000` and `010` as text all the same.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_RULES = {
    "tag:yaml.org,2002:int": re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}
_NEVER = {"tag:yaml.org,2002:timestamp"}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, _RULES.get(tag, rule)) for tag, rule in rules if tag not in _NEVER]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(text: str) -> Any:
    """Plain values of a YAML document, as `yaml.safe_load` but for the numbers above. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def load_texts(text: str) -> Any:
    """The same with every value as the text it is, `null` and `no` too: for lists of names."""
    return yaml.load(text, Loader=yaml.BaseLoader)
