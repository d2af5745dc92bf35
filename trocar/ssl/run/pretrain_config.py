"""The configuration of a pretraining run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trocar.backbones.device import Precision
from trocar.core.config import Config, WithPlugins
from trocar.data.remote.store import Place
from trocar.data.selection.composition import Composition
from trocar.data.selection.plan import Shuffle
from trocar.privacy.private_data import PrivacyConfig
from trocar.runs.mlflow_server import TrackingConfig
from trocar.ssl.adapt import AdaptConfig
from trocar.ssl.blocks.anchor import AnchorConfig
from trocar.ssl.blocks.networks import BackboneConfig
from trocar.ssl.engine.method import AnyMethod
from trocar.ssl.engine.optimizer import OptimConfig
from trocar.ssl.engine.trainer import TrainConfig
from trocar.ssl.run.probe_config import ProbeConfig, check_probes


class DataConfig(Config):
    """Which catalog, what of it, in what order."""

    catalog: Place = Field(
        description="the shards folder that `trocar ingest` wrote, or its address in a store (`s3://...`, `https://...`)"
    )
    composition: Composition = Field(default=Composition(), description="what of the catalog is used")
    shuffle: Shuffle = Field(
        default="global",
        description="global: any frame may follow any other; window: blocks of 256 rows are permuted, which keeps "
        "reads local",
    )
    backend: Literal["auto", "torch", "dali"] = Field(
        default="auto", description="what decodes frames and cuts crops; auto: DALI on a GPU where it is installed"
    )
    hw_decoder_load: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the frames for a GPU's JPEG engine (A100, H100), with DALI; at 0 what a frame decodes to "
        "depends on neither the GPU nor the number of ranks",
    )
    stage_to: str | None = Field(
        default=None,
        description="folder on the machine's own disk to copy the shards to, those read first if not all fit; "
        "$VARIABLES are expanded",
    )
    cache_to: str | None = Field(
        default=None,
        description="folder on the machine's own disk for blocks of remote shards, with `shuffle: window`; null: the "
        "system's temporary folder; $VARIABLES are expanded",
    )
    cache_gib: float = Field(default=16.0, gt=0, description="GiB that these blocks may take on a machine")


class RunConfig(Config):
    """Where the run lives and what it runs on. Nothing here changes what is learned, but for the seed."""

    out: Path = Field(description="the run folder; the same folder always resumes")
    seed: int = Field(default=0, description="seed of the data's order, the views and the first weights")
    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1, description="processes on this machine, one per GPU; auto: as many as it has GPUs"
    )
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="loader processes per rank, with DALI its decoding threads; auto: on a GPU the usable cores / "
        "ranks of the machine - 2 (1 to 16), on a CPU at most 2; never more than /dev/shm has room for",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per rank; null: OMP_NUM_THREADS (torchrun sets it to 1), else usable cores / ranks "
        "that share them",
    )
    data_timeout_s: float | None = Field(
        default=1800.0,
        gt=0,
        description="seconds without a batch after which a rank ends with an error (it warns from the first minute "
        "on); collectives wait 600 s longer. null: never",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="what the run computes on")
    checkpoint_every: int = Field(default=500, ge=1, description="steps between two checkpoints")
    keep_last: int = Field(default=2, ge=1, description="checkpoints that are kept, besides milestones")
    milestone_every: int | None = Field(
        default=None,
        ge=1,
        description="steps between two milestones, checkpoints that are never deleted, whatever `checkpoint_every` "
        "says; null: there are none",
    )
    log_every: int = Field(default=10, ge=1, description="steps between two lines of metrics")

    @property
    def saves_every(self) -> tuple[int, ...]:
        """Multiples of any of these are steps with a checkpoint."""
        return (self.checkpoint_every, *([] if self.milestone_every is None else [self.milestone_every]))


class ResumeConfig(Config):
    """Differences to the checkpoint that are meant, such as [recipe.train.steps]."""

    allow: tuple[str, ...] = Field(default=(), description="keys that may differ, such as recipe.train.steps")


class PretrainConfig(WithPlugins):
    """Everything about one pretraining run."""

    data: DataConfig = Field(description="which catalog, what of it, in what order")
    backbone: BackboneConfig = Field(description="the network that is pretrained")
    method: AnyMethod = Field(description="how it is pretrained; `name` says which method's settings these are")
    anchor: AnchorConfig | None = Field(
        default=None, description="keeps features near those of an anchor network, with any method; null: nothing does"
    )
    optim: OptimConfig = Field(default=OptimConfig(), description="optimizer, schedules and clipping")
    adapt: AdaptConfig | None = Field(
        default=None, description="how a backbone that has weights begins to train; null: at once, and whole"
    )
    train: TrainConfig = Field(description="how long, how large, how precise")
    run: RunConfig = Field(description="where the run lives and what it runs on")
    probe: list[ProbeConfig] = Field(default=[], description="small labelled sets that are scored while the run trains")
    keep: Literal["last", "best"] = Field(
        default="last",
        description="last: the backbone after the last step; best: beside it `backbone-best/`, of the best look of a "
        "probe",
    )
    keep_by: str | None = Field(
        default=None, description="name of the probe that chooses the best; null: the only one there is"
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="end the run after so many looks of that probe in a row without a new best; null: never",
    )
    tracking: TrackingConfig = Field(default=TrackingConfig(), description="mlflow beside the local record")
    privacy: PrivacyConfig = Field(default=PrivacyConfig(), description="what may be seen of what is marked private")
    resume: ResumeConfig = Field(default=ResumeConfig(), description="what may differ from the checkpoint")

    @model_validator(mode="after")
    def _consistent(self) -> PretrainConfig:
        if (self.train.steps is None) == (self.train.epochs is None):
            raise ValueError("train: give either steps or epochs")
        check_probes(self.probe, self.keep, self.keep_by, self.patience)
        if self.run.ranks != "auto" and (wrong := self.indivisible(self.run.ranks)):
            raise ValueError(wrong)
        if self.train.shard != "none" and (self.optim.name == "lars" or self.optim.larc is not None):
            raise ValueError(
                f"train.shard: {self.train.shard} with optim.name: lars or optim.larc: their rates follow from norms "
                f"of whole weights, and a rank holds parts; take adamw or sgd without larc, or train.shard: none"
            )
        if self.train.shard != "none" and self.adapt is not None and self.adapt.lora is not None:
            raise ValueError(
                f"train.shard: {self.train.shard} with adapt.lora: factors are merged into whole weights, and a rank "
                f"holds parts; take train.shard: none (factors need little memory), or adapt.lora: null"
            )
        return self

    def indivisible(self, ranks: int) -> str:
        """What is wrong with the batch for so many ranks, "" if nothing is."""
        share, batch = ranks * self.train.accumulate, self.train.batch
        if batch % share == 0:
            return ""
        return (
            f"train.batch {batch} does not divide by ranks x accumulate = {share}; "
            f"{batch // share * share or share} would"
        )

    def total_steps(self, frames: int) -> int:
        """Length of the run in steps, for a selection of `frames` frames."""
        if self.train.steps is not None:
            return self.train.steps
        assert self.train.epochs is not None
        return max(1, round(self.train.epochs * frames / self.train.batch))

    @property
    def chooser(self) -> ProbeConfig | None:
        """The probe whose best look is kept; None where nothing is chosen."""
        if self.keep != "best":
            return None
        return next(probe for probe in self.probe if self.keep_by in (None, probe.name))

    def computing_in(self, precision: Precision) -> PretrainConfig:
        """The same with the precision that `auto` stands for."""
        return self.model_copy(update={"train": self.train.model_copy(update={"precision": precision})})

    def recipe(self) -> dict[str, object]:
        """What determines the result, besides the data: a resume with another recipe is refused."""
        tree = self.model_dump(mode="json", by_alias=True, include={"backbone", "method", "optim", "train"})
        for key in ("max_skipped", "compile", "shard"):
            tree["train"].pop(key)
        if self.anchor is not None:
            tree["anchor"] = self.anchor.model_dump(mode="json")
        if self.adapt is not None:
            tree["adapt"] = self.adapt.model_dump(mode="json", by_alias=True)
        # A probe that only looks changes no weight; one that may end the run decides which weights are its last.
        if self.patience is not None and self.chooser is not None:
            probe = self.chooser.model_dump(mode="json", exclude={"data", "private"})
            tree["patience"] = {"looks": self.patience, "probe": probe}
        return {**tree, "seed": self.run.seed, "shuffle": self.data.shuffle}
