"""What stages do to the networks of a method: which parameters take gradients, and which batch norms stand still."""

from __future__ import annotations

from torch import nn

from trocar.ssl.blocks.teachers import frozen_networks
from trocar.ssl.engine.backbone_stages import BackboneStages
from trocar.ssl.engine.method import Method, freeze_gradients
from trocar.ssl.ranks.sharding import is_sharded


class StagedBackbone:
    """The backbones of `method` through the stages; a finished teacher that never trains is left alone.

    Teachers that follow the student stand still with it: their first weights are its own, and the average of equal
    weights is those weights to the bit (`update_teacher`).
    """

    def __init__(self, method: Method, stages: BackboneStages | None) -> None:
        self._stages = stages or BackboneStages()
        self._student = method.backbones[0]
        self._trained = [p for p in self._student.parameters() if p.requires_grad]
        finished = frozen_networks(method)
        own = [network for network in method.backbones if not any(network is other for other in finished)]
        self._norms = [m for network in own for m in network.modules() if _keeps_statistics(m) and m.training]
        # Parts of weights learn that they need no gradient only where they are made.
        self._without_gradients = not is_sharded(method)
        self._buffers = {id(b) for norm in self._norms for b in norm.buffers(recurse=False)}

    def enter(self, step: int) -> None:
        """Before the forward pass of a step, whatever step was before it."""
        frozen = self._stages.is_frozen(step)
        if self._without_gradients and self._stages.frozen:
            for parameter in self._trained:
                parameter.requires_grad_(not frozen)
        if self._stages.frozen or self._stages.frozen_norms:
            held = self._stages.holds_norms(step)
            for norm in self._norms:
                norm.train(not held)

    def gradients_ready(self, step: int) -> None:
        """Before gradients are clipped: one that the backbone has got is not counted, and nothing is made of it."""
        if self._stages.is_frozen(step):
            freeze_gradients(self._student)

    def moves(self, buffer: object, step: int) -> bool:
        """Whether a running statistic of the method moves in this step."""
        return not (self._stages.holds_norms(step) and id(buffer) in self._buffers)


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._NormBase) and bool(module.track_running_stats)
