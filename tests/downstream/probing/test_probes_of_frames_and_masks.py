"""Which frames a probe looks at, and what its closed forms solve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from probe_factory import make_probed, make_probed_masks
from sklearn.linear_model import Ridge
from timm import create_model

from trocar.backbones.preprocess import Preprocessing
from trocar.data.labelled_data import LabelledFolder
from trocar.downstream.probing.dense_probe import DenseProbe, cell_targets, map_encoder, solve_moments
from trocar.downstream.probing.frame_probe import FrameProbe, ridge
from trocar.downstream.probing.probed_frames import choose_frames, in_order, share_of, spread_over_cases
from trocar.errors import ConfigError
from trocar.ssl.engine.probe import Spread

FRAMES = ("multiclass", "multilabel")


def network():
    torch.manual_seed(0)
    return create_model("test_resnet", num_classes=0).eval()


def test_half_is_of_training_half_of_validation_cases_and_none_of_test_cases(tmp_path):
    make_probed(tmp_path / "labels", cases=9, frames=8)
    chosen = choose_frames(LabelledFolder(data=tmp_path / "labels"), "phase", 18, FRAMES, "probe p")
    assert set(chosen.data.frames["split"]) == {"train", "val"}
    assert (len(chosen.train), len(chosen.val), chosen.val_cases) == (9, 9, 3)
    times = chosen.data.frames.groupby("case")["time_s"].apply(list)
    assert all(of_case == [0, 4, 7] for of_case in times)  # spread over the operation


def test_every_case_has_one_frame_at_least():
    rows = np.arange(10)
    assert spread_over_cases(rows, np.repeat([0, 1, 2, 3, 4], 2), 3).tolist() == [0, 2, 4, 6, 8]


def test_shares_of_ranks_come_back_in_order():
    for size in (1, 2, 3, 4):
        parts = [torch.from_numpy(share_of(7, rank, size)) for rank in range(size)]
        assert in_order(torch.stack(parts), 7).tolist() == list(range(7))


@pytest.mark.parametrize("shape", [(30, 5), (8, 20)])
def test_ridge_is_the_closed_form_of_least_squares_with_a_penalty(shape):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=shape), generator.normal(size=(shape[0], 3))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = Ridge(alpha=0.7 * shape[0], fit_intercept=False).fit(x, y).coef_.T
    assert ridge(x, y, 0.7) == pytest.approx(expected, abs=1e-10)


def test_the_dense_solution_is_weighted_ridge_regression_on_standardised_channels():
    generator = np.random.default_rng(1)
    x, y, w = generator.normal(3, 2, (50, 4)), generator.random((50, 2)), generator.random(50)
    ones = np.concatenate([x, np.ones((50, 1))], 1)
    moments = torch.from_numpy((ones * w[:, None]).T @ np.concatenate([ones, y], 1))
    found = solve_moments(moments, 2, 0.05).numpy()
    mean = np.average(x, axis=0, weights=w)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    model = Ridge(alpha=0.05 * w.sum()).fit((x - mean) / scale, y, sample_weight=w)
    assert x @ found[:-1] + found[-1] == pytest.approx(model.predict((x - mean) / scale), abs=1e-9)


def test_a_cell_is_the_share_of_each_class_among_its_scored_pixels():
    mask = torch.tensor([[[0, 1, 255, 255], [1, 1, 255, 255], [0, 0, 2, 255], [0, 0, 2, 0]]], dtype=torch.uint8)
    target, weight = cell_targets(mask, 3, (2, 2))
    assert weight.tolist() == [1.0, 0.0, 1.0, 0.75]
    assert target[[0, 2, 3]].numpy() == pytest.approx(np.array([[0.25, 0.75, 0], [1, 0, 0], [1 / 3, 0, 2 / 3]]))


@pytest.mark.parametrize("protocol", ["knn", "linear"])
def test_phases_that_brightness_tells_are_found(tmp_path, protocol):
    make_probed(tmp_path / "labels")
    chosen = choose_frames(LabelledFolder(data=tmp_path / "labels"), "phase", 24, FRAMES, "probe p")
    with torch.no_grad():
        found = FrameProbe("p", chosen, protocol).score(network(), Preprocessing((32, 32)), Spread())
    assert found.value == 1.0
    assert found.draws.shape == (500,)


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", 16), ("test_vit", 16), ("test_efficientnet", 16)])
def test_bright_squares_are_found_on_a_map(tmp_path, name, stride):
    make_probed_masks(tmp_path / "masks", frames=7)
    folder = LabelledFolder(data=tmp_path / "masks")
    chosen = choose_frames(folder, "segmentation", 40, ("mask",), "probe p")
    torch.manual_seed(0)
    model = create_model(name, num_classes=0, **({"img_size": 96} if name == "test_vit" else {})).eval()
    maps = map_encoder(model, "p")(torch.zeros(1, 3, 96, 96))[0][0]
    assert maps.shape[-1] == 96 // stride
    with torch.no_grad():
        found = DenseProbe("p", chosen, 96).score(model, Preprocessing((96, 96)), Spread())
    assert 0.3 < found.value <= 1  # ground everywhere is below: the square has no pixel right then
    assert found.draws.shape == (500,)


def test_a_network_without_such_a_map_is_refused():
    with pytest.raises(ConfigError, match="feature map of stride 8 to 16"):
        map_encoder(torch.nn.Linear(1, 1), "p")
