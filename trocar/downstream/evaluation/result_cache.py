"""Problems that are solved stay solved: an evaluation that was killed goes on with the first that is not.

A prediction follows from the protocol, the weights, the frames, the labels and the seed. It is kept under a hash of all
of these and of the code, so one that would come out differently today is never taken for it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import trocar
from trocar.core.config import Config
from trocar.core.plugins import plugins_in
from trocar.core.registry import modules_of
from trocar.downstream.datasets.base import DATASETS
from trocar.downstream.protocols.base import (
    Goal,
    Prediction,
    Problem,
    Protocol,
    Solution,
    Targets,
    read_solution,
    write_solution,
)
from trocar.downstream.tasks.base import TASKS

FOLDER, NETWORK = "finished", ".network.npz"
STALE = 7 * 86400
LEAD, OTHER = "scores", "other "


@dataclass
class Finished:
    """Solutions below `folder` (None: nothing is kept). `remap` stands for how masks are merged, which a problem cannot
    tell; `reused` counts the solutions that were there, `made` those that were not, `damaged` files that were no good.

    Fine-tuned networks are kept too while protocols that begin with them are to come (`expect`, `let_go`), so that a
    killed one need not fine-tune again. `homeless` counts those that could not be written: saved work is not worth an
    evaluation that ends for want of disk.
    """

    folder: Path | None
    remap: str = ""
    reused: int = 0
    made: int = 0
    damaged: int = 0
    homeless: int = 0
    _mine: set[Path] = field(default_factory=set)
    _last: dict[str, Protocol] = field(default_factory=dict)
    _networks: set[Path] = field(default_factory=set)

    def expect(self, protocols: Sequence[Protocol]) -> None:
        """What the next problems go through, in this order: of each fine-tuning that a protocol goes on from, the last
        protocol that begins with it.
        """
        recipes = [(_recipe(protocol), protocol) for protocol in protocols]
        wanted = {recipe for recipe, protocol in recipes if protocol.goes_on}
        self._last = {recipe: protocol for recipe, protocol in recipes if recipe in wanted}

    def let_go(self) -> None:
        """Drop the networks of what was expected: they are large. So are those that an evaluation left which was killed
        and not run again, after `STALE` seconds.
        """
        if self.folder is None:
            return
        old = {path for path in self.folder.glob(f"*{NETWORK}*") if _age(path) > STALE}
        for path in self._networks | old:
            path.unlink(missing_ok=True)
        self._networks.clear()

    def predict(self, protocol: Protocol, problem: Problem) -> Prediction:
        """`protocol.predict(problem)`, or what it gave before."""
        network = self._network_path(protocol, problem)

        def kept(_: Config, train: Callable[[], Solution]) -> Solution:
            return train() if network is None else self._kept(network, train, lambda _: True, self._keep_network)[0]

        def solve() -> Solution:
            made = protocol.predict(replace(problem, kept=kept))
            others = {OTHER + name: scores for name, scores in made.others.items()}
            return Solution({LEAD: made.scores, **others}, dict(made.detail))

        found = self.solve(protocol, problem, solve)
        if network is not None and protocol is self._last[_recipe(protocol)]:
            network.unlink(missing_ok=True)
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
        path = self.folder / f"{_key(protocol.name, settings, protocol, problem, self.remap)}.npz"
        found, new = self._kept(path, solve, usable, self._keep_solution)
        self.made += new
        self.reused += not new and path not in self._mine
        self._mine.add(path)
        return found

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

    def _network_path(self, protocol: Protocol, problem: Problem) -> Path | None:
        recipe = _recipe(protocol)
        if self.folder is None or recipe not in self._last:
            return None
        made_of = [type(protocol), protocol.fine_tuning()]  # a head on top of it is none of its business
        path = self.folder / (_key("fine-tuning", recipe, made_of, problem, self.remap) + NETWORK)
        self._networks.add(path)
        return path

    def _kept(
        self,
        path: Path,
        make: Callable[[], Solution],
        usable: Callable[[Solution], bool],
        keep: Callable[[Path, Solution], None],
    ) -> tuple[Solution, bool]:
        """With whether it was made now."""
        there = path.exists()
        known = read_solution(path)
        if known is not None and usable(known):
            return known, False
        self.damaged += known is None and there
        made = make()
        keep(path, made)
        return made, True

    def _keep_network(self, path: Path, network: Solution) -> None:
        try:
            write_solution(path, network)
        except OSError:
            self.homeless += 1

    def _keep_solution(self, path: Path, solution: Solution) -> None:
        try:
            write_solution(path, solution)
        except OSError:
            if not self._networks:
                raise
            self.let_go()  # which may make the room
            write_solution(path, solution)


def _age(path: Path) -> float:
    """Seconds since it was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _recipe(protocol: Protocol) -> str:
    """The fine-tuning that a protocol begins with as JSON, '' without one."""
    settings = protocol.fine_tuning()
    return "" if settings is None else settings.model_dump_json()


def _key(method: str, settings: str, made_of: Any, problem: Problem, remap: str) -> str:
    """32 hex digits over everything that a prediction follows from; `made_of` is what may have come from a plugin."""
    encoder = problem.encoder
    plugins = plugins_in(modules_of(made_of) | _modules(problem))
    words = [
        *(_code(), repr(plugins), torch.__version__, timm.__version__, torch.device(encoder.device).type),
        *(remap, encoder.identity, encoder.frames.key, encoder.size, encoder.frames_at_once),
        *(encoder.precision, problem.seed),
        *(method, settings),
        *(_labels(goal) for goal in problem.goals),
    ]
    digest = hashlib.sha256(repr(words).encode())
    for rows in (problem.train, problem.val, problem.test):
        _add(digest, *(() if rows is None else (rows,)))
    _add(digest, problem.case, problem.time_s, *(goal.targets for goal in problem.goals))
    if problem.space.kind == "mask":
        _add_masks(digest, problem)
    return digest.hexdigest()[:32]


def _modules(problem: Problem) -> set[str]:
    """Where labels and features come from; what a network is made of is in the encoder's identity."""
    layout = problem.encoder.frames.data.layout
    names = [goal.task.name for goal in problem.goals]
    tasks = {TASKS.module_of(name) for name in names if name in TASKS}
    adapter = {DATASETS.module_of(layout)} if layout in DATASETS else set()
    return tasks | adapter | modules_of(problem.encoder.plain)


def _labels(goal: Goal) -> tuple[Any, ...]:
    space = goal.space
    return goal.task.name, space.kind, space.classes, space.soft, space.unscored


def _add(digest: Any, *arrays: Targets) -> None:
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(b"|")


def _add_masks(digest: Any, problem: Problem) -> None:
    """Size and time of every file with the truth, as of the frames: the table has no labels of masks, only names. And
    which part of it is taken.
    """
    data = problem.encoder.frames.data
    parts = [problem.train, problem.test, *([] if problem.val is None else [problem.val])]
    for row in np.concatenate(parts):
        for file in problem.space.files_at(data.root / str(data.frames["mask"].iloc[row])):
            status = os.stat(file)  # noqa: PTH116  as for the frames
            digest.update(f"{status.st_size}|{status.st_mtime_ns}\n".encode())
        digest.update(repr(data.shown.get(str(data.frames["video"].iloc[row]))).encode())


@cache
def _code() -> str:
    """Over the sources of everything that trains or predicts."""
    root = Path(trocar.__file__).parent
    digest = hashlib.sha256()
    for folder in ("core", "backbones", "data", "downstream"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
