"""What the report of a run is made of: plain data. Who computes it is no concern of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trocar.report.page_pictures import Images


@dataclass(frozen=True)
class Gallery:
    """Frames uint8 [n, h, w, 3] and one short caption each (case and time)."""

    images: Images
    captions: Sequence[str]


@dataclass(frozen=True)
class PcaComparison:
    """Patch features of the same frames as colours, from random weights and from the trained backbone.

    images uint8 [n, H, W, 3]; before and after uint8 [n, h, w, 3] from `page_pictures.pca_maps`.
    """

    images: Images
    before: Images
    after: Images


@dataclass(frozen=True)
class NeighbourComparison:
    """Nearest frames to each query, from other cases only, by random weights and by the trained backbone.

    queries int64 [q], before and after int64 [q, k]: indices into `gallery`.
    """

    gallery: Gallery
    queries: npt.NDArray[np.int64]
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RunInputs:
    """Everything on the page; what is None or empty is left out, and `notes` say why.

    record: run.json. config: config.yaml. metrics: rows of `runs.step_metrics.read_metrics`. resumes: first
    logged step of every attempt but the first. uniform_loss: ln K, the loss of uniform outputs. evaluation:
    results.json of `trocar evaluate`. views: group name -> uint8 [b, n, S, S, 3]. provenance: what it ran on,
    name -> value.
    """

    title: str
    record: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    resumes: Sequence[int] = ()
    uniform_loss: float | None = None
    evaluation: Mapping[str, Any] | None = None
    frames: Gallery | None = None
    views: Mapping[str, Images] | None = None
    pca: PcaComparison | None = None
    neighbours: NeighbourComparison | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    notes: Sequence[str] = ()
