"""What of a catalog is private: the frames and names of videos that videos.csv marks so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog


def private_names(catalog: Catalog) -> set[str]:
    """Hospitals, case ids and video names of private videos: what must not be shown of them."""
    columns = catalog.videos.select(["private", "hospital", "case_id", "name"]).to_pylist()
    return {str(row[key]) for row in columns if row["private"] for key in ("hospital", "case_id", "name")} - {""}


def is_private(catalog: Catalog, rows: I64) -> npt.NDArray[np.bool_]:
    """bool[n]: whether each of the catalog rows int64[n] is a frame of a private video."""
    marked = np.array([bool(value) for value in catalog.videos["private"].to_pylist()], dtype=bool)
    hidden: npt.NDArray[np.bool_] = marked[catalog.frames["video"][rows]]
    return hidden
