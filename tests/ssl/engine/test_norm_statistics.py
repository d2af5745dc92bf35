"""Running statistics are brought back to the bit, whatever their dtype."""

import torch
from torch import nn

from trocar.ssl.engine.method import Statistics, norm_buffers


def test_statistics_of_all_layers_are_brought_back_in_place():
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    network(torch.randn(5, 3))
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    kept = Statistics(norm_buffers(network))
    kept.note()
    network(torch.randn(5, 3))
    assert all(not torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    kept.bring_back()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert [id(b) for b in kept.buffers] == [id(b) for b in norm_buffers(network)]


def test_a_network_without_norms_has_nothing_to_bring_back():
    kept = Statistics(norm_buffers(nn.Linear(2, 2)))
    kept.note()
    kept.bring_back()
    assert kept.buffers == []
