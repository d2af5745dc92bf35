"""Stages of a study: one command each, named by the hash of everything that determines its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from trocar.core.config import fingerprint

Kind = Literal["pretrain", "evaluate", "report"]

STAGE_VERSION: Mapping[Kind, int] = {"pretrain": 2, "evaluate": 3, "report": 2}
"""Raised when the results of a kind of stage change for equal inputs; then its stages are computed again."""


@dataclass(frozen=True)
class Stage:
    """One command. Equal results have equal names, in every study.

    `inputs`: all that determines the result, as JSON values, without where things lie. `config`: the command's
    configuration as far as it does not depend on the store. `parents`: names of stages whose results it needs.
    `parent_backbone`: the pretraining whose backbone an evaluation takes. `like`: what has the same speed (a hash), and
    `work` how much of it there is, for estimates.
    """

    kind: Kind
    inputs: Mapping[str, Any]
    config: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    parent_backbone: str | None = None
    like: str = ""
    work: float = 1.0
    version: int = field(default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", self.version or STAGE_VERSION[self.kind])

    @cached_property
    def name(self) -> str:
        """`<kind>-<hash>` over kind, version, inputs and parents."""
        tree = {"kind": self.kind, "version": self.version, "inputs": self.inputs, "parents": list(self.parents)}
        return f"{self.kind}-{fingerprint(tree)}"

    def to_json(self) -> dict[str, Any]:
        """What stage.yaml holds."""
        return {
            "name": self.name,
            "kind": self.kind,
            "version": self.version,
            "parents": list(self.parents),
            "parent_backbone": self.parent_backbone,
            "inputs": dict(self.inputs),
            "config": dict(self.config),
            "like": self.like,
            "work": self.work,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Stage:
        """The inverse of `to_json`."""
        rest = {key: value for key, value in tree.items() if key not in ("name", "parents")}
        return cls(**rest, parents=tuple(tree["parents"]))
