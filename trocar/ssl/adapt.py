"""How a backbone that has weights begins to train: frozen at first, then with a rate that rises, or by low-rank
factors.

Layer decay and the patch embedding's factor are settings of the optimizer (`layer_decay` and `patch_embed_lr`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field
from torch import nn

from trocar.backbones.lora import LoraConfig, adapted_layers, add_lora, is_factor
from trocar.backbones.source import resolve
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.blocks.teachers import frozen_networks
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.optimizer import Duration, Schedule, steps_in
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, at_first, warning


class AdaptConfig(Config):
    """How a backbone with weights begins to train. The lengths are ours, no paper has measured them."""

    frozen: Duration | Auto = Field(
        default="auto",
        description="how long the backbone stays as it is while heads, centres and queues learn, such as `500 steps`, "
        "`1 epoch` or `10 %`; auto: 1 epoch, but at most 10 % of the run; `0 steps`: not at all",
    )
    ramp: Duration | Auto = Field(
        default="auto",
        description="how long the backbone's learning rate then rises from 0 to the scheduled one; auto: 1 epoch, but "
        "at most 10 % of the run; `0 steps`: it is there at once",
    )
    norm_buffers: Literal["train", "frozen"] = Field(
        default="train",
        description="running statistics of the backbone's batch norms after the frozen stage: train: they move; "
        "frozen: they stay those of the first weights, which normalise all the run",
    )
    lora: LoraConfig | None = Field(
        default=None,
        description="low-rank factors that learn in the place of the backbone's weights; merged into them at export; "
        "null: the weights learn",
    )

    def stages(self, data: DataSize) -> BackboneStages:
        """In steps of a run."""
        frozen, ramp = (self._steps(name, data) for name in ("frozen", "ramp"))
        return BackboneStages(frozen, ramp, self.norm_buffers == "frozen")

    def warnings(self, data: DataSize) -> list[str]:
        """A line for stages that leave little or nothing of the run."""
        stages = self.stages(data)
        lengths = {"frozen": stages.frozen, "ramp": stages.ramp}
        said = [
            at_first(name, getattr(self, name), steps, data)
            for name, steps in lengths.items()
            if getattr(self, name) != "auto"
        ]
        if data.total <= stages.frozen:
            why = f"the backbone is frozen in all of the {data.total} steps, and is exported as it came"
            said = [Advice("frozen", self.frozen, at_first("", "", 0, data).suits, why)]
        elif data.total <= stages.frozen + stages.ramp:
            why = (
                f"with {stages.frozen} frozen steps before, none of the {data.total} steps is left in which the "
                f"backbone trains at the scheduled rate"
            )
            said = [Advice("ramp", self.ramp, at_first("", "", 0, data).suits, why)]
        return [warning("adapt", item) for item in said if item.wrong]

    def _steps(self, name: str, data: DataSize) -> int:
        given: str = getattr(self, name)
        if given != "auto":
            return steps_in(given, data.epoch_steps, data.total)
        most = steps_in(str(at_first(name, given, 0, data).suits), data.epoch_steps, data.total)
        return min(data.epoch_steps, most)


def require_weights(config: AdaptConfig, stages: BackboneStages, name: str) -> None:
    """Raises ConfigError for a backbone `name` that has no weights yet where only weights are worth keeping."""
    if resolve(name).kind != "random":
        return
    wrong = "adapt.lora" if config.lora is not None else "adapt.frozen" if stages.frozen else ""
    if wrong:
        undone = "adapt.lora=null" if config.lora is not None else "adapt.frozen='0 steps'"
        raise ConfigError(
            f"{wrong}: {name} starts from random weights, and what is kept would be noise. Name weights, such as "
            f"timm:{name.removeprefix('random:')}, published ones, a run or ARCH@FILE; or set {undone}"
        )


def add_factors(method: Method, config: LoraConfig, seed: int, size: int) -> None:
    """Factors for the student and for every network that follows it, which hold the same; nothing is drawn from
    torch's generator. `size` is that of the views. Raises ConfigError as `add_lora`, under the key `adapt`.
    """
    finished = frozen_networks(method)
    for network in method.backbones:
        if any(network is other for other in finished):
            continue
        try:
            add_lora(network, config, seed=seed, size=(size, size))
        except ConfigError as error:
            raise ConfigError(f"adapt.{error}") from None
        network.requires_grad_(False)
    for name, parameter in method.backbones[0].named_parameters():
        parameter.requires_grad_(is_factor(name))


def require_learners(method: Method, stages: BackboneStages) -> None:
    """Raises ConfigError for a frozen stage in which nothing could learn."""
    own = {id(p) for p in method.backbones[0].parameters()}
    if stages.frozen and not any(p.requires_grad and id(p) not in own for p in method.parameters()):
        raise ConfigError(
            "adapt.frozen: this method has nothing but its backbone, so a frozen stage would teach nothing; set "
            "adapt.frozen='0 steps'"
        )


@dataclass(frozen=True)
class AdaptLines:
    """The stages for people."""

    stages: BackboneStages
    schedule: Schedule
    total: int

    def lines(self, backbone: nn.Module) -> list[str]:
        """Where each stage begins, the learning rates at its borders, norms, and factors. Rates are those before layer
        decay.
        """
        stages = self.stages
        begins = {0: "frozen", stages.frozen: "rising", stages.frozen + stages.ramp: "as scheduled"}
        starts = [step for step in begins if step < self.total]
        ends = [*starts[1:], self.total]
        words = [self._stage(begins[start], start, end) for start, end in zip(starts, ends, strict=True)]
        norms = "stand still all the run" if stages.frozen_norms else "move with the backbone"
        words.append(f"its batch norms' running statistics {norms}")
        if layers := adapted_layers(backbone):
            count = sum(p.numel() for name, p in backbone.named_parameters() if is_factor(name))
            words.append(f"low-rank factors of {len(layers)} layers learn, {count / 1e6:.3g} M; its weights stay")
        return [f"{'stages' if index == 0 else '':<10} {line}" for index, line in enumerate(words)]

    def _stage(self, name: str, start: int, end: int) -> str:
        heads, own = (self._course(start, end - 1, factor) for factor in (False, True))
        rates = f"learning rate of the backbone {own}, of the rest {heads}"
        return f"from step {start}, {end - start} steps: backbone {name}; {rates}"

    def _course(self, first: int, last: int, of_backbone: bool) -> str:
        rates = [
            self.schedule.lr(step) * (self.stages.lr_factor(step) if of_backbone else 1.0) for step in (first, last)
        ]
        return f"{rates[0]:.3g}" if rates[0] == rates[1] else f"{rates[0]:.3g} to {rates[1]:.3g}"
