"""Problems that are solved stay solved: an evaluation that was killed goes on with the first that is not.

A prediction follows from the protocol, the weights, the frames, the labels and the seed. It is kept under a hash of all
of these and of the code, so one that would come out differently today is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import trocar
from trocar.config import Config
from trocar.downstream.protocols.base import Frames, Prediction, Problem, Protocol, Targets
from trocar.downstream.solution import Solution, read_solution, write_solution

FOLDER, NETWORK = "finished", ".network.npz"
LEAD, OTHER = "scores", "other "


@dataclass
class Finished:
    """Solutions below `folder` (None: nothing is kept). `remap` stands for how masks are merged, which a problem cannot
    tell; `reused` counts the solutions that were there, `made` those that were not, `damaged` files that were no good.

    Of the fine-tuning recipes in `shared` (as JSON) networks are kept too, until `let_go`: several protocols begin with
    one, and a killed one need not fine-tune again. `homeless` counts those that could not be written: work saved is not
    worth an evaluation that ends for want of disk.
    """

    folder: Path | None
    remap: str = ""
    shared: frozenset[str] = frozenset()
    reused: int = 0
    made: int = 0
    damaged: int = 0
    homeless: int = 0
    networks: set[Path] = field(default_factory=set)

    def predict(self, protocol: Protocol, problem: Problem) -> Prediction:
        """`protocol.predict(problem)`, or what it gave before."""

        def solve() -> Solution:
            made = protocol.predict(replace(problem, kept=partial(self._network, problem)))
            others = {OTHER + name: scores for name, scores in made.others.items()}
            return Solution({LEAD: made.scores, **others}, dict(made.detail))

        found = self.solve(protocol, problem, solve)
        others = {name.removeprefix(OTHER): scores for name, scores in found.arrays.items() if name != LEAD}
        return Prediction(found.arrays[LEAD], found.words, others)

    def solve(
        self,
        protocol: Protocol,
        problem: Problem,
        solve: Callable[[], Solution],
        usable: Callable[[Solution], bool] = lambda _: True,
    ) -> Solution:
        """The kept solution if there is one and it is `usable`, else that of `solve`, which is then kept."""
        if self.folder is None:
            return solve()
        settings = protocol.model_dump_json(exclude={"title"})
        path = self.folder / f"{_key(protocol.name, settings, problem, self.remap)}.npz"
        found, new = self._kept(path, solve, usable, write_solution)
        self.made += new
        self.reused += not new
        return found

    def let_go(self, *, all_of_them: bool = False) -> None:
        """Drop the `networks` that were asked for since this was called last: they are large. `all_of_them`: those too
        that a killed evaluation left and nothing asked for again.
        """
        if self.folder is not None and all_of_them:
            self.networks.update(self.folder.glob(f"*{NETWORK}"))
        for path in self.networks:
            path.unlink(missing_ok=True)
        self.networks.clear()

    def _network(self, problem: Problem, recipe: Config, train: Callable[[], Solution]) -> Solution:
        settings = recipe.model_dump_json()
        if self.folder is None or settings not in self.shared:
            return train()
        path = self.folder / (_key("fine-tuning", settings, problem, self.remap) + NETWORK)
        self.networks.add(path)

        def keep(path: Path, network: Solution) -> None:
            try:
                write_solution(path, network)
            except OSError:
                self.homeless += 1

        return self._kept(path, train, lambda _: True, keep)[0]

    def _kept(
        self,
        path: Path,
        make: Callable[[], Solution],
        usable: Callable[[Solution], bool],
        keep: Callable[[Path, Solution], None],
    ) -> tuple[Solution, bool]:
        """With whether it was made now."""
        known = read_solution(path)
        if known is not None and usable(known):
            return known, False
        self.damaged += known is None and path.exists()
        made = make()
        keep(path, made)
        return made, True

    def said(self) -> list[str]:
        """In lines: what was there already, and what is no good, since this was asked last; nothing where all was made
        now.
        """
        parts = f"{self.reused + self.made} parts (protocol, seed, fold)"
        lines = [f"{self.reused} of {parts} were finished before"] if self.reused else []
        if self.damaged:
            lines.append(f"{self.damaged} damaged files in {self.folder}, made again")
        if self.homeless:
            lines.append(
                f"{self.homeless} fine-tuned networks could not be kept in {self.folder}: trained per protocol"
            )
        self.reused = self.made = self.damaged = self.homeless = 0
        return lines


def _key(method: str, settings: str, problem: Problem, remap: str) -> str:
    """32 hex digits over everything that a prediction follows from."""
    encoder, space = problem.encoder, problem.space
    words = [
        *(_code(), remap, encoder.identity, encoder.frames.key, encoder.size, encoder.batch, problem.seed),
        *(method, settings),
        *(problem.task.name, space.kind, space.classes, space.soft, space.unscored),
        *((partner.task.name, partner.space.kind, partner.space.classes) for partner in problem.partners),
    ]
    digest = hashlib.sha256(repr(words).encode())
    for part in (problem.train, problem.val):
        _add(digest, *((part.rows, part.case, part.targets) if part is not None else ()))
    _add(digest, problem.test.rows, problem.test.case, problem.case, problem.time_s)
    _add(digest, *(partner.targets for partner in problem.partners))
    if space.kind == "mask":
        _add_masks(digest, problem)
    return digest.hexdigest()[:32]


def _add(digest: Any, *arrays: Targets) -> None:
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(b"|")


def _add_masks(digest: Any, problem: Problem) -> None:
    """Size and time of every file with the truth, as of the frames: the table has no labels of masks, only names."""
    data = problem.encoder.frames.data
    parts: list[Frames] = [problem.train, problem.test, *([] if problem.val is None else [problem.val])]
    for row in np.concatenate([part.rows for part in parts]):
        status = os.stat(data.root / str(data.frames["mask"].iloc[row]))  # noqa: PTH116  as for the frames
        digest.update(f"{status.st_size}|{status.st_mtime_ns}\n".encode())


@cache
def _code() -> str:
    """Over the sources of everything that trains or predicts."""
    root = Path(trocar.__file__).parent
    digest = hashlib.sha256()
    for folder in ("backbones", "downstream"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
