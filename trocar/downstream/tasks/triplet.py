"""Action triplets: which instrument does what to which target, any number of them in a frame."""

from __future__ import annotations

from trocar.downstream.metrics.ranking import ap_pooled
from trocar.downstream.tasks.base import Task

TASK = Task("triplet", ("ap_i@video", "ap_v@video", "ap_t@video"), ("ap", ap_pooled))
