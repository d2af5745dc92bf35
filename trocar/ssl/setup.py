"""A pretraining run set up from its configuration: catalog, selection, plan, method, identity."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trocar import __version__
from trocar.backbones.depthwise import use_exact_depthwise
from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.origin import origin_of
from trocar.backbones.preprocess import Preprocessing, describe_backbone
from trocar.backbones.source import resolve
from trocar.data.catalog import Catalog
from trocar.data.dali_backend import is_available, require
from trocar.data.loader import Backend, Loader
from trocar.data.plan import Plan
from trocar.data.reader import Reader
from trocar.data.selection import Selection
from trocar.data.views import ViewPlan
from trocar.errors import ConfigError
from trocar.ssl.dino import Dino
from trocar.ssl.distributed import World
from trocar.ssl.method import Method
from trocar.ssl.optim import Schedule
from trocar.ssl.pretrain_config import PretrainConfig

Say = Callable[[str], None]


@dataclass
class Pretraining:
    """A run that is set up but has not started: catalog opened, selection resolved, nothing written yet."""

    config: PretrainConfig
    world: World
    say: Say

    @cached_property
    def catalog(self) -> Catalog:
        """The opened catalog."""
        return Catalog.open(self.config.data.catalog)

    @cached_property
    def selection(self) -> Selection:
        """What the composition resolves to."""
        steps, batch = self.config.train.steps, self.config.train.batch
        samples = steps * batch if steps is not None else None
        return self.config.data.composition.resolve(self.catalog, samples)

    @cached_property
    def total(self) -> int:
        """Length of the run in steps."""
        return self.config.total_steps(len(self.selection))

    @cached_property
    def epoch_steps(self) -> int:
        """Steps of one epoch of the selection, at least 1 (the reference drops the last, partial batch)."""
        return max(1, len(self.selection) // self.config.train.batch)

    @cached_property
    def plan(self) -> Plan:
        """The order of the frames."""
        return Plan(self.selection, self.config.train.batch, self.config.run.seed, self.config.data.shuffle)

    @cached_property
    def schedule(self) -> Schedule:
        """Learning rate and weight decay."""
        return Schedule(self.config.optim, self.config.train.batch, self.total, self.epoch_steps)

    @cached_property
    def device(self) -> torch.device:
        """Where this rank trains."""
        wanted = self.config.run.device
        if wanted == "cuda" and not torch.cuda.is_available():
            raise ConfigError("run.device: cuda, but torch sees no GPU; use auto or cpu")
        if wanted == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.world.local_rank)

    @cached_property
    def backend(self) -> Backend:
        """What decodes: `auto` resolved for this rank's device. Raises ConfigError for DALI that can't be imported."""
        wanted = self.config.data.backend
        if wanted == "dali":
            require()
            return "dali"
        return "dali" if wanted == "auto" and self.device.type == "cuda" and is_available() else "torch"

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Normalisation of the views, and what the exported backbone declares."""
        own, config = describe_backbone(self.method.exported), self.config
        views = config.method.views.global_.size
        return Preprocessing(
            mean=config.backbone.mean or own.mean,
            std=config.backbone.std or own.std,
            size=(views, views),
            interpolation=own.interpolation,
        )

    @cached_property
    def method(self) -> Method:
        """Student and teacher, initialised from the seed."""
        return build_method(self.config)

    def placed(self) -> Method:
        """The method where it trains: on its device, channels last, compiled if asked for."""
        # Depthwise and strided convolutions are faster with channels last, on CPU as on tensor cores.
        self.method.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu" and self.config.train.precision == "bfloat16" and not self.config.train.compile:
            use_exact_depthwise(self.method.backbones[0])
        if self.config.train.compile:
            for backbone in self.method.backbones:
                # Shapes marked dynamic fail on the second size of view with channels last; each size gets its graph.
                backbone.compile(dynamic=False)
        return self.method

    def loader(self, known_bad: frozenset[int] = frozenset()) -> Loader:
        """This rank's data path; `known_bad` rows are replaced without a look."""
        views = ViewPlan(self.method.recipe(), self.config.run.seed)
        reader = Reader(self.catalog, known_bad)
        shape, run = self.preprocessing, self.config.run
        return Loader(
            self.plan,
            views,
            reader,
            shape.mean,
            shape.std,
            self.world.rank,
            self.world.size,
            run.workers,
            self.backend,
            self.device,
            self.config.data.hw_decoder_load,
        )

    def identity(self) -> dict[str, Any]:
        """Data and recipe: equal for two attempts of one run."""
        # `auto` as resolved: decoders round differently, and a resume on another machine must not change them unseen.
        recipe = {**self.config.recipe(), "steps": self.total, "backend": self.backend}
        return {"data": self.selection.fingerprint, "recipe": recipe}

    def environment(self) -> dict[str, Any]:
        """What may differ between attempts, and is logged when it does."""
        return {
            "ranks": self.world.size,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
            "compile": self.config.train.compile,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": cpu_model(),
        }


def build_method(config: PretrainConfig) -> Method:
    """The method with freshly built backbones; everything random follows from run.seed.

    Raises ConfigError for a backbone that doesn't take the views or can't checkpoint gradients.
    """
    seed = config.run.seed
    if config.backbone.fingerprint is not None:
        load_backbone(config.backbone.name, seed=seed, expect=config.backbone.fingerprint)
    student = _backbone(config, seed, drop_path=config.backbone.drop_path)
    teacher = _backbone(config, seed, drop_path=0.0)
    views = config.method.views
    sizes = [group.size for group in (views.global_, views.local) if group is not None]
    width = _feature_width(student, config.backbone.name, sizes)
    if config.train.grad_checkpointing:
        try:
            student.set_grad_checkpointing()  # type: ignore[operator]
        except (AssertionError, AttributeError):
            raise ConfigError(
                f"train.grad_checkpointing: {config.backbone.name} can't do that; set it to false"
            ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dino(config.method, student, teacher, width)


@torch.no_grad()
def _feature_width(backbone: nn.Module, name: str, sizes: Sequence[int]) -> int:
    """Width of the pooled features, found by trying a view of each size."""
    was_training = backbone.training
    backbone.eval()
    try:
        widths = {int(backbone(torch.zeros(1, 3, size, size)).shape[-1]) for size in sizes}
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone {name!r} does not take views of {sizes} pixels: {error}") from None
    backbone.train(was_training)
    (width,) = widths
    return width


def _backbone(config: PretrainConfig, seed: int, drop_path: float) -> nn.Module:
    kwargs: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if _is_plain_vit(config.backbone.name):
        kwargs |= {"img_size": config.method.views.global_.size, "dynamic_img_size": True}
    return load_backbone(config.backbone.name, seed=seed, **kwargs)


def _is_plain_vit(name: str) -> bool:
    """timm's vision transformers need to be told that views come in several sizes."""
    return resolve(name).architecture.startswith(("vit_", "deit"))


def write_backbone(setup: Pretraining, method: Method, folder: Path, step: int) -> None:
    """The exported backbone of `step` as a timm local-dir folder."""
    extra = {
        "trocar": __version__,
        "method": setup.config.method.name,
        "step": step,
        "steps": setup.total,
        "seed": setup.config.run.seed,
        "data": setup.selection.fingerprint,
    }
    save_backbone(method.exported, folder, extra=extra, preprocessing=setup.preprocessing)


def cpu_model() -> str:
    """The processor's name, for the record of what a run ran on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or sys.platform
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _started_from(method: Method) -> str:
    origin = origin_of(method.exported)
    return "" if origin is None else f", from the weights of {origin.name} (licence {origin.licence})"


def describe(setup: Pretraining) -> list[str]:
    """What the run will do, as lines for people: printed at the start and by --dry-run."""
    config, selection = setup.config, setup.selection
    epochs = setup.plan.epochs(setup.total)
    method = setup.method
    count = sum(p.numel() for p in method.exported.parameters())
    lines = [
        f"data       {len(selection)} frames of {len(selection.cases)} cases, fingerprint {selection.fingerprint}",
        *(
            f"           {s}: {n} frames, seen {epochs[s]:.1f} times"
            for s, n in selection.source_rows.items()
            if s in epochs
        ),
        *(f"           {note}" for note in selection.notes),
        f"backbone   {config.backbone.name}, {count / 1e6:.2f} M parameters{_started_from(method)}",
        f"views      {', '.join(f'{g.count} x {g.size} px {n}' for n, g in method.recipe().groups.items())}",
        f"length     {setup.total} steps of {config.train.batch} frames ({setup.total / setup.epoch_steps:.1f} epochs)",
        f"optimizer  AdamW, peak learning rate {setup.schedule.peak_lr:.3g} after {setup.schedule.warmup_steps} steps",
        f"runs on    {setup.device}, {setup.world.size} rank(s), {torch.get_num_threads()} thread(s), "
        f"{config.run.workers} loader worker(s) each, frames decoded by {setup.backend}",
        f"run folder {config.run.out}",
    ]
    reference = method.reference_loss()
    if reference is not None and math.exp(reference) > len(selection):
        lines.append(
            f"warning    {round(math.exp(reference))} prototypes for {len(selection)} frames: the loss may stay at "
            f"ln K; method.head.prototypes={max(64, 2 ** int(math.log2(max(64, len(selection) / 4))))} would suit"
        )
    return lines
