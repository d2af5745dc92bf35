"""What an adapter is, the questions every adapter answers the same way, and the names of phases and tools.

Data sets differ in spelling and order of phases and tools, so labels are always mapped by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trocar.core.registry import Registry
from trocar.downstream.folds import Split
from trocar.downstream.labels import LabelledFrames
from trocar.errors import TrocarError, nearest


@dataclass(frozen=True)
class DatasetOptions:
    """`fps`: labelled frames per second that are used, at most as many as are labelled; `phases`: class names in order,
    where a data set's own are not the published ones; `split`: name of a published split list (None: the adapter's
    default, if it has one); `remap`: name or path of a file that merges classes of masks.
    """

    fps: float = 1.0
    phases: tuple[str, ...] = ()
    split: str | None = None
    remap: str | None = None


@dataclass(frozen=True)
class Adapter:
    """One published folder layout.

    `matches` recognises a folder by the names in it and reads no labels; `read` makes the table; `expects` is for the
    error message. `splits` are the published lists by name; `default_split` is the one used where none is asked for:
    None where the field has no agreed one.
    """

    name: str
    expects: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, DatasetOptions], LabelledFrames]
    splits: Mapping[str, Split] = field(default_factory=dict)
    default_split: str | None = None


DATASETS: Registry[Adapter] = Registry(
    "datasets",
    "layout",
    plural="layouts",
    package="trocar.downstream.datasets",
    accepts=lambda thing: isinstance(thing, Adapter),
    expected="an Adapter",
)
"""The adapter of every folder layout by name."""


CHOLEC80_PHASES = (
    "Preparation",
    "CalotTriangleDissection",
    "ClippingCutting",
    "GallbladderDissection",
    "GallbladderPackaging",
    "CleaningCoagulation",
    "GallbladderRetraction",
)
CHOLEC80_TOOLS = ("Grasper", "Bipolar", "Hook", "Scissors", "Clipper", "Irrigator", "SpecimenBag")

# Every published set of phases, in its published order; a data set's names must all come from one of them.
PHASE_SETS = {
    "cholec80": CHOLEC80_PHASES,
    "m2cai16": ("TrocarPlacement", *CHOLEC80_PHASES),
    "phantom": (
        "Preparation",
        "PedicleDissection",
        "ClippingCutting",
        "OrganDissection",
        "SpecimenPackaging",
        "CleaningCoagulation",
    ),
}

# CholecT50 writes "carlot-triangle-dissection", "clipping-and-cutting" and "gallbladder-extraction".
_SAME = {"carlottriangledissection": "calottriangledissection", "gallbladderextraction": "gallbladderretraction"}


def canonical(name: str) -> str:
    """Letters and digits in lower case, without `and`, known spellings unified: for comparing names only."""
    plain = "".join(word for word in re.findall(r"[a-z0-9]+", name.lower()) if word != "and")
    return _SAME.get(plain, plain)


def index_of(name: str, names: Sequence[str], where: str = "") -> int:
    """Position of `name` among `names`, spelling aside where it is none of them as it stands.

    Raises TrocarError naming `where` and the nearest one, and where `name` could be several of them.
    """
    if name in names:
        return list(names).index(name)
    meant = [i for i, known in enumerate(names) if canonical(known) == canonical(name) != ""]
    if len(meant) == 1:
        return meant[0]
    before = f"{where}: " if where else ""
    if meant:
        raise TrocarError(f"{before}{name!r} could be {' or '.join(repr(names[i]) for i in meant)}; write it as that")
    hint = " (other phases are given with --phases, in order)" if tuple(names) in PHASE_SETS.values() else ""
    raise TrocarError(f"{before}unknown name {name!r}{nearest(name, names)}; known: {', '.join(names)}{hint}")


def phase_set(found: Sequence[str], where: str) -> tuple[str, ...]:
    """The first published set that has all `found` names. Raises TrocarError, naming a stranger, if none
    has.
    """
    for names in PHASE_SETS.values():
        if all_known(found, names):
            return names
    strangers = [name for name in found if not all_known([name], CHOLEC80_PHASES)]
    index_of(strangers[0], CHOLEC80_PHASES, where)
    return ()


def all_known(found: Sequence[str], names: Sequence[str]) -> bool:
    """True if every found name is one of `names`, spelling aside."""
    known = {canonical(name) for name in names}
    return all(canonical(name) in known for name in found)
