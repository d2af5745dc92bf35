"""The protocols of masks: what they learn from, at which size they answer, and what stays frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mask_factory import make_mask_folder
from training_factory import make_encoder, open_bench, with_validation

from trocar.downstream.labels import Mask
from trocar.downstream.protocols import get_protocol, segmentation
from trocar.downstream.protocols.base import Problem
from trocar.downstream.protocols.segmentation import ConstantMask, SegmentationProtocol, read_mask
from trocar.downstream.segmentation.train import fit_segmenter
from trocar.errors import ConfigError, TrocarError

SHAPES = ((40, 56), (48, 32))


def protocol(**settings: Any) -> SegmentationProtocol:
    found = get_protocol({"name": "segmentation", "epochs": 2, "batch": 4, "lr": 5e-3, "layer_decay": 0.9, **settings})
    assert isinstance(found, SegmentationProtocol)
    return found


def mask_problem(tmp_path: Path, architecture: str = "test_resnet") -> Problem:
    """Cases 0 and 2 train, 1 and 3 test; three masks each, in two sizes."""
    root = make_mask_folder(tmp_path / "data", cases=4, shapes=SHAPES)
    bench = open_bench(root, "segmentation")
    return bench.problem(bench.folds[0], make_encoder(bench, tmp_path, architecture), 0)


def size_of(problem: Problem) -> Callable[[int], tuple[int, int]]:
    def size(row: int) -> tuple[int, int]:
        height, width = read_mask(problem, row).shape
        return height, width

    return size


def masks_of(problem: Problem, recipe: segmentation.MaskProtocol) -> dict[int, Mask]:
    return dict(recipe.segment(problem, size_of(problem)).masks)


class Watched:
    """`fit_segmenter`, and what it was called with."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.model: Any = None
        self.train: Any = None
        self.val: Any = None

    def __call__(self, model: Any, train: Any, config: Any, val: Any = None, **settings: Any) -> Any:
        self.before = {name: value.clone() for name, value in model.state_dict().items()}
        self.model, self.train, self.val = model, train, val
        return fit_segmenter(model, train, config, val, **settings)


def watch(problem: Problem, recipe: SegmentationProtocol) -> tuple[Watched, segmentation.Segmented]:
    watched = Watched()
    with patch.object(segmentation, "fit_segmenter", watched):
        return watched, recipe.segment(problem, size_of(problem))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_masks_have_the_size_of_their_ground_truth_and_come_in_the_order_of_the_test_frames(
    tmp_path: Path, architecture: str
) -> None:
    problem = mask_problem(tmp_path, architecture)
    found = masks_of(problem, protocol(epochs=1))
    assert list(found) == problem.test.tolist()
    assert {mask.shape for mask in found.values()} == set(SHAPES)
    for row, mask in found.items():
        assert mask.shape == read_mask(problem, row).shape
        assert mask.dtype == np.uint8
        assert mask.max() < 3


def test_bright_squares_are_learned_far_better_than_the_constant(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    for row, mask in masks_of(problem, protocol(epochs=30, layer_decay=1.0, augment=False)).items():
        truth = read_mask(problem, row) == 1
        assert (truth & (mask == 1)).sum() / (truth | (mask == 1)).sum() > 0.5  # the constant has 0


def test_images_and_masks_of_the_labelled_training_frames_alone_are_learned_from(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    watched, _ = watch(problem, protocol(epochs=1))
    images, masks = watched.train
    assert watched.val is None
    assert images.shape == (6, 32, 32, 3)
    assert masks.shape == (6, 32, 32)
    assert (images[:] == problem.encoder.pixels[problem.train]).all()
    assert isinstance(images.array, np.memmap)
    assert isinstance(masks, np.memmap)
    assert set(np.unique(masks)) == {0, 1, 255}


def test_masks_of_test_frames_change_no_prediction(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    clean = masks_of(problem, protocol(epochs=1))
    original = segmentation.read_mask

    def poisoned(of: Problem, row: int) -> Mask:
        mask = original(of, row)
        return np.where(mask == 255, mask, 1 - mask).astype(np.uint8) if row in of.test else mask

    with patch.object(segmentation, "read_mask", poisoned):
        found = masks_of(problem, protocol(epochs=1))
    assert all((found[row] == mask).all() for row, mask in clean.items())


def test_the_epoch_is_the_best_on_the_validation_masks(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    watched, found = watch(with_validation(problem), protocol(epochs=3))
    assert len(watched.train[0]) == len(watched.val[0]) == 3
    values = found.detail["validation"]
    assert found.detail["epoch"] == 1 + int(np.argmax(values))
    assert len(values) == len(found.detail["loss"]) == 3


def test_without_validation_masks_the_last_epoch_is_kept(tmp_path: Path) -> None:
    found = protocol().segment(problem := mask_problem(tmp_path), size_of(problem)).detail
    assert (found["epoch"], len(found["loss"]), found["validation"]) == (2, 2, [])


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_backbone_does_not_move_and_another_does(tmp_path: Path, freeze: bool) -> None:
    watched, _ = watch(mask_problem(tmp_path), protocol(freeze=freeze))
    after = watched.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, watched.before[name])}
    assert any(name.startswith("encoder.backbone.") for name in moved) is not freeze
    assert any(name.startswith("decoder.") for name in moved)


def test_an_image_of_its_own_size_is_read_and_answered_at_the_native_one(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    recipe = protocol(epochs=1, image=[32, 64])
    assert (recipe.input_size(48), protocol().input_size(48)) == ((32, 64), 48)
    watched, found = watch(problem, recipe)
    assert watched.train[0].shape == (6, 32, 64, 3)
    assert {mask.shape for _, mask in found.masks} == set(SHAPES)


def test_a_run_follows_from_its_seed(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    first, again, other = (
        protocol().segment(p, size_of(p)).detail for p in (problem, problem, replace(problem, seed=1))
    )
    assert first["loss"] == again["loss"] != other["loss"]


def test_the_constant_mask_is_the_commonest_class_of_the_training_pixels(tmp_path: Path) -> None:
    problem = mask_problem(tmp_path)
    found = ConstantMask().segment(problem, size_of(problem))
    masks = dict(found.masks)
    assert found.detail == {"class": "ground"}
    assert [masks[int(row)].shape for row in problem.test] == [size_of(problem)(r) for r in problem.test]
    assert all((mask == 0).all() for mask in masks.values())
    with patch.object(segmentation, "read_mask", lambda *_: np.array([[255, 255, 255, 2, 2, 0]], dtype=np.uint8)):
        assert ConstantMask().segment(problem, size_of(problem)).detail == {"class": "never"}


def test_the_label_says_decoder_and_whether_the_backbone_was_trained() -> None:
    assert protocol().label == "segmentation fpn"
    assert protocol(decoder="linear", freeze=True).label == "segmentation linear, frozen"
    assert protocol(title="as EndoViT").label == "as EndoViT"


def test_masks_are_not_scores_and_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrocarError, match="gives masks, not scores of frames"):
        protocol().predict(mask_problem(tmp_path))
    for settings in ({"decoder": "fnp"}, {"image": [0, 64]}, {"seed": 1}):
        with pytest.raises(ConfigError):
            protocol(**settings)
    with pytest.raises(ConfigError, match="no protocol 'constant_mask'"):
        get_protocol("constant_mask")
