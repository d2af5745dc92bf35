"""Self-supervised pretraining of surgical vision backbones, and the measurement of what it was worth.

    import trocar

    run = trocar.pretrain("small_simclr", data="shards", out="runs/a")
    trocar.evaluate({"a": run}, data="cholec80", tasks=["phase"]).table

docs/python.md is the tour. Names are imported when they are first asked for: torch and timm take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocar import metrics
    from trocar.api import (
        EvaluationResult,
        IngestResult,
        RunResult,
        StudyResult,
        embed,
        evaluate,
        ingest,
        list_backbones,
        list_datasets,
        list_methods,
        list_tasks,
        load_backbone,
        open_dataset,
        pretrain,
        run_study,
        score_predictions,
        sweep,
    )
    from trocar.data.catalog.catalog import Catalog
    from trocar.errors import ConfigError, TrocarError
    from trocar.registries import (
        register_backbone,
        register_baseline,
        register_dataset,
        register_decoder,
        register_head,
        register_method,
        register_metric,
        register_protocol,
        register_task,
    )

__version__ = "0.1.0"
__all__ = [
    "Catalog",
    "ConfigError",
    "EvaluationResult",
    "IngestResult",
    "RunResult",
    "StudyResult",
    "TrocarError",
    "__version__",
    "embed",
    "evaluate",
    "ingest",
    "list_backbones",
    "list_datasets",
    "list_methods",
    "list_tasks",
    "load_backbone",
    "metrics",
    "open_dataset",
    "pretrain",
    "register_backbone",
    "register_baseline",
    "register_dataset",
    "register_decoder",
    "register_head",
    "register_method",
    "register_metric",
    "register_protocol",
    "register_task",
    "run_study",
    "score_predictions",
    "sweep",
]
_ELSEWHERE = {
    "Catalog": "trocar.data.catalog.catalog",
    "ConfigError": "trocar.errors",
    "TrocarError": "trocar.errors",
    **{name: "trocar.registries" for name in __all__ if name.startswith("register_")},
}
"""Public names that `trocar.api` does not define -> their module."""


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return import_module("trocar.metrics")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "trocar.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
