"""Names that must not be shown, and the alias that stands in the place of each wherever anybody reads it.

Whoever knows the catalog or the labelled data leaves names and aliases in the run folder (`withhold`); the report,
mlflow and the model card read them from there (`withheld`). Everything else works with the real names: what matches,
joins, is hashed or judged does not know that there are aliases.

Pseudonyms say nothing: keyed hashes (HMAC-SHA256, RFC 2104) in place of file names and case ids from ingest on. Whoever
has the key finds the hash of a name again; nobody else can try names out. The table of names is beside the key, for its
owner's eyes, and neither may be inside the shards folder.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trocar.core.files import locked, replacing, write_json_atomic
from trocar.core.messages import Say
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.redaction import readable

FILE = "private.json"
"""In a run folder, readable by its owner alone; without it nothing of the run is private."""
BOOK = "aliases.json"
"""In a folder above run folders, such as a study's store: all of them call a name by the alias that it has there."""
ABOVE = 4
"""So many folders above a run folder are looked for a book."""
CASE, OTHER = "private case ", "withheld-"
"""What the alias of a case begins with, and that of a hospital, a video or anything else."""
_PLAIN_NUMBER = 4  # a number of fewer digits names nobody, and would blank steps and scores


class Aliases:
    """Names and their aliases: `private case N` for those in `cases`, `withheld-N` for all others in `names`.

    A name keeps the alias that it has in `known`, unless a name before it there has that too; others are numbered on
    from there, in alphabetical order.
    """

    def __init__(
        self, names: Iterable[str] = (), cases: Iterable[str] = (), known: Mapping[str, str] | None = None
    ) -> None:
        ids = {name.strip() for name in cases}
        everything = sorted({name.strip() for name in names if name.strip()})
        self._by_folded: dict[str, str] = {}
        taken: set[str] = set()
        for name, alias in (known or {}).items():
            if alias not in taken:
                self._by_folded.setdefault(_folded(name), alias)
                taken.add(alias)
        last = {kind: _last(kind, self._by_folded.values()) for kind in (CASE, OTHER)}
        for name in everything:
            if _folded(name) not in self._by_folded:
                kind = CASE if name in ids else OTHER
                last[kind] += 1
                self._by_folded[_folded(name)] = f"{kind}{last[kind]}"
        self.table = {name: self._by_folded[_folded(name)] for name in everything}
        self._by_folded = {_folded(name): alias for name, alias in self.table.items()}
        long = [name for name in everything if not name.isdecimal() or len(name) >= _PLAIN_NUMBER]
        # The longest first, so that a name within another leaves no rest; any white space, since YAML folds lines.
        words = (r"\s+".join(map(re.escape, name.split())) for name in sorted(long, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(words)})(?![^\W_])", re.IGNORECASE) if long else None

    def __bool__(self) -> bool:
        return bool(self.table)

    @property
    def names(self) -> list[str]:
        """All names, in alphabetical order."""
        return list(self.table)

    @property
    def cases(self) -> frozenset[str]:
        """The names that are called as cases."""
        return frozenset(name for name, alias in self.table.items() if alias.startswith(CASE))

    @classmethod
    def join(cls, parts: Sequence[Aliases]) -> Aliases:
        """The names of all of them. What several call differently has the alias of the first of these."""
        known = first_called(part.table for part in parts)
        return cls(known, {name for part in parts for name in part.cases}, known)

    def of(self, name: str) -> str:
        """The alias of a name; the name itself if it is none of these."""
        return self._by_folded.get(_folded(name), name)

    def text(self, text: str) -> str:
        """`text` with aliases for the names, in whatever case. A bare number below 1000 goes only where it is the whole
        text.
        """
        if _folded(text) in self._by_folded:
            return self._by_folded[_folded(text)]
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._by_folded.get(_folded(found[0]), "withheld"), text)

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
        """`text` on what can be read of a page (`readable`)."""
        return readable(page, self.text) if self else page

    def saying(self, say: Say) -> Say:
        """`say` for a log that may be read by others."""
        return lambda line: say(self.text(line))


def first_called(tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Name -> alias of all tables. A name is called as by the first that has it, and the names of the first come first:
    of two with one alias it is they that keep it.
    """
    found: dict[str, str] = {}
    for table in tables:
        found |= {name: alias for name, alias in table.items() if name not in found}
    return found


def _last(kind: str, aliases: Iterable[str]) -> int:
    numbers = (alias.removeprefix(kind) for alias in aliases if alias.startswith(kind))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def aliases_of(
    run: Path, names: Iterable[str], cases: Iterable[str] = (), called: Mapping[str, str] | None = None
) -> Aliases:
    """What these names are called in RUN; those in `cases` are called as cases.

    A name is called as the book above the folder says (`open_book`), or without one as before in this folder; else as
    it is `called` elsewhere. Raises TrocarError for a damaged book.
    """
    book = _book_above(run)
    known = _read(run / FILE, damaged={}) if book is None else read_book(book)
    return Aliases(names, cases, first_called([known, called or {}]))


def withhold(
    run: Path, names: Iterable[str], cases: Iterable[str] = (), called: Mapping[str, str] | None = None
) -> Aliases:
    """Write RUN/private.json, or remove it where there are no names; returns `aliases_of`, and raises as that.

    A book above the folder learns the new names.
    """
    book = _book_above(run)
    names = set(names)
    aliases = aliases_of(run, names, cases, called) if book is None else open_book(book, names, cases, called)
    if aliases:
        _write(run / FILE, aliases.table)
    else:
        (run / FILE).unlink(missing_ok=True)
    return aliases


def _book_above(run: Path) -> Path | None:
    """The nearest folder above with a book."""
    return next((folder for folder in list(run.absolute().parents)[:ABOVE] if (folder / BOOK).is_file()), None)


def withheld(run: Path) -> Aliases:
    """What a run must not show. Raises TrocarError for a damaged private.json: then nothing may be shown at all."""
    table = _read(run / FILE)
    return Aliases(table, known=table)


def open_book(
    folder: Path, names: Iterable[str], cases: Iterable[str] = (), called: Mapping[str, str] | None = None
) -> Aliases:
    """Give these names aliases that hold for all runs below `folder`, whoever names them first; without names there is
    no book. Raises TrocarError for a damaged book.
    """
    aliases = Aliases(names, cases)
    if aliases:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{BOOK}.lock"):
            known = read_book(folder)
            aliases = Aliases(aliases.names, aliases.cases, first_called([known, called or {}]))
            if not aliases.table.items() <= known.items():
                _write(folder / BOOK, known | aliases.table)
    return aliases


def read_book(folder: Path) -> dict[str, str]:
    """Name -> alias for all runs below `folder`; empty without a book. Raises TrocarError for a damaged one."""
    return _read(folder / BOOK)


def _read(path: Path, damaged: dict[str, str] | None = None) -> dict[str, str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))["aliases"]
        if not all(isinstance(text, str) for pair in table.items() for text in pair):
            raise ValueError("a name is no text")
    except (FileNotFoundError, NotADirectoryError):  # the latter: a file stands where the run folder has to be
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if damaged is not None:
            return damaged
        raise TrocarError(
            f"{path} is damaged ({error}), so it is not known what of this run is private; "
            "resume the run, which writes it anew"
        ) from None
    return dict(table)


def _write(path: Path, table: Mapping[str, str]) -> None:
    with replacing(path) as temporary:
        write_private(temporary, json.dumps({"aliases": table}, indent=1) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a new file that its owner alone can read. Raises FileExistsError where there is one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


CHECK = "pseudonyms.json"
"""In the shards folder: which key its pseudonyms are of, told by a hash that is of no name."""
_KEY = re.compile(r"[0-9a-fA-F]{64,}")
_DIGITS = 20  # 80 bits: no two of a billion names meet


@dataclass(frozen=True)
class Pseudonyms:
    """Names under one key. Equal names have equal pseudonyms in every folder that is made with the key."""

    path: Path
    key: bytes

    @classmethod
    def load(cls, path: Path, shards: Path) -> Pseudonyms:
        """Read the key file, made first if absent.

        Raises ConfigError for one inside of `shards`, one that others can read, or one that holds no key.
        """
        if path.resolve().is_relative_to(shards.resolve()):
            raise ConfigError(f"--pseudonymize {path}: the key lies inside of {shards} and would be given away with it")
        try:
            if not path.exists():
                write_private(path, secrets.token_hex(32) + "\n")
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"--pseudonymize {path}: others can read the key; run: chmod 600 {path}")
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a key file"
            raise ConfigError(f"--pseudonymize {path}: {reason}; name a file in a folder that exists") from None
        if not _KEY.fullmatch(text) or len(text) % 2:
            raise ConfigError(
                f"--pseudonymize {path}: not a key of 64 or more hex digits; name a file that does not exist yet, "
                "and a key is made"
            )
        return cls(path, bytes.fromhex(text))

    def video(self, name: str) -> str:
        """The pseudonym of a video name."""
        return "v" + self._hash("video", name)

    def case(self, case_id: str) -> str:
        """The pseudonym of a case id."""
        return "c" + self._hash("case", case_id)

    def file(self, name: str) -> str:
        """That of a file name, which only tells whether a source has changed."""
        return self._hash("file", name)

    def check(self, shards: Path) -> None:
        """Raises ConfigError for a shards folder whose pseudonyms are of another key: videos would come in twice."""
        mark, path = {"key_check": self._hash("check", "")}, shards / CHECK
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            write_json_atomic(path, mark)
            return
        except ValueError:
            known = None
        if known != mark:
            raise ConfigError(
                f"{shards}: its pseudonyms are not of the key in {self.path}; give the key it was made with, or "
                "another --out"
            )

    def note(self, rows: Iterable[tuple[str, str, str, str]]) -> Path:
        """Add (path, video, case id, pseudonym of the case) by video to the table beside the key; returns its path."""
        path = self.path.with_name(self.path.name + ".names.csv")
        before = {row["video"]: tuple(row.values()) for row in _rows(path)}
        known = before | {row[1]: row for row in rows}
        if path.exists() and known == before:
            return path  # the jobs of an array all come here, and have nothing to add
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("file", "video", "case_id", "case"))
        writer.writerows(sorted(known.values()))
        with replacing(path) as temporary:
            write_private(temporary, buffer.getvalue())
        return path

    def _hash(self, kind: str, name: str) -> str:
        text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()[:_DIGITS]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
