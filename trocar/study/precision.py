"""In which precision the pretrainings of a study compute. It is part of their names, so the plan settles `auto`."""

from __future__ import annotations

import torch

from trocar.backbones.device import choose_device
from trocar.errors import ConfigError
from trocar.slurm.profile import Profile
from trocar.ssl.precision import Precision, resolved
from trocar.ssl.pretrain_config import PretrainConfig

_SAY = (
    "Stages are named after what they compute in: say pretrain.set: [train.precision=bfloat16] for A100, H100 and "
    "newer, or float32"
)


class PrecisionUnknownError(ConfigError):
    """A plan can't know what `auto` will be. No arm can do without an answer, so none is left out for it."""


def planned(config: PretrainConfig, profile: Profile | None) -> Precision:
    """What stages are named after and told: what the recipe says; for `auto`, float32 where jobs or runs have no GPU,
    and what this machine's GPU has where they run here. `profile`: what the jobs of a cluster ask for.

    Raises PrecisionUnknownError for `auto` on GPUs that aren't here.
    """
    wanted, device = config.train.precision, config.run.device
    if wanted != "auto":
        return wanted
    if device == "cpu" or (profile is not None and not profile.asks_for_gpus):
        return "float32"
    if profile is not None and profile.cluster == "slurm":
        raise PrecisionUnknownError(
            f"train.precision: auto depends on the GPUs that the jobs get, and a plan can't see those. {_SAY}"
        )
    try:
        here = choose_device(device, "run.device")
    except ConfigError as error:
        raise PrecisionUnknownError(f"train.precision: auto can't be settled here: {error}. {_SAY}") from None
    return resolved("auto", torch.device(here))
