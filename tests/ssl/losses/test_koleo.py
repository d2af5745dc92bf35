import numpy as np
import pytest
import torch

from trocar.ssl.losses import koleo


def published(features, rows):
    """Mean of -log of the distance on the sphere to the nearest other frame, float64."""
    z = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = np.linalg.norm(z[:, None] - z[None], axis=-1)
    distances[rows[:, None] == rows[None]] = np.inf
    return -np.log(distances.min(1)).mean()


@pytest.mark.parametrize("rows", [np.arange(9), np.array([0, 1, 2, 3, 0, 5, 6, 7, 1])])
def test_koleo_is_the_log_distance_to_the_nearest_other_frame(rows):
    features = np.random.default_rng(1).normal(size=(9, 5))
    ours = koleo(torch.tensor(features).float(), torch.from_numpy(rows))
    assert float(ours) == pytest.approx(published(features, rows), rel=1e-5)


def test_its_gradient_drives_neighbours_apart():
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]], requires_grad=True)
    koleo(x, torch.arange(3)).backward()
    assert x.grad[0, 1] < 0 < x.grad[1, 1]  # a step against the gradient


def test_equal_features_of_two_frames_give_a_finite_gradient():
    x = torch.ones(4, 3, requires_grad=True)
    loss = koleo(x, torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_it_is_computed_in_float32_under_autocast():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = koleo(x, torch.arange(6))
    assert torch.equal(inside, koleo(x, torch.arange(6)))
