"""An anchor: a loss, beside that of any method, which keeps features near those of an anchor network.

The anchor network sees the pictures that the student sees in the method's own passes, of the size of the first group of
views ("global views"), in eval mode and without gradient. DINOv3's is an earlier moving average of the same run (Gram
anchoring, arXiv 2508.10104), PaKA's is the moving average (arXiv 2509.05606). Towards the *first* weights both are
Trocar's adaptation, for going on from weights that are good already.

Further differences. DINOv3's Gram teacher may see larger pictures than the student, and never distorted colours; here
it sees the student's. PaKA compares small views with regions of large ones behind a head of three layers; here both
networks see one view, and there is no head. As in DINOv3, a student whose patches are masked is compared as it is, with
all its patches: then the loss does not begin at 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import override

from trocar.backbones.identify import fingerprint
from trocar.core.config import Config
from trocar.errors import ConfigError
from trocar.ssl.anchor_losses import batch_gram_anchoring, gram_anchoring, kernel_alignment
from trocar.ssl.blocks.networks import Networks, repeated_blocks
from trocar.ssl.blocks.passes import Passes, noted
from trocar.ssl.blocks.teachers import NetworkHolder
from trocar.ssl.engine.method import Losses, Method, Progress, Views
from trocar.ssl.engine.optimizer import Duration, steps_in
from trocar.ssl.losses import cosine_distance
from trocar.ssl.ranks.parts import own_part

Compare = Callable[[Tensor, Tensor], Tensor]

OF_PATCHES: dict[str, Compare] = {"gram": gram_anchoring, "alignment": kernel_alignment}
OF_POOLED: dict[str, Compare] = {"features": batch_gram_anchoring, "cosine": cosine_distance}
WORDS = {
    "gram": "Gram matrices of patch tokens",
    "alignment": "kernels of patch tokens",
    "features": "Gram matrices of pooled features over the batch",
    "cosine": "pooled features",
}


class AnchorConfig(Config):
    """Which features are kept near those of which network, and from when on."""

    kind: Literal["gram", "alignment", "features", "cosine"] = Field(
        description="gram: the cosines of a view's patch tokens with each other (DINOv3); alignment: centred kernels "
        "of its patch tokens, which count by length (PaKA); features: the cosines of pooled features of the "
        "(micro-)batch's views with each other; cosine: each view's pooled features"
    )
    weight: float = Field(default=1.0, gt=0, description="weight of the loss in the sum (DINOv3: 2)")
    teacher: Literal["first", "ema"] = Field(
        default="first",
        description="the anchor network. first: the weights that the run began with; ema: the method's moving average, "
        "or the student where a method has none",
    )
    refresh: Duration | None = Field(
        default=None,
        description="with ema: the anchor is a copy, taken at `start` and again after each such time (DINOv3: 10000 "
        "steps); null: the moving average of each step",
    )
    refreshes: int | None = Field(
        default=None, ge=0, description="with refresh: how often a copy is taken again (DINOv3: 3); null: to the end"
    )
    start: Duration = Field(default="0 steps", description="when the loss begins, such as `1 epoch` or `10 %`")

    @model_validator(mode="after")
    def _consistent(self) -> AnchorConfig:
        if self.teacher == "first" and (self.refresh is not None or self.refreshes is not None):
            raise ValueError("the first weights stay what they are; take teacher: ema, or leave refresh away")
        if self.refreshes is not None and self.refresh is None:
            raise ValueError("refreshes counts copies; say how often they are taken, such as refresh: 10 %")
        return self

    def is_on(self, progress: Progress) -> bool:
        """Whether the loss has begun."""
        return progress.step >= self._first(progress)

    def copies_at(self, progress: Progress) -> bool:
        """Whether a copy is taken before this step, which follows from the step alone."""
        if self.refresh is None or not self.is_on(progress):
            return False
        every = max(1, steps_in(self.refresh, progress.epoch_steps, progress.total))
        number, over = divmod(progress.step - self._first(progress), every)
        return over == 0 and (self.refreshes is None or number <= self.refreshes)

    def _first(self, progress: Progress) -> int:
        return steps_in(self.start, progress.epoch_steps, progress.total)


class Anchor(NetworkHolder):
    """The anchor of one run. It holds its network, or none and follows the method's average as that is.

    First weights are not in the state: they are built again at a resume, and `fingerprint` is part of the run's
    identity. A copy that is refreshed is in the state.
    """

    def __init__(self, config: AnchorConfig, network: nn.Module | None = None, fingerprint: str | None = None) -> None:
        super().__init__(*([network] if network is not None else []))
        self.config, self.fingerprint = config, fingerprint

    def losses(self, method: Method, views: Views, progress: Progress) -> Losses:
        """The method's losses with the anchor's in their sum.

        `anchor_loss` is that without its weight, `method_loss` the method's own sum. Raises ConfigError for a method
        whose student shows no features of the views of the first group.
        """
        if not self.config.is_on(progress):
            return method.loss(views, progress)
        with noted(method.backbones[0]) as passes:
            own = method.loss(views, progress)
        distance = self._distance(passes, self.network_of(method), next(iter(views.crops.values())).shape[-1])
        return {
            **own,
            "loss": own["loss"] + self.config.weight * distance,
            "method_loss": own["loss"],
            "anchor_loss": distance,
        }

    def network_of(self, method: Method) -> nn.Module:
        """The anchor network."""
        return self.held[0] if self.held else _followed(method)

    @torch.no_grad()
    def refresh(self, method: Method, progress: Progress) -> None:
        """Before a step: take the copy anew if one is due. A step that is not accepted keeps it."""
        if not self.config.copies_at(progress):
            return
        copied, followed = self.held[0], _followed(method)
        ours, theirs = (chain(network.parameters(), network.buffers()) for network in (copied, followed))
        for own, value in zip(ours, theirs, strict=True):
            own_part(own).copy_(own_part(value))

    def identity(self) -> dict[str, str]:
        """What the first weights are; nothing for a network that follows from the run itself."""
        return {"anchor_weights": self.fingerprint} if self.fingerprint is not None else {}

    def lines(self, method: Method) -> list[str]:
        """What it does, for people."""
        config = self.config
        anchor = "the moving average" if method.average is not None else "the student"
        if self.fingerprint is not None:
            anchor = f"the first weights, {self.fingerprint}"
        elif config.refresh is not None:
            often = f", {config.refreshes} times at most" if config.refreshes is not None else ""
            anchor = f"a copy of {anchor}, taken then and again after each {config.refresh}{often}"
        return [
            f"anchor     {WORDS[config.kind]}, weight {config.weight:g}, from {config.start} on",
            f"           as those of {anchor}",
            "           a step takes one more forward pass of the global views that the student sees",
        ]

    def compilable(self, method: Method) -> tuple[nn.Module, ...]:
        """The networks it holds, to be compiled like the student.

        Raises ConfigError for a student that is compiled as a whole: nothing on its way could be noted.
        """
        if not repeated_blocks(method.backbones[0]):
            raise ConfigError(
                f"anchor with train.compile: {type(method.backbones[0]).__name__} repeats no block and is compiled as "
                f"a whole, which hides its features; set train.compile to false"
            )
        return self.held

    def _distance(self, passes: Passes, network: nn.Module, size: int) -> Tensor:
        which = passes.of_size(size)
        if not which:
            raise ConfigError(
                f"anchor: the method gives its student no view of the first group ({size} pixels) in a pass with "
                f"gradient through forward or forward_features; leave anchor away, or have it do so"
            )
        with torch.no_grad(), _evaluating(network), noted(network) as theirs:
            for index in which:
                network(passes.pictures[index])
        ours = _features(passes, self.config.kind, which)
        return _compare(self.config.kind, ours, _features(theirs, self.config.kind, range(len(which))))

    @override
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.config.refresh is not None:
            self.held[0].state_dict(destination=destination, prefix=f"{prefix}copy.", keep_vars=keep_vars)

    @override
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        own = f"{prefix}copy."
        state = {key.removeprefix(own): value for key, value in state_dict.items() if key.startswith(own)}
        if self.config.refresh is not None:
            self.held[0].load_state_dict(state)
        others = {key: value for key, value in state_dict.items() if not key.startswith(own)}
        super()._load_from_state_dict(others, prefix, *rest)


def build_anchor(config: AnchorConfig, method: Method, networks: Networks) -> Anchor:
    """The anchor of a method that has just been built from `networks`.

    Raises ConfigError for a method without an average that is to be followed, and for a network that shows no such
    features of views of the main size, or just one patch.
    """
    if config.teacher == "first":
        first = networks.teacher()
        anchor = Anchor(config, first, str(fingerprint(first)))
    elif config.refresh is not None:
        anchor = Anchor(config, copy.deepcopy(_followed(method)))
    elif method.average is None:
        raise ConfigError(
            f"anchor.refresh: {type(method).__name__} has no moving average, and to itself the student is always near; "
            f"take copies of it with anchor.refresh, such as 10 %, or anchor.teacher: first"
        )
    else:
        anchor = Anchor(config)
    network = anchor.network_of(method)
    with torch.no_grad(), _evaluating(network), noted(network) as passes:
        network(torch.zeros(1, 3, *networks.preprocessing.size))
    _features(passes, config.kind, [0])
    return anchor


def _followed(method: Method) -> nn.Module:
    return method.average if method.average is not None else method.backbones[0]


def _features(passes: Passes, kind: str, which: Sequence[int]) -> Tensor:
    """Patch tokens [n, N, D] or pooled features [n, D] of passes, one behind the other."""
    given = passes.maps if kind in OF_PATCHES else passes.pooled
    if len(given) != len(passes.pictures):
        other = "features" if kind in OF_PATCHES else "gram"
        raise ConfigError(
            f"anchor.kind: {kind}: {type(passes.network).__name__} shows {len(given)} such outputs of "
            f"{len(passes.pictures)} passes (timm's forward_features gives patches, forward_head pooled features); "
            f"take {other}"
        )
    parts = [passes.tokens(i) if kind in OF_PATCHES else given[i] for i in which]
    found = torch.cat(parts) if len(parts) > 1 else parts[0]
    if kind in OF_PATCHES and found.shape[1] < 2:
        size = passes.pictures[which[0]].shape[-1]
        raise ConfigError(
            f"anchor.kind: {kind}: a view of {size} pixels has one patch in {type(passes.network).__name__}, which has "
            f"nothing to be compared with; take larger views, or features"
        )
    return found


def _compare(kind: str, ours: Tensor, theirs: Tensor) -> Tensor:
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"anchor.kind: {kind}: the student shows features of {list(ours.shape)} and the anchor network of "
            f"{list(theirs.shape)}: a method that hides patches from its student can't have patches compared; take "
            f"features"
        )
    return (OF_PATCHES | OF_POOLED)[kind](ours, theirs)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Within, a network is in eval mode; each part has its own mode back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
