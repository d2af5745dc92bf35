"""What tests compute in several processes, in one launch for all: a process that imports torch and timm starts slowly.

A test module declares `on_two_ranks(rank, folder)`, which two processes call at the same time and whose results are
kept; perhaps also `prepare(folder)`, called before, and `alone(folder)`, which a third process calls meanwhile. Its
tests ask for the fixture `ranks`, the results of ranks 0 and 1, or for `launched`, the folder of all modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

Jobs = dict[str, Callable[..., Any]]


def launch(modules: Sequence[Any], folder: Path) -> None:
    """Run the jobs of the modules; results of rank r go to folder / MODULE / r.pt."""
    jobs = {m.__name__: m.on_two_ranks for m in modules}
    alone = {m.__name__: m.alone for m in modules if hasattr(m, "alone")}
    for module in modules:
        (folder / module.__name__).mkdir()
        if hasattr(module, "prepare"):
            module.prepare(folder / module.__name__)
    mp.spawn(_process, (jobs, alone, folder), nprocs=3 if alone else 2)


def meet(store: Path) -> None:
    """The process groups that follow find each other by this file, which must be new for each."""
    os.environ["TROCAR_RENDEZVOUS"] = f"file://{store}"


def _process(number: int, jobs: Jobs, alone: Jobs, folder: Path) -> None:
    torch.set_num_threads(1)
    if number == 2:
        for name, job in alone.items():
            job(folder / name)
        return
    for name, job in jobs.items():
        meet(folder / name / "store")
        torch.save(job(number, folder / name), folder / name / f"{number}.pt")
