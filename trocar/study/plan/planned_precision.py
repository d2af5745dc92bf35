"""In which precision the stages of a study compute. It is part of their names, so the plan settles `auto`."""

from __future__ import annotations

from typing import Any

import torch

from trocar.backbones.device import Precision, Wanted, choose_device, resolved
from trocar.errors import ConfigError
from trocar.slurm.profile import Profile
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.study.config import StudyConfig

_SAY = (
    "Stages are named after what they compute in: say precision: bfloat16 for A100, H100 and newer, or float32; "
    "pretrain.set: [train.precision=...] is for pretrainings alone"
)


class PrecisionUnknownError(ConfigError):
    """A plan can't know what `auto` will be. No arm can do without an answer, so none is left out for it."""


def planned(config: PretrainConfig, profile: Profile | None) -> Precision:
    """What a pretraining is named after and told: what the recipe says; for `auto`, float32 where jobs or runs have no
    GPU, and what this machine's GPU has where they run here. `profile`: what the jobs of a cluster ask for.

    Raises PrecisionUnknownError for `auto` on GPUs that aren't here.
    """
    return _planned(config.train.precision, config.run.device, profile, "train.precision", "run.device")


def planned_for_evaluations(study: StudyConfig, profile: Profile | None) -> Precision:
    """The same of the evaluations, by `precision` and `device` of the study."""
    return _planned(study.precision, study.device, profile, "precision", "device")


def _planned(wanted: Wanted, device: str, profile: Profile | None, setting: str, option: str) -> Precision:
    if wanted != "auto":
        return wanted
    if device == "cpu" or (profile is not None and not profile.asks_for_gpus):
        return "float32"
    if profile is not None and profile.cluster == "slurm":
        raise PrecisionUnknownError(
            f"{setting}: auto depends on the GPUs that the jobs get, and a plan can't see those. {_SAY}"
        )
    try:
        here = choose_device(device, option)
    except ConfigError as error:
        raise PrecisionUnknownError(f"{setting}: auto can't be settled here: {error}. {_SAY}") from None
    return resolved("auto", torch.device(here), setting)


def settled(settings: Any, precision: Precision) -> Any:
    """A protocol's settings as JSON values, with what its own `precision: auto` stands for, at any depth."""
    if isinstance(settings, list):
        return [settled(value, precision) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: precision if key == "precision" and value == "auto" else settled(value, precision)
        for key, value in settings.items()
    }
