"""What a run must not show: names of private hospitals, cases and videos, taken out of everything that leaves it.

Whoever knows the catalog or the labelled data leaves the names in the run folder (`withhold`); the report, mlflow and
the model card read them from there (`withheld`) and show a number in their place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from html import escape, unescape
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from trocar.core import yaml_text
from trocar.core.config import AsWritten, Config, validate
from trocar.core.files import replacing
from trocar.errors import ConfigError, TrocarError

FILE = "private.json"
"""In a run folder, readable by its owner alone; without it nothing of the run is private."""
MARKS = "private.yaml"
"""In the folder of a labelled data set of any layout."""
ALL: Literal["all"] = "all"
_TAG = re.compile(r"(<[^>]*>)")
_SAID = re.compile(r'(?<= )(alt|title|aria-label)="([^"]*)"')
_PATH = re.compile(r"(?<![\w.:/~$}\\-])(?:/[^\s/:;,'\"`<>|()\[\]{}]+){2,}/?")
_STORE = re.compile(r"\b(?:sqlite|file):/{2,}[^\s'\"`<>,;]+")
_PLAIN_NUMBER = 4  # a number of fewer digits names nobody, and would blank steps and scores


class PrivacyConfig(Config):
    """What may be seen of what is marked private."""

    share_frames: bool = Field(
        default=False,
        description="show frames, hospitals and case ids of what is private in reports, figures, logs, mlflow and card",
    )


class Marks(Config):
    """What of a data set is private."""

    cases: Literal["all"] | tuple[AsWritten, ...] = Field(
        default=(), description="cases or videos whose frames and names must not be shown, or `all`"
    )
    names: tuple[AsWritten, ...] = Field(
        default=(), description="what else must not be read, such as a hospital in paths and in names of backbones"
    )


NO_MARKS = Marks()


class Withheld:
    """Names, and what replaces them: `withheld-N`, the same N for the same name within one set of names."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = sorted({name.strip() for name in names if name.strip()})
        self._token = {name.casefold(): f"withheld-{i}" for i, name in enumerate(self.names, start=1)}
        long = [name for name in self.names if not name.isdecimal() or len(name) >= _PLAIN_NUMBER]
        # The longest first, so that a name within another leaves no rest; any white space, since YAML folds lines.
        words = (r"\s+".join(map(re.escape, name.split())) for name in sorted(long, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(words)})(?![^\W_])", re.IGNORECASE) if long else None

    def __bool__(self) -> bool:
        return bool(self.names)

    def text(self, text: str) -> str:
        """`text` without the names, in whatever case. A bare number below 1000 goes only where it is the whole text."""
        if text.strip().casefold() in self._token:
            return self._token[text.strip().casefold()]
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._token.get(_folded(found[0]), "withheld"), text)

    def tree(self, value: Any) -> Any:
        """`text` on every key and string of nested mappings and sequences; tuples become lists."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key) if isinstance(key, str) else key: self.tree(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.tree(item) for item in value]
        return value

    def html(self, page: str) -> str:
        """`text` on what can be read of HTML: text between tags, and the attributes that describe a picture. What is
        embedded stays as it is. Everything in `page` that is no tag has to be escaped.
        """
        if not self:
            return page
        parts = _TAG.split(page)
        for place, part in enumerate(parts):
            parts[place] = _SAID.sub(self._attribute, part) if place % 2 else self._escaped(part)
        return "".join(parts)

    def saying(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say` for a log that may be read by others."""
        return lambda line: say(self.text(line))

    def _attribute(self, found: re.Match[str]) -> str:
        return f'{found[1]}="{self._escaped(found[2])}"'

    def _escaped(self, text: str) -> str:
        plain = unescape(text)
        shown = self.text(plain)
        return text if shown == plain else escape(shown)


def without_folders(text: str) -> str:
    """`text` with no absolute path: `.../runs/a` for `/home/jane/work/runs/a`, and nothing at all of a home folder.

    What is made to be shared needs no folder of the machine it was made on, and a home folder names its owner. Relative
    paths and URLs stay.
    """
    home = str(Path.home())
    plain = text.replace(home, "~") if len(home) > 1 else text
    if plain.startswith("/") and plain.count("/") > 1 and "\n" not in plain:
        return _ending(plain)  # a path as a whole, which may have spaces
    plain = _STORE.sub(lambda found: found[0].partition(":")[0] + ":" + _ending(found[0].partition(":")[2]), plain)
    return _PATH.sub(lambda found: _ending(found[0]), plain)


def _ending(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if parts[0] in ("home", "Users"):
        parts = parts[2:]
    return "/".join(["...", *[part for part in parts if part != "~"][-2:]])


def tree_without_folders(value: Any) -> Any:
    """`without_folders` on every string of nested mappings and sequences."""
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, Mapping):
        return {key: tree_without_folders(item) for key, item in value.items()}
    return [tree_without_folders(item) for item in value] if isinstance(value, list | tuple) else value


def html_without_folders(page: str) -> str:
    """`without_folders` on the text between the tags of HTML, and on what describes a picture."""
    parts = _TAG.split(page)
    for place, part in enumerate(parts):
        if place % 2:
            parts[place] = _SAID.sub(lambda found: f'{found[1]}="{_text_without(found[2])}"', part)
        else:
            parts[place] = _text_without(part)
    return "".join(parts)


def _text_without(text: str) -> str:
    plain = unescape(text)
    shown = without_folders(plain)
    return text if shown == plain else escape(shown)


def numbered(cases: Iterable[str], private: Collection[str]) -> dict[str, str]:
    """Case -> what it is called where others may look: itself, or a number for those that are private."""
    ordered = list(dict.fromkeys(cases))
    numbers = {case: f"private case {n}" for n, case in enumerate((c for c in ordered if c in private), start=1)}
    return {case: numbers.get(case, case) for case in ordered}


def marks_in(root: Path) -> Marks:
    """What DATA/private.yaml marks; nothing without it. Raises ConfigError for a file that cannot be understood or that
    marks nothing: then it is not known what is private.
    """
    path = root / MARKS
    if not path.is_file():
        return NO_MARKS
    try:
        tree = yaml_text.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `cases: all`, or lists under `cases` and `names`")
    marks = validate(Marks, tree, str(path))
    if marks == NO_MARKS:
        raise ConfigError(f"{path} marks nothing; write `cases: all`, list cases, or remove the file")
    return marks


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def withhold(run: Path, names: Iterable[str]) -> Withheld:
    """Write RUN/private.json, or remove it where there are no names."""
    found = Withheld(names)
    if not found:
        (run / FILE).unlink(missing_ok=True)
        return found
    with replacing(run / FILE) as path:
        write_private(path, json.dumps({"names": found.names}, indent=1) + "\n")
    return found


def withheld(run: Path) -> Withheld:
    """What a run must not show. Raises TrocarError for a damaged private.json: then nothing may be shown at all."""
    try:
        names = json.loads((run / FILE).read_text(encoding="utf-8"))["names"]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("a name is no text")
    except FileNotFoundError:
        return Withheld()
    except (ValueError, TypeError, KeyError) as error:
        raise TrocarError(
            f"{run / FILE} is damaged ({error}), so it is not known what of this run is private; "
            "resume the run, which writes it anew"
        ) from None
    return Withheld(names)


def write_private(path: Path, text: str) -> None:
    """Write a new file that its owner alone can read. Raises FileExistsError where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
