"""Training of a segmenter: the whole of it, or its decoder on a frozen backbone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from timm.optim._param_groups import param_groups_layer_decay
from torch import Tensor, nn
from torchvision.transforms import v2

from trocar.backbones.device import Precision, Wanted, autocast, explained, resolved
from trocar.backbones.preprocess import describe_backbone
from trocar.core.config import Config
from trocar.core.progress import track
from trocar.data.loading.cuda_stream import pinned, sent_ahead
from trocar.data.loading.workers import worker_count
from trocar.downstream.metrics.segmentation import scores_of
from trocar.downstream.segmentation.loss import IGNORE, segmentation_loss
from trocar.downstream.segmentation.predict import predicted_confusions, require_size, to_tensor
from trocar.downstream.segmentation.segmenter import Segmenter
from trocar.downstream.segmentation.training_pictures import Bytes, LabelledImages, augment, joint_augmentation
from trocar.downstream.training.batches import prepared
from trocar.errors import ConfigError, TrocarError


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


@dataclass
class SegmentationHistory:
    """One value an epoch: mean `loss` over its batches and validation mIoU (`iou@dataset`).

    `best_epoch` (from 0) is the one whose weights the model has now: that of the highest validation mIoU, the last
    one without a validation set.
    """

    loss: list[float] = field(default_factory=list)
    miou: list[float] = field(default_factory=list)
    best_epoch: int = -1


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
) -> SegmentationHistory:
    """Train `model` in place on `device`; afterwards it has its best weights and is in eval mode.

    Training masks have the size of the images, validation masks may have any (predictions are resized to them). The
    order of the images follows from (seed, epoch), augmentation from (seed, epoch, step), dropout from the seed. A
    frozen backbone neither changes nor gets gradients. Every epoch sees every image; the last batch is filled up with
    images of the beginning, because batch norm cannot do with one. `precision` is what the settings' is on this device
    (None: found out). For a GPU, `workers` processes read and augment (None: what the machine has); on a CPU no more
    than a batch of images and masks is read at a time.

    Raises TrocarError for arrays that do not fit, a label that is no class, a loss that is not finite or too little
    memory, ConfigError for class weights that are not one per class and a precision that the device doesn't have.
    """
    _require_arrays(model, train)
    _require_weights(model, config)
    where = torch.device(device)
    used = precision or resolved(config.precision, where, "segmentation: precision")
    step = _Step(model, config, used, where, -(-len(train[0]) // batch_size(len(train[0]), config.batch)))
    material = Material(train, joint_augmentation(model.size) if config.augment else None, model.classes, seed)
    history, best = SegmentationHistory(), {}
    devices = range(torch.cuda.device_count()) if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), explained(partial(_remedy, config, used)):
        torch.manual_seed(seed)
        for epoch in track(range(config.epochs), "train", config.epochs):
            history.loss.append(_epoch(step, material, epoch, workers))
            if val is not None:
                history.miou.append(_validate(model, val, config.batch, device, used))
            if _is_best(history):
                history.best_epoch, best = epoch, _weights(model) if val is not None else {}
            if val is not None and epoch - history.best_epoch >= config.patience:
                break
    if best:
        _trained_part(model).load_state_dict(best)
    model.eval()
    return history


@dataclass(frozen=True)
class Material:
    """What is learned from: images and masks, changed by `transform` (None: as they are), of `classes` classes."""

    data: LabelledImages
    transform: v2.Transform | None
    classes: int
    seed: int

    def batch(self, rows: npt.NDArray[np.int64], epoch: int, number: int) -> tuple[bool, list[Tensor]]:
        """A batch on the host: whether any pixel has a label, and images uint8 [b, 3, H, W] with masks uint8 [b, H, W].

        It follows from (seed, epoch, number) and its rows alone. Raises TrocarError for a label that is no class.
        """
        images, masks = self.data[0][rows], self.data[1][rows]
        _require_classes(masks, self.classes)
        pixels, labels = to_tensor(images, "cpu"), torch.from_numpy(np.array(masks))
        if self.transform is not None:
            seed = int(np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0])
            pixels, labels = augment(pixels, labels, self.transform, seed)
        return bool((labels != IGNORE).any()), [pixels, labels]


class _Step:
    """One update after another, with the learning rate of the step."""

    def __init__(
        self,
        model: Segmenter,
        config: SegmentationTraining,
        precision: Precision,
        device: torch.device,
        epoch_steps: int,
    ) -> None:
        self.model, self.config, self.precision, self.device = model.to(device), config, precision, device
        self.epoch_steps, self.total, self.done = epoch_steps, epoch_steps * config.epochs, 0
        self.optimizer = torch.optim.AdamW(parameter_groups(model, config), lr=config.lr)
        self.normalise = describe_backbone(model.backbone).normalise
        self.weights = None if config.class_weights is None else torch.tensor(config.class_weights, device=device)

    def __call__(self, pixels: Tensor, labels: Tensor, labelled: bool) -> Tensor:
        """Images and masks of a batch, on the device, and whether any pixel of them has a label -> the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * group["lr_scale"] * rate(self.done, self.total, self.config.warmup)
        with autocast(self.device, self.precision):
            logits = self.model(self.normalise(pixels))
        loss = segmentation_loss(logits, labels.long(), dice=self.config.dice, weights=self.weights, labelled=labelled)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.done += 1
        return loss.detach()


def parameter_groups(model: Segmenter, config: SegmentationTraining) -> list[dict[str, Any]]:
    """Groups with `lr_scale`: 1 for the decoder, `layer_decay` per layer below it. No decay of vectors and biases.

    Layers are timm's. It counts the topmost layer of a backbone without a classifier as the head; the decoder is one
    above that. In a model whose final norm is a layer of its own (ConvNeXt's, unused here), blocks are one lower yet.
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.decoder.parameters():
        (plain if parameter.ndim <= 1 else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    if model.frozen:
        return groups
    unlike: Any = getattr(model.backbone, "no_weight_decay", set)
    layers = param_groups_layer_decay(
        model.backbone, config.weight_decay, no_weight_decay_list=unlike(), layer_decay=config.layer_decay
    )
    return groups + [{**layer, "lr_scale": layer["lr_scale"] * config.layer_decay} for layer in layers]


def rate(step: int, total: int, warmup: float) -> float:
    """Factor of the learning rate: linear to 1 over the first `warmup` x total steps, then a cosine towards 0."""
    ramp = round(warmup * total)
    if step < ramp:
        return (step + 1) / (ramp + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def batches(count: int, batch: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of an epoch's batches, all equally large; the last is filled up from the beginning of the order."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    size = batch_size(count, batch)
    yield from np.resize(order, (-(-count // size), size))


def batch_size(count: int, batch: int) -> int:
    """Images a batch of `count` in all: at most all of them, at least the two that batch norm needs."""
    return max(2, min(batch, count))


def _epoch(step: _Step, material: Material, epoch: int, workers: int | None) -> float:
    step.model.train()
    losses = []
    for labelled, (pixels, labels) in sent_ahead(_batches(step, material, epoch, workers), step.device):
        losses.append(step(pixels, labels, labelled))
    loss = float(torch.stack(losses).mean())
    if not math.isfinite(loss):
        raise TrocarError(
            f"the loss is not finite in epoch {epoch + 1}; take a lower learning rate than {step.config.lr}"
        )
    return loss


def _batches(
    step: _Step, material: Material, epoch: int, workers: int | None
) -> Iterator[tuple[bool, Sequence[Tensor]]]:
    """Of an epoch, on the host: for a GPU by processes, in pinned memory; for a CPU here, when one is asked for.

    Not in a thread: what is drawn comes from the random numbers of torch, which are dropout's at the same time.
    """
    rows = list(batches(len(material.data[0]), step.config.batch, material.seed, epoch))
    if step.device.type == "cuda":
        size = sum(int(np.prod((len(rows[0]), *stack.shape[1:]))) for stack in material.data)
        count = worker_count(workers, size, len(rows))
        if count:
            yield from prepared(partial(_numbered, material, rows, epoch), len(rows), count)
            return
    for number in range(len(rows)):
        labelled, tensors = _numbered(material, rows, epoch, number)
        yield labelled, [pinned(x, step.device) for x in tensors]


def _numbered(
    material: Material, rows: Sequence[npt.NDArray[np.int64]], epoch: int, number: int
) -> tuple[bool, list[Tensor]]:
    return material.batch(rows[number], epoch, number)


def _validate(model: Segmenter, val: LabelledImages, batch: int, device: str, precision: Precision) -> float:
    counts = predicted_confusions(model, *val, batch=batch, device=device, precision=precision)
    return float(np.nanmean(scores_of(counts.sum(0).astype(np.float64))))


def _remedy(config: SegmentationTraining, precision: Precision) -> str:
    return (
        f"Segmentation takes {config.batch} images at a time, in {precision}: lower its batch (now {config.batch}) or "
        "its image"
    )


def _is_best(history: SegmentationHistory) -> bool:
    return not history.miou or history.miou[-1] > max(history.miou[:-1], default=-1.0)


def _trained_part(model: Segmenter) -> nn.Module:
    return model.decoder if model.frozen else model


def _weights(model: Segmenter) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in copy.deepcopy(_trained_part(model).state_dict()).items()}


def _require_arrays(model: Segmenter, train: LabelledImages) -> None:
    images, masks = train
    require_size(images, model.size)
    if masks.shape != images.shape[:3]:
        raise TrocarError(f"training masks {tuple(masks.shape)} and images {tuple(images.shape)} do not fit together")


def _require_weights(model: Segmenter, config: SegmentationTraining) -> None:
    given = config.class_weights
    if given is not None and len(given) != model.classes:
        raise ConfigError(f"class_weights: {len(given)} numbers for {model.classes} classes; give one for each")


def _require_classes(masks: Bytes, classes: int) -> None:
    largest = int(np.where(masks == IGNORE, 0, masks).max())
    if largest >= classes:
        raise TrocarError(f"a training mask has class {largest}, but there are {classes} classes (0 .. {classes - 1})")
