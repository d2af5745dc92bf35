"""YAML files -> validated pydantic models, with `extends:` and dotted overrides.

A bad configuration is refused with the file, the key, the value, what is allowed and the nearest match.

YAML as people mean it: what is no plain number stays the text it is.

YAML 1.1 makes the number 1 of `001`, 12 of `1_2`, 750 of `12:30` and a date of `2020-01-31`; case ids, class names
and times are written so. Only `-?(0|[1-9][0-9]*)` and decimals with a point are numbers here. A field that is a
number takes `1_000` and `010` as text all the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from trocar.core.plugins import import_plugins
from trocar.core.registry import NAME_MISSING, NAME_UNKNOWN, ByName
from trocar.errors import ConfigError, nearest

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


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML document, as `yaml.safe_load` but for the numbers above. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def parse_yaml_texts(text: str) -> Any:
    """The same with every value as the text it is, `null` and `no` too: for lists of names."""
    return yaml.load(text, Loader=yaml.BaseLoader)


ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
"""What an address begins with, and a path does not."""
PRESETS = Path(__file__).parents[1] / "configs"


class Config(BaseModel):
    """Base of every configuration model: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_address(cls, value: Any, info: ValidationInfo) -> Any:
        """As a path `s3://bucket/run` would be a folder `s3:` below the working directory."""
        kind = cls.model_fields[info.field_name].annotation if info.field_name is not None else None
        if kind in (Path, Path | None) and isinstance(value, str) and ADDRESS.match(value):
            raise ValueError("is an address, and a folder or file of this machine is needed here")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """A field that a subclass gives another default means what it meant: it keeps its description."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            for base in cls.__mro__[1:]:
                if field.description is None and issubclass(base, BaseModel) and name in base.model_fields:
                    field.description = base.model_fields[name].description


class WithPlugins(Config):
    """Base of the configurations that stand in files: what their names stand for may come from a plugin."""

    plugins: tuple[str, ...] = Field(
        default=(),
        description="packages of your own to import first, by the names that Python knows them by; an installed one "
        "that declares entry points need not be listed",
    )

    @field_validator("plugins")
    @classmethod
    def _import_plugins(cls, plugins: tuple[str, ...]) -> tuple[str, ...]:
        """The first field, so before any other is looked at: these may name what a plugin registers."""
        try:
            import_plugins(plugins)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return plugins


Model = TypeVar("Model", bound=Config)
AsWritten = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""A name that may be a number, such as a case id: YAML reads `7` as one, and its digits are what was written."""


def load(model: type[Model], path: str | Path | None, overrides: Sequence[str] = ()) -> Model:
    """Read `path` (a YAML file or a preset name such as `pretrain/demo`), apply `key.sub=value` overrides, validate.

    Raises ConfigError for a missing file, bad YAML, an unknown key or a value that is not allowed.
    """
    source = str(path) if path is not None else "command line"
    return validate(model, tree_of(path, overrides), source, overrides)


def tree_of(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What `load` validates, as plain values: the file with all it extends, and the overrides.

    Raises ConfigError for a missing file, bad YAML or a bad override.
    """
    tree = _unshared(_read_tree(Path(path), seen=())) if path is not None else {}
    for override in overrides:
        _apply_override(tree, override)
    return tree


def validate(model: type[Model], tree: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Model:
    """Validate a plain mapping; `source` names it in the error message, but for what `overrides` have put there."""
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        # Without a plugin the names that it has are unknown, which is no news.
        items = [item for item in error.errors() if item["loc"][:1] == ("plugins",)] or error.errors()
        lines = [_explain(model, tree, item, _blamed(item["loc"], tree, source, overrides)) for item in items]
        raise ConfigError("bad configuration\n" + "\n".join(f"  {line}" for line in lines)) from None


def fingerprint(value: Any) -> str:
    """16 hex digits of the sha256 of `value` as canonical JSON: equal configurations, equal fingerprints."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_preset(name: str | Path) -> Path:
    """The file for a path or a preset name (`pretrain/demo`, with or without `.yaml`)."""
    given = Path(name)
    if given.is_file():
        return given
    for candidate in (PRESETS / given, PRESETS / f"{given}.yaml"):
        if candidate.is_file():
            return candidate
    hint = nearest(str(name), preset_names())
    raise ConfigError(f"no configuration file or preset {str(name)!r}{hint}; `trocar presets list` names the presets")


def preset_names() -> list[str]:
    """Names of all presets in the package, sorted; a file whose name begins with `_` is only there to be extended."""
    files = [p for p in PRESETS.rglob("*.yaml") if not p.name.startswith("_")]
    return sorted(p.relative_to(PRESETS).with_suffix("").as_posix() for p in files)


def _read_tree(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = find_preset(path).resolve()
    if path in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle through {seen[-1]}")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(tree).__name__}")
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    beside = path.parent / str(parent)
    try:
        found = find_preset(beside if beside.is_file() else str(parent))
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from None
    return merge(_read_tree(found, (*seen, path)), tree)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` in place of its own; sections that both have are merged."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _unshared(value: Any) -> Any:
    """A copy in which YAML's `*alias` is an object of its own: an override of one place leaves the others alone."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r}: expected key=value, such as train.steps=1000")
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        tree = child
    try:
        tree[last] = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: {error}") from None


def _blamed(loc: Sequence[Any], tree: Mapping[str, Any], source: str, overrides: Sequence[str]) -> str:
    """Who set what is wrong at `loc`: the last override that set it or what it is in, else the file.

    For a rule about a whole section, of which an override set only a part, both.
    """
    where = _keys(loc, tree)
    for override in reversed(overrides):
        key = override.partition("=")[0].split(".")
        if where and key == where[: len(key)]:
            return f"override {override!r}"
        if where and key[: len(where)] == where:
            return f"{source} with override {override!r}"
    return source


def _keys(loc: Sequence[Any], tree: Any) -> list[str]:
    """The parts of a location that are keys of the tree: pydantic also names the branch of a union it tried."""
    keys = []
    for part in loc:
        listed = isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if listed or (isinstance(tree, Mapping) and part in tree):
            tree = tree[part]
            keys.append(str(part))
    return keys


def _explain(model: type[BaseModel], tree: Any, item: Any, source: str) -> str:
    where = ".".join(map(str, item["loc"])) or "(top level)"
    message = item["msg"].removeprefix("Value error, ")  # pydantic's words for a validator of ours
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(model, tree, item["loc"][:-1])
        choice = f"; allowed here: {', '.join(allowed)}" if allowed else ""
        return f"{source}: unknown key {where!r}{nearest(str(item['loc'][-1]), allowed)}{choice}"
    if item["type"] == "missing":
        within = _models_in(_annotation(_models_at(model, tree, item["loc"][:-1])[0], item["loc"][-1]))
        keys = [f"{where}.{name}" for m in within[:1] for name, field in m.model_fields.items() if field.is_required()]
        return f"{source}: {', '.join(map(repr, keys or [where]))} is required"
    if item["type"] in (NAME_MISSING, NAME_UNKNOWN):
        key, name, allowed = (item["ctx"][word] for word in ("key", "name", "allowed"))
        one_of = f"one of: {', '.join(allowed)}"
        if item["type"] == NAME_MISSING:
            return f"{source}: '{where}{key}' is required; {one_of}"
        return f"{source}: {where}{key} = {name!r}{nearest(str(name), allowed)}; {one_of}"
    if isinstance(item["input"], dict):
        # About several keys: the whole section would be printed.
        return f"{source}: {where}: {message}" if item["loc"] else f"{source}: {message}"
    given = repr(item["input"])
    hint = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        hint = nearest(item["input"], [w.strip("'") for w in str(item["ctx"]["expected"]).split(" ") if "'" in w])
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float | None):
        hint = "; write it in quotes"
    return f"{source}: {where} = {given[:80]}: {message}{hint}"


def _keys_at(model: type[BaseModel], tree: Any, loc: Sequence[Any]) -> list[str]:
    """Field names of the model that sits at `loc`, following model-valued fields (also inside unions and dicts)."""
    models = _models_at(model, tree, loc)
    return sorted({field.alias or name for current in models for name, field in current.model_fields.items()})


def _models_at(model: type[BaseModel], tree: Any, loc: Sequence[Any]) -> list[type[BaseModel]]:
    """The models that what `tree` has at `loc` may be validated by: one, but for a union."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        inside = isinstance(tree, Mapping) or (isinstance(tree, list) and isinstance(part, int) and part < len(tree))
        tree = (tree.get(part) if isinstance(tree, Mapping) else tree[part]) if inside else None
        models = [m for current in models for m in _following(current, part, tree)] or models
    return models


def _following(model: type[BaseModel], part: Any, value: Any) -> list[type[BaseModel]]:
    """The models of a field that holds `value`."""
    field = model.model_fields.get(str(part))
    for mark in field.metadata if field is not None else ():
        if isinstance(mark, ByName) and (named := mark.model_for(value)):
            return [named]
    return _models_in(_annotation(model, part))


def _annotation(model: type[BaseModel], part: Any) -> Any:
    field = model.model_fields.get(str(part))
    return field.annotation if field is not None else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]
