"""What a backbone name on a command line means: a timm architecture, published weights, a file, a folder, or a run;
and where the weights come from, which everything that is trained from them carries along with what they have seen.

`config.json` of a backbone records what they have seen; `trocar.leakage` knows it, and is handed in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import timm
from torch import nn

from trocar.backbones.identify import only_match
from trocar.backbones.published.family import BACKBONES, Published, Seen
from trocar.backbones.published.unloadable import UNLOADABLE
from trocar.backbones.weights_file import SUFFIXES
from trocar.errors import ConfigError, TrocarError, nearest

RANDOM, TIMM = "random:", "timm:"
MODULE = "module:"
"""Before the path of a class of the user's own, which stands in records for a module that was handed in."""
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class BackboneSource:
    """Where a backbone comes from.

    `random` and `timm` carry a timm name (`random` also a published one, for its architecture), `folder` a directory,
    `published` an entry, with `file` for the user's own copy of it (None: the fetched one) and the `part` of a training
    checkpoint that is meant ("teacher", "student", or "" for the family's own choice). `file` is weights of the user's
    own: a timm name, the `file`, and the `part` of it. `module` is a class of the user's own, of a module that was
    handed in.
    """

    kind: Literal["random", "timm", "folder", "published", "file", "module"]
    name: str = ""
    folder: Path = Path()
    entry: Published | None = None
    file: Path | None = None
    part: str = ""

    @property
    def architecture(self) -> str:
        """timm name of the architecture. Raises TrocarError for a folder with a broken `config.json`."""
        if self.kind == "folder":
            return _architecture_in(self.folder / "config.json")
        return BACKBONES.get(self.name).architecture if self.name in BACKBONES else self.name.partition(".")[0]

    @property
    def text(self) -> str:
        """The name that means the same from any folder."""
        if self.kind == "folder":
            return str(self.folder.absolute())
        prefix = {"random": RANDOM, "timm": TIMM}.get(self.kind, "")
        file = f"@{self.file.absolute()}" if self.file is not None else ""
        return f"{prefix}{self.name}{file}{f'#{self.part}' if self.part else ''}"


def resolve(name_or_path: str | Path) -> BackboneSource:
    """Understand `random:NAME`, `timm:NAME[.TAG]`, `NAME`, `NAME@FILE`, `ARCH@FILE`, `FILE`, each file with `#teacher`,
    `#student` or another part of it behind, or a folder.

    A plain timm name is random weights, as in timm itself, so that what is loaded never depends on the network or on a
    cache; `timm:` asks for timm's published weights. A name of `trocar.backbones.published` is those weights. A timm
    name before a file is weights of the user's own in timm's layout; with a tag (`ARCH.TAG@FILE`) they are normalised
    as timm's weights of that tag. A lone file must fit exactly one published name. A folder is an exported backbone
    (`config.json` and `model.safetensors`), a run (its finished `backbone/`, else its newest checkpoint's), or one
    checkpoint of a run. Raises ConfigError, with the nearest name for a mistyped one.
    """
    text = str(name_or_path)
    if text.startswith(MODULE):
        return BackboneSource("module", text)
    if text.startswith(RANDOM):
        return BackboneSource("random", _check_name(text.removeprefix(RANDOM)))
    if text.startswith(TIMM):
        return BackboneSource("timm", _check_name(text.removeprefix(TIMM)))
    if Path(text).is_dir():
        return BackboneSource("folder", folder=find_backbone_folder(Path(text)))
    name, at, file = text.partition("@")
    if at and name in BACKBONES:
        return BackboneSource("published", name, entry=BACKBONES.get(name), **_file_and_part(text, file))
    path, _, part = text.partition("#")
    if at and not Path(path).is_file():
        return BackboneSource("file", _check_name(name), **_file_and_part(text, file))
    if Path(path).is_file():
        entry = only_match(Path(path), part)
        return BackboneSource("published", entry.name, entry=entry, file=Path(path), part=part)
    if path in BACKBONES:
        return BackboneSource("published", path, entry=BACKBONES.get(path), part=part)
    if "/" in text or "@" in text or path.endswith(SUFFIXES):
        raise ConfigError(f"no file or folder {text!r}; give a run folder, an exported backbone, weights, or a name")
    name = _check_name(text)
    if "." in name:
        raise ConfigError(f"{name!r} names published weights: write timm:{name} for them, or random:{name}")
    return BackboneSource("random", name)


def _architecture_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrocarError(f"{path} cannot be understood: {error!r}") from None


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


def _file_and_part(text: str, after: str) -> dict[str, Any]:
    file, _, part = after.partition("#")
    if Path(file).is_dir():
        raise ConfigError(f"{text}: {file} is a folder; a run or an exported backbone is named without an architecture")
    if not Path(file).is_file():
        raise ConfigError(f"{text}: no file {file!r}")
    return {"file": Path(file), "part": part}


def is_timms(architecture: str) -> bool:
    """Whether timm or Trocar registers an architecture.

    timm loads the weights of its own; a function of somebody else's may leave those of a folder aside without a word.
    """
    known = timm.is_model(architecture)
    return known and timm.model_entrypoint(architecture).__module__.partition(".")[0] in ("timm", "trocar")


def modules_behind(name: str) -> set[str]:
    """The modules that define the architecture of a backbone and, for published weights, how their file is read.

    Raises ConfigError for a name that means nothing.
    """
    source = resolve(name)
    known = source.entry.name if source.entry is not None else source.name
    found = {BACKBONES.module_of(known)} if known in BACKBONES else set()
    architecture = source.architecture
    return found | ({timm.model_entrypoint(architecture).__module__} if timm.is_model(architecture) else set())


def _step(folder: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", folder.name)
    return int(match.group(1)) if match else -1


def _check_name(name: str) -> str:
    if name in BACKBONES:
        return name
    if name in UNLOADABLE:
        raise ConfigError(f"{name}: {UNLOADABLE[name]}")
    known = timm.list_models()
    base, _, tag = name.partition(".")
    if base not in known:
        names = [*known, *BACKBONES.names()]
        hint = nearest(base, names) or "; timm.list_models() and `trocar fetch --list` have the names"
        raise ConfigError(f"no timm model, published weights, run or folder is called {base!r}{hint}")
    tagged = timm.list_pretrained(f"{base}.*") if tag else []
    if tag and name not in tagged:
        raise ConfigError(f"timm has no weights {name!r}{nearest(name, tagged)}; it has: {', '.join(tagged) or 'none'}")
    return name


ATTRIBUTE = "trocar_origin"


@dataclass(frozen=True)
class Origin:
    """Provenance of published weights, or of a run, as JSON values. `seen` is for the leak guard."""

    name: str
    licence: str = "unknown"
    sha256: str | None = None
    citation: str = ""
    homepage: str = ""
    fingerprint: str | None = None
    seen: tuple[Seen, ...] = field(default=())

    @classmethod
    def of(cls, entry: Published, sha256: str | None = None, fingerprint: str | None = None) -> Origin:
        """That of a published entry."""
        family = entry.family
        return cls(entry.name, family.licence, sha256, family.citation, family.homepage, fingerprint, entry.seen)

    def as_json(self) -> dict[str, Any]:
        """Values that JSON can hold; `from_json` is the inverse."""
        return asdict(self) | {"seen": [asdict(seen) for seen in self.seen]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Origin:
        """From what `as_json` gave. Raises TypeError for anything else."""
        return cls(**{**tree, "seen": tuple(Seen(**seen) for seen in tree.get("seen", ()))})


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Note where the weights of `model` come from."""
    object.__setattr__(model, ATTRIBUTE, origin)


def origin_of(model: nn.Module) -> Origin | None:
    """Where the weights of `model` come from; None for random ones, timm's own, or an unknown past."""
    found = getattr(model, ATTRIBUTE, None)
    return found if isinstance(found, Origin) else None


KEY = "exposure"
"""Under `trocar` in the `config.json` of a backbone: the parts of its history, for a `WeightHistory` to read."""
WEIGHTS_KEY = "weights_sha256"
"""Of the `model.safetensors` that the record beside it is about."""
Record = list[dict[str, Any]]
"""One JSON object for each training that left its mark on the weights."""


class WeightHistory(Protocol):
    """Who knows what weights have seen; `trocar.leakage.exposure` does."""

    def recorded(self, name_or_path: str | Path) -> Record:
        """The history of weights by name, as for `load_backbone`; raises what `trocar.leakage.exposure` raises."""
        ...

    def sealed(self, record: Iterable[Mapping[str, Any]]) -> Record:
        """The same for publication: names of cases that are not public become hashes."""
        ...

    def section(self, about: Mapping[str, Any]) -> str:
        """The section of a model card, in Markdown, on what the weights have seen; `about` is the whole of `trocar`."""
        ...
