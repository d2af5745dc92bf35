"""Trocar from Python: the same functions that stand behind the command line.

A configuration object, or a preset with keywords, goes in; a result object comes out. Nothing prints (progress goes to
the logger `trocar`), installs signal handlers or ends the process. All of them raise ConfigError for what is wrong with
the arguments, before anything is computed, and TrocarError for what fails at run time.
"""

from __future__ import annotations

import copy
import fnmatch
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from trocar.api_results import EvaluationResult, IngestResult, RunResult, StudyResult
from trocar.backbones import load_backbone, own_module
from trocar.backbones.published.family import BACKBONES
from trocar.core.config import Model, merge, tree_of, validate
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.downstream.datasets import open_dataset as read_dataset
from trocar.downstream.datasets.base import DATASETS, DatasetOptions
from trocar.downstream.datasets.folder import LabelTable
from trocar.downstream.datasets.readers.videos import locate
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.labels import LabelledFrames
from trocar.errors import ConfigError, nearest

if TYPE_CHECKING:
    from trocar.jobs.sweep_result import SweepResult
    from trocar.ssl.run.own_batches import Batches
    from trocar.ssl.run.pretrain_config import PretrainConfig
    from trocar.study.config import StudyConfig

__all__ = [
    "EvaluationResult",
    "IngestResult",
    "RunResult",
    "StudyResult",
    "embed",
    "evaluate",
    "ingest",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "list_tasks",
    "load_backbone",
    "open_dataset",
    "pretrain",
    "run_study",
    "score_predictions",
    "sweep",
]

Backbone = str | Path | RunResult | nn.Module
log = logging.getLogger("trocar")


def pretrain(
    config: str | Path | Mapping[str, Any] | PretrainConfig,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    model: nn.Module | None = None,
    batches: Batches | None = None,
    say: Say = log.info,
    **settings: Any,
) -> RunResult:
    """Pretrain a backbone by self-supervision; the same `out` always resumes, and a finished run returns at once.

    `config` is a preset (`trocar presets list`), a YAML file, a mapping or a PretrainConfig. `data` is a shards folder
    and `out` the run folder; `settings` change sections, whole or in part, such as `train={"steps": 1000}` or
    `**{"train.steps": 1000}`. `model` is a backbone of your own, whose forward makes features [n, D] of pictures
    [n, 3, S, S]; `batches` are batches of your own (`trocar.ssl.run.own_batches`). Both stay in this process, make the
    leak verdict of the weights `unknown`, and are hard to resume: `model` has to begin with the same weights again, and
    what of `batches` was seen is not known. Ctrl-C ends the run; the next call goes on from its last checkpoint.
    """
    from trocar.jobs.pretrain import pretrain as run
    from trocar.ssl.run.own_batches import NO_CATALOG
    from trocar.ssl.run.pretrain_config import PretrainConfig

    places: dict[str, Any] = {} if out is None else {"run.out": str(out)}
    if batches is not None:
        if data is not None:
            raise ConfigError("pretrain: give data or batches, not both")
        places["data.catalog"] = NO_CATALOG
    elif data is not None:
        places["data.catalog"] = str(data)
    if model is not None:
        if not isinstance(model, nn.Module):
            hint = "hand over what it returns" if callable(model) else "a name is set by backbone={'name': ...}"
            raise ConfigError(f"pretrain: model is a module (torch.nn.Module), not {model!r}; {hint}")
        places["backbone.name"] = own_module.name_of(model)
    return RunResult(run(_configured(PretrainConfig, config, places | settings), say, model=model, batches=batches))


def sweep(
    config: str | Path | Mapping[str, Any] | PretrainConfig,
    keys: Mapping[str, Sequence[Any]],
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    say: Say = log.info,
    **settings: Any,
) -> SweepResult:
    """Run a short pretraining for every combination of values, and compare them by the configuration's probe.

    `keys` are dotted, such as `{"optim.lr": [3e-4, 1e-3]}`; `settings` are those of every arm, such as
    `**{"train.steps": 60}`. Arms are kept below `out`/sweep, where a stopped sweep goes on; `.chosen` is the file with
    the configuration of the highest value, `.arms` has every value, `.behind(arm)` its paired interval to the best.
    """
    from trocar.jobs.sweep import sweep as run
    from trocar.ssl.run.pretrain_config import PretrainConfig

    places = {} if out is None else {"run.out": str(out)}
    places |= {} if data is None else {"data.catalog": str(data)}

    def configured(changes: Mapping[str, Any]) -> PretrainConfig:
        return _configured(PretrainConfig, config, places | settings | dict(changes))

    return run(configured, keys, say)


def evaluate(
    backbones: Mapping[str, Backbone | Sequence[Backbone]] | Backbone | None = None,
    data: str | Path | pd.DataFrame | None = None,
    *,
    tasks: Sequence[str] | None = None,
    protocols: Sequence[str | Mapping[str, Any]] | None = None,
    root: str | Path | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    out: str | Path | None = None,
    config: str | Path | Mapping[str, Any] | EvaluateConfig | None = None,
    say: Say = log.info,
    **settings: Any,
) -> EvaluationResult:
    """Compare backbones, and baselines beside them, on labelled frames.

    `backbones` are by label: a run, the name or path of anything `load_backbone` takes, a module of your own, or a list
    of these, which are then seeds of one row. `data` is the folder of a labelled data set; or a table of labels with
    the columns of `frames.csv` (docs/evaluate.md), whose pictures lie below `root` and whose `classes` name the
    integers of a task, such as `{"phase": [...]}`. `out` keeps tables, predictions and figures; `config` is a preset, a
    file, a mapping or an EvaluateConfig, and `settings` are its keys, such as `folds=5` or `device="cpu"`.
    """
    from trocar.jobs.evaluate import evaluate as run

    for name, given in (("tasks", tasks), ("protocols", protocols)):
        if isinstance(given, str):
            raise ConfigError(f"evaluate: {name} is a list, such as {name}=[{given!r}]")
    changes: dict[str, Any] = {key: list(v) for key, v in (("task", tasks), ("protocol", protocols)) if v is not None}
    changes |= {} if out is None else {"out": str(out)}
    names, modules = _backbones(backbones)
    changes |= {"backbone": names} if names or backbones is not None else {}
    table = None
    if isinstance(data, pd.DataFrame):
        if root is None:
            raise ConfigError("evaluate: give root, the folder that the column `path` is relative to")
        table, changes["data"] = LabelTable(data, dict(classes or {})), str(root)
    elif root is not None or classes is not None:
        raise ConfigError("evaluate: root and classes go with a DataFrame of labels")
    elif data is not None:
        changes["data"] = str(data)
    settled = _configured(EvaluateConfig, config or {}, changes | settings)
    return EvaluationResult(run(settled, say, modules=modules, labels=table), settled.out)


def ingest(
    sources: str | Path | Sequence[str | Path], out: str | Path, *, say: Say = log.info, **options: Any
) -> IngestResult:
    """Videos, frame folders or pictures -> shards with a catalog; running it again does only what is missing.

    `options` are those of `trocar ingest`, such as `fps=1.0`, `short_side=256`, `case_regex=...` or `workers=4`. What
    could not be read is in the result's `rejected`, and no error.
    """
    from trocar.data.ingest.framing import IngestSettings
    from trocar.data.ingest.options import IngestOptions
    from trocar.data.ingest.run import ingest as run

    allowed = {*IngestSettings.model_fields, *IngestOptions.model_fields} - {"sources", "out", "settings"}
    for key in options:
        if key not in allowed:
            known = ", ".join(sorted(allowed))
            raise ConfigError(f"ingest: no option {key!r}{nearest(key, allowed)}; options: {known}")
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    settings = {key: options.pop(key) for key in list(options) if key in IngestSettings.model_fields}
    tree = {"sources": given, "out": out, "settings": settings, **options}
    wanted = validate(IngestOptions, tree, "trocar.ingest")
    return IngestResult(wanted.out, run(wanted, say))


def embed(
    source: str | Path | Catalog | npt.NDArray[np.uint8] | Sequence[str | Path], backbone: Backbone, **options: Any
) -> pd.DataFrame | npt.NDArray[np.float32]:
    """Pooled features of pictures, videos or shards from a frozen backbone.

    `source` is a shards folder or its catalog, a picture, a video, a folder of them, a sequence of such paths, or an
    array uint8 [n, height, width, 3] in RGB. Returns a table with what each row is of and a column for each feature,
    f0, f1 and so on; of an array float32 [n, D]. `options`: `size` (pixels), `fps` (of videos), `batch`, `device`,
    `precision` (`trocar.jobs.embed`).
    """
    from trocar.jobs.embed import embed as run

    found = run(source, backbone.folder if isinstance(backbone, RunResult) else backbone, **options)
    return found.features if isinstance(source, np.ndarray) else found.table


def run_study(
    study: str | Path | Mapping[str, Any] | StudyConfig,
    *,
    jobs: int = 1,
    update: bool = False,
    uri: str | None = "none",
    say: Say = log.info,
    **settings: Any,
) -> StudyResult:
    """Run everything that a study is missing, on this machine, and return its scores; running it again continues.

    `study` is a preset, a file, a mapping or a StudyConfig; `settings` change its keys. `jobs` stages run at a time,
    each in a process of its own. `update` accepts other data or versions than were planned. `uri` is where mlflow
    records it (None: a database beside the store; by default nowhere).
    """
    from trocar.study.config import StudyConfig, checked
    from trocar.study.whole_study import run_whole

    wanted = checked(
        _configured(StudyConfig, study, settings), str(study) if isinstance(study, str | Path) else "study"
    )
    return StudyResult(run_whole(wanted, say, jobs=jobs, uri=uri, update=update))


def score_predictions(
    predictions: str | Path | pd.DataFrame, task: str | None = None, classes: Sequence[str] = (), bootstrap: int = 1000
) -> pd.DataFrame:
    """Every named metric of predictions, whoever made them: a row per task, backbone, protocol, run and metric.

    `predictions` is a file or a table with the columns of docs/metrics.md; `task` and `classes` say what it does not.
    `low` and `high` are the 95 % interval over cases of `bootstrap` draws.
    """
    from trocar.downstream.predictions.prediction_file import Predictions
    from trocar.downstream.predictions.prediction_scores import MetricsReport, PredictionScores

    with tempfile.TemporaryDirectory(prefix="trocar-predictions-") as folder:
        path = Path(folder) / "predictions.parquet"
        if isinstance(predictions, pd.DataFrame):
            predictions.to_parquet(path, index=False)
        else:
            path = Path(predictions)
        found = MetricsReport(PredictionScores.of(Predictions.read(path, task, classes), bootstrap))
    for note in found.notes:
        log.warning(note)
    lines = [
        {**row.key._asdict(), "metric": name, **value} for row in found.rows for name, value in row.metrics.items()
    ]
    return pd.DataFrame(lines)


def open_dataset(
    root: str | Path,
    layout: str | None = None,
    *,
    fps: float = 1.0,
    split: str | None = None,
    remap: str | None = None,
    phases: Sequence[str] = (),
    shards: str | Path | None = None,
) -> LabelledFrames:
    """The labelled frames of a published data set, or of a folder with a `frames.csv`: `.frames` is one table.

    `layout` is recognised unless it is named; `fps` labelled frames a second are kept; `split` names a published list;
    `remap` merges classes of masks; `phases` are the names of a data set with its own, in order; `shards` has the
    pictures, if they were ingested. `.as_torch(task)` is a torch Dataset.
    """
    data = read_dataset(root, layout, DatasetOptions(fps, tuple(phases), split, remap))
    return data if shards is None else locate(data, Path(shards))


def list_methods() -> list[str]:
    """Names of the pretraining methods, for `method.name`."""
    from trocar.ssl.engine.method import METHODS

    return METHODS.names()


def list_tasks() -> list[str]:
    """Names of the tasks, for `tasks`; two that are learned together are joined by `+`."""
    from trocar.downstream.tasks.base import TASKS

    return TASKS.names()


def list_datasets() -> list[str]:
    """Names of the data set layouts that are recognised, for `layout`."""
    return DATASETS.names()


def list_backbones(pattern: str = "*", *, timm: bool = False) -> list[str]:
    """Names of published weights that match `pattern`, for `load_backbone`; with `timm` also those of timm's weights.

    Every architecture of timm can be named too: alone, with random weights.
    """
    names = BACKBONES.names()
    if timm:
        from timm import list_pretrained

        names += [f"timm:{name}" for name in list_pretrained()]
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def _configured(model: type[Model], config: Any, changes: Mapping[str, Any]) -> Model:
    """`config` with `changes`: keys, dotted or not, whose mappings are merged into sections. Raises ConfigError."""
    if isinstance(config, model) and not changes:
        return config
    if isinstance(config, model):
        tree = config.model_dump(by_alias=True, exclude_unset=True)
    else:
        tree = copy.deepcopy(dict(config)) if isinstance(config, Mapping) else tree_of(config)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = merge(section[last], value) if _are_sections(section.get(last), value) else value
    return validate(model, tree, str(config) if isinstance(config, str | Path) else "the configuration")


def _are_sections(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _backbones(given: Any) -> tuple[list[str], dict[str, list[nn.Module]]]:
    """Names as `--backbone` takes them, and own modules, by label. Raises ConfigError for a label that both have."""
    names: list[str] = []
    modules: dict[str, list[nn.Module]] = {}
    if given is not None and not isinstance(given, Mapping):
        given = {_label(given): given}
    for label, members in (given or {}).items():
        seeds = list(members) if isinstance(members, list | tuple) else [members]
        own = [seed for seed in seeds if isinstance(seed, nn.Module)]
        if own and len(own) < len(seeds):
            raise ConfigError(f"backbone {label!r}: modules and names cannot be seeds of one row")
        if own:
            modules[label] = own
            continue
        paths = [str(seed.folder if isinstance(seed, RunResult) else seed) for seed in seeds]
        if not label or "=" in label or any("," in path for path in paths):
            raise ConfigError(f"backbone {label!r}: labels have no `=`, paths no `,`: {', '.join(paths)}")
        names.append(f"{label}={','.join(paths)}")
    return names, modules


def _label(backbone: Backbone) -> str:
    if isinstance(backbone, nn.Module):
        return type(backbone).__name__
    text = str(backbone.folder if isinstance(backbone, RunResult) else backbone)
    return Path(text).name if Path(text).is_dir() else text
