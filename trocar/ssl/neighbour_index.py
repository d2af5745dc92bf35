"""Build a nearest-neighbour index of a catalog with a backbone: the frames of other cases that look most alike.

The k nearest vectors of other groups are found with faiss: exactly, by blocks, or in an inverted file for large sets.

The rule of LemonFM's paper (Che et al., arXiv 2503.19740): a frame of another video is a neighbour if it is nearer
than three times the distance between the anchor and the frame before it. The distances are stored, so the factor
stays a setting of the run that uses the index. The published code has another rule (three times the distance of the
nearest entry of a file that nobody published); it is not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trocar import __version__
from trocar.backbones.device import choose_device
from trocar.backbones.identify import fingerprint
from trocar.backbones.load import load_backbone
from trocar.backbones.preprocess import Embedder, describe_backbone, fit_input_size, require_finite_features
from trocar.backbones.source import KEY
from trocar.core.config import Config
from trocar.core.messages import Say
from trocar.core.progress import track
from trocar.core.random import I64
from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import BadContentError, Reader
from trocar.data.loading.steps import crop_resize, decode
from trocar.data.remote.store import Place
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import F32, index_folder, write_table
from trocar.data.selection.selection import Selection
from trocar.errors import ConfigError, TrocarError, extra
from trocar.ssl.pool_guard import PoolGuard

QUERIES = 1024  # of a block
EXACT_UP_TO = 200_000
"""Vectors that are searched exactly: every pair is compared, minutes on a few cores at this number, growing with its
square. Above, an inverted file of 4 sqrt(n) lists looks into the 64 nearest ones."""
PROBES = 64


def nearest_of_other_groups(vectors: F32, groups: I64, k: int, *, exact: bool) -> Iterator[tuple[slice, I64, F32]]:
    """For blocks of L2-normalised vectors float32[n, D], sorted by groups int64[n]: which, and their k nearest.

    Yields (slice of the n, positions int64[m, k] nearest first or -1, Euclidean distances float32[m, k] or infinity).
    """
    index = None if exact else _inverted_file(vectors)
    bounds = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    blocks = [
        (slice(start, min(start + QUERIES, high)), low, high)
        for low, high in pairwise(bounds)
        for start in range(low, high, QUERIES)
    ]
    for block, low, high in track(blocks, "search neighbours", len(blocks)):
        queries = vectors[block]
        found = _compare(vectors, queries, low, high, k) if index is None else _probe(index, queries, low, high, k)
        yield block, *_sorted(vectors, queries, found, k)


def require_faiss() -> Any:
    """The module. Raises ConfigError where it is not installed."""
    with extra("index"):
        import faiss
    return faiss


def use_threads(count: int) -> None:
    """Let faiss use so many; without this it takes OMP_NUM_THREADS, or all cores."""
    require_faiss().omp_set_num_threads(count)


def _compare(vectors: F32, queries: F32, low: int, high: int, k: int) -> I64:
    """The k best in front of a group, and the k best behind it: positions, in no order."""
    faiss = require_faiss()
    found = []
    for start, part in ((0, vectors[:low]), (high, vectors[high:])):
        if len(part):
            _, at = faiss.knn(queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
            found.append(at + start)
    return np.concatenate(found, axis=1) if found else np.full((len(queries), k), -1, np.int64)


def _inverted_file(vectors: F32) -> Any:
    faiss = require_faiss()
    lists = 4 * math.isqrt(len(vectors))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (64 * lists))]))
    index.add(vectors)
    return index


def _probe(index: Any, queries: F32, low: int, high: int, k: int) -> I64:
    faiss = require_faiss()
    others = faiss.IDSelectorNot(faiss.IDSelectorRange(low, high))
    _, at = index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=PROBES, sel=others))
    found: I64 = at
    return found


def _sorted(vectors: F32, queries: F32, found: I64, k: int) -> tuple[I64, F32]:
    # From differences: what an inner product of unit vectors says of two that are almost equal is rounding.
    apart = np.linalg.norm(vectors[found] - queries[:, None], axis=-1)
    distances = np.where(found >= 0, apart, np.inf).astype(np.float32)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    rows, distances = np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)
    missing = ((0, 0), (0, k - rows.shape[1]))
    return np.pad(rows, missing, constant_values=-1), np.pad(distances, missing, constant_values=np.inf)


FACTOR = 3.0  # of the paper's rule, for saying what an index is worth


class NeighbourIndexConfig(Config):
    """What `trocar neighbours` builds."""

    catalog: Place = Field(
        description="the shards folder that `trocar ingest` wrote, or its address in a store (`s3://...`, `https://...`)"
    )
    backbone: str = Field(description="a timm name, published weights, or a run or exported backbone")
    name: str = Field(description="the name of the index; an index of that name is replaced")
    k: int = Field(default=4, ge=1, description="neighbours per frame")
    composition: Composition = Field(default=Composition(), description="which frames are in the index")
    size: int | None = Field(default=None, ge=8, description="input size in pixels; null: the backbone's own")
    batch: int = Field(default=64, ge=1, description="frames at a time through the backbone")
    workers: int = Field(default=2, ge=0, description="processes that decode")
    threads: int | None = Field(
        default=None, ge=1, description="threads of torch and faiss; null: OMP_NUM_THREADS, or the cores"
    )
    device: str = Field(default="auto", description="auto, cpu or cuda")


@dataclass(frozen=True)
class Built:
    """Where an index lies and what is in it: `near` of `frames` have a neighbour by the paper's rule."""

    folder: Path
    frames: int
    near: int
    bad: int
    search: str


def build_index(config: NeighbourIndexConfig, guard: PoolGuard, say: Say) -> Built:
    """Embed the frames of the composition, search, write.

    `guard` resolves the composition and knows what the backbone has seen (`trocar.leakage.guard`).
    Frames that can't be read as ingested are left out and counted. Raises ConfigError for a composition with frames of
    one case only, a name or backbone that means nothing, TrocarError where shards can't be read.
    """
    catalog = Catalog.open(config.catalog)
    index_folder(catalog, config.name)
    device = choose_device(config.device)
    require_faiss()  # before the features are computed
    rows, cases = _selected(catalog, guard.resolve(config.composition, catalog))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
        use_threads(config.threads)
    model = load_backbone(config.backbone)
    known_as = str(fingerprint(model))
    features, good = _features(model, catalog, rows, config, device)
    rows, cases = rows[good], cases[good]
    say(f"{len(rows)} frames, {features.shape[1]} features each ({features.nbytes / 2**20:.0f} MiB)")
    exact = len(rows) <= EXACT_UP_TO
    table = _table(catalog, rows, cases, features, config.k, exact)
    about = {
        "trocar": __version__,
        "backbone": config.backbone,
        "backbone_fingerprint": known_as,
        KEY: guard.recorded(config.backbone),
        "size": config.size,
        "rule": "distance < factor x reference, the distance to the frame before it in the same video",
        "distance": "Euclidean, L2-normalised pooled features",
        "search": "exact" if exact else "inverted file",
        "composition": config.composition.model_dump(mode="json"),
        "frames": len(rows),
    }
    folder = write_table(catalog, config.name, *table, about)
    near = int(np.count_nonzero(table[1][rows, 0] < FACTOR * table[2][rows]))
    return Built(folder, len(rows), near, int(np.count_nonzero(~good)), str(about["search"]))


def _selected(catalog: Catalog, selection: Selection) -> tuple[I64, I64]:
    """Selected rows int64[n] sorted by case, then by place in the catalog; and the number of the case of each."""
    rows = np.concatenate([pool.runs.rows(np.arange(len(pool))) for pool in selection.pools])
    pairs = list(zip(*(catalog.videos[name].to_pylist() for name in ("source", "case_id")), strict=True))
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    case_of_video = np.array([numbers[pair] for pair in pairs], np.int64)
    cases = case_of_video[catalog.frames["video"][rows]]
    if len(np.unique(cases)) < 2:
        raise ConfigError("composition: all frames are of one case, and neighbours are of other cases; select more")
    order = np.lexsort((rows, cases))
    return rows[order], cases[order]


def _features(
    model: nn.Module, catalog: Catalog, rows: I64, config: NeighbourIndexConfig, device: str
) -> tuple[F32, np.ndarray[Any, np.dtype[np.bool_]]]:
    """L2-normalised features float32[m, D] of the m good rows, and which of the rows are good."""
    own = describe_backbone(model)
    size = config.size or own.size[0]
    embed = Embedder(fit_input_size(model, size), own, device)
    good = np.zeros(len(rows), bool)
    features: F32 | None = None
    filled = 0
    starts = range(0, len(rows), config.batch)
    for start, (images, usable) in zip(
        starts, track(_images(catalog, rows, size, config), "embed frames", len(starts)), strict=True
    ):
        good[start : start + len(usable)] = usable
        if not len(images):
            continue
        found = embed(images.to(embed.device)).cpu().numpy()
        require_finite_features(found, config.backbone, rows[start : start + len(usable)][np.asarray(usable)])
        if features is None:
            features = np.empty((len(rows), found.shape[1]), np.float32)
        features[filled : filled + len(found)] = found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
        filled += len(found)
    if features is None:
        raise TrocarError("none of the selected frames can be read as ingested; run `trocar ingest` again")
    return features[:filled], good


def _images(catalog: Catalog, rows: I64, size: int, config: NeighbourIndexConfig) -> Iterator[tuple[Tensor, Any]]:
    frames = _Batches(catalog, rows, size, config.batch)
    for item in DataLoader(frames, batch_size=None, num_workers=config.workers):
        if isinstance(item, TrocarError):
            raise item
        yield item


class _Batches(Dataset[Any]):
    """Batches of b frames squashed to a square, as evaluation does: (uint8[m, 3, S, S] of the m good ones, bool[b])."""

    def __init__(self, catalog: Catalog, rows: I64, size: int, batch: int) -> None:
        self.reader, self.rows, self.size, self.batch = Reader(catalog), rows, size, batch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch)

    def __getitem__(self, index: int) -> Any:
        rows = self.rows[index * self.batch : (index + 1) * self.batch].tolist()
        images, good = torch.empty((len(rows), 3, self.size, self.size), dtype=torch.uint8), np.zeros(len(rows), bool)
        # A DataLoader wraps what its workers raise in their traceback; a message for people travels as a value.
        try:
            for at, row in enumerate(rows):
                good[at] = self._put(row, images[at])
        except TrocarError as error:
            return error
        return images[torch.from_numpy(good)], good

    def _put(self, row: int, into: Tensor) -> bool:
        frames = self.reader.catalog.frames
        width, height = int(frames["width"][row]), int(frames["height"][row])
        try:
            image = decode(self.reader.read(row), width, height)
        except BadContentError:
            return False
        into.copy_(crop_resize(image, (0, 0, height, width), self.size))
        return True


def _table(catalog: Catalog, rows: I64, cases: I64, features: F32, k: int, exact: bool) -> tuple[I64, F32, F32]:
    """Neighbour rows int64[N, k], distances float32[N, k], reference float32[N] for the N rows of the catalog."""
    N = len(catalog)
    neighbours, distances = np.full((N, k), -1, np.int64), np.full((N, k), np.inf, np.float32)
    reference = np.full(N, np.nan, np.float32)
    same_video = np.diff(catalog.frames["video"][rows]) == 0
    before = np.linalg.norm(np.diff(features, axis=0), axis=1)
    reference[rows[1:][same_video]] = before[same_video]
    for block, found, apart in nearest_of_other_groups(features, cases, k, exact=exact):
        neighbours[rows[block]] = np.where(found >= 0, rows[found], -1)
        distances[rows[block]] = apart
    return neighbours, distances, reference
