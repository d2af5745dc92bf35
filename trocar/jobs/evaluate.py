"""Evaluation: backbones and their baselines on labelled frames."""

from __future__ import annotations

from collections.abc import Callable

from trocar.downstream.evaluation import evaluate as comparison
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.results import EvaluationResults
from trocar.leakage import judge

Say = Callable[[str], None]


def evaluate(config: EvaluateConfig, say: Say = lambda line: None) -> EvaluationResults:
    """Score every backbone of `config` and its baselines; write the results if `config.out` is set.

    `say` gets a line for every step that takes long. Raises ConfigError for a bad configuration before anything is
    decoded, TrocarError for data that cannot be read.
    """
    return comparison.evaluate(config, judge, say)


def describe(config: EvaluateConfig) -> list[str]:
    """What would be evaluated, in lines, by the labels alone. Raises ConfigError as `evaluate`."""
    return comparison.planned(config)
