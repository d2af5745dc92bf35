"""Training of a segmenter: the whole of it, or its decoder on a frozen backbone, by cross-entropy plus Dice."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor

from trocar.backbones.device import Precision, Wanted, autocast, resolved
from trocar.backbones.preprocess import describe_backbone
from trocar.core.config import Config
from trocar.data.views.recipe import Jitter
from trocar.downstream.labels import IGNORED_PIXEL
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.metrics.segmentation import scores_of
from trocar.downstream.segmentation.predict import predicted_confusions, require_size
from trocar.downstream.segmentation.segmenter import Segmenter
from trocar.downstream.training.batches import Augmentation, Cut, LabelledImages, NetworkImages
from trocar.downstream.training.fit import (
    FitRecipe,
    Remedies,
    Training,
    TrainingHistory,
    batches_of,
    epoch_batches,
    fit,
    parameter_groups,
)
from trocar.errors import ConfigError, TrocarError

AUGMENTATION = Augmentation(jitter=Jitter(p=1.0, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02))
"""What a training image and its mask go through: a crop of 60 to 100 % of the area (EndoViT's), flips, and colours that
always change, by little, because colour tells tissues apart."""


class SegmentationTraining(Config):
    """How a segmenter is trained; the defaults are near EndoViT's (AdamW 5e-4, layer decay 0.65)."""

    epochs: int = Field(default=30, ge=1, description="all epochs without validation cases, otherwise the most")
    patience: int = Field(
        default=8, ge=1, description="epochs without a better validation mIoU after which training stops"
    )
    batch: int = Field(default=16, ge=2, description="frames per step, at least 2")
    lr: float = Field(default=5e-4, gt=0, description="peak learning rate of the decoder")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay of AdamW")
    layer_decay: float = Field(
        default=0.65,
        gt=0,
        le=1,
        description="factor on the learning rate of each layer of the backbone from the output to the input, above 0 "
        "to 1",
    )
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="share of all steps in which the learning rate rises, 0 to below 1"
    )
    dice: float = Field(default=1.0, ge=0, description="weight of the Dice loss beside the cross-entropy")
    class_weights: list[float] | None = Field(
        default=None, description="weights of the classes in the cross-entropy, one each; null: none"
    )
    augment: bool = Field(
        default=True, description="whether training frames are flipped, cropped and changed in colour"
    )
    precision: Wanted = Field(default="auto", description="what the forward pass computes in; auto: as the evaluation")


def fit_segmenter(
    model: Segmenter,
    train: LabelledImages,
    config: SegmentationTraining,
    val: LabelledImages | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision | None = None,
    workers: int | None = None,
    name: str = "segmentation",
) -> TrainingHistory:
    """Train `model` in place on `device`; afterwards it has its best weights and is in eval mode.

    Training masks have the size of the images, validation masks may have any (predictions are resized to them). The
    order of the images and dropout follow from (seed, epoch), augmentation from (seed, epoch, image). A frozen backbone
    neither changes nor gets gradients. `precision` is what the settings' is on this device (None: found out). For a
    GPU, `workers` processes read and crop (None: what the machine has). `name` is what progress lines call it.

    Raises TrocarError for arrays that do not fit, a label that is no class, and as `training.fit`; ConfigError for
    class weights that are not one per class and a precision that the device doesn't have.
    """
    training = segmenter_training(model, train, config, val, seed, device, precision, workers, name)
    model.to(device)
    return fit(training)


def segmenter_training(
    model: Segmenter,
    train: LabelledImages,
    config: SegmentationTraining,
    val: LabelledImages | None,
    seed: int,
    device: str,
    precision: Precision | None,
    workers: int | None,
    name: str,
) -> Training[tuple[Ints, Cut]]:
    """What the engine is given. A batch is places among the images, and the images with their masks."""
    _require_arrays(model, train, config.batch)
    _require_weights(model, config)
    where = torch.device(device)
    used = precision or resolved(config.precision, where, "segmentation: precision")
    augmentation = AUGMENTATION if config.augment else None
    preprocessing = describe_backbone(model.backbone)
    images = NetworkImages(train[0], preprocessing, augmentation, seed, device, workers, masks=train[1])
    rows = np.arange(len(train[0]), dtype=np.int64)
    weights = None if config.class_weights is None else torch.tensor(config.class_weights, device=where)

    def loss(batch: tuple[Ints, Cut]) -> Tensor:
        _, cut = batch
        assert cut.masks is not None
        pixels = images.finish(cut)
        with autocast(where, used):
            logits = model(pixels)
        return segmentation_loss(logits, cut.masks.long(), dice=config.dice, weights=weights, labelled=cut.labelled)

    def validate() -> float:
        assert val is not None
        counts = predicted_confusions(model, *val, batch=config.batch, device=device, precision=used)
        iou = scores_of(counts.sum(0).astype(np.float64))
        return float(np.nanmean(iou)) if not np.isnan(iou).all() else float("nan")

    return Training(
        name=name,
        network=model,
        groups=parameter_groups(
            model.decoder, None if model.frozen else model.backbone, config.weight_decay, config.layer_decay
        ),
        recipe=FitRecipe(config.lr, config.epochs, config.warmup, patience=config.patience),
        seed=seed,
        device=device,
        steps=batches_of(len(rows), config.batch),
        batches=lambda epoch: images.batches(epoch_batches(rows, config.batch, seed, epoch), epoch),
        loss=loss,
        validate=None if val is None else validate,
        part=model.decoder if model.frozen else None,
        remedies=Remedies(
            lambda: (
                f"Segmentation takes {config.batch} images at a time, in {used}: lower its batch (now {config.batch}) "
                "or its image"
            ),
            unscored="With val: within_budget no score is needed: all epochs are trained",
        ),
    )


def segmentation_loss(
    logits: Tensor, target: Tensor, *, dice: float = 1.0, weights: Tensor | None = None, labelled: bool | None = None
) -> Tensor:
    """CE + `dice` x (1 - soft Dice), a scalar.

    logits float [b, K, H, W], target int64 [b, H, W] of 0 .. K - 1 or 255. CE is the mean over the pixels that are
    not 255, each with the weight of its class (`weights`, float [K]). Soft Dice is smp's: 2 sum(p y) / (sum p + sum y)
    per class over the whole batch, mean over all K classes; a class that the batch does not have adds 0 to that loss.
    0, and no gradient, for a batch without labelled pixels; `labelled` says whether it has any, where that is known:
    asking a GPU for it would wait for all that is queued.
    """
    if not (bool((target != IGNORED_PIXEL).any()) if labelled is None else labelled):
        return logits.sum() * 0.0  # the mean over no pixel would be 0 / 0
    loss = F.cross_entropy(logits, target, weight=weights, ignore_index=IGNORED_PIXEL)
    if dice:
        soft: Tensor = DiceLoss("multiclass", ignore_index=IGNORED_PIXEL)(logits, target)
        loss = loss + dice * soft
    return loss


def _require_arrays(model: Segmenter, train: LabelledImages, batch: int) -> None:
    images, masks = train
    require_size(images, model.size)
    if masks.shape != images.shape[:3]:
        raise TrocarError(f"training masks {tuple(masks.shape)} and images {tuple(images.shape)} do not fit together")
    for start in range(0, len(masks), batch):  # read by the batch: there may be more than memory holds
        part = masks[start : start + batch]
        largest = int(np.where(part == IGNORED_PIXEL, 0, part).max())
        if largest >= model.classes:
            raise TrocarError(
                f"a training mask has class {largest}, but there are {model.classes} classes (0 .. {model.classes - 1})"
            )


def _require_weights(model: Segmenter, config: SegmentationTraining) -> None:
    given = config.class_weights
    if given is not None and len(given) != model.classes:
        raise ConfigError(f"class_weights: {len(given)} numbers for {model.classes} classes; give one for each")
