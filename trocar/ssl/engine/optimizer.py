"""Optimizer, clipping, which parameters share a learning rate and a weight decay, and the schedules of both.

Schedules are pure functions of the step, after `cosine_scheduler` of DINO's reference code (arXiv 2104.14294).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, model_validator
from timm.models._manipulate import group_with_matcher
from timm.optim._param_groups import auto_group_layers
from timm.optim.lars import Lars
from torch import Tensor, nn

from trocar.backbones.lora import is_factor, weight_of_factor
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method
from trocar.ssl.ranks.parts import norms, own_part, parts_of_optimizer
from trocar.ssl.run.auto_values import DataSize, at_first, warning

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


def _check_duration(value: str) -> str:
    if not _DURATION.fullmatch(value):
        raise ValueError("expected a number with its unit, such as '500 steps', '10 epochs' or '10 %'")
    return value


Duration = Annotated[str, AfterValidator(_check_duration)]
"""A length of training: '500 steps', '10 epochs' or '10 %' (of the run)."""


def steps_in(duration: Duration, epoch_steps: int, total: int) -> int:
    """A duration in steps; an epoch is `epoch_steps` steps, a percentage is of `total`."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ConfigError(f"not a duration: {duration!r}")
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return round(number / 100 * total)
    return round(number * (epoch_steps if unit.startswith("epoch") else 1))


def counts_epochs(duration: Duration) -> bool:
    """Whether a duration is given in epochs."""
    return "epoch" in duration


def warmed_up(step: int, base: float, warmup: int, start: float = 0.0) -> float:
    """Linear from `start` to `base` over `warmup` steps (numpy's linspace), then `base`."""
    if step < warmup:
        return start + (base - start) * step / max(1, warmup - 1)
    return base


def cosine(step: int, base: float, final: float, total: int, warmup: int = 0, start: float = 0.0) -> float:
    """Warm-up from `start` to `base` over `warmup` steps, then a half cosine to `final`.

    After the warm-up: final + (base - final) (1 + cos(pi i / n)) / 2 with i = step - warmup, n = total - warmup.
    As in the reference, step total - 1 is the last one, so `final` itself is approached, not reached.
    """
    if step < warmup:
        return warmed_up(step, base, warmup, start)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def stairs(step: int, start: float, end: float, warmup: int, stair: int) -> float:
    """numpy's linspace(start, end) over `warmup` steps, held for `stair` steps at a time, then `end`.

    The teacher's temperature: DINO's code has one value per epoch, DINOv2's and VISSL's one per step.
    """
    if step >= warmup:
        return end
    return start + (end - start) * (step // stair) / max(1, math.ceil(warmup / stair) - 1)


Share = Annotated[float, Field(ge=0, le=1)]


class Larc(Config):
    """LARS as NVIDIA's apex and VISSL add it to SGD: every parameter is adapted, one-dimensional ones too."""

    trust: float = Field(default=0.001, gt=0, description="trust coefficient")
    clip: bool = Field(default=False, description="adapt downwards only: local rate / lr is at most 1")
    eps: float = Field(default=1e-8, ge=0, description="what is added to the denominator of the local rate")


class OptimConfig(Config):
    """Optimizer, schedules, clipping. Defaults are those of DINO's reference code (AdamW).

    For `sgd` and `lars` there is no default of `lr` and `weight_decay`; the decay is constant and nothing is clipped
    unless said otherwise.
    """

    name: Literal["adamw", "sgd", "lars"] = Field(default="adamw", description="AdamW, SGD or LARS")
    lr: float = Field(default=5e-4, gt=0, description="peak learning rate for a batch of `lr_batch`")
    scaling: Literal["linear", "sqrt", "none"] = Field(
        default="linear", description="lr x batch / lr_batch; lr x sqrt(batch / lr_batch); or lr as it is"
    )
    lr_batch: int = Field(default=256, ge=1, description="batch size that `lr` is meant for")
    schedule: Literal["cosine", "constant", "steps"] = Field(
        default="cosine", description="course of the learning rate after the warm-up"
    )
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate at the end of the cosine")
    drops: tuple[Duration, ...] = Field(
        default=(), description="with `steps`: when the rate drops, such as [120 epochs, 160 epochs]"
    )
    drop_factor: float = Field(default=0.1, gt=0, lt=1, description="factor on the rate at each drop, between 0 and 1")
    warmup: Duration | Literal["auto"] = Field(
        default="10 epochs",
        description="length of the linear warm-up, such as `10 epochs`, `500 steps` or `10 %`; auto: 10 epochs, but "
        "at most 10 % of the run",
    )
    warmup_start: Share = Field(default=0.0, description="first learning rate, as a share of the peak")
    weight_decay: float = Field(default=0.04, ge=0, description="weight decay at the start")
    final_weight_decay: float | None = Field(default=0.4, ge=0, description="end of a cosine; null: constant")
    decay: Literal["matrices", "all"] = Field(
        default="matrices", description="what is decayed: not biases and one-dimensional parameters, or those as well"
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="factor on the learning rate per layer from the output to the input"
    )
    patch_embed_lr: float = Field(
        default=1.0,
        gt=0,
        description="factor on the learning rate of the patch embedding, or of a convolutional network's stem",
    )
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999), description="decay rates of AdamW's two moments, each 0 to 1"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd and lars, 0 to below 1")
    nesterov: bool = Field(default=False, description="Nesterov's momentum, with sgd")
    larc: Larc | None = Field(default=None, description="layer-wise adaptation of sgd")
    trust: float = Field(default=0.001, gt=0, description="trust coefficient of lars")
    clip: float | None = Field(
        default=3.0, gt=0, description="largest norm of the gradient; null: gradients are not clipped"
    )
    clip_by: Literal["parameter", "global"] = Field(
        default="parameter", description="norm of each parameter's gradient (DINO's reference code), or of all together"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_sgd(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or tree.get("name", "adamw") not in ("sgd", "lars"):
            return tree
        if missing := [key for key in ("lr", "weight_decay") if key not in tree]:
            raise ValueError(f"{tree['name']} needs {' and '.join(missing)}: the defaults are AdamW's")
        return {"final_weight_decay": None, "clip": None, **tree}

    @model_validator(mode="after")
    def _consistent(self) -> OptimConfig:
        if self.larc is not None and self.name != "sgd":
            raise ValueError("larc adapts sgd; set name: sgd, or leave larc away")
        if self.nesterov and (self.name == "adamw" or self.momentum == 0):
            raise ValueError("nesterov needs sgd or lars with momentum")
        if bool(self.drops) != (self.schedule == "steps"):
            raise ValueError("schedule: steps and drops, such as [120 epochs, 160 epochs], belong together")
        return self

    @property
    def label(self) -> str:
        """The optimizer's name for people."""
        name = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS"}[self.name]
        return f"{name} with LARC" if self.larc is not None else name


_HEAD = "projection_head"


def parameter_groups(
    module: nn.Module, backbones: Sequence[nn.Module], config: OptimConfig, staged: bool = False
) -> list[dict[str, Any]]:
    """Groups of the parameters of `module` that train, each with `lr_scale`, `weight_decay_scale` and `staged`.

    `backbones[0]` is the one that trains; parameters outside of it, such as heads, have `lr_scale` 1. Biases and
    one-dimensional parameters aren't decayed, unless `config.decay` is `all`. Where the backbone trains in stages
    (`staged`), its parameters have groups of their own. The order follows from the scales (decayed first, then by
    rising learning rate, then heads first) and, inside a group, from the order in the module.

    Raises ConfigError for a patch embedding that the backbone doesn't have.
    """
    scales = _backbone_scales(backbones[0], config)
    of_backbone = {id(p) for p in backbones[0].parameters()} if staged else set()
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = config.decay == "matrices" and (name.endswith(".bias") or parameter.ndim <= 1)
            key = (0.0 if is_plain else 1.0, scales.get(parameter, 1.0), id(parameter) in of_backbone)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": key[1], "weight_decay_scale": key[0], "staged": key[2]}
        for key in sorted(groups, key=lambda key: (-key[0], *key[1:]))
    ]


def _backbone_scales(backbone: nn.Module, config: OptimConfig) -> dict[nn.Parameter, float]:
    """decay ** (layer of the head - layer); the patch embedding's factor on top of it."""
    scales: dict[nn.Parameter, float] = {}
    if config.layer_decay is not None:
        layers, head = _layers(backbone)
        scales |= {p: config.layer_decay ** (head - layers[name]) for name, p in backbone.named_parameters()}
    if config.patch_embed_lr != 1:
        embedding = _embedding(backbone)
        if not embedding:
            raise ConfigError("optim.patch_embed_lr: the backbone has no patch embedding; leave the setting away")
        scales |= {p: scales.get(p, 1.0) * config.patch_embed_lr for p in embedding}
    return scales


def _embedding(backbone: nn.Module) -> list[nn.Parameter]:
    """Of the patch embedding by its name; of a network that has none, timm's first layer, a convolutional stem."""
    named = [p for name, p in backbone.named_parameters() if "patch_embed" in name or name.startswith("stem")]
    if named or not hasattr(backbone, "group_matcher"):
        return named
    layers, _ = _layers(backbone)
    return [p for name, p in backbone.named_parameters() if layers[name] == 0]


def _layers(backbone: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each parameter, and that of a head on the backbone, as timm numbers them.

    The stem is 0 and each block one more; a final norm belongs to the last block (ViT) or to the head (ConvNeXt).
    Models that don't tell timm their layers (CAFormer) are cut into layers of twelve parameters, as timm does. Factors
    of LoRA are of the layer of the weight beside them.
    """
    every = dict(backbone.named_parameters())
    plain = {name: value for name, value in every.items() if not is_factor(name)}
    factors = [name for name in every if is_factor(name)]
    if not hasattr(backbone, "group_matcher"):
        seen = SimpleNamespace(
            named_parameters=lambda: plain.items(), pretrained_cfg=getattr(backbone, "pretrained_cfg", {})
        )
        layers: dict[str, int] = auto_group_layers(seen)  # type: ignore[no-untyped-call]
        return layers | {name: layers[weight_of_factor(name)] for name in factors}, max(layers.values()) + 1
    # Without a name for the head, the last block of a backbone without classifier would count as the head itself.
    names = [(name, None) for name in (*plain, _HEAD)]
    layers = group_with_matcher(iter(names), backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return layers | {name: layers[weight_of_factor(name)] for name in factors}, layers[_HEAD]


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay of one run, as functions of the step.

    `stages` are those in which its backbone begins to train, None where it does so at once.
    """

    config: OptimConfig
    batch: int
    total: int
    epoch_steps: int
    stages: BackboneStages | None = None

    @property
    def peak_lr(self) -> float:
        """The learning rate in effect after the warm-up.

        Linear scaling is that of Goyal et al. (arXiv 1706.02677), square-root scaling that of DINOv2, with
        `lr_batch` 1024. DINOv3 multiplies by 4 on top of it: give four times the `lr`.
        """
        ratio = self.batch / self.config.lr_batch
        return self.config.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.config.scaling]

    @property
    def warmup_steps(self) -> int:
        """Length of the warm-up, never more than the run. `auto`: 10 epochs, but at most 10 % of the run."""
        if self.config.warmup == "auto":
            return min(self._steps("10 epochs"), self._steps("10 %"))
        return min(self.total, self._steps(self.config.warmup))

    def lr(self, step: int) -> float:
        """Linear warm-up from `warmup_start` x peak; then a cosine to `min_lr`, the peak, or the peak with its drops.

        Drops count from the start of the run, as in MoCo's first schedule.
        """
        config, warmup, start = self.config, self.warmup_steps, self.config.warmup_start * self.peak_lr
        if config.schedule == "cosine":
            return cosine(step, self.peak_lr, config.min_lr, self.total, warmup, start)
        drops = sum(step >= self._steps(drop) for drop in config.drops)
        return warmed_up(step, self.peak_lr, warmup, start) * config.drop_factor**drops

    def weight_decay(self, step: int) -> float:
        """Cosine from `weight_decay` to `final_weight_decay`, no warm-up; constant if there is no final one."""
        first, last = self.config.weight_decay, self.config.final_weight_decay
        return first if last is None else cosine(step, first, last, self.total)

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Set both on the optimizer's groups, each with its scales; returns what was set for a scale of 1, and the
        factor on the backbone's learning rate where it trains in stages.
        """
        lr, decay = self.lr(step), self.weight_decay(step)
        factor = 1.0 if self.stages is None else self.stages.lr_factor(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"] * (factor if group["staged"] else 1.0)
            group["weight_decay"] = decay * group["weight_decay_scale"]
        return {"lr": lr, "weight_decay": decay} | ({} if self.stages is None else {"backbone_lr_factor": factor})

    def warnings(self, data: DataSize) -> list[str]:
        """A line for a warm-up that is most of the run, with one that would suit."""
        given = self.config.warmup
        item = at_first("warmup", given, 0 if given == "auto" else self._steps(given), data)
        return [warning("optim", item)] if item.wrong else []

    def _steps(self, duration: str) -> int:
        return steps_in(duration, self.epoch_steps, self.total)


def build_optimizer(method: Method, config: OptimConfig, staged: bool = False) -> torch.optim.Optimizer:
    """The optimizer of the parameters that train; learning rate and decay are set before each step.

    A parameter without a gradient is left alone: neither moved, nor decayed, nor its momentum touched. A backbone that
    was frozen so far therefore begins with empty moments, and Adam's count of its steps begins there.
    """
    groups = parameter_groups(method, method.backbones, config, staged)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
    if config.name == "sgd" and config.larc is None:
        # Not fused: torch's fused SGD takes no mixture of parameters with momentum and ones that were frozen so far.
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov)
    return _layerwise(groups, config)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state, but not its settings: a changed momentum or factor holds, where `resume.allow` lets it change."""
    settings = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(parts_of_optimizer(optimizer, state))
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def _layerwise(groups: list[dict[str, object]], config: OptimConfig) -> Lars:
    """SGD with a local rate: w -= lr m, m = momentum m + r (g + wd w), r = trust |w| / (|g| + wd |w| + eps).

    You et al., arXiv 1708.03888, with the learning rate outside of the momentum, as SimCLR, SwAV and MoCo v3 have it;
    r = 1 where |w| or |g| is 0. LARS leaves r = 1 for what isn't decayed, LARC adapts all. SimCLR and MoCo v3 divide by
    |g + wd w|, which differs by at most 2 wd |w| from this denominator: nothing at their wd of 1e-6.
    """
    larc = config.larc
    for group in groups:
        group["always_adapt"] = larc is not None or group["weight_decay_scale"] != 0
    return Lars(
        groups,
        lr=0.0,
        momentum=config.momentum,
        nesterov=config.nesterov,
        trust_coeff=config.trust if larc is None else larc.trust,
        eps=0.0 if larc is None else larc.eps,
        trust_clip=larc is not None and larc.clip,
    )


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimConfig) -> Tensor:
    """Clip in place and return the global gradient norm before clipping, a scalar on the device.

    By parameter: g <- g min(1, clip / (|g| + 1e-6)) for each parameter, as in DINO's reference code. Where ranks hold
    parts of a gradient, its norm is that of the whole.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    each = norms(gradients)
    total: Tensor = torch.linalg.vector_norm(each).float()
    if config.clip is None:
        return total
    own = [own_part(gradient) for gradient in gradients]
    if config.clip_by == "parameter":
        torch._foreach_mul_(own, list((config.clip / (each.float() + 1e-6)).clamp(max=1.0).unbind()))
    else:
        torch._foreach_mul_(own, (config.clip / (total + 1e-6)).clamp(max=1.0))
    return total
