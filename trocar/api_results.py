"""What the Python functions return: plain objects over the folders that they have written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.core.files import write_atomic
from trocar.core.messages import Say
from trocar.data.catalog.catalog import Catalog
from trocar.data.ingest.options import IngestSummary
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.errors import ConfigError
from trocar.runs.run_folder import read_metrics, read_record


@dataclass(frozen=True)
class RunResult:
    """A pretraining run; `RunResult(Path("runs/a"))` is one that exists already.

    Attributes:
        folder: the run folder, from which the same call always resumes.
    """

    folder: Path

    def backbone(self, model: nn.Module | None = None) -> nn.Module:
        """The trained backbone, in train mode on the CPU: a timm model, or a module of the class that was trained.

        `model` is a module to load the weights into, for a class of your own that takes arguments. Raises ConfigError
        for a run that has not reached its first checkpoint.
        """
        return load_backbone(self.folder, model=model)

    @property
    def metrics(self) -> pd.DataFrame:
        """What was logged: a row per logged step, a column per number."""
        return pd.DataFrame(read_metrics(self.folder)).set_index("step")

    @property
    def record(self) -> Mapping[str, Any]:
        """run.json: who the run is, how far it came, and what it ran on."""
        return read_record(self.folder)

    def report(self, evaluation: Path | None = None, say: Say = lambda line: None) -> Path:
        """Write one offline HTML page about the run; returns its path.

        `evaluation` is the `results.json` of an evaluation that the page should show, or the folder it is in.
        """
        from trocar.report.run_report import write_report

        return write_report(self.folder, evaluation, say)


@dataclass(frozen=True)
class IngestResult:
    """An ingest that has ended.

    Attributes:
        folder: the shards folder.
        summary: counts of this ingest, and of the catalog after it.
    """

    folder: Path
    summary: IngestSummary

    @property
    def catalog(self) -> Catalog:
        """The catalog, opened. Raises ConfigError where nothing could be ingested."""
        return Catalog.open(self.folder)

    @property
    def rejected(self) -> pd.DataFrame:
        """What of the sources could not be read: path, reason, detail."""
        lines = [(one.path, one.reason, one.detail) for one in self.summary.rejected]
        return pd.DataFrame(lines, columns=["path", "reason", "detail"])


@dataclass(frozen=True)
class EvaluationResult:
    """A comparison of backbones on labelled frames.

    Attributes:
        results: all of it: rows with every seed, what was evaluated, and tables for a terminal.
        out: the folder with results.json, predictions.parquet, metrics.json and figures; None if nothing was written.
    """

    results: EvaluationResults
    out: Path | None = None

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per task, protocol and backbone.

        `metric` is the task's headline, `value` its mean over `runs` seeds, `sd` their standard deviation, `low` and
        `high` the 95 % interval over cases, `leak` whether the backbone has seen the test cases. Then a column for the
        mean of every other metric.
        """
        lines = []
        for row in self.results.rows:
            metric = self.results.tasks[row.task]["headline"]
            low, high = row.interval or (None, None)
            line = {"task": row.task, "protocol": row.protocol, "backbone": row.arm, "kind": row.kind, "metric": metric}
            line |= {"value": row.mean(metric), "sd": row.deviation(metric), "low": low, "high": high}
            line |= {"runs": len(row.members), "leak": row.leak.get("verdict", "")}
            lines.append(line | {name: row.mean(name) for name in row.values})
        return pd.DataFrame(lines)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per backbone, protocol, run (`replicate`, `draw`, `start`) and test frame, with labels and scores."""
        return self.results.predictions

    def report(self, path: Path | None = None) -> Path:
        """Write the tables as Markdown, with what they were measured on; returns the file (default: OUT/results.md).

        Raises ConfigError where there is no folder to write to.
        """
        if path is None and self.out is None:
            raise ConfigError("report: nothing was written; give a path, or `out` to trocar.evaluate")
        target = path or Path(str(self.out)) / "results.md"
        write_atomic(target, self.results.to_markdown())
        return target


@dataclass(frozen=True)
class StudyResult:
    """A study of which all stages are done.

    Attributes:
        folder: the report's folder, with index.html, results.csv and results.parquet.
    """

    folder: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """Every score: a row per arm, seed, task, budget and draw."""
        return pd.read_parquet(self.folder / "results.parquet")

    def report(self) -> Path:
        """The offline HTML page."""
        return self.folder / "index.html"
