"""`python docs/write_configuration.py`: docs/configuration.md, the reference of every key of every configuration file.

All of it is read from the models: keys, types, ranges and defaults from their fields, what a key means from the field's
description. A test compares the page with what the models say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trocar.core.config import Config
from trocar.core.registry import NameOf, Registry
from trocar.data.ingest.options import IngestOptions
from trocar.downstream.datasets.readers.masks import Remap
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.protocols.base import PROTOCOLS, Protocol
from trocar.downstream.reproduce import PublishedExperiment
from trocar.downstream.temporal.head import HEADS, HeadConfig
from trocar.phantom.spec import PhantomSpec
from trocar.privacy.private_data import Marks
from trocar.slurm.profile import Profile
from trocar.ssl.engine.method import METHODS, MethodConfig
from trocar.ssl.neighbour_index import NeighbourIndexConfig
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.study.config import StudyConfig

PAGE = Path(__file__).with_name("configuration.md")
FILES: dict[str, tuple[type[Config], str]] = {
    "Pretraining": (PretrainConfig, "The file of `trocar pretrain`."),
    "Evaluation": (EvaluateConfig, "The file of `trocar evaluate`; its flags have the same names."),
    "Studies": (StudyConfig, "The file of `trocar study`."),
    "SLURM profiles": (Profile, "The file of `--slurm`."),
    "Ingest": (IngestOptions, "Flags of `trocar ingest`; those of `settings` are flags too."),
    "Neighbour index": (NeighbourIndexConfig, "Flags of `trocar neighbours`."),
    "Phantoms": (PhantomSpec, "Flags of `trocar phantom`."),
    "Merged classes": (Remap, "The file of `remap`."),
    "Private data": (Marks, "The file `private.yaml` in a folder of labelled data."),
    "Published numbers": (PublishedExperiment, "The presets of `trocar reproduce`."),
}
FAMILIES: dict[str, tuple[type[Config], Registry[Any]]] = {
    "Methods": (MethodConfig, METHODS),
    "Protocols": (Protocol, PROTOCOLS),
    "Temporal heads": (HeadConfig, HEADS),
}
"""What a file chooses by `name`: the base of these models, and the registry they are in."""
HEAD = """# Every key of every configuration file

This page is made from the models by `python docs/write_configuration.py`; do not edit it.

A file says what differs from the defaults. `extends: pretrain/simclr` begins with another file or a preset, and
`key.sub=value` on the command line has the last word: `trocar pretrain my.yaml train.batch=128`. A key that does not
exist and a value that is not allowed are refused with the nearest match. `null` is YAML's word for no value.
"""


def page() -> str:
    """The whole page, as Markdown."""
    shown: set[type[BaseModel]] = set()
    parts = [HEAD]
    for title, (model, about) in FILES.items():
        parts.append(f"## {title}\n\n{about} It holds the keys of {_link(model)}.\n")
        parts += _sections(model, shown)
    for title, (base, _) in FAMILIES.items():
        names = ", ".join(f"[`{name}`](#{model.__name__.lower()})" for name, model in _family(base).items())
        parts.append(f"## {title}\n\nChosen by `name`: {names}.\n")
        for model in (base, *_family(base).values()):
            parts += _sections(model, shown)
    return "\n".join(parts)


def _family(base: type[Config]) -> dict[str, type[Config]]:
    """The models that come with Trocar of one family, by the names that files ask for them with, sorted."""
    registry = next(registry for root, registry in FAMILIES.values() if root is base)
    return {name: registry.get(name) for name in _own_names(registry)}


def _own_names(registry: Registry[Any]) -> list[str]:
    """The names that come with Trocar, not those of plugins that happen to be installed."""
    return [name for name in registry.names() if registry.module_of(name).startswith("trocar.")]


def _sections(model: type[BaseModel], shown: set[type[BaseModel]]) -> list[str]:
    """A section for a model and for each that its keys hold, unless there is one already."""
    if model in shown or issubclass(model, Enum):
        return []
    shown.add(model)
    bases = [base for base in model.__bases__ if issubclass(base, BaseModel) and base.model_fields]
    own = {name: field for name, field in model.model_fields.items() if not bases or name in model.__annotations__}
    about = (model.__doc__ or "").strip().partition("\n\n")[0]
    lines = [f"### {model.__name__}\n", f"{' '.join(about.split())}\n"]
    if bases:
        also = " and ".join(_link(base) for base in bases)
        lines.append(f"The keys of {also}" + ("; these are its own or differ:\n" if own else ".\n"))
    if own:
        lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
        lines += [_row(field.alias or name, field) for name, field in own.items()]
        lines.append("")
    parts = ["\n".join(lines)]
    for base in bases:
        parts += _sections(base, shown)
    for field in own.values():
        for inner in _models(field.annotation):
            if not any(issubclass(inner, base) for base, _ in FAMILIES.values()):
                parts += _sections(inner, shown)
    return parts


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", _type(field.annotation, field.metadata), _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return ""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", exclude_unset=True)
        return f"`{_yaml(given)}`" if given else "as there"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, BaseModel):
        return _yaml(value.model_dump(mode="json", exclude_unset=True))
    text = yaml.safe_dump(str(value) if isinstance(value, Path) else value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _type(annotation: Any, metadata: Any = ()) -> str:
    """A type in a reader's words, with the limits that `metadata` sets."""
    origin, inner = get_origin(annotation), get_args(annotation)
    limits = _limits(metadata)
    for mark in metadata:
        if isinstance(mark, NameOf):
            return " or ".join(f"`{name}`" for name in _own_names(mark.registry))
    if origin is Annotated:
        return _type(inner[0], [item for extra in inner[1:] for item in getattr(extra, "metadata", [extra])])
    if origin in (Union, UnionType):
        families = [base for base, _ in FAMILIES.values() if all(_within(arg, base) for arg in inner)]
        if families:
            return _type(families[0])
        return " or ".join([_type(arg, metadata if arg in (int, float) else ()) for arg in inner])
    if origin is Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in inner)
    if origin in (list, tuple) and (origin is list or inner[-1:] == (...,)):
        return f"list of {_type(inner[0])}{limits}"
    if origin is tuple:
        return f"[{', '.join(_type(arg) for arg in inner)}]"
    if origin is dict:
        return f"{_type(inner[0])}: {_type(inner[1])}, any number of them{limits}"
    for title, (base, _) in FAMILIES.items():
        if annotation is base:
            return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _link(annotation)
    words = {str: "text", Path: "path", bool: "`true` or `false`", int: "whole number", float: "number", Any: "any"}
    return ("`null`" if annotation is NoneType else words.get(annotation, str(annotation))) + limits


def _within(annotation: Any, base: type[Config]) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)


def _limits(metadata: Any) -> str:
    """Limits as ` >= 1, <= 100`; of texts and lists their length."""
    words = []
    for item in metadata:
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if (limit := getattr(item, name, None)) is not None:
                words.append(f"{sign} {limit:g}" if limit < 10**6 else f"{sign} {limit}")
        if (step := getattr(item, "multiple_of", None)) is not None:
            words.append(f"a multiple of {step}")
    return f" {', '.join(words)}" if words else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _link(model: type[BaseModel]) -> str:
    return f"[{model.__name__}](#{re.sub(r'[^a-z0-9]', '', model.__name__.lower())})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
