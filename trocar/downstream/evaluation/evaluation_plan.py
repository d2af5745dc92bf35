"""What an evaluation consists of, known by the labels alone.

`trocar evaluate` computes it and a study makes stages of it: both refuse the same things, before a frame is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trocar.downstream.datasets import open_dataset
from trocar.downstream.datasets.base import DatasetOptions
from trocar.downstream.evaluation.contenders import Contender
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.evaluation.experiment import Experiment, drawn, make_experiment
from trocar.downstream.features.baselines.base import SIZE
from trocar.downstream.features.frame_cache import Size
from trocar.downstream.labels import LabelledFrames
from trocar.downstream.protocols import get_protocol
from trocar.downstream.protocols import protocols as known_protocols
from trocar.downstream.protocols.base import Protocol
from trocar.downstream.protocols.prior import Prior
from trocar.downstream.protocols.segmentation import ConstantMask
from trocar.downstream.splits.budgets import most_draws
from trocar.downstream.splits.folds import Fold
from trocar.errors import ConfigError


@dataclass(frozen=True)
class EvaluationPlan:
    """Every protocol is for every experiment that it `fits`; each of these pairs is a row per contender and task."""

    config: EvaluateConfig
    data: LabelledFrames
    experiments: Sequence[Experiment]
    protocols: Sequence[Protocol]

    @classmethod
    def of(cls, config: EvaluateConfig, data: LabelledFrames | None = None) -> EvaluationPlan:
        """The experiments and protocols of `config` on `data` (None: opened here), without any check of one against
        the other. Raises ConfigError for what does not exist, TrocarError for labels that cannot be read.
        """
        protocols = [get_protocol(wanted) for wanted in config.protocol]
        data = open_labels(config) if data is None else data
        return cls(config, data, [make_experiment(names, data, config) for names in config.task], protocols)

    @property
    def draws(self) -> int:
        """Draws of the label budget, 1 where all labels are used."""
        return most_draws(self.data, self.config.budget, self.config.draws)

    def folds(self, experiment: Experiment, draw: int) -> list[Fold]:
        """The folds with the labelled cases of one draw. Raises ConfigError for a budget that cannot be."""
        return drawn(experiment, self.config, draw)

    def usable(self, contender: Contender, experiment: Experiment) -> list[Protocol]:
        """The protocols a contender goes through: one without a network only through those that need none."""
        if contender.kind == "majority":
            constant: Protocol = ConstantMask() if "mask" in experiment.kinds else Prior()
            return [constant] if len(experiment.tasks) == 1 else []
        has_network = contender.kind != "baseline"
        return [p for p in self.protocols if fits(p, experiment) and (has_network or not p.trains_network)]

    def sizes(self, contenders: Sequence[Contender]) -> set[Size]:
        """All sizes in pixels that frames are needed at, so that every file is decoded once."""
        found: set[Size] = {SIZE} if any(contender.kind == "baseline" for contender in contenders) else set()
        for contender in contenders:
            chosen = [protocol for experiment in self.experiments for protocol in self.usable(contender, experiment)]
            found |= {p.input_size(member.size) for p in chosen for member in contender.members if member.size}
        return found

    def check(self) -> None:
        """Raises ConfigError for a budget that cannot be, a task or protocol without a partner, or rows of one name."""
        for experiment in self.experiments:
            for draw in range(self.draws):
                self.folds(experiment, draw)
            if not any(fits(protocol, experiment) for protocol in self.protocols):
                known = [get_protocol(name) for name in known_protocols()]
                fitting = ", ".join(protocol.name for protocol in known if fits(protocol, experiment)) or "none"
                raise ConfigError(
                    f"task {experiment.name!r} ({' and '.join(dict.fromkeys(experiment.kinds))} labels) cannot be "
                    f"learned by {', '.join(p.name for p in self.protocols)}; those that can: {fitting}"
                )
        for protocol in self.protocols:
            if not any(fits(protocol, experiment) for experiment in self.experiments):
                names = ", ".join(experiment.name for experiment in self.experiments)
                raise ConfigError(f"protocol {protocol.name!r} can learn none of {names}")
        pairs = [(e, protocol) for e in self.experiments for protocol in self.protocols if fits(protocol, e)]
        rows = Counter((task.name, label_on(e, protocol)) for e, protocol in pairs for task in e.tasks)
        for (task, label), count in rows.items():
            if count > 1:
                raise ConfigError(
                    f"task {task!r} would have {count} rows that are called {label!r}; leave out what is there twice, "
                    f"or tell protocols apart: protocol=[..., {{name: ..., title: ...}}]"
                )

    def check_contenders(self, contenders: Sequence[Contender]) -> None:
        """Raises ConfigError where there is no contender at all, or none that an experiment could be done with."""
        if not contenders:
            raise ConfigError("nothing to evaluate: give --backbone, or baselines")
        for experiment in self.experiments:
            if not any(self.usable(contender, experiment) for contender in contenders):
                through = ", ".join(p.name for p in self.protocols if fits(p, experiment))
                raise ConfigError(
                    f"task {experiment.name!r}: nothing to evaluate: {', '.join(c.label for c in contenders)} cannot "
                    f"go through {through}; give --backbone"
                )


def open_labels(config: EvaluateConfig) -> LabelledFrames:
    """The labelled data of an evaluation, with the paths of its own files."""
    options = DatasetOptions(config.fps, tuple(config.phases), config.split, config.remap)
    return open_dataset(config.data, config.layout, options)


def fits(protocol: Protocol, experiment: Experiment) -> bool:
    """Whether the protocol can learn the labels of an experiment, all of its tasks together."""
    learns_all = all(kind in protocol.kinds for kind in experiment.kinds)
    return learns_all and (len(experiment.tasks) == 1 or protocol.joins_tasks)


def label_on(experiment: Experiment, protocol: Protocol) -> str:
    """What a table calls the protocol there: with the tasks, where several are learned together."""
    return protocol.label + (f", {experiment.name}" if len(experiment.tasks) > 1 else "")
