"""The views of a run's first batch, as pictures, through the run's own data path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trocar.core.config import validate
from trocar.leakage.run_guard import RunGuard
from trocar.report.page_pictures import Images
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

SAMPLES = 8


def first_views(config: Mapping[str, Any]) -> dict[str, Images]:
    """Views of the first samples of step 0 for a config.yaml: group -> uint8 [b, n, S, S, 3].

    Raises TrocarError when the configuration or its catalog can't be used any more.
    """
    setup = Pretraining(validate(PretrainConfig, config, "config.yaml"), World(0, 1, 0), lambda _: None, RunGuard())
    shape = setup.networks.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (shape.mean, shape.std))
    found = {}
    for name, views in setup.loader().batch(0).views.items():
        pixels = (views[:SAMPLES].cpu() * std + mean).clamp(0, 1).mul(255).round().byte()
        found[name] = np.ascontiguousarray(pixels.permute(0, 1, 3, 4, 2).numpy())
    return found
