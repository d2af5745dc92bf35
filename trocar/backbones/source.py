"""What a backbone name on a command line means: a timm architecture, an exported folder, or a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm

from trocar.errors import ConfigError, nearest

RANDOM, PUBLISHED = "random:", "timm:"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class BackboneSource:
    """Where a backbone comes from: `random` and `published` carry a timm name, `folder` a directory."""

    kind: Literal["random", "published", "folder"]
    name: str = ""
    folder: Path = Path()


def resolve(name_or_path: str | Path) -> BackboneSource:
    """Understand `random:NAME`, `timm:NAME[.TAG]`, a plain timm `NAME`, or a folder.

    A plain name is random weights, as in timm itself, so that what is loaded never depends on the network or
    on a cache; `timm:` asks for the published weights. A folder is an exported backbone (`config.json` and
    `model.safetensors`), a run (its finished `backbone/`, else its newest checkpoint's), or one checkpoint of
    a run. Raises ConfigError, with the nearest timm name for a mistyped one.
    """
    text = str(name_or_path)
    for prefix, kind in ((RANDOM, "random"), (PUBLISHED, "published")):
        if text.startswith(prefix):
            name = _check_name(text.removeprefix(prefix))
            return BackboneSource("random" if kind == "random" else "published", name)
    if Path(text).is_dir():
        return BackboneSource("folder", folder=find_backbone_folder(Path(text)))
    if "/" in text or Path(text).exists():
        raise ConfigError(f"no folder {text!r}; give a run folder, an exported backbone, or a timm name")
    name = _check_name(text)
    if "." in name:
        raise ConfigError(f"{name!r} names published weights: write timm:{name} for them, or random:{name}")
    return BackboneSource("random", name)


def find_backbone_folder(folder: Path) -> Path:
    """The folder with `config.json` and `model.safetensors` inside an export, a run or a checkpoint
    folder.
    """
    newest_first = sorted(folder.glob("checkpoints/step-*"), key=_step, reverse=True)
    for candidate in (folder, folder / "backbone", *(step / "backbone" for step in newest_first)):
        if (candidate / "config.json").is_file() and (candidate / WEIGHTS).is_file():
            return candidate
    raise ConfigError(
        f"{folder} holds no backbone: expected config.json and {WEIGHTS} in it, in backbone/, "
        "or in checkpoints/step-N/backbone/ (a run that has not reached its first checkpoint has none)"
    )


def _step(folder: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", folder.name)
    return int(match.group(1)) if match else -1


def _check_name(name: str) -> str:
    known = timm.list_models()
    base, _, tag = name.partition(".")
    if base not in known:
        hint = nearest(base, known) or "; timm.list_models() lists them"
        raise ConfigError(f"no timm model, run or folder is called {base!r}{hint}")
    tagged = timm.list_pretrained(f"{base}.*") if tag else []
    if tag and name not in tagged:
        raise ConfigError(f"timm has no weights {name!r}{nearest(name, tagged)}; it has: {', '.join(tagged) or 'none'}")
    return name
