"""How fast: data between host and GPU and between the GPUs of this machine; training by both backends, compiled, larger
networks, features, single pieces.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trocar.backbones.device import Precision, float32_means_float32, nccl_version
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import GATHERED, Embedder, describe_backbone
from trocar.data.loading.loader import Backend
from trocar.data.loading.prefetch import pinned
from trocar.diagnostics.bench.trainer import WARM_UP, Clock, NoFiles, waiter
from trocar.diagnostics.gpu.pictures import kinds
from trocar.diagnostics.gpu.runner import CPU, CheckFindings, Subject
from trocar.diagnostics.gpu.training import dino, set_up, trainer_of

REPEATS = 10


def host(subject: Subject) -> CheckFindings:
    """GB/s from pinned memory to the device and back, median of ten copies of 256 MiB; passes if they are equal."""
    there = torch.arange((1 << 18) if subject.tiny else (1 << 26), dtype=torch.int32)
    there = there.pin_memory() if subject.device.type == "cuda" else there
    here = torch.empty_like(there, device=subject.device)
    back = torch.empty_like(there)
    back = back.pin_memory() if subject.device.type == "cuda" else back

    def rate(into: torch.Tensor, out_of: torch.Tensor) -> float:
        seconds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            into.copy_(out_of, non_blocking=True)
            _wait_for(subject.device)
            seconds.append(time.perf_counter() - began)
        return there.nbytes / statistics.median(seconds) / 1e9

    values = {"to_device_gb_per_s": rate(here, there), "to_host_gb_per_s": rate(back, here)}
    words = f"{values['to_device_gb_per_s']:.1f} GB/s to the device, {values['to_host_gb_per_s']:.1f} GB/s back"
    return CheckFindings(torch.equal(there, back), words, values)


def ranks(subject: Subject) -> CheckFindings:
    """What an all-reduce of 256 MiB over all GPUs of this machine makes of their links, and whether its sum is right.

    GB/s are those of the bus, as nccl-tests counts them: 2 (n - 1) / n bytes pass each link for a byte of the tensor
    (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md).
    """
    is_cuda = subject.device.type == "cuda"
    count = torch.cuda.device_count() if is_cuda else 2
    backend = "nccl" if is_cuda else "gloo"
    name = f"NCCL {nccl_version()}" if is_cuda else "gloo"
    if count < 2:
        return CheckFindings(
            None, f"{name}; one GPU, so there is no link between two", {"backend": name, "ranks": count}
        )
    numbers = (1 << 18) if subject.tiny else (1 << 26)
    with tempfile.TemporaryDirectory(prefix="trocar-links-") as folder:
        mp.spawn(_reduce, (count, backend, numbers, Path(folder)), nprocs=count)  # type: ignore[attr-defined, no-untyped-call]
        seconds, right = torch.load(Path(folder) / "0.pt", weights_only=True).tolist()
    rate = 2 * (count - 1) / count * numbers * 4 / seconds / 1e9
    words = f"{name}, {count} ranks: {rate:.1f} GB/s on the bus, {1e3 * seconds:.1f} ms for {numbers * 4 >> 20} MiB"
    values = {"backend": name, "ranks": count, "bytes": numbers * 4, "seconds": seconds, "bus_gb_per_s": rate}
    return CheckFindings(bool(right), words, values)


def _reduce(rank: int, count: int, backend: str, numbers: int, folder: Path) -> None:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        seconds = []
        for turn in range(REPEATS + 2):
            box = torch.full((numbers,), float(rank + 1), device=device)
            dist.barrier()
            _wait_for(device)
            began = time.perf_counter()
            dist.all_reduce(box)
            _wait_for(device)
            if turn >= 2:  # the first ones connect
                seconds.append(time.perf_counter() - began)
        right = bool((box == count * (count + 1) / 2).all())
        if rank == 0:
            torch.save(torch.tensor([statistics.median(seconds), float(right)], dtype=torch.float64), folder / "0.pt")
    finally:
        dist.destroy_process_group()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
EXPECTED = {"vit_base_patch16_224": (410, 570), "convnext_base": (290, 445)}
"""Frames/s of DINO's multi-crop in bfloat16, not compiled, by arithmetic for an H200 at 12 to 17 % of its peak."""


def backends(subject: Subject) -> CheckFindings:
    """DINO on a ViT-S/16 by each backend: frames/s, and how long the step waits for data."""
    steps, batch = (4, 8) if subject.tiny else (30, 512)
    name = "test_vit" if subject.tiny else "vit_small_patch16_224"
    values: dict[str, Any] = {}
    for backend in kinds():
        workers = 1 if subject.tiny else 14 if backend == "torch" else 8
        values[backend] = _train(subject, name, batch, steps, backend, workers)
    words = "; ".join(f"{backend} {one['images_per_s']:.0f} frames/s" for backend, one in values.items())
    if subject.tiny:
        return CheckFindings(None, words, values)
    best = max(one["images_per_s"] for one in values.values())
    problems = [] if best >= 1000 else [f"{best:.0f} frames/s of 1,000"]
    if "dali" in values:
        ours, theirs = values["dali"], values["torch"]
        if ours["images_per_s"] < theirs["images_per_s"]:
            problems.append("DALI is slower than the torch backend")
        if abs(ours["loss"] - theirs["loss"]) > 0.02 * abs(theirs["loss"]):
            problems.append(f"losses of the backends are {theirs['loss']:.3f} and {ours['loss']:.3f}")
    return CheckFindings(not problems, "; ".join([words, *problems]), values)


def compiled(subject: Subject) -> CheckFindings:
    """The same, compiled block by block, against what is not compiled."""
    steps, batch = (3, 8) if subject.tiny else (15, 512)
    name = "test_vit" if subject.tiny else "vit_small_patch16_224"
    backend: Backend = kinds()[-1]
    workers = 1 if subject.tiny else 8
    values: dict[str, Any] = {
        "eager": _train(subject, name, batch, steps, backend, workers),
        "compiled": _train(subject, name, batch, steps, backend, workers, compile=True),
    }
    gain = values["compiled"]["images_per_s"] / values["eager"]["images_per_s"]
    loss, other = values["eager"]["loss"], values["compiled"]["loss"]
    same = abs(loss - other) <= 0.01 * abs(loss)
    words = f"{gain:.2f} times as fast, losses {loss:.4f} and {other:.4f}"
    return CheckFindings(same and (subject.tiny or gain >= 1.25), words, values)


def networks(subject: Subject) -> CheckFindings:
    """Larger networks, not compiled, beside what arithmetic expects of an H200."""
    if subject.tiny:
        return CheckFindings(
            None, "a tiny network by torch", {"test_vit": _train(subject, "test_vit", 8, 2, "torch", 1)}
        )
    values: dict[str, Any] = {}
    slow = []
    for name, (low, _) in EXPECTED.items():
        values[name] = _train(subject, name, 128, 10, kinds()[-1], 8)
        if values[name]["images_per_s"] < low / 1.5:
            slow.append(f"{name}: {values[name]['images_per_s']:.0f} frames/s, {low} expected")
    words = "; ".join(f"{name} {one['images_per_s']:.0f} frames/s" for name, one in values.items())
    return CheckFindings(not slow, "; ".join([words, *slow]), values)


def _train(
    subject: Subject, backbone: str, batch: int, steps: int, backend: Backend, workers: int, **train: Any
) -> dict[str, float]:
    """Frames/s after a warm-up, by the device's own clock at both ends; the last loss; peak memory."""
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    tree = dino(subject, backbone, batch, 1000, backend, workers, precision="bfloat16", **train)
    setup = set_up(tree)
    noted = _Noted(steps + WARM_UP - 1)
    trainer = trainer_of(setup, noted)
    clock = Clock(setup.loader().iterate(0, steps + WARM_UP), waiter(subject.device))
    trainer.fit(clock, 1000, setup.epoch_steps)
    timed = clock.result(batch)
    found: dict[str, float] = {
        "images_per_s": timed["images"] / timed["seconds"],
        "loss": noted.values["loss"],
    }
    found |= {key: noted.values[key] for key in ("data_wait", "device_wait") if key in noted.values}
    if subject.device.type == "cuda":
        found["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    del trainer, setup
    gc.collect()
    return found


class _Noted(NoFiles):
    """Hooks that keep the numbers of the last step; it logs at step 0, too, which is warm-up."""

    def __init__(self, log_every: int) -> None:
        super().__init__(log_every)
        self.values: dict[str, float] = {}

    def logged(self, step: int, values: dict[str, float]) -> None:
        self.values = values


def features(subject: Subject) -> CheckFindings:
    """Features of frozen networks: the device against the CPU, and frames/s."""
    name, size, few = ("test_vit", 32, 8) if subject.tiny else ("vit_small_patch16_224", 224, 128)
    model = load_backbone(f"random:{name}", seed=0).eval()
    shape = describe_backbone(model)
    generator = torch.Generator().manual_seed(0)
    side = shape.size[0] if subject.tiny else size
    images = torch.randint(0, 256, (few, 3, side, side), generator=generator, dtype=torch.uint8)
    ours = Embedder(model, shape, "cpu")(images)
    rounds = 2 if subject.tiny else 2 * GATHERED
    values: dict[str, float] = {}
    for precision in PRECISIONS:
        embedder = Embedder(model, shape, subject.device.type, precision)
        batches = [pinned(images, subject.device)] * rounds
        with float32_means_float32(subject.device, precision):
            list(embedder.stream(batches[:2]))
            started = time.perf_counter()
            theirs = torch.from_numpy(np.concatenate(list(embedder.stream(batches))))
        values[f"{precision}_images_per_s"] = rounds * few / (time.perf_counter() - started)
        values[f"{precision}_cosine"] = float(torch.cosine_similarity(ours.repeat(rounds, 1), theirs).min())
    right = values["float32_cosine"] > 0.9999 and values["bfloat16_cosine"] > 0.999
    words = f"cosines {values['float32_cosine']:.6f} and {values['bfloat16_cosine']:.5f} in bfloat16"
    return CheckFindings(right, words, values)


def parts(subject: Subject) -> CheckFindings:
    """Single pieces, numbers alone: views, singular values on both devices, DINO's loss in two forms."""
    values: dict[str, float] = {}
    batch = 8 if subject.tiny else 256
    loader = subject.loader("torch", batch, device=CPU)
    crops = loader.crops(0)
    moved = type(crops)(
        crops.step, crops.frames, crops.params, {k: x.to(subject.device) for k, x in crops.crops.items()}, crops.bad
    )
    values["augment_s"] = _seconds(lambda: loader.augmented(moved), subject.device)
    matrix = torch.randn(16 if subject.tiny else 512, 24 if subject.tiny else 384, device=subject.device)
    values["svdvals_s"] = _seconds(lambda: torch.linalg.svdvals(matrix), subject.device)
    values["svdvals_on_cpu_s"] = _seconds(lambda: torch.linalg.svdvals(matrix.cpu()), subject.device)
    t = torch.rand(2, 4 if subject.tiny else 64, 256 if subject.tiny else 65536, device=subject.device)
    s = torch.rand(10, *t.shape[1:], device=subject.device)
    values["loss_one_product_s"] = _seconds(lambda: torch.einsum("tbk,vbk->tv", t, s), subject.device)
    values["loss_by_sample_s"] = _seconds(lambda: torch.einsum("tbk,vbk->btv", t, s).sum(0), subject.device)
    words = ", ".join(f"{name.removesuffix('_s')} {1000 * value:.2f} ms" for name, value in values.items())
    return CheckFindings(None, words, values)


def _seconds(work: Any, device: torch.device, times: int = 5) -> float:
    """Median of some calls, each waited for."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        _wait_for(device)
        found.append(time.perf_counter() - started)
    return sorted(found)[times // 2]
