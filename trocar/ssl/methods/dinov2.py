"""DINOv2 (Oquab et al., arXiv 2304.07193): DINO with iBOT's masked patches (Zhou et al., arXiv 2111.07832) and KoLeo.

The student sees the global views with some patches masked; for these it has to find what the teacher, which sees them,
says of each patch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from trocar.data.views.recipe import Probability, ViewRecipe
from trocar.errors import ConfigError
from trocar.ssl.blocks.heads import DinoHead
from trocar.ssl.blocks.networks import Networks
from trocar.ssl.blocks.patches import MaskedPatches, Masking, Tokens, block_masks
from trocar.ssl.blocks.teachers import MeanLogits, SelfDistillation, SelfDistilled, start_teacher, update_teacher
from trocar.ssl.engine.method import METHODS, Losses, Method, Progress, Views, freeze_gradients
from trocar.ssl.engine.optimizer import Duration
from trocar.ssl.losses import dino_loss, entropy, ibot_loss, koleo, prototypes_used
from trocar.ssl.methods.dino import DinoGlobalViews, DinoLocalViews, DinoViews
from trocar.ssl.run import auto_values
from trocar.ssl.run.auto_values import Advice, Auto, DataSize, known


class Dinov2GlobalViews(DinoGlobalViews):
    """DINOv2's global views: DINO's but for scale and blur.

    Its code asks for a blur of every first view and of one in ten second ones, and hands 1 - p to torchvision: in
    effect no first view is blurred and nine in ten second ones are, which stands here. `blur: [1, 0.1]` is what was
    meant. Its kernel ends after 4 pixels, the one here after 3 sigma.
    """

    scale: tuple[float, float] = (0.32, 1.0)
    blur: Probability = [0.0, 0.9]


class Dinov2LocalViews(DinoLocalViews):
    """DINOv2's local views. 96 pixels suit patches of 16; for patches of 14 the published size is 98."""

    scale: tuple[float, float] = (0.05, 0.32)


class Dinov2Views(DinoViews):
    """DINOv2's multi-crop."""

    global_: Dinov2GlobalViews = Field(default=Dinov2GlobalViews(), alias="global")
    local: Dinov2LocalViews | None = Dinov2LocalViews()


class Dinov2Head(DinoHead):
    """DINOv2's head: DINO's, whose prototypes have trained lengths, which start at 1."""

    norm_last_layer: bool = Field(default=False, description="keep the prototypes at unit length")


@METHODS.register
class Dinov2Config(SelfDistillation):
    """Defaults are those of the reference code (ssl_default_config.yaml, ViT-L/16 on ImageNet-1k), and of its views
    what was in effect.

    Its recipe for ViT-L/14 on ImageNet-22k differs in: 131072 prototypes in both heads, a head of its own for patches,
    bottleneck 384 (class tokens), `centring: sinkhorn`, momentum 0.994, local views of 98 pixels, drop path 0.4.
    """

    name: Literal["dinov2"] = "dinov2"
    views: Dinov2Views = Field(default=Dinov2Views(), description="the views of a sample")
    head: Dinov2Head = Dinov2Head()
    ibot_head: Dinov2Head | None = Field(default=None, description="a head for patches alone; none: `head` serves both")
    masking: Masking = Field(default=Masking(), description="which patches of the student's global views are masked")
    teacher_temperature: Annotated[float, Field(gt=0)] | Auto = 0.07
    teacher_temperature_warmup: Duration = "30 epochs"
    teacher_temperature_stairs: bool = Field(
        default=False, description="a warm-up given in epochs holds each value for an epoch, as in DINO"
    )
    momentum: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        default=0.992, description="of the teacher at the start; 1 at the end"
    )
    dino_weight: float = Field(
        default=1.0, ge=0, description="weight of the loss of class tokens, the mean over pairs of views"
    )
    ibot_weight: float = Field(
        default=1.0, ge=0, description="weight of the loss of masked patches, the mean over global views"
    )
    koleo_weight: float = Field(
        default=0.1, ge=0, description="weight of the KoLeo loss, the sum over the two global views"
    )

    @override
    def recipe(self) -> ViewRecipe:
        return self.views.recipe()

    @property
    def patch_head(self) -> DinoHead:
        """The head that patches pass."""
        return self.head if self.ibot_head is None else self.ibot_head

    @override
    def build(self, networks: Networks) -> Method:
        if self.patch_head.batch_norm:
            raise ConfigError("method: a head of patches can't have batch_norm, a batch may have no masked patch")
        return Dinov2(self, networks)

    @override
    def advice(self, data: DataSize) -> list[Advice]:
        found = super().advice(data)
        if self.ibot_head is not None:
            found.append(auto_values.prototypes("ibot_head.prototypes", self.ibot_head.prototypes, data))
        return found


class Dinov2(SelfDistilled):
    """Student and teacher of one vision transformer; the teacher is the moving average of the student."""

    config: Dinov2Config
    centre: Tensor
    patch_centre: Tensor
    student_patch_head: nn.Module | None
    teacher_patch_head: nn.Module | None

    def __init__(self, config: Dinov2Config, networks: Networks) -> None:
        super().__init__()
        self.config = config
        self.student, self.teacher = networks.student(), networks.teacher()
        self.student_head, self.teacher_head = config.head.build(networks.width), config.head.build(networks.width)
        width = Tokens(self.student).width
        self.student_patch_head, self.teacher_patch_head = (
            config.ibot_head.build(width) if config.ibot_head is not None else None for _ in range(2)
        )
        self.mask_token = nn.Parameter(torch.zeros(width))
        for teacher, student in self._pairs():
            start_teacher(teacher, student)
        self.register_buffer("centre", torch.zeros(known(config.head.prototypes)))
        self.register_buffer("patch_centre", torch.zeros(known(config.patch_head.prototypes)))
        self._mean, self._patch_mean = MeanLogits(), MeanLogits()

    @override
    def loss(self, views: Views, progress: Progress) -> Losses:
        config = self.config
        target, patch_target, masked = self._targets(views, progress)
        features, patch_logits = self._student(views, masked)
        logits = self.student_head(features.flatten(0, 1)).view(*features.shape[:2], -1)
        dino = dino_loss(logits, target, config.student_temperature)
        ibot = ibot_loss(patch_logits, patch_target, masked.weight, len(masked.mask), config.student_temperature)
        spread = torch.stack([koleo(view, views.rows) for view in features[: len(target)]]).sum()
        return {
            "loss": config.dino_weight * dino + config.ibot_weight * ibot + config.koleo_weight * spread,
            "dino_loss": dino,
            "ibot_loss": ibot,
            "koleo_loss": spread,
            "masked_patches": masked.mask.float().mean(),
            "teacher_entropy": entropy(target),
            "prototypes_used": prototypes_used(target),
        }

    @override
    def after_step(self, progress: Progress) -> dict[str, float]:
        self.centre.copy_(self._mean.moved(self.centre, self.config.centre_momentum))
        self.patch_centre.copy_(self._patch_mean.moved(self.patch_centre, self.config.centre_momentum))
        momentum = self.config.momentum_at(progress)
        for teacher, student in self._pairs():
            update_teacher(teacher, student, momentum)
        self.forget()
        return {"momentum": momentum, "teacher_temperature": self.config.temperature_at(progress)}

    @override
    def forget(self) -> None:
        self._mean.clear()
        self._patch_mean.clear()

    @override
    def gradients_ready(self, progress: Progress) -> None:
        if self.config.is_frozen(progress):
            for head in filter(None, (self.student_head, self.student_patch_head)):
                freeze_gradients(head.get_submodule("last_layer"))

    @torch.no_grad()
    def _targets(self, views: Views, progress: Progress) -> tuple[Tensor, Tensor, MaskedPatches]:
        """Of the class tokens [2, b, K] and of the masked patches [m, K], and which these are of the 2 b views."""
        x = views["global"].transpose(0, 1)
        features, patches = Tokens(self.teacher)(x.flatten(0, 1))
        # After the pass is under way: a GPU has something to do while the host draws masks.
        masked = self._masked(views)
        head = self.teacher_patch_head if self.teacher_patch_head is not None else self.teacher_head
        patch_logits = head(masked.select(patches)).float()
        logits = self.teacher_head(features).float().view(*x.shape[:2], -1)
        self._mean.note(logits)
        self._patch_mean.note(patch_logits)
        target = self.config.targets(logits, self.centre, progress)
        return target, self.config.targets(patch_logits, self.patch_centre, progress), masked

    def _masked(self, views: Views) -> MaskedPatches:
        count, size = views["global"].shape[1], views["global"].shape[-1]
        seeds = views.mask_seed[:, :count].T  # the recipe's first views
        masks = block_masks(seeds, *Tokens(self.student).grid(size), self.config.masking)
        return MaskedPatches.of(masks.reshape(-1, *masks.shape[2:]), views["global"].device)

    def _student(self, views: Views, masked: MaskedPatches) -> tuple[Tensor, Tensor]:
        """Features [V, b, D] of all views, the masked global ones first, and logits [m, K] of the masked patches."""
        tokens, groups = Tokens(self.student), [x.transpose(0, 1) for x in views.crops.values()]
        features, patches = tokens.of_groups([x.flatten(0, 1) for x in groups], masked.mask, self.mask_token)
        parts = [seen.view(*x.shape[:2], -1) for seen, x in zip(features, groups, strict=True)]
        head = self.student_patch_head if self.student_patch_head is not None else self.student_head
        return torch.cat(parts), head(masked.select(patches))

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        pairs = [(self.teacher, self.student), (self.teacher_head, self.student_head)]
        if self.teacher_patch_head is not None and self.student_patch_head is not None:
            pairs.append((self.teacher_patch_head, self.student_patch_head))
        return pairs
