"""The data path: do decoders agree, does anything read memory that is no longer its own, are views the same?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trocar.data.loading.batch import Crops
from trocar.data.loading.dali_pipeline import is_available
from trocar.data.loading.dali_stream import DaliStream
from trocar.data.loading.loader import Backend, Loader
from trocar.diagnostics import backend_parity
from trocar.diagnostics.backend_parity import RECIPE
from trocar.diagnostics.gpu.runner import CPU, CheckFindings, SkippedError, Subject

LAG = 75_000_000
"""Clock cycles, about 50 ms, for which the copying stream sleeps before each step."""


def parity(subject: Subject) -> CheckFindings:
    """The torch backend on the CPU against DALI on the device, for each share of the JPEG engine."""
    require_dali()
    batch = 8 if subject.tiny else 64
    reference = subject.loader("torch", batch, device=CPU, recipe=RECIPE)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for load in backend_parity.LOADS[:1] if subject.tiny else backend_parity.LOADS:
        other = subject.loader("dali", batch, recipe=RECIPE, hw_decoder_load=load)
        found = backend_parity.measure(reference, other)
        again = _equal(other.crops(0).crops, other.crops(0).crops)
        values[f"load {load}"] = {**vars(found), "repeats": again}
        problems += [f"load {load}: {problem}" for problem in found.problems()]
        problems += [] if again else [f"load {load}: the same step gave other bits"]
    worst = max(one["crop_p999"] for one in values.values())
    return CheckFindings(
        not problems, "; ".join(problems) or f"crops differ by at most {worst:.0f}/255 (99.9 %)", values
    )


def lifetime(subject: Subject) -> CheckFindings:
    """Crops read late must be those read at once: a decoder must not write over memory that waits to be copied."""
    require_dali()
    steps, batch = (4, 8) if subject.tiny else (24, 256)
    prompt = [_cpu(crops.crops) for crops in _stream(subject, steps, batch, _synchronise)]
    late = [crops.crops for crops in _stream(subject, steps, batch, _sleep)]
    _synchronise(subject.device)
    wrong = [step for step in range(steps) if not _equal(prompt[step], late[step])]
    words = f"{steps} steps of {batch}: crops that were copied late are those copied at once"
    if wrong:
        words = f"steps {wrong} of {steps} hold other pixels when they are copied late"
    return CheckFindings(not wrong, words, {"wrong_steps": wrong, "steps": steps, "batch": batch})


def overlapped(subject: Subject) -> CheckFindings:
    """Views made beside a busy training stream must be, to the bit, those made alone."""
    steps, batch = (3, 8) if subject.tiny else (10, 64)
    side = torch.randn(*(2 * (64 if subject.tiny else 4096,)), device=subject.device)
    wrong: dict[str, list[int]] = {}
    for backend in kinds():
        alone = [_cpu(batch.views) for batch in subject.loader(backend, batch).iterate(0, steps)]
        wrong[backend] = []
        beside = subject.loader(backend, batch, workers=2).iterate(0, steps)
        for step, (one, other) in enumerate(zip(alone, beside, strict=True)):
            for _ in range(20):
                side = torch.nn.functional.normalize(side @ side)
            if not _equal(one, other.views):
                wrong[backend].append(step)
    bad = {backend: found for backend, found in wrong.items() if found}
    words = f"other views in steps {bad}" if bad else f"{steps} steps of {', '.join(wrong)}: equal to the bit"
    return CheckFindings(not bad, words, {"wrong_steps": wrong})


def augmentation(subject: Subject) -> CheckFindings:
    """Views of the same crops made on the CPU and on the device."""
    loader = subject.loader("torch", 8 if subject.tiny else 64)
    crops = subject.loader("torch", loader.plan.batch, device=CPU).crops(0)
    moved = {name: x.to(subject.device) for name, x in crops.crops.items()}
    ours = loader.augmented(crops).views
    theirs = loader.augmented(Crops(crops.step, crops.frames, crops.params, moved, crops.bad)).views
    gain = backend_parity.colour_gain(crops.params).view(len(crops.rows), -1)
    std = torch.tensor(list(loader.std))[:, None, None]
    share = 0.0
    for name, which in loader.views.recipe.slices().items():
        difference = ((ours[name] - theirs[name].cpu()).abs() * std * 255).flatten(2).amax(-1)
        share = max(share, float((difference / (backend_parity.ROUNDING * gain[:, which])).max()))
    words = f"views differ by at most {share:.2f} of {backend_parity.ROUNDING}/255 times what their colour map enlarges"
    return CheckFindings(share <= 1, words, {"share_of_bound": share})


def kinds() -> list[Backend]:
    """The backends that are installed."""
    return ["torch", "dali"] if is_available() else ["torch"]


def require_dali() -> None:
    """Raises SkippedError without DALI."""
    if not is_available():
        raise SkippedError("nvidia.dali can't be imported")


def _stream(subject: Subject, steps: int, batch: int, before: Callable[[torch.device], None]) -> Iterator[Crops]:
    loader: Loader = subject.loader("dali", batch)
    stream = DaliStream(loader.steps, 0, steps, subject.device, 4, loader.hw_decoder_load)
    try:
        for _ in range(steps):
            before(subject.device)
            yield next(stream)
    finally:
        stream.close()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sleep(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda._sleep(LAG)  # type: ignore[no-untyped-call]


def _cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.cpu() for name, x in tensors.items()}


def _equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return all(np.array_equal(ours[name].cpu().numpy(), theirs[name].cpu().numpy()) for name in ours)
