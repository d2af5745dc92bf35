"""What CholecT45 and CholecT50 share: the names of the 100 action triplets, the published splits, the label budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from trocar.downstream.datasets.base import CHOLEC80_TOOLS, canonical
from trocar.downstream.folds import Split
from trocar.errors import TrocarError, nearest

TOOLS = CHOLEC80_TOOLS[:6]  # the specimen bag is a target here, not an instrument

_TARGETS = {
    "grasper,dissect": "cystic_plate gallbladder omentum",
    "grasper,grasp": "cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum peritoneum "
    "specimen_bag",
    "grasper,pack": "gallbladder",
    "grasper,retract": "cystic_duct cystic_pedicle cystic_plate gallbladder gut liver omentum peritoneum",
    "bipolar,coagulate": "abdominal_wall_cavity blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate "
    "gallbladder liver omentum peritoneum",
    "bipolar,dissect": "adhesion cystic_artery cystic_duct cystic_plate gallbladder omentum",
    "bipolar,grasp": "cystic_plate liver specimen_bag",
    "bipolar,retract": "cystic_duct cystic_pedicle gallbladder liver omentum",
    "hook,coagulate": "blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate gallbladder liver omentum",
    "hook,cut": "blood_vessel peritoneum",
    "hook,dissect": "blood_vessel cystic_artery cystic_duct cystic_plate gallbladder omentum peritoneum",
    "hook,retract": "gallbladder liver",
    "scissors,coagulate": "omentum",
    "scissors,cut": "adhesion blood_vessel cystic_artery cystic_duct cystic_plate liver omentum peritoneum",
    "scissors,dissect": "cystic_plate gallbladder omentum",
    "clipper,clip": "blood_vessel cystic_artery cystic_duct cystic_pedicle cystic_plate",
    "irrigator,aspirate": "fluid",
    "irrigator,dissect": "cystic_duct cystic_pedicle cystic_plate gallbladder omentum",
    "irrigator,irrigate": "abdominal_wall_cavity cystic_pedicle liver",
    "irrigator,retract": "gallbladder liver omentum",
}
TRIPLETS = (
    *(f"{pair},{target}" for pair, targets in _TARGETS.items() for target in targets.split()),
    *(f"{tool.lower()},null_verb,null_target" for tool in TOOLS),
)
"""`instrument,verb,target` in the published order: 94 actions, then one per instrument that does nothing."""

# Nwoye and Padoy, arXiv:2204.05235; the last video of each fold is in CholecT50 only.
_FOLDS = (
    (79, 2, 51, 6, 25, 14, 66, 23, 50, 111),
    (80, 32, 5, 15, 40, 47, 26, 48, 70, 96),
    (31, 57, 36, 18, 52, 68, 10, 8, 73, 103),
    (42, 29, 60, 27, 65, 75, 22, 49, 12, 110),
    (78, 43, 62, 35, 74, 1, 56, 4, 13, 92),
)
_ONLY_T50 = frozenset(fold[-1] for fold in _FOLDS)
_RDV: dict[str, tuple[int, ...]] = {
    "train": (
        *(1, 15, 26, 40, 52, 65, 79, 2, 18, 27, 43, 56, 66, 92, 4, 22, 31, 47, 57, 68, 96, 5, 23, 35, 48),
        *(60, 70, 103, 13, 25, 36, 49, 62, 75, 110),
    ),
    "val": (8, 12, 29, 50, 78),
    "test": (6, 51, 10, 73, 14, 74, 32, 80, 42, 111),
}
_CHALLENGE_VAL, _CHALLENGE_TEST = (5, 18, 36, 65, 74), (92, 96, 103, 110, 111)


def _crossval(folds: Sequence[Sequence[int]]) -> dict[str, Split]:
    """`crossval-k` tests on fold k; the last five videos of the other folds, in their order, are for validation.

    So do the loaders of CholecT50, CholecT45 and RDV. That of CholecT45 was first published with the two lines the
    other way round: the five were left out, and the five before them were for validation and for training.
    """
    lists: dict[str, Split] = {}
    for k, fold in enumerate(folds):
        rest = [video for other in (*folds[:k], *folds[k + 1 :]) for video in other]
        lists[f"crossval-{k + 1}"] = {"train": rest[:-5], "val": rest[-5:], "test": fold}
    return lists


_CHALLENGE: Split = {
    "train": [v for fold in _FOLDS for v in fold if v not in _CHALLENGE_VAL + _CHALLENGE_TEST],
    "val": _CHALLENGE_VAL,
    "test": _CHALLENGE_TEST,
}
CHOLECT50_SPLITS: dict[str, Split] = {"rdv": _RDV, **_crossval(_FOLDS), "challenge": _CHALLENGE}
CHOLECT45_SPLITS: dict[str, Split] = {
    "rdv": {split: [v for v in videos if v not in _ONLY_T50] for split, videos in _RDV.items()},
    **_crossval([fold[:-1] for fold in _FOLDS]),
}

# EndoViT's few-shot lists of CholecT45. Its training videos are those of crossval-5, so only there they are offered.
ENDOVIT_SPLIT = "crossval-5"
ENDOVIT_BUDGETS = {
    "endovit-2-videos": ((27, 5), (70, 47), (51, 50)),
    "endovit-4-videos": ((36, 14, 57, 15), (23, 66, 31, 27), (42, 31, 6, 52)),
    "endovit-8-videos": (
        (18, 57, 51, 60, 27, 68, 36, 48),
        (2, 36, 5, 47, 48, 8, 6, 18),
        (47, 57, 8, 80, 15, 68, 40, 27),
    ),
}


def triplet_indices(names: Mapping[int, str], where: str) -> dict[int, int]:
    """A file's own number of a triplet -> its index in TRIPLETS, by name. Raises TrocarError for a stranger."""
    known = _known()
    for name in names.values():
        if canonical(name) not in known:
            raise TrocarError(f"{where}: unknown triplet {name!r}{nearest(name, TRIPLETS)}")
    return {number: known[canonical(name)] for number, name in names.items()}


@cache
def _known() -> dict[str, int]:
    return {canonical(name): i for i, name in enumerate(TRIPLETS)}
