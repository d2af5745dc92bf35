"""Batch norm and gathers over two real processes (gloo) against one process with the whole batch, in float64."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trocar.errors import TrocarError
from trocar.ssl.ranks.batch_norm import AllReducedBatchNorm, AllReducedBatchNormAct, convert
from trocar.ssl.ranks.distributed import World, gather, gather_detached, process_group

CPU = torch.device("cpu")
SPLITS = {"equal": [3, 3], "unequal": [5, 2]}
KINDS = ("1d", "2d", "act", "plain", "cumulative", "channels_last")


def network(kind):
    """Two norms in a row, so that the second one's gradient passes through the first one's statistics."""
    torch.manual_seed(3)
    make = {
        "1d": lambda: nn.BatchNorm1d(4),
        "act": lambda: BatchNormAct2d(4, act_layer=nn.GELU),
        "plain": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    }.get(kind, lambda: nn.BatchNorm2d(4))
    mixing = nn.Linear(4, 4) if kind == "1d" else nn.Conv2d(4, 4, 3)
    net = nn.Sequential(make(), mixing, make()).double()
    for p in net.parameters():
        nn.init.normal_(p)
    return net.to(memory_format=torch.channels_last) if kind == "channels_last" else net


def data(kind, split, step):
    torch.manual_seed(100 + step)
    shape = (4,) if kind == "1d" else (4, 5, 6)
    x = 2 + torch.randn(sum(SPLITS[split]), *shape, dtype=torch.float64)
    return x.to(memory_format=torch.channels_last) if kind == "channels_last" else x


def run(net, x):
    """Output, gradients and the state after one step; the loss is a sum over the batch."""
    x.requires_grad_()
    y = net(x)
    weight = torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype).view(y[0].shape)
    (weight * y.square() * y.sin()).sum().backward()
    return {
        "y": y.detach(),
        "dx": x.grad,
        "weights": [p.grad.clone() for p in net.parameters()],
        "state": copy.deepcopy(net.state_dict()),
    }


def norm_results(rank):
    out = {}
    for kind in KINDS:
        for split, sizes in SPLITS.items():
            net = convert(network(kind), CPU)
            for step in range(2):
                net.zero_grad()
                out[kind, split, step] = run(net, data(kind, split, step).split(sizes)[rank].clone().detach())
    return out


def half_results():
    torch.manual_seed(0)
    x, net = 100 + torch.randn(4, 4, 8, 8), convert(nn.BatchNorm2d(4), CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x.bfloat16())
    return {"dtype": y.dtype, "x": x.bfloat16(), "mean": net.running_mean, "var": net.running_var}


def gather_results(rank):
    x = (torch.arange(6.0).view(2, 3) + 10 * rank).requires_grad_()
    transposed = x.t()  # not contiguous
    every = gather(transposed)
    ((rank + 1) * every.square()).sum().backward()
    return {
        "all": every.detach(),
        "grad": x.grad,
        "detached": gather_detached(x),
        "ids": gather_detached(torch.tensor([rank])),
    }


def wrapped_gradients(rank):
    """As the trainer has it: the norms' own reductions go between those of DistributedDataParallel's buckets."""
    net = DistributedDataParallel(convert(network("act"), CPU), broadcast_buffers=False, find_unused_parameters=True)
    return run(net, data("act", "unequal", 0).split(SPLITS["unequal"])[rank].clone())["weights"]


def on_two_ranks(rank, folder):
    with process_group(World(rank, 2, rank), CPU):
        net = convert(nn.Sequential(network("2d"), network("act")), CPU)
        again = convert(net, CPU)
        return {
            "norm": norm_results(rank),
            "half": half_results(),
            "gather": gather_results(rank),
            "wrapped": wrapped_gradients(rank),
            "types": [type(m).__name__ for m in again.modules() if "Norm" in type(m).__name__],
            "keys": list(net.state_dict()),
            "eval": net.eval()(data("2d", "equal", 0)[:2]).detach(),
            "unknown": refusal(),
        }


class OddNorm(nn.BatchNorm2d):
    pass


def refusal():
    try:
        convert(OddNorm(3), CPU)
    except TrocarError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_are_one_process_with_the_whole_batch(ranks, kind, split):
    net = network(kind)
    close = {"rtol": 1e-9, "atol": 1e-9}
    for step in range(2):
        net.zero_grad()
        whole = run(net, data(kind, split, step))
        parts = [rank["norm"][kind, split, step] for rank in ranks]
        torch.testing.assert_close(torch.cat([p["y"] for p in parts]), whole["y"], **close)
        torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), whole["dx"], **close)
        summed = [a + b for a, b in zip(*(p["weights"] for p in parts), strict=True)]
        torch.testing.assert_close(summed, whole["weights"], **close)
        for part in parts:
            assert list(part["state"]) == list(whole["state"])
            torch.testing.assert_close(part["state"], whole["state"], **close)


def test_under_distributed_data_parallel_gradients_are_the_mean_over_ranks(ranks):
    whole = run(network("act"), data("act", "unequal", 0))["weights"]
    for rank in ranks:
        torch.testing.assert_close([2 * g for g in rank["wrapped"]], whole, rtol=1e-9, atol=1e-9)


def test_channels_last_stays_channels_last(ranks):
    result = ranks[0]["norm"]["channels_last", "equal", 0]
    assert result["y"].is_contiguous(memory_format=torch.channels_last)
    assert result["dx"].is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_float32_under_autocast(ranks):
    """In bfloat16, values around 100 are 0.5 apart, and their mean would be as coarse."""
    half = ranks[0]["half"]
    x = half["x"].double()
    assert half["dtype"] == torch.bfloat16
    torch.testing.assert_close(half["mean"].double(), 0.1 * x.mean((0, 2, 3)), rtol=1e-6, atol=0)
    unbiased = torch.cat([x, x]).transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(half["var"].double(), 0.9 + 0.1 * unbiased, rtol=1e-5, atol=0)


def test_conversion_keeps_keys_and_evaluation_and_can_be_repeated(ranks):
    net = nn.Sequential(network("2d"), network("act"))
    assert ranks[0]["keys"] == list(net.state_dict())
    assert ranks[0]["types"] == ["AllReducedBatchNorm"] * 2 + ["AllReducedBatchNormAct"] * 2
    torch.testing.assert_close(ranks[0]["eval"], net.eval()(data("2d", "equal", 0)[:2]).detach())


def test_an_unknown_batch_norm_is_refused(ranks):
    assert ranks[0]["unknown"] == "can't take OddNorm over all ranks; turn synchronised batch norm off"


def test_without_a_process_group_nothing_changes():
    net = network("act")
    assert convert(net, CPU) is net
    assert not any(isinstance(m, AllReducedBatchNorm | AllReducedBatchNormAct) for m in net.modules())
    x = torch.ones(2, 3)
    assert gather(x) is x


def test_gather_is_in_rank_order_and_sums_the_gradients_of_all_ranks(ranks):
    x = [(torch.arange(6.0).view(2, 3) + 10 * rank) for rank in range(2)]
    for rank, result in enumerate(r["gather"] for r in ranks):
        torch.testing.assert_close(result["all"], torch.cat([x[0].t(), x[1].t()]))
        torch.testing.assert_close(result["detached"], torch.cat(x))
        assert result["ids"].tolist() == [0, 1]
        # d/dx of (1 + 2) x^2
        torch.testing.assert_close(result["grad"], 6 * x[rank])
        assert not result["detached"].requires_grad
