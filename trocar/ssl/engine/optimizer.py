"""Optimizer, clipping, and the schedules of learning rate and weight decay.

Which parameters share a learning rate and a weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.optim._param_groups import auto_group_layers
from timm.optim.lars import Lars
from torch import Tensor, nn

from trocar.errors import ConfigError
from trocar.ssl.engine.method import Method
from trocar.ssl.engine.optimizer_config import OptimConfig, cosine, steps_in, warmed_up
from trocar.ssl.run.auto_values import DataSize, at_first, warning

_HEAD = "projection_head"


def parameter_groups(module: nn.Module, backbones: Sequence[nn.Module], config: OptimConfig) -> list[dict[str, Any]]:
    """Groups of the parameters of `module` that train, each with `lr_scale` and `weight_decay_scale`.

    `backbones[0]` is the one that trains; parameters outside of it, such as heads, have `lr_scale` 1. Biases and
    one-dimensional parameters aren't decayed, unless `config.decay` is `all`. The order follows from the scales
    (decayed first, then by rising learning rate) and, inside a group, from the order in the module.

    Raises ConfigError for a patch embedding that the backbone doesn't have.
    """
    scales = _backbone_scales(backbones[0], config)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = config.decay == "matrices" and (name.endswith(".bias") or parameter.ndim <= 1)
            key = (0.0 if is_plain else 1.0, scales.get(parameter, 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": groups[key], "lr_scale": key[1], "weight_decay_scale": key[0]}
        for key in sorted(groups, key=lambda key: (-key[0], key[1]))
    ]


def _backbone_scales(backbone: nn.Module, config: OptimConfig) -> dict[nn.Parameter, float]:
    """decay ** (layer of the head - layer); the patch embedding's factor on top of it."""
    scales: dict[nn.Parameter, float] = {}
    if config.layer_decay is not None:
        layers, head = _layers(backbone)
        scales |= {p: config.layer_decay ** (head - layers[name]) for name, p in backbone.named_parameters()}
    if config.patch_embed_lr != 1:
        embedding = [p for name, p in backbone.named_parameters() if "patch_embed" in name or name.startswith("stem")]
        if not embedding:
            raise ConfigError("optim.patch_embed_lr: the backbone has no patch embedding; leave the setting away")
        scales |= {p: scales.get(p, 1.0) * config.patch_embed_lr for p in embedding}
    return scales


def _layers(backbone: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each parameter, and that of a head on the backbone, as timm numbers them.

    The stem is 0 and each block one more; a final norm belongs to the last block (ViT) or to the head (ConvNeXt).
    Models that don't tell timm their layers (CAFormer) are cut into layers of twelve parameters, as timm does.
    """
    if not hasattr(backbone, "group_matcher"):
        layers: dict[str, int] = auto_group_layers(backbone)  # type: ignore[no-untyped-call]
        return layers, max(layers.values()) + 1
    # Without a name for the head, the last block of a backbone without classifier would count as the head itself.
    names = [(name, None) for name in (*dict(backbone.named_parameters()), _HEAD)]
    layers = group_with_matcher(iter(names), backbone.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    return layers, layers[_HEAD]


__all__ = ["OptimConfig", "Schedule", "build_optimizer", "clip_gradients", "restore"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay of one run, as functions of the step."""

    config: OptimConfig
    batch: int
    total: int
    epoch_steps: int

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
        """Set both on the optimizer's groups, each with its scales; returns what was set for a scale of 1."""
        lr, decay = self.lr(step), self.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay * group["weight_decay_scale"]
        return {"lr": lr, "weight_decay": decay}

    def warnings(self, data: DataSize) -> list[str]:
        """A line for a warm-up that is most of the run, with one that would suit."""
        given = self.config.warmup
        item = at_first("warmup", given, 0 if given == "auto" else self._steps(given), data)
        return [warning("optim", item)] if item.wrong else []

    def _steps(self, duration: str) -> int:
        return steps_in(duration, self.epoch_steps, self.total)


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of the parameters that train; learning rate and decay are set before each step.

    A parameter without a gradient is left alone: neither moved, nor decayed, nor its momentum touched.
    """
    groups = parameter_groups(method, method.backbones, config)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)
    if config.name == "sgd" and config.larc is None:
        # Not fused: torch's fused SGD takes no mixture of parameters with momentum and ones that were frozen so far.
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov)
    return _layerwise(groups, config)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state, but not its settings: a changed momentum or factor holds, where `resume.allow` lets it change."""
    settings = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
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

    By parameter: g <- g min(1, clip / (|g| + 1e-6)) for each parameter, as in DINO's reference code.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(list(torch._foreach_norm(gradients)))
    total: Tensor = torch.linalg.vector_norm(norms)
    if config.clip is None:
        return total
    if config.clip_by == "parameter":
        torch._foreach_mul_(gradients, list((config.clip / (norms + 1e-6)).clamp(max=1.0).unbind()))
    else:
        torch._foreach_mul_(gradients, (config.clip / (total + 1e-6)).clamp(max=1.0))
    return total
