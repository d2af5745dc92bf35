"""How fast data move: between host and GPU, and between the GPUs of this machine by NCCL."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trocar.diagnostics.gpu.runner import CheckFindings, Subject
from trocar.ssl.run.hardware import nccl_version

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
