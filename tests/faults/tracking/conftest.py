"""The runs that nothing disturbs."""

from fault_undisturbed import shards, undisturbed, undisturbed_on_two

__all__ = ["shards", "undisturbed", "undisturbed_on_two"]
