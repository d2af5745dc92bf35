"""What classes.yaml says of masks beside the names of their classes: which is the background, and what 255 is."""

from __future__ import annotations

from pathlib import Path

from trocar.core import yaml_text
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.errors import TrocarError, nearest

BACKGROUND, NOT_SCORED = "background", "not_scored"
MASK_KEYS = (BACKGROUND, NOT_SCORED)
NONE = ("", "null", "none")


def mask_keys(path: Path, classes: tuple[str, ...]) -> tuple[int | None, bool]:
    """(index of the background class, or None; whether 255 is said to mean `not scored`).

    `background: NAME` names the class; without it a class called background is the one, and an empty value says that
    there is none. Raises TrocarError for a name that is no class, and for a `not_scored` other than 255.
    """
    tree = yaml_text.load_texts(path.read_text(encoding="utf-8"))
    white = tree.get(NOT_SCORED)
    if white not in (None, str(IGNORED_PIXEL)):
        raise TrocarError(
            f"{path}: {NOT_SCORED}: {white!r}: the one value that is not scored is {IGNORED_PIXEL}; say "
            f"`{NOT_SCORED}: {IGNORED_PIXEL}`, or leave the key out"
        )
    lower = [name.lower() for name in classes]
    if BACKGROUND not in tree:
        return (lower.index(BACKGROUND) if BACKGROUND in lower else None), white is not None
    name = str(tree[BACKGROUND])
    if name in classes:
        return classes.index(name), white is not None
    if name.lower() in NONE:
        return None, white is not None
    raise TrocarError(f"{path}: {BACKGROUND}: no class {name!r}{nearest(name, classes)}; classes: {', '.join(classes)}")
