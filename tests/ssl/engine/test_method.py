"""Views as a method gets them: passes by size, order of the outputs, micro-batches."""

import numpy as np
import torch

from trocar.ssl.engine.method import Views, by_view


def group(first, n, size, b=2):
    """[b, n, 3, S, S] whose pixels say which view (first, first + 1, ...) and sample (.0, .1) they are of."""
    label = first + torch.arange(n)[None] + 0.1 * torch.arange(b)[:, None]
    return label[..., None, None, None].expand(b, n, 3, size, size)


def test_views_of_one_size_pass_together_and_outputs_are_in_the_order_of_the_groups():
    passes = []

    def network(x):
        passes.append(tuple(x.shape))
        return x[:, :, 0, 0] + torch.tensor([0.0, 100, 200])

    out = by_view(network, [group(0, 2, 16), group(2, 3, 8), group(5, 1, 16)])
    assert passes == [(6, 3, 16, 16), (6, 3, 8, 8)]
    views, samples = torch.arange(6)[:, None, None], torch.tensor([0.0, 0.1])[None, :, None]
    assert torch.allclose(out, views + samples + torch.tensor([0.0, 100, 200]))


def test_outputs_may_have_any_shape_and_carry_gradients():
    weight = torch.ones(3, requires_grad=True)
    out = by_view(lambda x: x * weight[:, None, None], [group(1, 2, 8, b=3)])
    assert out.shape == (2, 3, 3, 8, 8)
    out.sum().backward()
    assert torch.allclose(weight.grad, group(1, 2, 8, b=3)[:, :, 0].sum().expand(3))


def test_micro_batches_are_parts_of_the_batch_in_order():
    crops = {"global": group(0, 2, 8, b=4), "local": group(2, 1, 4, b=4)}
    views = Views(crops, torch.arange(4), np.arange(12, dtype=np.uint32).reshape(4, 3))
    parts = views.split(2)
    assert [part.rows.tolist() for part in parts] == [[0, 1], [2, 3]]
    for name, x in crops.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), x)
    assert np.array_equal(np.concatenate([part.mask_seed for part in parts]), views.mask_seed)
    assert torch.equal(views.first, crops["global"][:, 0])
