"""A temporal head on features of whole operations: of the frozen backbone, or of the fine-tuned one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from trocar.downstream.features.feature_cache import Features, extract
from trocar.downstream.metrics.outcome import Floats, Ints
from trocar.downstream.protocols.base import PROTOCOLS, Prediction, Problem, Protocol, headline
from trocar.downstream.protocols.finetune import finetuned
from trocar.downstream.temporal.head import Sequence
from trocar.downstream.temporal.train import TemporalConfig, fit_temporal
from trocar.downstream.training.finetuning import FinetuneRecipe


class Temporal(Protocol, TemporalConfig):
    """Whole operations as sequences, frames without a label included; see `TemporalConfig` for the settings.

    The epoch is chosen on the validation cases; without any, all epochs are trained and the last is kept.
    """

    random_start: ClassVar[bool] = True

    @property
    def usual_label(self) -> str:
        """With the head, and whether it may look ahead: online and offline numbers are not comparable."""
        return f"{self.name} {self.head.name}, {self.view}"

    @property
    def label(self) -> str:
        """A title does not hide whether it looks ahead."""
        return f"{self.title}, {self.view}" if self.title else self.usual_label

    @property
    def view(self) -> str:
        """Whether a prediction may follow from later frames."""
        return "online" if self.head.causal else "offline"

    @abstractmethod
    def embed(self, problem: Problem) -> tuple[Features, dict[str, Any]]:
        """Features [N, D] of the rows of the problem's cases, and what was chosen for them."""

    def predict(self, problem: Problem) -> Prediction:
        """Fit on the sequences of the training cases; probabilities of the test frames."""
        features, about = self.embed(problem)
        train = _sequences(problem, features, problem.train, problem.sequences(problem.train))
        val = problem.val
        held = [] if val is None else problem.sequences(val)

        def score(predicted: list[Features]) -> float:
            assert val is not None
            return headline(problem, val, _at(held, predicted, val))

        without = {"select": "fixed_epochs", "patience": None}
        settings = self if val is not None else self.model_copy(update=without)
        fitted = fit_temporal(
            settings,
            train,
            None if val is None else _sequences(problem, features, val, held),
            problem.space.kind,
            len(problem.space.classes),
            problem.seed,
            None if val is None else score,
            problem.encoder.device,
            problem.called(self.name.replace("_", " ")),
        )
        rows = problem.sequences(problem.test)
        empty = _sequences(problem, features, problem.test[:0], rows)
        scores = _at(rows, [fitted.predict(sequence) for sequence in empty], problem.test)
        return Prediction(scores, {**fitted.detail(), **about})


@PROTOCOLS.register
class TemporalFrozen(Temporal):
    """On the cached features of the frozen backbone."""

    name: Literal["temporal_frozen"] = "temporal_frozen"

    def embed(self, problem: Problem) -> tuple[Features, dict[str, Any]]:
        """From the cache."""
        return problem.encoder.features, {}


@PROTOCOLS.register
class TemporalFinetuned(Temporal):
    """The field's standard in two stages: the backbone is fine-tuned on single frames, then its features are frozen and
    the head is trained on them (Czempiel et al., "TeCNO", arXiv:2003.10751).
    """

    name: Literal["temporal_finetuned"] = "temporal_finetuned"
    trains_network: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True
    finetune: FinetuneRecipe = Field(
        default=FinetuneRecipe(), description="settings of the fine-tuning on single frames, the first stage"
    )

    def fine_tuning(self) -> FinetuneRecipe:
        """The first stage's settings."""
        return self.finetune

    def embed(self, problem: Problem) -> tuple[Features, dict[str, Any]]:
        """Fine-tunes, then extracts the frames of all cases of the problem."""
        found = finetuned(problem, self.finetune)
        parts = [problem.train, problem.test, *([] if problem.val is None else [problem.val])]
        rows = np.concatenate([own for part in parts for own in problem.sequences(part)])
        encoder, images = problem.encoder, found.trainer.images
        embedded = extract(
            found.network.backbone,
            encoder.pixels,
            images.preprocessing,
            batch=encoder.batch,
            device=encoder.device,
            precision=encoder.precision,
            rows=rows,
            whose=f"{encoder.name}, fine-tuned,",
        )
        features = np.zeros((len(problem.case), embedded.shape[1]), dtype=np.float32)
        features[rows] = embedded
        return features, {"finetune": dict(found.detail)}


def _sequences(problem: Problem, features: Features, labelled: Ints, rows: list[Ints]) -> list[Sequence]:
    """One of the `rows` of each operation, with the labels of the `labelled` rows alone."""
    targets = problem.labels_of(labelled)
    return [Sequence(str(problem.case[own[0]]), features[own], targets[own], problem.time_s[own]) for own in rows]


def _at(sequences: list[Ints], predicted: list[Features], wanted: Ints) -> Floats:
    """Predictions at the `wanted` rows of the table, in that order, float64 [m, K]."""
    rows = np.concatenate(sequences)
    order = np.argsort(rows)
    places = order[np.searchsorted(rows, wanted, sorter=order)]
    found: Floats = np.concatenate(predicted)[places].astype(np.float64)
    return found
