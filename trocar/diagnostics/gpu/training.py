"""The step: the same numbers as on a CPU, no waiting, one rank as without ranks, a resume that goes on where it was.

Before these checks stand their pretrainings: small ones of every method, and those whose speed is known from elsewhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trocar.data.loading.loader import Backend
from trocar.diagnostics.bench.trainer import NoFiles
from trocar.diagnostics.gpu.runner import CPU, CheckFindings, SkippedError, Subject
from trocar.leakage.guard import RunGuard
from trocar.ssl.blocks.networks import BackboneConfig, TimmNetworks
from trocar.ssl.engine import checkpoint
from trocar.ssl.engine.method import METHODS, Method, Progress, Views
from trocar.ssl.engine.optimizer import build_optimizer
from trocar.ssl.engine.trainer import Hooks, Trainer
from trocar.ssl.methods import default
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

Tree = dict[str, Any]
BATCH = 8


def small_methods() -> list[str]:
    """All methods that are built in."""
    return METHODS.names()


def small_method(name: str, subject: Subject) -> tuple[Method, Views]:
    """A method with small heads on a small backbone, on the CPU, and 8 samples of random views; equal at each call."""
    size, local = (48, 32) if subject.tiny else (224, 96)
    config = default(name, **_small(name, size, local))
    recipe = config.recipe()
    networks = TimmNetworks(
        BackboneConfig(name=_backbone(name, subject.tiny)), 0, [group.size for group in recipe.groups.values()]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = config.build(networks)
    generator = torch.Generator().manual_seed(1)
    crops = {
        key: torch.randn(BATCH, group.count, 3, group.size, group.size, generator=generator)
        for key, group in recipe.groups.items()
    }
    seeds = np.random.default_rng(1).integers(0, 2**32, (BATCH, recipe.count), dtype=np.uint32)
    return method, Views(crops, torch.arange(BATCH), seeds)


def _backbone(method: str, tiny: bool) -> str:
    if method in ("dino", "dinov2"):
        return "test_vit" if tiny else "vit_tiny_patch16_224"
    return "test_convnext" if tiny else "resnet18"


def _small(name: str, size: int, local: int) -> Tree:
    whole, part = {"size": size}, {"size": local, "count": 2}
    dino = {"prototypes": 256, "hidden": 64, "bottleneck": 32}
    head = {"layers": [64, 32], "batch_norm": True, "last_batch_norm": True}
    multi = {"global": whole, "local": part}
    return {
        "dino": {"views": multi, "head": dino},
        "dinov2": {"views": multi, "head": dino, "ibot_head": dino},
        "simclr": {"views": whole, "head": head},
        "moco_v2": {"views": whole, "head": head, "queue": 64},
        "moco_v3": {"views": whole, "head": head, "predictor": head},
        "swav": {"views": multi, "head": head, "prototypes": 64, "queue": 0},
        "augmented_distillation": {
            "views": {**multi, "neighbour_global": whole, "neighbour_local": {"size": local}},
            "head": dino,
        },
        "distillation": {"teacher": {"name": "random:test_byobnet"}, "views": whole, "projector": [64]},
    }.get(name, {})


def dino(subject: Subject, backbone: str, batch: int, steps: int, backend: Backend, workers: int, **train: Any) -> Tree:
    """The configuration of DINO's multi-crop training on the subject's frames."""
    views = {"global": {"size": 48}, "local": {"size": 32, "count": 2}} if subject.tiny else {}
    return {
        "data": {"catalog": subject.catalog.location, "composition": {"curate": "none"}, "backend": backend},
        "backbone": {"name": backbone},
        "method": {"name": "dino", "head": {"prototypes": 256 if subject.tiny else 65536}, "views": views},
        "train": {"batch": batch, "steps": steps, **train},
        "run": {"out": "unused", "workers": workers, "device": subject.device.type},
        "tracking": {"uri": "none"},
    }


def set_up(tree: Tree) -> Pretraining:
    """A run in this process, its method placed on its device."""
    setup = Pretraining(PretrainConfig.model_validate(tree), World(), lambda line: None, RunGuard())
    setup.placed()
    return setup


def trainer_of(setup: Pretraining, hooks: Hooks) -> Trainer:
    """The trainer of a run that is set up, with a new optimizer."""
    config, method = setup.config, setup.method
    optimizer = build_optimizer(method, config.optim)
    seed = config.run.seed
    return Trainer(
        method, optimizer, setup.schedule, config.train, config.optim, seed, setup.world, setup.device, hooks
    )


def script(folder: Path, tree: Tree, name: str) -> Path:
    """A program that pretrains by this configuration, with deterministic kernels where there are any."""
    path = folder / f"{name}.py"
    path.write_text(
        "import sys, torch\n"
        "torch.use_deterministic_algorithms(True, warn_only=True)\n"
        "from trocar.leakage.guard import RunGuard\n"
        "from trocar.ssl.ranks.distributed import World\n"
        "from trocar.ssl.run.assembly import Pretraining\n"
        "from trocar.ssl.run.pretrain import run\n"
        "from trocar.ssl.run.pretrain_config import PretrainConfig\n"
        f"run(Pretraining(PretrainConfig.model_validate({tree!r}), World(), print, RunGuard()))\n",
        encoding="utf-8",
    )
    return path


PROGRESS = Progress(step=50, total=100, epoch_steps=10)
"""Where nothing is frozen or warmed up any more."""


def methods(subject: Subject) -> CheckFindings:
    """Loss and gradients of every method: the device against the CPU in float32, bfloat16 against float32."""
    values: dict[str, Any] = {}
    problems = []
    with _without_tf32():
        for name in small_methods():
            # Built anew each time: a module with weight normalisation can't be copied.
            loss, gradient = _gradient(*small_method(name, subject), CPU, torch.float32)
            same = _against(loss, gradient, *_gradient(*small_method(name, subject), subject.device, torch.float32))
            half = small_method(name, subject)
            rounded = _against(loss, gradient, *_gradient(*half, subject.device, torch.bfloat16))
            values[name] = {"float32": same, "bfloat16": rounded}
            if same["loss"] > 1e-4 or same["cosine"] < 0.9999:
                problems.append(f"{name}: the loss differs by {same['loss']:.1e}, gradients agree to {same['cosine']}")
            if rounded["loss"] > 0.01 or rounded["cosine"] < 0.99:
                problems.append(f"{name} in bfloat16: {rounded['loss']:.1e}, gradients agree to {rounded['cosine']}")
    worst = min(value["bfloat16"]["cosine"] for value in values.values())
    words = f"{len(values)} methods as on the CPU; gradients in bfloat16 agree to at least {worst:.4f}"
    return CheckFindings(not problems, "; ".join(problems) or words, values)


def _gradient(method: Method, views: Views, device: torch.device, dtype: torch.dtype) -> tuple[float, Tensor]:
    method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = method(views.to(device), PROGRESS)["loss"]
    loss.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat([g.detach().flatten().double().cpu() for g in gradients])


def _against(loss: float, gradient: Tensor, other_loss: float, other: Tensor) -> dict[str, float]:
    cosine = float(torch.nn.functional.cosine_similarity(gradient, other, dim=0))
    return {"loss": abs(other_loss - loss) / max(abs(loss), 1e-12), "cosine": round(cosine, 6)}


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def synchronisations(subject: Subject) -> CheckFindings:
    """How often the host waits for the device in a step that isn't logged: once, to hear whether it was finite."""
    if subject.device.type != "cuda":
        raise SkippedError("only a GPU is waited for")
    steps = 5
    setup = set_up(dino(subject, "vit_tiny_patch16_224", 32, 1000, "torch", 2))
    trainer = trainer_of(setup, NoFiles(log_every=1_000_000))
    batches = list(setup.loader().iterate(1, steps + 2))
    trainer.fit(batches[:1], 1000, setup.epoch_steps)  # what is copied once is no part of a step
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.fit(batches[1:], 1000, setup.epoch_steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(one.filename) + f":{one.lineno}" for one in caught if "synchroniz" in str(one.message)]
    return CheckFindings(len(waits) <= steps, f"{len(waits)} waits in {steps} steps", {"where": sorted(set(waits))})


def one_rank(subject: Subject) -> CheckFindings:
    """A process group of one: NCCL starts, broadcasts and reduces, and gradients are those without it."""
    name = "dino"
    loss, gradient = _gradient(*small_method(name, subject), subject.device, torch.float32)
    backend = "nccl" if subject.device.type == "cuda" else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        box = torch.ones(4, device=subject.device)
        dist.broadcast(box, 0)
        dist.all_reduce(box)
        dist.barrier()
        method, views = small_method(name, subject)
        method = method.to(device=subject.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        ids = [subject.device.index or 0] if subject.device.type == "cuda" else None
        wrapped = DistributedDataParallel(method, device_ids=ids, find_unused_parameters=True)
        other = wrapped(views.to(subject.device), PROGRESS)["loss"]
        other.backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        found = _against(
            loss, gradient, float(other.detach()), torch.cat([g.flatten().double().cpu() for g in gradients])
        )
    finally:
        dist.destroy_process_group()
    right = bool((box == 1).all()) and found["loss"] < 1e-5 and found["cosine"] > 0.99999
    return CheckFindings(right, f"{backend}: the loss differs by {found['loss']:.1e}", {"backend": backend, **found})


def resume(subject: Subject) -> CheckFindings:
    """A run that is killed and goes on ends in the state of one that nothing disturbed, with deterministic kernels."""
    steps, half = (8, 2) if subject.tiny else (20, 10)
    backbone = "test_vit" if subject.tiny else "vit_tiny_patch16_224"
    tree = dino(subject, backbone, 8 if subject.tiny else 64, steps, "torch", 1, precision="float32")
    folder = subject.folder.parent
    ends = {}
    for name in ("undisturbed", "killed"):
        own = {**tree, "run": {**tree["run"], "out": str(folder / name), "checkpoint_every": half}}
        program = script(folder, own, name)
        if name == "killed":
            _kill_after(program, checkpoint.path_of(folder / name, half) / "manifest.json")
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, env=_env())
        if done.returncode:
            raise RuntimeError(f"the run ended with {done.returncode}: {done.stderr[-500:]}")
        ends[name] = checkpoint.load(checkpoint.path_of(folder / name, steps)).state["method"]
    largest = {key: _difference(ends["undisturbed"][key], ends["killed"][key]) for key in ends["killed"]}
    differing = {key: value for key, value in largest.items() if value > 0}
    words = f"killed after step {half} of {steps}: the same bits"
    if differing:
        words = (
            f"{len(differing)} of {len(largest)} tensors differ, by at most {max(differing.values()):.1e} relatively"
        )
    bound = 0.0 if subject.tiny else 1e-3
    return CheckFindings(max(largest.values()) <= bound, words, {"relative_difference": differing})


def _env() -> dict[str, str]:
    return {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONWARNINGS": "ignore"}


def _kill_after(program: Path, sign: Path) -> None:
    with subprocess.Popen([sys.executable, str(program)], env=_env(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not sign.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError("the run was over before it could be killed")


def _difference(one: Tensor, other: Tensor) -> float:
    if torch.equal(one, other):
        return 0.0
    return float((one.double() - other.double()).norm() / one.double().norm().clamp(min=1e-12))
