"""`trocar bench trainer`: DINO steps per second against a bare loop of the same model, views and optimizer.

On a GPU the clock is read when the device has done what was queued, behind the warm-up and at the end.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trocar.core import resources
from trocar.core.messages import Say
from trocar.diagnostics.bench.report import BenchComparison, Trial
from trocar.diagnostics.bench.timed import fresh
from trocar.errors import TrocarError

LONG = 1000  # steps of the run whose beginning is timed: its last step, which logs, is never reached
WARM_UP = 2  # steps that nobody times: memory is allocated, kernels are chosen
BARE = "bare loop, float32"


@dataclass(frozen=True)
class Settings:
    """What every contender is given."""

    catalog: Path
    backbone: str = "convnext_atto"
    batch: int = 32
    steps: int = 10
    """Timed in each trial; ten in a row hold one that logs, which measures health as well."""
    workers: int = 1
    threads: int = 2
    prototypes: int = 65536
    device: Literal["cpu", "cuda"] = "cpu"


def measure(settings: Settings, repeats: int, lightly_train: Path | None, compiled: bool, say: Say) -> BenchComparison:
    """Run every contender `repeats` times in turn, each in a fresh process.

    `lightly_train` is the interpreter of an environment that has lightly-train installed; None leaves it out.
    """
    given: dict[str, Any] = asdict(settings) | {"catalog": str(settings.catalog)}
    runs: dict[str, dict[str, Any]] = {
        "trocar, float32": {"kind": "ours", "precision": "float32"},
        BARE: {"kind": "bare", "precision": "float32"},
        "trocar, bfloat16": {"kind": "ours", "precision": "bfloat16"},
        "bare loop, bfloat16": {"kind": "bare", "precision": "bfloat16"},
    }
    if compiled:
        runs["trocar, bfloat16, compiled"] = {"kind": "ours", "precision": "bfloat16", "compiled": True}
    with tempfile.TemporaryDirectory() as folder:
        if lightly_train is not None:
            _write_frames(settings.catalog, Path(folder))
        # The first process of all is slower than any later one, whatever it runs: this one is not counted.
        fresh("trocar.diagnostics.bench.trainer:contender", {"settings": given, **runs[BARE]}, settings.threads)
        trials = []
        for repeat in range(repeats):
            turn = repeat % len(runs)
            for name, extra in [*runs.items()][turn:] + [*runs.items()][:turn]:
                # As `trocar pretrain` starts itself; a bare loop is started as anyone starts one.
                environment = resources.with_huge_pages(os.environ) if extra["kind"] == "ours" else None
                arguments = {"settings": given, **extra}
                found = fresh(
                    "trocar.diagnostics.bench.trainer:contender", arguments, settings.threads, environment=environment
                )
                trials.append(_trial(name, repeat, found))
                say(f"repeat {repeat + 1} of {repeats}: {name}: {trials[-1].rate:.2f} images/s")
            if lightly_train is not None:
                script = Path(__file__).with_name("lightly_train_script.py")
                arguments = given | {"frames": folder, "warm_up": WARM_UP}
                found = fresh(str(script), arguments, settings.threads, python=str(lightly_train))
                trials.append(_trial("lightly-train, float32", repeat, found))
                say(f"repeat {repeat + 1} of {repeats}: lightly-train: {trials[-1].rate:.2f} images/s")
    where = "GPU" if settings.device == "cuda" else f"CPU, {settings.threads} threads"
    title = f"DINO on {settings.backbone}, 2 x 224 + 8 x 96, batch {settings.batch}, {where}"
    return BenchComparison(title, "images/s", BARE, tuple(trials), given)


def _trial(name: str, repeat: int, found: dict[str, Any]) -> Trial:
    extra = {"peak MB": found["peak_mb"]}
    if "waited" in found:
        extra["% waiting for data"] = 100 * found["waited"] / found["seconds"]
    return Trial(name, repeat, found["images"], found["seconds"], extra)


def contender(settings: dict[str, Any], kind: str, precision: str, compiled: bool = False) -> dict[str, float]:
    """One trial of our trainer ("ours") or of the bare loop ("bare"); `settings` are the fields of `Settings`."""
    from trocar.leakage.guard import RunGuard
    from trocar.ssl.ranks.distributed import World
    from trocar.ssl.run.assembly import Pretraining
    from trocar.ssl.run.pretrain_config import PretrainConfig

    given = Settings(**settings)
    config = PretrainConfig.model_validate(
        {
            "data": {"catalog": given.catalog, "composition": {"curate": "none"}, "backend": "torch"},
            "backbone": {"name": given.backbone},
            "method": {"name": "dino", "head": {"prototypes": given.prototypes}},
            "train": {"batch": given.batch, "steps": LONG, "precision": precision, "compile": compiled},
            "run": {"out": "unused", "workers": given.workers, "device": given.device},
        }
    )
    setup = Pretraining(config, World(), lambda line: None, RunGuard())
    setup.placed()
    clock = Clock(setup.loader().iterate(0, WARM_UP + given.steps), waiter(setup.device))
    (_ours if kind == "ours" else _bare)(setup, clock)
    return clock.result(given.batch)


@dataclass
class Clock:
    """Notes when each batch was asked for and when it came, and so how long the steps between took.

    `finish` waits for what was queued on a device.
    """

    batches: Iterable[Any]
    finish: Callable[[], None] = lambda: None
    asked: list[float] = field(default_factory=list)
    got: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        waiting = iter(self.batches)
        while True:
            if len(self.got) == WARM_UP:
                self.finish()
            self.asked.append(time.perf_counter())
            batch = next(waiting, None)
            if batch is None:
                self.finish()
                self.asked[-1] = time.perf_counter()
                return
            self.got.append(time.perf_counter())
            yield batch

    def result(self, batch: int) -> dict[str, float]:
        """Images, seconds and seconds waited over the steps after the warm-up; peak resident memory in MB."""
        waited = sum(g - a for g, a in zip(self.got[WARM_UP:], self.asked[WARM_UP:-1], strict=True))
        return {
            "images": batch * (len(self.got) - WARM_UP),
            "seconds": self.asked[-1] - self.asked[WARM_UP],
            "waited": waited,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def waiter(device: Any) -> Callable[[], None]:
    """What waits for a device."""
    import torch

    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _ours(setup: Any, clock: Clock) -> None:
    """`Trainer.fit` as `trocar pretrain` runs it: health and logging every ten steps, but no files."""
    from trocar.ssl.engine.optimizer import build_optimizer
    from trocar.ssl.engine.trainer import Trainer

    resources.keep_freed()
    config, method = setup.config, setup.method
    trainer = Trainer(
        method,
        build_optimizer(method, config.optim),
        setup.schedule,
        config.train,
        config.optim,
        config.run.seed,
        setup.world,
        setup.device,
        NoFiles(config.run.log_every),
    )
    trainer.fit(clock, setup.total, setup.epoch_steps)


@dataclass
class NoFiles:
    """Hooks that write nothing."""

    log_every: int

    def logged(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a logged step; nobody reads them."""

    def stepped(self, batch: Any, done: int) -> None:
        """Nothing to note."""

    def probed(self, done: int) -> bool:
        """Nothing to look at."""
        return False

    def save(self, done: int) -> None:
        """Nothing to save."""

    def stop_requested(self) -> int:
        """Nobody stops a bench but by killing it."""
        return 0

    def stopping(self, done: int, number: int) -> None:
        """Never called."""

    def broken(self, batch: Any, why: str) -> None:
        """A bench with non-finite steps measures nothing."""
        raise TrocarError(why)


def _bare(setup: Any, clock: Clock) -> None:
    """The shortest loop that does the same arithmetic: no schedules, no health, no finiteness, no resume."""
    import torch
    import torch.nn.functional as F

    method, optim = setup.method, setup.config.optim
    own = [*method.student.parameters(), *method.student_head.parameters()]
    theirs = [*method.teacher.parameters(), *method.teacher_head.parameters()]
    trained = [p for p in own if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=optim.betas, weight_decay=optim.weight_decay)
    autocast = setup.config.train.precision == "bfloat16"
    centre = torch.zeros(setup.config.method.head.prototypes, device=setup.device)
    method.train()
    for batch in clock:
        views = [x.transpose(0, 1).flatten(0, 1) for x in batch.views.values()]
        b = len(batch.rows)
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=autocast):
            student = torch.cat([method.student_head(method.student(x)) for x in views]).float()
            with torch.no_grad():
                logits = method.teacher_head(method.teacher(views[0])).float()
        student, logits = student.view(-1, b, student.shape[-1]), logits.view(-1, b, logits.shape[-1])
        target, log_p = F.softmax((logits - centre) / 0.04, -1), F.log_softmax(student / 0.1, -1)
        terms = [-(t * s).sum(-1).mean() for i, t in enumerate(target) for j, s in enumerate(log_p) if i != j]
        loss = torch.stack(terms).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in trained:
            torch.nn.utils.clip_grad_norm_([parameter], 3.0)
        optimizer.step()
        with torch.no_grad():
            centre = 0.9 * centre + 0.1 * logits.mean((0, 1))
            torch._foreach_lerp_(theirs, own, 0.004)


def _write_frames(catalog: Path, folder: Path) -> None:
    """The catalog's frames as files, for a trainer that reads folders."""
    from trocar.data.catalog.catalog import Catalog
    from trocar.data.loading.reader import Reader

    reader = Reader(Catalog.open(catalog))
    for row in range(min(2000, len(reader.catalog.frames["size"]))):
        (folder / f"{row:06d}.jpg").write_bytes(reader.read(row))
