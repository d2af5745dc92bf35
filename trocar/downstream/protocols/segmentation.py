"""Segmentation: a decoder on the backbone, trained with it or on the frozen one."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from trocar.backbones.lora import LoraConfig, add_lora
from trocar.core.registry import NameOf
from trocar.downstream.features.frame_cache import Pixels, Size, extent
from trocar.downstream.labels import IGNORED_PIXEL, Kind, Mask
from trocar.downstream.metrics.outcome import Ints
from trocar.downstream.protocols.base import PROTOCOLS, Prediction, Problem, Protocol
from trocar.downstream.segmentation.predict import predict_masks
from trocar.downstream.segmentation.segmenter import DECODERS, build_segmenter
from trocar.downstream.segmentation.train import SegmentationTraining, fit_segmenter
from trocar.downstream.training.batches import LabelledImages, Picked
from trocar.errors import TrocarError

Side = Annotated[int, Field(ge=16, le=4096)]
SizeOf = Callable[[int], tuple[int, int]]
"""(height, width) of the ground truth of a row of the table."""


@dataclass(frozen=True)
class Segmented:
    """Predicted masks uint8 [H, W] of the test frames, one after another at the size of the ground truth, in the order
    of `problem.test`; `detail` is what was chosen, as JSON values.
    """

    masks: Iterator[tuple[int, Mask]]
    detail: Mapping[str, Any]


class MaskProtocol(Protocol):
    """Learns masks. Scores of all pixels would not fit in memory, so masks are handed out one by one."""

    kinds: ClassVar[tuple[Kind, ...]] = ("mask",)

    def predict(self, problem: Problem) -> Prediction:
        """Raises TrocarError: masks come from `segment`."""
        raise TrocarError(f"protocol {self.name!r} gives masks, not scores of frames")

    @abstractmethod
    def segment(self, problem: Problem, size_of: SizeOf) -> Segmented:
        """Fit, and predict the test frames; of their ground truth only the size is asked for."""


@PROTOCOLS.register
class SegmentationProtocol(MaskProtocol, SegmentationTraining):
    """See `SegmentationTraining` for how it is trained.

    The epoch is the best on the validation cases, without any the last.
    """

    name: Literal["segmentation"] = "segmentation"
    trains_network: ClassVar[bool] = True
    random_start: ClassVar[bool] = True
    decoder: Annotated[str, NameOf(DECODERS)] = Field(
        default="fpn",
        description="what makes masks of the backbone's features; `linear` with `freeze` is the probe of frozen "
        "features",
    )
    freeze: bool = Field(default=False, description="keep the backbone as it is")
    lora: LoraConfig | None = Field(
        default=None,
        description="low-rank factors that learn in the place of the backbone's weights, with the learning rate of "
        "their layer; null: the weights learn",
    )
    image: tuple[Side, Side] | None = Field(
        default=None,
        description="height and width of the input in pixels, 16 to 4096 each; null: the square of the evaluation's "
        "`size`",
    )

    @model_validator(mode="after")
    def _something_learns(self) -> SegmentationProtocol:
        if self.freeze and self.lora is not None:
            raise ValueError("freeze keeps the backbone as it is, and lora trains it: take one of them")
        return self

    @property
    def usual_label(self) -> str:
        """With the decoder, and whether the backbone was trained."""
        return f"{self.name} {self.decoder}" + (", frozen" if self.freeze else ", lora" if self.lora else "")

    def input_size(self, size: int) -> Size:
        """`image`, where it is given."""
        return self.image or size

    def segment(self, problem: Problem, size_of: SizeOf) -> Segmented:
        """Train on the masks of the training cases at the size of the network's input."""
        encoder = problem.encoder
        assert encoder.network is not None
        size = self.input_size(encoder.size)
        shape, classes = extent(size), len(problem.space.classes)
        images = encoder.frames.get(size)
        backbone = encoder.network()
        if self.lora is not None:
            add_lora(backbone, self.lora, seed=problem.seed)
        model = build_segmenter(backbone, self.decoder, classes, shape, self.freeze, seed=problem.seed)
        train = _labelled(problem, problem.train, images, shape)
        val = None if problem.val is None else _labelled(problem, problem.val, images, shape)
        precision = encoder.computes_in(self.precision, "segmentation: precision")
        history = fit_segmenter(
            model,
            train,
            self,
            val,
            seed=problem.seed,
            device=encoder.device,
            precision=precision,
            workers=encoder.workers,
            name=problem.called("segmentation"),
        )
        rows = [int(row) for row in problem.test]
        sizes = (size_of(row) for row in rows)
        predicted = predict_masks(
            model, Picked(images, problem.test), sizes, batch=self.batch, device=encoder.device, precision=precision
        )
        masks = zip(rows, predicted, strict=True)
        losses = {"loss": history.loss, "validation": history.validation}
        detail = {"epoch": history.epoch, **losses, "precision": precision}
        return Segmented(masks, detail)


class ConstantMask(MaskProtocol):
    """The class with most pixels in the training masks, everywhere: the answer without looking."""

    name: Literal["constant_mask"] = "constant_mask"

    def segment(self, problem: Problem, size_of: SizeOf) -> Segmented:
        """The same mask for all test frames."""
        counts = np.zeros(IGNORED_PIXEL + 1, dtype=np.int64)
        for row in problem.train:
            counts += np.bincount(read_mask(problem, int(row)).ravel(), minlength=len(counts))
        best = int(counts[: len(problem.space.classes)].argmax())
        rows = [int(row) for row in problem.test]
        masks = ((row, np.full(size_of(row), best, dtype=np.uint8)) for row in rows)
        return Segmented(masks, {"class": problem.space.classes[best]})


def read_mask(problem: Problem, row: int) -> Mask:
    """The ground truth of a row of the table, uint8 [H, W]: of as much as its picture shows."""
    return problem.encoder.frames.data.mask(problem.space, row)


def _labelled(problem: Problem, rows: Ints, images: Pixels, shape: tuple[int, int]) -> LabelledImages:
    """Images and masks of rows at the size of the input; classes do not mix, so the nearest pixel is taken. Masks
    are resized once, into a file without a name that goes with the array.
    """
    # Written and not assigned through the map: a full disk is then an error and not a signal.
    with tempfile.TemporaryFile(dir=problem.encoder.frames.folder) as file:
        for row in rows:
            mask = torch.from_numpy(read_mask(problem, int(row)))[None, None]
            file.write(F.interpolate(mask, shape, mode="nearest-exact")[0, 0].numpy().tobytes())
        file.flush()
        masks = np.memmap(file, dtype=np.uint8, mode="r", shape=(len(rows), *shape))
    return Picked(images, rows), masks
