"""The stages in which a backbone that has weights begins to train, as functions of the step alone: at first it stays as
it is and what stands on it learns, then its learning rate rises.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneStages:
    """Steps 0 to `frozen` - 1 leave the backbone as it is, the next `ramp` raise its rate from 0 to the scheduled one.

    `frozen_norms`: running statistics of its batch norms stay as they are through the whole run, not only at first.
    """

    frozen: int = 0
    ramp: int = 0
    frozen_norms: bool = False

    def is_frozen(self, step: int) -> bool:
        """Whether the backbone takes no part in this step's update."""
        return step < self.frozen

    def holds_norms(self, step: int) -> bool:
        """Whether the batch norms of the backbone normalise by their running statistics, and leave them as they are."""
        return self.frozen_norms or self.is_frozen(step)

    def lr_factor(self, step: int) -> float:
        """On the backbone's learning rate: 0, then numpy's linspace(0, 1) over `ramp` steps as in a warm-up, then 1."""
        if self.is_frozen(step):
            return 0.0
        return min(1.0, (step - self.frozen) / max(1, self.ramp - 1)) if step < self.frozen + self.ramp else 1.0
