"""Names that say nothing: keyed hashes (HMAC-SHA256, RFC 2104) in place of file names and case ids.

Whoever has the key finds the hash of a name again; nobody else can try names out. The table of names is beside the
key, for its owner's eyes, and neither may be inside the shards folder.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trocar.core.files import replacing, write_json_atomic
from trocar.errors import ConfigError
from trocar.privacy.aliases import write_private

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
