"""Training and prediction of a tiny segmenter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Preprocessing
from trocar.downstream.metrics.segmentation import scores_of
from trocar.downstream.segmentation import train as training
from trocar.downstream.segmentation.predict import predict_masks, predicted_confusions
from trocar.downstream.segmentation.segmenter import Segmenter, build_segmenter
from trocar.downstream.segmentation.train import AUGMENTATION, SegmentationTraining, fit_segmenter
from trocar.downstream.training.batches import NetworkImages, Picked
from trocar.downstream.training.fit import epoch_batches, parameter_groups
from trocar.errors import ConfigError, TrocarError

SIZE = (40, 56)


def toy(count: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A red and a blue rectangle, classes 1 and 2, on grey noise; the lowest rows are not labelled."""
    generator = np.random.default_rng(seed)
    images = generator.normal(110, 12, (count, *SIZE, 3))
    masks = np.zeros((count, *SIZE), dtype=np.uint8)
    for image, mask in zip(images, masks, strict=True):
        for label, channel in ((1, 0), (2, 2)):
            top, left = generator.integers(0, 14), generator.integers(0, 6) + 28 * (label - 1)
            image[top : top + 24, left : left + 20, channel] += 90
            mask[top : top + 24, left : left + 20] = label
    masks[:, -2:] = 255
    return images.clip(0, 255).astype(np.uint8), masks


def segmenter(freeze: bool = False, decoder: str = "pyramid", name: str = "random:resnet10t") -> Segmenter:
    return build_segmenter(load_backbone(name, seed=0), decoder, 3, SIZE, freeze)


def miou(model: Segmenter, data: tuple[np.ndarray, np.ndarray]) -> float:
    return float(np.nanmean(scores_of(predicted_confusions(model, *data).sum(0))))


def settings(**kwargs: object) -> SegmentationTraining:
    return SegmentationTraining(**{"epochs": 2, "batch": 2, "lr": 2e-3, "augment": False, **kwargs})


def test_four_images_are_learnt_to_an_iou_above_nine_tenths() -> None:
    # Without batch norm, whose statistics of so few steps would lag behind the weights.
    model, data = segmenter(name="random:pvt_v2_b0"), toy()
    assert miou(model, data) < 0.5
    history = fit_segmenter(model, data, settings(epochs=30, batch=4, layer_decay=1.0))
    assert history.loss[-1] < history.loss[0] / 4
    assert history.epoch == 30
    assert miou(model, data) > 0.9


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not() -> None:
    def weights(seed: int) -> torch.Tensor:
        model = segmenter(decoder="fpn")  # with dropout
        fit_segmenter(model, toy(), settings(augment=True), seed=seed)
        return model.decoder.classify.weight.detach()

    torch.manual_seed(0)
    first = weights(1)
    torch.manual_seed(9)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_worker_processes_make_the_batches_that_are_made_here() -> None:
    images, masks = toy(count=18)
    found = NetworkImages(images, Preprocessing(), AUGMENTATION, 5, "cpu", workers=2, masks=masks)
    parts = epoch_batches(np.arange(18), 2, seed=5, epoch=1)
    cuts = found._by_workers(parts, 1, pin=False)
    assert cuts is not None
    for cut, part in zip(cuts, parts, strict=True):
        expected = found.cut(part, 1)
        assert cut.labelled == expected.labelled
        assert all(torch.equal(a, b) for a, b in zip(cut.tensors(), expected.tensors(), strict=True))


def test_memory_that_runs_out_names_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training, "segmentation_loss", full)
    with pytest.raises(TrocarError, match=r"Segmentation takes 3 images at a time, in float32: lower its batch"):
        fit_segmenter(segmenter(), toy(), settings(batch=3))


def test_only_the_decoder_of_a_frozen_backbone_changes() -> None:
    model = segmenter(freeze=True)
    before = copy.deepcopy(model.state_dict())
    fit_segmenter(model, toy(), settings(), val=toy(seed=1))
    after = model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


def test_the_model_ends_with_the_weights_of_its_best_epoch_and_stops_without_progress() -> None:
    model, val = segmenter(), toy(seed=7)
    history = fit_segmenter(model, toy(), settings(epochs=12, patience=2, lr=0.02, layer_decay=1.0), val=val)
    assert history.validation[history.epoch - 1] == max(history.validation)
    assert len(history.validation) == min(12, history.epoch + 2)
    assert miou(model, val) == pytest.approx(max(history.validation), abs=1e-6)
    assert not model.training


def test_training_without_progress_stops_after_patience_epochs() -> None:
    history = fit_segmenter(segmenter(), toy(), settings(epochs=12, patience=2, lr=1e-30), val=toy(seed=7))
    # Batch norm's statistics move the first scores; with an lr of nothing they settle at once.
    assert len(history.validation) < 12
    assert len(history.validation) == history.epoch + 2


def test_validation_masks_may_have_their_native_size() -> None:
    images, masks = toy(2)
    large = masks.repeat(2, axis=1).repeat(3, axis=2)
    counts = predicted_confusions(segmenter(), images, large)
    assert (counts.sum((1, 2)) == (large != 255).sum((1, 2))).all()


def test_each_mask_has_the_size_asked_for_and_is_that_of_its_image_alone() -> None:
    model, (images, _) = segmenter(), toy(3)
    sizes = [(90, 130), SIZE, (20, 31)]
    asked = []

    def one_at_a_time() -> Iterator[tuple[int, int]]:
        for size in sizes:
            asked.append(size)
            yield size

    found = predict_masks(model, images, one_at_a_time(), batch=2)
    first = next(found)
    assert asked == sizes[:1]
    masks = [first, *found]
    assert [(mask.shape, mask.dtype) for mask in masks] == [(size, np.uint8) for size in sizes]
    for image, size, mask in zip(images, sizes, masks, strict=True):
        (single,) = predict_masks(model, image[None], [size])
        assert (single == mask).mean() > 0.999


def test_memory_mapped_images_and_bfloat16_train(tmp_path: Path) -> None:
    images, masks = toy()
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    history = fit_segmenter(segmenter(), (mapped, masks), settings(epochs=4, precision="bfloat16"))
    assert history.loss[-1] < history.loss[0]
    assert (np.load(tmp_path / "images.npy") == images).all()


class Counting(np.ndarray):  # type: ignore[type-arg]
    """An array that notes how many rows are read at once."""

    most = 0

    def __getitem__(self, rows: Any) -> Any:
        found = np.asarray(self)[rows]
        Counting.most = max(Counting.most, len(found))
        return found


def test_rows_of_a_larger_array_train_as_their_copy_does_and_are_read_by_the_batch() -> None:
    images, masks = toy(6)
    rows = np.array([5, 0, 3, 1, 2])
    copied, picked = segmenter(), segmenter()
    val = (images[:3], masks[:3])
    expected = fit_segmenter(copied, (images[rows], masks[rows]), settings(batch=2), val=val)
    large = Picked(images.view(Counting), rows)
    found = fit_segmenter(
        picked, (large, masks[rows]), settings(batch=2), val=(Picked(images, np.arange(3)), masks[:3])
    )
    assert found == expected
    assert all(
        torch.equal(a, b) for a, b in zip(copied.state_dict().values(), picked.state_dict().values(), strict=True)
    )
    assert Counting.most == 2


def test_layers_below_the_decoder_learn_more_slowly_the_deeper_they_are() -> None:
    model = segmenter(name="random:vit_tiny_patch16_224")
    scale = {
        id(p): group["lr_scale"]
        for group in parameter_groups(model.decoder, model.backbone, 0.05, 0.5)
        for p in group["params"]
    }
    vit = model.backbone
    assert {scale[id(p)] for p in model.decoder.parameters()} == {1.0}
    assert scale[id(vit.blocks[11].attn.qkv.weight)] == 0.5
    assert scale[id(vit.blocks[10].attn.qkv.weight)] == 0.25
    assert scale[id(vit.blocks[0].attn.qkv.weight)] == 0.5**12
    assert scale[id(vit.patch_embed.proj.weight)] == 0.5**13
    assert set(scale) == {id(p) for p in model.parameters()}


def test_vectors_and_position_tables_are_not_decayed() -> None:
    model = segmenter(name="random:vit_tiny_patch16_224")
    plain = {
        id(p)
        for g in parameter_groups(model.decoder, model.backbone, 0.05, 0.65)
        if g["weight_decay"] == 0
        for p in g["params"]
    }
    assert id(model.backbone.pos_embed) in plain
    assert all(id(p) in plain for p in model.parameters() if p.ndim <= 1)
    assert id(model.decoder.lateral[0].weight) not in plain


def test_arrays_that_do_not_fit_are_refused() -> None:
    images, masks = toy()
    with pytest.raises(TrocarError, match="built for 40 x 56"):
        fit_segmenter(segmenter(), (images[:, :20], masks[:, :20]), settings())
    with pytest.raises(TrocarError, match="do not fit together"):
        fit_segmenter(segmenter(), (images, masks[:3]), settings())
    with pytest.raises(TrocarError, match="built for 40 x 56"):
        next(predict_masks(segmenter(), images[:0], []))
    with pytest.raises(ConfigError, match="2 numbers for 3 classes"):
        fit_segmenter(segmenter(), (images, masks), settings(class_weights=[1.0, 2.0]))
    with pytest.raises(TrocarError, match="class 7, but there are 3 classes"):
        fit_segmenter(segmenter(), (images, np.full_like(masks, 7)), settings())


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    model = segmenter()
    assert isinstance(model.decoder.fuse[-1], nn.Conv2d)
    with torch.no_grad():
        model.decoder.fuse[-1].bias[0] = float("nan")
    with pytest.raises(TrocarError, match="segmentation: the loss of epoch 1 is nan; use a smaller lr"):
        fit_segmenter(model, toy(), settings())


def test_logits_that_are_not_finite_are_no_mask_of_the_first_class() -> None:
    model, (images, masks) = segmenter(), toy(2)
    with torch.no_grad():
        next(model.decoder.parameters()).fill_(torch.nan)
    with pytest.raises(TrocarError, match="the segmenter's logits are NaN or infinite"):
        next(predict_masks(model, images, [SIZE]))
    with pytest.raises(TrocarError, match="the segmenter's logits are NaN or infinite"):
        predicted_confusions(model, images, masks)
