"""The probes of a pretraining: opened here, as the trainer knows no labels."""

from __future__ import annotations

from collections.abc import Sequence

from trocar.downstream.probing.dense_probe import DenseProbe
from trocar.downstream.probing.frame_probe import FrameProbe
from trocar.downstream.probing.probed_frames import choose_frames
from trocar.ssl.engine.probe import Probe
from trocar.ssl.run.probe_config import ProbeConfig


def open_probes(configs: Sequence[ProbeConfig]) -> list[Probe]:
    """In their order. Raises ConfigError for data, a layout or a task that is not there, labels that the protocol does
    not take, and data without training or validation cases.
    """
    return [_open(config) for config in configs]


def _open(config: ProbeConfig) -> Probe:
    who = f"probe {config.name}"
    if config.protocol == "dense":
        frames = choose_frames(config, config.task, config.frames, ("mask",), who)
        return DenseProbe(config.name, frames, config.size)
    frames = choose_frames(config, config.task, config.frames, ("multiclass", "multilabel"), who)
    return FrameProbe(config.name, frames, config.protocol, config.size)
