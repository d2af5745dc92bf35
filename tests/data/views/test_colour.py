import itertools

import torch

from trocar.data.views.pixel_ops import LUMA, apply_maps, colour_maps, written_out


def maps(colour, order=(0, 1, 2, 3), mean=(0.5, 0.4, 0.3), grey=False):
    matrix, offset = colour_maps(
        torch.tensor([mean]), torch.tensor([colour]), torch.tensor([order]), torch.tensor([grey])
    )
    return matrix[0], offset[0, :, 0]


def test_hue_rotation_keeps_luma_and_grey_and_turns_back():
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    luma = torch.tensor(LUMA)
    forward, _ = maps((1.0, 1.0, 1.0, 0.1))
    back, _ = maps((1.0, 1.0, 1.0, -0.1))
    turned = forward @ x
    assert torch.allclose(luma @ turned, luma @ x, atol=1e-5)
    assert torch.allclose(back @ turned, x, atol=1e-5)
    assert torch.allclose(forward @ torch.ones(3), torch.ones(3), atol=1e-4)
    assert not torch.allclose(turned, x, atol=0.02)


def test_maps_compose_in_the_order_given():
    """Against the operations applied one by one to the view's own mean, in float64."""
    colour, mean = (1.3, 0.7, 1.2, 0.05), torch.tensor([0.5, 0.4, 0.3])
    single = [maps(tuple(colour[i] if i == op else (0.0 if i == 3 else 1.0) for i in range(4)))[0] for op in range(4)]
    luma = torch.tensor(LUMA, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        matrix, offset = maps(colour, order, tuple(mean.tolist()))
        x = torch.tensor([0.2, 0.9, 0.6], dtype=torch.float64)
        centre, expected = mean.double(), x
        for op in order:
            if op == 1:
                pull = 0.3 * (luma @ centre)
                expected, centre = 0.7 * expected + pull, 0.7 * centre + pull
            else:
                expected, centre = single[op].double() @ expected, single[op].double() @ centre
        assert torch.allclose((matrix @ x.float() + offset).double(), expected, atol=1e-5), order


def test_grey_comes_last_and_gives_equal_channels():
    matrix, offset = maps((1.2, 0.8, 1.1, 0.1), grey=True)
    out = matrix @ torch.tensor([0.9, 0.1, 0.4]) + offset
    assert torch.allclose(out, out[:1].expand(3))


def test_what_is_written_out_for_a_gpu_is_the_matrix_product_of_a_cpu():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 3, 3, generator=generator), torch.randn(50, 3, 3, generator=generator)
    column = b[..., :1]
    for left, right in ((a, b), (a, column), (torch.tensor([LUMA]), b), (torch.tensor([LUMA]), column)):
        torch.testing.assert_close(written_out(left, right), left @ right, rtol=0, atol=2e-6)


def test_pixels_through_their_maps_are_the_batched_product_clamped():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 8, 8, generator=generator)
    matrix, offset = torch.randn(4, 3, 3, generator=generator), torch.randn(4, 3, 1, generator=generator)
    expected = torch.baddbmm(offset, matrix, x.flatten(2)).clamp(0, 1).view_as(x)
    torch.testing.assert_close(apply_maps(x, matrix, offset), expected, rtol=0, atol=1e-6)
