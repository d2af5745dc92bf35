"""What a run trains and what watches it: the method with its stages, factors and anchor, placed; its probes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trocar.backbones.depthwise import use_fast_gradients
from trocar.backbones.device import Precision
from trocar.backbones.export import require_exportable
from trocar.backbones.preprocess import Preprocessing
from trocar.core.messages import Say
from trocar.data.views.recipe import ViewRecipe
from trocar.errors import ConfigError, TrocarError
from trocar.ssl.adapt import AdaptConfig, add_factors, require_learners, require_weights
from trocar.ssl.blocks.anchor import build_anchor
from trocar.ssl.blocks.networks import Networks, compile_backbone
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method, MethodConfig
from trocar.ssl.engine.probe import Probe, Watch, WatchedProbe
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.ranks.batch_norm import convert
from trocar.ssl.ranks.distributed import World, gather_words
from trocar.ssl.ranks.machine import machine_name
from trocar.ssl.ranks.sharding import mesh_of, shard
from trocar.ssl.run.auto_values import DataSize
from trocar.ssl.run.pretrain_config import PretrainConfig
from trocar.ssl.run.probe_config import Cadence, cadence


def stages_of(adapt: AdaptConfig | None, data: DataSize, backbone: str | None) -> BackboneStages | None:
    """The stages in which the backbone begins to train, None without `adapt`.

    `backbone` is the name of the first weights, None for a module of somebody's own, of which its first weights are all
    that is known. Raises ConfigError for random weights.
    """
    if adapt is None:
        return None
    stages = adapt.stages(data)
    if backbone is not None:
        require_weights(adapt, stages, backbone)
    return stages


def build_method(
    config: PretrainConfig, method_config: MethodConfig, networks: Networks, stages: BackboneStages | None
) -> Method:
    """The method with freshly built networks, perhaps factors and an anchor; everything random follows from run.seed.

    `method_config` has a number for each `auto`. Raises ConfigError for a backbone that the method can't use,
    TrocarError for a backbone that could not be exported after the training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        method = method_config.build(networks)
    if config.adapt is not None and config.adapt.lora is not None:
        add_factors(method, config.adapt.lora, config.run.seed, networks.preprocessing.size[0])
    if stages is not None:
        require_learners(method, stages)
    require_exportable(method.exported, networks.preprocessing)
    if config.anchor is not None:
        method.feature_anchor = build_anchor(config.anchor, method, networks)
    return method


def place(method: Method, train: TrainConfig, device: torch.device, ranks: int) -> Method:
    """The method where it trains, changed in place: on `device`, channels last, compiled or in parts if asked for."""
    if train.sync_batch_norm and ranks > 1:
        convert(method, device)
    sharding = train.shard if ranks > 1 else "none"
    # Depthwise and strided convolutions are faster with channels last, on CPU as on tensor cores.
    layout = {"memory_format": torch.channels_last} if sharding == "none" else {}
    method.to(device=device, **layout)  # type: ignore[call-overload]
    if device.type == "cpu" and not train.compile:
        use_fast_gradients(method.backbones[0])
    if train.compile:
        anchor = method.feature_anchor
        for backbone in [*method.backbones, *(anchor.compilable(method) if anchor is not None else ())]:
            compile_backbone(backbone)
    if sharding != "none":
        mesh = mesh_of(sharding, gather_words("machine of a part", machine_name()), device)
        shard(method, method.backbones, mesh)
    return method


def with_cadence(
    config: PretrainConfig, made: Sequence[Probe], recipe: ViewRecipe, total: int, epoch_steps: int
) -> list[tuple[Probe, Cadence]]:
    """The probes `made` for `config.probe`, in its order, and when each looks in a run of `total` steps."""
    if len(made) != len(config.probe):
        raise TrocarError(f"{len(config.probe)} probe(s) are configured, and {len(made)} were handed in")
    return [
        (probe, cadence(wanted, recipe, config.train.batch, total, epoch_steps, len(made)))
        for probe, wanted in zip(made, config.probe, strict=True)
    ]


def watch_with(
    probes: Sequence[tuple[Probe, Cadence]],
    config: PretrainConfig,
    shape: Preprocessing,
    precision: Precision,
    world: World,
    say: Say,
) -> Watch:
    """Who looks at the probes, and remembers what they saw."""
    watched = [WatchedProbe(probe, when.is_due) for probe, when in probes]
    chooser = None if config.chooser is None else config.chooser.name
    return Watch(watched, shape, precision, world, say, chooser, config.patience)


def require_maps(config: PretrainConfig) -> None:
    """Raises ConfigError for a probe that asks a network in parts for maps."""
    if config.train.shard != "none" and any(probe.protocol == "dense" for probe in config.probe):
        raise ConfigError(
            f"probe: protocol dense asks a network for maps, which train.shard: {config.train.shard} does not allow; "
            f"take knn or linear, or train.shard: none"
        )
