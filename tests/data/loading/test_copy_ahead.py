"""Batches go to a GPU one ahead, in a stream of their own, and are not read before they are there."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from trocar.backbones.preprocess import GATHERED, Embedder, Preprocessing
from trocar.data.loading.prefetch import pinned, sent_ahead

CUDA = torch.device("cuda", 0)


class Gpu:
    """Notes what is asked of streams, events and tensors, in the place of torch's."""

    def __init__(self, monkeypatch):
        self.notes = []
        self.now = "training"
        gpu = self

        class Stream:
            name = "training"

            def wait_event(self, event):
                gpu.notes.append(f"{self.name} waits for {event.name}")

            def record_event(self):
                return Event()

        class Side(Stream):
            name = "side"

            def __init__(self, device):
                assert device == CUDA

        class Event:
            name = ""

            def record(self, stream):
                self.name = f"{gpu.last} on {stream.name}"

            def synchronize(self):
                gpu.notes.append("the host waits")

        @contextmanager
        def within(stream):
            gpu.now = stream.name
            yield
            gpu.now = "training"

        for name, double in (("Stream", Side), ("Event", Event), ("stream", within)):
            monkeypatch.setattr(torch.cuda, name, double)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())


class OnHost:
    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def to(self, device, non_blocking):
        assert (device, non_blocking) == (CUDA, True)
        self.gpu.last = self.name
        self.gpu.notes.append(f"{self.name} is copied on {self.gpu.now}")
        return self

    def record_stream(self, stream):
        self.gpu.notes.append(f"{self.name} is used on {stream.name}")


def test_a_batch_is_copied_before_the_one_before_it_is_used_and_waited_for_on_the_device(monkeypatch):
    gpu = Gpu(monkeypatch)
    for extra, _ in sent_ahead(((i, [OnHost(gpu, f"batch {i}")]) for i in range(3)), CUDA):
        gpu.notes.append(f"step {extra}")
    assert gpu.notes == [
        "batch 0 is copied on side",
        "batch 1 is copied on side",
        "training waits for batch 0 on side",
        "batch 0 is used on training",
        "step 0",
        "batch 2 is copied on side",
        "training waits for batch 1 on side",
        "batch 1 is used on training",
        "step 1",
        "training waits for batch 2 on side",
        "batch 2 is used on training",
        "step 2",
    ]


def test_on_a_cpu_batches_are_handed_out_as_they_come():
    made = []

    def make():
        for i in range(3):
            made.append(i)
            yield i, [torch.tensor(i)]

    found = [(extra, int(x), len(made)) for extra, (x,) in sent_ahead(make(), torch.device("cpu"))]
    assert found == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]
    x = torch.zeros(2)
    assert pinned(x, torch.device("cpu")) is x


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_features_come_back_from_a_gpu_in_order_and_several_batches_at_a_time(monkeypatch):
    gpu = Gpu(monkeypatch)
    embedder = Embedder(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), Preprocessing(), "cpu")
    batches = [torch.full((3, 3, 4, 4), i, dtype=torch.uint8) for i in range(GATHERED + 2)]
    expected = [embedder(images).numpy() for images in batches]
    embedder.device = CUDA
    monkeypatch.setattr("trocar.backbones.preprocess.sent_ahead", lambda batches, device: batches)
    found = list(embedder.stream(iter(batches)))
    assert [len(part) for part in found] == [3 * GATHERED, 6]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))
    # On each batch but the last: so that no more than two are queued.
    assert gpu.notes == ["the host waits"] * (len(batches) - 1)
