"""Compare backbones on labelled frames: the same folds, protocols and metrics for every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd

from trocar.backbones.embed import choose_device
from trocar.downstream import figures
from trocar.downstream.arms import expand
from trocar.downstream.baselines.base import SIZE
from trocar.downstream.bench import Bench, drawn, make_bench
from trocar.downstream.budgets import most_draws
from trocar.downstream.config import EvaluateConfig
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.datasets.from_shards import locate
from trocar.downstream.datasets.table import LabelledFrames
from trocar.downstream.features import cache_folder
from trocar.downstream.frames import FrameCache
from trocar.downstream.metrics_file import write_metrics
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols import protocols as known_protocols
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.results import Results, Row
from trocar.downstream.runs import Scored, fits, make_encoder, score, usable
from trocar.downstream.tables import about_task
from trocar.errors import ConfigError
from trocar.leak.judge import Judge


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = lambda _: None) -> Results:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `say` gets a line of text for every step that takes long. Raises ConfigError for a bad configuration
    before anything is decoded, TrocarError for data that cannot be read.
    """
    protocols = [get_protocol(wanted) for wanted in config.protocol]
    device = choose_device(config.device)
    options = DatasetOptions(config.fps, tuple(config.phases), config.split, config.remap)
    data = open_dataset(config.data, config.layout, options)
    data = data if config.shards is None else locate(data, config.shards)
    benches = [make_bench(names, data, config) for names in config.task]
    _check(benches, protocols, config)
    arms = expand(config)
    if not arms:
        raise ConfigError("nothing to evaluate: give --backbone, or baselines")
    frames = FrameCache(data, cache_folder(config.out, config.cache))
    say(f"{data.layout}: {len(data)} frames of {data.frames['case'].nunique()} cases in {data.root}")
    for note in data.notes:
        say(f"note: {note}")
    frames.prepare([SIZE, *(member.size for arm in arms for member in arm.members if member.size)])
    about = {task.name: about_task(bench, task) for bench in benches for task in bench.tasks}
    judge = Judge(data, {str(case) for bench in benches for case in data.frames["case"].iloc[bench.rows]}, say)
    found = Scored()
    for arm in arms:
        say(arm.label)
        leak = judge.verdict([member.name for member in arm.members] if arm.kind == "backbone" else []).as_json()
        encoders = {member.name: make_encoder(arm, member, frames, config.batch, device) for member in arm.members}
        for bench in benches:
            for protocol in usable(arm, protocols, bench):
                part = score(arm, bench, protocol, encoders, config)
                found += replace(part, rows=[replace(row, leak=leak) for row in part.rows])
    for task, counts in found.counts.items():
        about[task] |= {"counts": counts, "absent": [name for name, n in counts.items() if n == 0]}
    predictions = pd.concat(found.tables, ignore_index=True)
    results = Results(_about(data, config), about, _ordered(found.rows, about), predictions)
    if config.out is not None:
        results.write(config.out)
        write_metrics(config.out, config.bootstrap)
        if config.figures:
            drawn_to = figures.draw(results.predictions, about, config.out / "figures")
            say(f"{len(drawn_to)} figures are in {config.out / 'figures'}")
    return results


def _check(benches: list[Bench], protocols: list[Protocol], config: EvaluateConfig) -> None:
    """What can be told before anything is decoded. Raises ConfigError."""
    for bench in benches:
        for draw in range(most_draws(bench.data, config.budget, config.draws)):
            drawn(bench, config, draw)
        if not any(fits(protocol, bench) for protocol in protocols):
            asked, fitting = (", ".join(protocol.name for protocol in some) for some in (protocols, _fitting(bench)))
            labels = ", ".join(bench.kinds)
            raise ConfigError(
                f"task {bench.name!r} ({labels} labels) cannot be learned by {asked}; add one of {fitting}"
            )
    for protocol in protocols:
        if not any(fits(protocol, bench) for bench in benches):
            raise ConfigError(f"protocol {protocol.name!r} can learn none of {', '.join(b.name for b in benches)}")


def _fitting(bench: Bench) -> list[Protocol]:
    known = [get_protocol(name) for name in known_protocols()]
    return [protocol for protocol in known if fits(protocol, bench)]


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
