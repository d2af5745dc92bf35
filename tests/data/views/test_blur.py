import pytest
import torch
from torchvision.transforms import functional as tv

from trocar.data.views.pixel_ops import blur, blur_view, radius_of


def pictures(n=3, size=32):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_torchvisions_with_a_kernel_of_three_sigma(sigma):
    x = pictures()
    width = 2 * radius_of(sigma, 32) + 1
    expected = tv.gaussian_blur(x, [width, width], [sigma, sigma])
    assert (blur_view(x[0], sigma) - expected[0]).abs().max() < 1e-3


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_end_of_the_kernel_costs_less_than_one_grey_level(sigma):
    """Against a kernel without end, on white noise, the picture for which it matters most."""
    x = pictures()
    expected = tv.gaussian_blur(x, [31, 31], [sigma, sigma])
    assert (blur_view(x[0], sigma) - expected[0]).abs().max() < 1.0


def test_a_batch_of_mixed_sigmas_is_each_view_blurred_alone():
    x, sigma = pictures(4), torch.tensor([0.0, 0.3, 1.0, 2.0])
    out = blur(x, sigma, radius_of(2.0, 32))
    assert torch.equal(out[0], x[0])
    for i in (1, 2, 3):
        assert (out[i] - blur_view(x[i], float(sigma[i]))).abs().max() < 1e-3


def test_constants_stay_and_views_smaller_than_the_kernel_are_blurred():
    flat = torch.full((3, 16, 16), 0.7)
    assert torch.allclose(blur_view(flat, 1.5), flat, atol=1e-6)
    assert radius_of(4.0, 8) == 7
    assert blur_view(pictures(1, 8)[0], 4.0).shape == (3, 8, 8)
