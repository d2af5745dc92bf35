"""Problems with pixels and a tiny network: what a protocol needs that trains the network."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from downstream_factory import make_folder

from trocar.backbones.load import load_backbone
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.evaluation.experiment import Experiment, make_experiment
from trocar.downstream.features.feature_cache import Encoder
from trocar.downstream.features.frame_cache import FrameCache
from trocar.downstream.labels import LabelSpace
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.protocols.base import Goal, Problem
from trocar.downstream.tasks import get_task

SIZE = 32


def make_encoder(bench: Experiment, folder: Path, architecture: str = "test_resnet", seed: int = 1) -> Encoder:
    """The frames of a bench and a randomly drawn network of timm's smallest."""
    network = partial(load_backbone, f"random:{architecture}", seed=seed)
    return Encoder(FrameCache(bench.data, folder / "cache"), SIZE, network, batch=16)


def open_bench(root: Path, tasks: str = "phase", **settings: Any) -> Experiment:
    """The bench of a folder that exists."""
    return make_experiment(tasks, open_dataset(root, "folder", DatasetOptions()), **{"folds": 2, **settings})


def colour_problem(tmp_path: Path, tasks: str = "phase", architecture: str = "test_resnet", seed: int = 0) -> Problem:
    """Cases 0 and 2 train, 1 and 3 test; brightness is the phase, redness the tool; no validation cases."""
    bench = open_bench(make_folder(tmp_path / "data", frames=12), tasks)
    return bench.problem(bench.folds[0], make_encoder(bench, tmp_path, architecture), seed)


def with_validation(problem: Problem) -> Problem:
    """The last training case becomes the validation case."""
    case = problem.case[problem.train]
    held = case == case.max()
    return replace(problem, train=problem.train[~held], val=problem.train[held])


def soft_problem(tmp_path: Path, targets: np.ndarray) -> Problem:
    """The colour problem with `targets` [n, K] in 0..1 in place of its labels, in the order of the training rows."""
    problem = colour_problem(tmp_path)
    names = tuple(f"C{i}" for i in range(targets.shape[1]))
    space = LabelSpace("tools", "multilabel", names, soft=True)
    column = np.full((len(problem.case), targets.shape[1]), -1.0)
    column[problem.train] = targets
    return replace(problem, goals=(Goal(get_task("tools"), space, column),))


def truth(problem: Problem, rows: Ints) -> np.ndarray:
    """Phases of rows of the colour problem, from the table."""
    found: np.ndarray = problem.encoder.frames.data.frames["phase"].to_numpy()[rows]
    return found
