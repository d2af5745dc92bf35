"""Evaluation: backbones and their baselines on labelled frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from trocar.core.messages import Say
from trocar.downstream.datasets.folder import LabelTable
from trocar.downstream.evaluation import evaluate as comparison
from trocar.downstream.evaluation.contenders import own_contender
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.leakage import judge


def evaluate(
    config: EvaluateConfig,
    say: Say = lambda line: None,
    *,
    modules: Mapping[str, Sequence[nn.Module]] | None = None,
    labels: LabelTable | None = None,
) -> EvaluationResults:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `modules` are backbones of one's own by label, whose leak verdict is unknown; `labels` are labels of one's own, in
    place of those in `config.data`.
    `say` gets a line for every step that takes long. Raises ConfigError for a bad configuration before anything is
    decoded, TrocarError for data that cannot be read.
    """
    own = [own_contender(label, seeds, config.size) for label, seeds in (modules or {}).items()]
    return comparison.evaluate(config, judge, say, own=own, labels=labels)


def describe(config: EvaluateConfig) -> list[str]:
    """What would be evaluated, in lines, by the labels alone. Raises ConfigError as `evaluate`."""
    return comparison.planned(config)
