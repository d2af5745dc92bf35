"""Compare backbones on labelled frames: the same folds, protocols and metrics for every arm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,unused-ignore]

from trocar.backbones.embed import choose_device
from trocar.downstream.arms import Arm, Member, expand
from trocar.downstream.baselines import BASELINES
from trocar.downstream.baselines.base import SIZE
from trocar.downstream.bench import Bench, drawn, make_bench
from trocar.downstream.budgets import most_draws
from trocar.downstream.config import EvaluateConfig
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.encoder import Encoder
from trocar.downstream.features import Features, cache_folder
from trocar.downstream.folds import Fold
from trocar.downstream.frames import FrameCache
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import Prediction, Protocol
from trocar.downstream.protocols.prior import Prior
from trocar.downstream.results import Results, Row
from trocar.downstream.tables import Run, about_task, make_row, prediction_table
from trocar.errors import ConfigError
from trocar.leak.judge import Judge

# Below this many feature values BLAS threads wait for each other longer than they compute, above all on a busy machine.
SMALL = 20_000_000


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = lambda _: None) -> Results:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `say` gets a line of text for every step that takes long. Raises ConfigError for a bad configuration
    before anything is decoded, TrocarError for data that cannot be read.
    """
    protocols = [get_protocol(wanted) for wanted in config.protocol]
    device = choose_device(config.device)
    options = DatasetOptions(config.fps, tuple(config.phases), config.split, config.remap)
    data = open_dataset(config.data, config.layout, options)
    benches = [make_bench(names, data, config) for names in config.task]
    _check(benches, protocols, config)
    arms = expand(config)
    frames = FrameCache(data, cache_folder(config.out, config.cache))
    say(f"{data.layout}: {len(data)} frames of {data.frames['case'].nunique()} cases in {data.root}")
    for note in data.notes:
        say(f"note: {note}")
    frames.prepare([SIZE, *(member.size for arm in arms for member in arm.members if member.size)])
    judge = Judge(data, {str(case) for bench in benches for case in data.frames["case"].iloc[bench.rows]}, say)
    rows, predictions = [], []
    for arm in arms:
        say(arm.label)
        leak = judge.verdict([member.name for member in arm.members] if arm.kind == "backbone" else []).as_json()
        encoders = {member.name: _encoder(arm, member, frames, config.batch, device) for member in arm.members}
        for bench in benches:
            for protocol in _used(arm, protocols, bench):
                found, table = _score(arm, bench, protocol, encoders, config)
                rows += [replace(row, leak=leak) for row in found]
                predictions += table
    about = {task.name: about_task(bench, task) for bench in benches for task in bench.tasks}
    results = Results(_about(data, config), about, _ordered(rows, about), pd.concat(predictions, ignore_index=True))
    if config.out is not None:
        results.write(config.out)
    return results


def _check(benches: list[Bench], protocols: list[Protocol], config: EvaluateConfig) -> None:
    """What can be told before anything is decoded. Raises ConfigError."""
    for bench in benches:
        for draw in range(most_draws(bench.data, config.budget, config.draws)):
            drawn(bench, config, draw)
        for protocol in protocols:
            together = len(bench.tasks) > 1 and not protocol.trains_network
            strange = [kind for kind in bench.kinds if kind not in protocol.kinds]
            if strange or together:
                fitting = "a protocol that trains the network" if together else f"one for {strange[0]} labels"
                raise ConfigError(f"task {bench.name!r} cannot be learned by protocol {protocol.name!r}; use {fitting}")


def _used(arm: Arm, protocols: list[Protocol], bench: Bench) -> list[Protocol]:
    if arm.kind == "majority":
        return [Prior()] if len(bench.tasks) == 1 else []
    return [p for p in protocols if not (p.trains_network and arm.kind == "baseline")]


def _encoder(arm: Arm, member: Member, frames: FrameCache, batch: int, device: str) -> Encoder:
    plain = _nothing if arm.kind == "majority" else BASELINES.get(member.name)
    return Encoder(frames, member.size, member.model, plain if member.model is None else None, batch, device)


def _nothing(frames: FrameCache) -> Features:
    return np.zeros((len(frames.data), 1), dtype=np.float32)


def _score(
    arm: Arm, bench: Bench, protocol: Protocol, encoders: dict[str, Encoder], config: EvaluateConfig
) -> tuple[list[Row], list[pd.DataFrame]]:
    runs = list(_runs(bench, protocol, encoders, config))
    label = protocol.label + (f", {bench.name}" if len(bench.tasks) > 1 else "")
    rows = [make_row(arm, bench, task, label, runs, config.bootstrap) for task in bench.tasks]
    tables = [
        prediction_table(arm, seed, bench, task, label, run) for task in bench.tasks for seed, run in enumerate(runs)
    ]
    return rows, tables


def _runs(bench: Bench, protocol: Protocol, encoders: dict[str, Encoder], config: EvaluateConfig) -> Iterator[Run]:
    """Every member with every draw of the budget and every random start."""
    draws = most_draws(bench.data, config.budget, config.draws)
    repeats = config.repeats if protocol.random_start else 1
    for name, encoder in encoders.items():
        for draw in range(draws):
            folds = drawn(bench, config, draw)
            for seed in range(repeats):
                words = [name] + [f"draw {draw}"] * (draws > 1) + [f"start {seed}"] * (repeats > 1)
                yield _run(", ".join(words), bench, folds, protocol, encoder, seed)


def _run(member: str, bench: Bench, folds: list[Fold], protocol: Protocol, encoder: Encoder, seed: int) -> Run:
    small = protocol.trains_network or encoder.features.size < SMALL
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        found: list[Prediction] = [protocol.predict(bench.problem(fold, encoder, seed)) for fold in folds]
    lead = bench.tasks[0].name
    scores = {lead: np.concatenate([p.scores for p in found])}
    for task in bench.tasks[1:]:
        scores[task.name] = np.concatenate([p.others[task.name] for p in found])
    return Run(member, scores, [dict(p.detail) for p in found], folds)


def _about(data: LabelledFrames, config: EvaluateConfig) -> dict[str, Any]:
    return {
        "root": str(data.root),
        "layout": data.layout,
        "fingerprint": data.fingerprint,
        "split": config.split,
        "val": config.val,
        "budget": config.budget,
        "frames": len(data),
        "cases": int(data.frames["case"].nunique()),
        "videos": int(data.frames["video"].nunique()),
        "notes": list(data.notes),
    }


def _ordered(rows: list[Row], tasks: dict[str, Any]) -> list[Row]:
    """By task, then protocol in the order it was asked for with the prior last, keeping the order of arms."""
    names = list(dict.fromkeys(row.protocol for row in rows if row.kind != "majority"))
    places = {name: i for i, name in enumerate(names)}
    order = list(tasks)
    return sorted(rows, key=lambda row: (order.index(row.task), places.get(row.protocol, len(places))))
