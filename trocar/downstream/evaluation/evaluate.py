"""Compare backbones on labelled frames: the same folds, protocols and metrics for every arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from trocar.core.config import fingerprint
from trocar.core.files import locked
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.downstream import figures
from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.folder import LabelTable
from trocar.downstream.datasets.readers.masks import load_remap
from trocar.downstream.datasets.readers.videos import locate
from trocar.downstream.evaluation.contenders import Contender, check_arms, check_tasks, expand, sizes, usable
from trocar.downstream.evaluation.evaluate_config import Computing, EvaluateConfig
from trocar.downstream.evaluation.experiment import Experiment, make_experiment
from trocar.downstream.evaluation.result_cache import FOLDER, Finished
from trocar.downstream.evaluation.results import PREDICTIONS, EvaluationResults, ResultRow, RowOrigin
from trocar.downstream.evaluation.run_files import about_task, track
from trocar.downstream.evaluation.runner import FIGURES, PredictedContender, Runner, encoders_of
from trocar.downstream.evaluation.together import solve_together
from trocar.downstream.features.feature_cache import cache_folder
from trocar.downstream.features.frame_cache import FrameCache, Size, extent
from trocar.downstream.folds import Budget
from trocar.downstream.labels import CopyCheck, LabelledFrames, LeakChecks
from trocar.downstream.mask_survey import check_masks
from trocar.downstream.predictions.prediction_file import About, Predictions
from trocar.downstream.predictions.prediction_scores import PredictionScores
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.work_share import WorkShare
from trocar.errors import ConfigError
from trocar.privacy.aliases import Aliases, aliases_of, withhold
from trocar.privacy.private_data import Private, private_of, private_of_runs, to_show

LOCK = ".writing.lock"
DECODED = "frames decoded"
LEAST_SIDE = 32
"""Pixels from which a decoded frame is large enough to tell pictures apart."""


def alone() -> AbstractContextManager[WorkShare]:
    """All of the work."""
    return nullcontext(WorkShare())


def evaluate(
    config: EvaluateConfig,
    judge: LeakChecks,
    say: Say = lambda _: None,
    *,
    own: Sequence[Contender] = (),
    labels: LabelTable | None = None,
    together: Callable[[], AbstractContextManager[WorkShare]] = alone,
) -> EvaluationResults:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `judge` says of every backbone whether it has seen the test cases (`trocar.leakage.judge`). `own` are contenders
    that no name stands for (`own_contender`); `labels` are in place of those in `config.data`, where only pictures are
    then. `say` gets a line of text for every step that takes long. `together` brings other ranks, which run
    `take_part`: it is entered when the configuration is known to be good, and left when all is done. Raises ConfigError
    for a bad configuration before anything is decoded, TrocarError for data that cannot be read.
    """
    _check_out(config)
    computing = Computing.of(config)
    plan = EvaluationPlan.of(config, own, labels)
    with computing.products(), together() as share:
        return _evaluate(plan, config, computing, judge, say, share)


def take_part(config: EvaluateConfig, share: WorkShare, device: str) -> None:
    """What a rank other than 0 does of an evaluation: its share of features and problems, on `device`.

    Raises as `evaluate`, and TrocarError where another rank ends before its time.
    """
    computing = replace(Computing.of(config), device=device)
    plan = EvaluationPlan.of(config)
    with computing.products():
        frames = FrameCache(plan.data, cache_folder(config.out, config.cache))
        share.wait(DECODED)
        for size in plan.sizes:
            share.see(frames.path(size))
        runner = Runner(config.repeats, config.out, config.figures, _private(plan, config), _finished(config))
        _solve(plan, frames, computing, runner, share, lambda _: None)


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation consists of, known by the labels alone: every protocol is for every bench that it fits, and
    each of these pairs is a row per arm and task.
    """

    data: LabelledFrames
    benches: Sequence[Experiment]
    protocols: Sequence[Protocol]
    arms: Sequence[Contender]

    @staticmethod
    def of(config: EvaluateConfig, own: Sequence[Contender] = (), labels: LabelTable | None = None) -> EvaluationPlan:
        """Raises ConfigError for what does not exist or does not fit, TrocarError for labels that cannot be read."""
        protocols = [get_protocol(wanted) for wanted in config.protocol]
        data, budget = _open(config, labels), Budget(config.budget, config.draws)
        benches = [make_experiment(names, data, config.folds, config.val, config.fps, budget) for names in config.task]
        check_tasks(benches, protocols)
        arms = expand(config.backbone, config.baselines, config.seeds, config.size, own)
        check_arms(arms, benches, protocols)
        return EvaluationPlan(data, benches, protocols, arms)

    @property
    def sizes(self) -> set[Size]:
        """All sizes in pixels that frames are needed at."""
        return sizes(self.arms, self.benches, self.protocols)

    @property
    def test_cases(self) -> set[str]:
        """Those of all benches."""
        return {str(case) for bench in self.benches for case in self.data.frames["case"].iloc[bench.rows]}

    def lines(self) -> list[str]:
        """For people: the data, every bench, and what each arm goes through there."""
        found = [_found(self.data)]
        for bench in self.benches:
            cases = len({str(case) for case in self.data.frames["case"].iloc[bench.rows]})
            budget = f", {bench.budget.words}" if bench.budget.words else ""
            found.append(f"{bench.name}: {len(bench.rows)} test frames of {cases} cases, {bench.scheme}{budget}")
            for arm in self.arms:
                through = ", ".join(protocol.label for protocol in usable(arm, self.protocols, bench))
                seeds = f", {len(arm.members)} seeds" if len(arm.members) > 1 else ""
                found += [f"  {arm.label}{seeds}: {through}"] if through else []
        return found


def planned(config: EvaluateConfig) -> list[str]:
    """What would be evaluated, in lines, by the labels alone. Raises ConfigError as `evaluate`."""
    _check_out(config)
    plan = EvaluationPlan.of(config)
    hidden = _private(plan, config).hidden
    return [hidden.text(line) for line in plan.lines()]


def _evaluate(
    plan: EvaluationPlan,
    config: EvaluateConfig,
    computing: Computing,
    judge: LeakChecks,
    say: Say,
    share: WorkShare,
) -> EvaluationResults:
    private = _private(plan, config)
    say = private.hidden.saying(say)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / LOCK).touch()  # a folder that cannot be written to is better known now
        # Before anything that others could pick up.
        withhold(config.out, private.names, private.cases, private.called)
    say(_found(plan.data))
    for note in plan.data.notes:
        say(f"note: {note}")
    frames = FrameCache(plan.data, cache_folder(config.out, config.cache))
    if any(task.masks for bench in plan.benches for task in bench.tasks):
        check_masks(plan.data, frames.folder)
    frames.prepare(list(plan.sizes))
    share.wait(DECODED)
    runner = Runner(config.repeats, config.out, config.figures, private, _finished(config))
    if share.size > 1:
        _solve(plan, frames, computing, runner, share, say)
    data = _with_copies(plan.data, frames, plan.sizes, judge, say)
    judged = judge.judging(data, plan.test_cases, say)
    found, leaks = PredictedContender(), {}
    told = say if share.size == 1 else lambda _: None  # what is done was told when it was done
    for arm in plan.arms:
        told(arm.label)
        weights = [member.name for member in arm.members] if arm.kind == "backbone" else []
        leaks[arm.label] = judged(weights)
        encoders = encoders_of(arm, frames, computing)
        for bench in plan.benches:
            theirs = usable(arm, plan.protocols, bench)
            runner.finished.expect(theirs)
            for protocol in theirs:
                if protocol.trains_network:  # a log should say what takes so long
                    told(f"  {bench.name}: {protocol.label}")
                found += runner.predict(arm, bench, protocol, encoders)
            runner.finished.let_go()
        for line in runner.finished.said():
            told(f"  {line}")
    found.rows = [replace(row, leak=leaks[row.arm]) for row in found.rows]
    results = _results(data, plan.benches, found, config, computing, private.hidden)
    if config.out is not None:
        with locked(config.out / LOCK):  # two at once would mix their tables and figures
            _write(results, config.figures, config.out, private, found.overlays, say)
        if config.tracking.uri != "none":
            settings, tracking = config.model_dump(mode="json"), config.tracking
            track(results, config.out, settings, tracking.uri, tracking.experiment, say)
    return results


def _solve(
    plan: EvaluationPlan, frames: FrameCache, computing: Computing, runner: Runner, share: WorkShare, say: Say
) -> None:
    computing = computing.among(share.sharing())
    encoders = partial(encoders_of, frames=frames, computing=computing)
    solve_together(plan.arms, plan.benches, plan.protocols, runner, encoders, share, say)


def _check_out(config: EvaluateConfig) -> None:
    if config.out is None and config.tracking.uri != "none":
        raise ConfigError("tracking: give out, the folder with the record that mlflow is brought up to")
    for place in () if config.out is None else (config.out, *config.out.parents):
        if place.is_file():
            raise ConfigError(f"{place} is a file: give a folder to write to")


def _found(data: LabelledFrames) -> str:
    return f"{data.layout}: {len(data)} frames of {data.frames['case'].nunique()} cases in {data.root}"


def _with_copies(
    data: LabelledFrames, frames: FrameCache, decoded: Iterable[Size], check: CopyCheck, say: Say
) -> LabelledFrames:
    """With notes that name copies between its training and test cases, found in the frames that are decoded anyway."""
    enough = [size for size in decoded if min(extent(size)) >= LEAST_SIDE]
    if not enough:
        return data
    pixels, rows = frames.get(min(enough, key=extent)), check.rows_to_compare(data)
    lines = check.copies_within(data, rows, (pixels[row] for row in rows))
    for line in lines:
        say(f"note: {line}")
    return replace(data, notes=(*data.notes, *lines))


def _open(config: EvaluateConfig, labels: LabelTable | None = None) -> LabelledFrames:
    options = config.dataset_options()
    own = None if labels is None else labels.read(config.data, options)
    data = open_dataset(config.data, config.layout, options) if own is None else own
    return data if config.shards is None else locate(data, config.shards)


def _private(plan: EvaluationPlan, config: EvaluateConfig) -> Private:
    """What must not be shown: of the data, and of what the backbones were trained on."""
    if config.privacy.share_frames:
        return Private()
    catalog = None if plan.data.shards is None else Catalog.open(plan.data.shards)
    runs = private_of_runs(member.name for arm in plan.arms for member in arm.members)
    found = Private.join([private_of(plan.data, config.private, catalog), runs])
    return (
        found if config.out is None else found.called_as(aliases_of(config.out, found.names, found.cases, found.called))
    )


def _finished(config: EvaluateConfig) -> Finished:
    folder = None if config.out is None else config.out / FOLDER
    return Finished(folder, "" if config.remap is None else fingerprint(load_remap(config.remap)))


def _results(
    data: LabelledFrames,
    benches: Sequence[Experiment],
    found: PredictedContender,
    config: EvaluateConfig,
    computing: Computing,
    hidden: Aliases,
) -> EvaluationResults:
    about = {task.name: about_task(bench, task) for bench in benches for task in bench.tasks}
    path = Path(PREDICTIONS) if config.out is None else config.out / PREDICTIONS
    predictions = Predictions(pd.concat(found.tables, ignore_index=True), _about_tasks(about), path)
    scores = PredictionScores.of(predictions, config.bootstrap)
    for key, run in scores.runs.items():
        counts = {name: int(n) for name, n in zip(run.outcome.classes, run.outcome.occurrences, strict=True)}
        about[key.task] |= {"counts": counts, "absent": [name for name, n in counts.items() if n == 0]}
    rows = [
        ResultRow.of(row, scores.contenders[row.task, row.arm, row.protocol], about[row.task]["metrics"])
        for row in _ordered(found.rows, about)
    ]
    return EvaluationResults(_about(data, config) | {"computed": computing.record()}, about, rows, scores, hidden)


def _about_tasks(tasks: Mapping[str, Mapping[str, Any]]) -> About:
    """What rows of predictions do not say, of what results.json says of the tasks."""
    classes = {task: about["classes"] for task, about in tasks.items()}
    unscored = {task: about["unscored"] for task, about in tasks.items()}
    background = {task: name for task, about in tasks.items() if (name := about.get("background")) is not None}
    return About(classes, next(iter(tasks.values()))["fps"], unscored, background)


def _write(
    results: EvaluationResults,
    pictures: bool,
    out: Path,
    private: Private,
    overlays: Iterable[Callable[[], list[Path]]],
    say: Say,
) -> None:
    results.write(out)
    drawn = [path for draw_overlay in overlays for path in draw_overlay()]
    if pictures:
        say("figures")
        drawn += figures.draw(to_show(results.predictions, private), results.tasks, out / FIGURES)
        say(f"figures are in {out / FIGURES}: {len(drawn)}")
    for old in set((out / FIGURES).glob("*.png")) - set(drawn):
        old.unlink()  # of an evaluation before, whose numbers are no longer here


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


def _ordered(rows: list[RowOrigin], tasks: dict[str, Any]) -> list[RowOrigin]:
    """By task, then protocol in the order it was asked for with the prior last, keeping the order of arms."""
    names = list(dict.fromkeys(row.protocol for row in rows if row.kind != "majority"))
    places = {name: i for i, name in enumerate(names)}
    order = list(tasks)
    return sorted(rows, key=lambda row: (order.index(row.task), places.get(row.protocol, len(places))))
