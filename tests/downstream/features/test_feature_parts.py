"""Features that several ranks compute are the bytes of one process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from downstream_factory import make_folder
from share_factory import together

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.downstream.datasets import open_dataset
from trocar.downstream.features import feature_parts
from trocar.downstream.features.feature_cache import Encoder
from trocar.downstream.features.feature_parts import FeatureParts, extract_together
from trocar.downstream.features.frame_cache import FrameCache
from trocar.downstream.work_share import WorkShare
from trocar.errors import TrocarError

BATCH = 8


class KilledError(Exception):
    """In place of a signal."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """46 frames, decoded in frames/, and the features of one process in alone/."""
    root = tmp_path_factory.mktemp("parts")
    make_folder(root / "data", cases=2, frames=23)
    save_backbone(load_backbone("test_resnet"), root / "run", extra={})
    for name in ("frames", "alone"):
        encoder(root, name).frames.prepare([32])
    _ = encoder(root, "alone").features
    return root


def encoder(root: Path, cache: str) -> Encoder:
    frames = FrameCache(open_dataset(root / "data"), root / cache)
    return Encoder(frames, 32, partial(load_backbone, root / "run"), batch=BATCH)


def files(root: Path, cache: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / cache).iterdir()}


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_the_cache_of_several_ranks_has_the_files_of_one_process_and_no_others(root: Path, ranks: int) -> None:
    cache = f"of-{ranks}"
    encoder(root, cache).frames.prepare([32])
    together(ranks, lambda share: extract_together([encoder(root, cache)], share))
    assert files(root, cache) == files(root, "alone")


def test_every_batch_has_the_frames_that_it_has_in_one_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = FeatureParts(encoder(root, "frames"), root / "unused.npy")
    assert [len(rows) for rows in parts.rows] == [8, 8, 8, 8, 8, 6]
    monkeypatch.setattr(feature_parts, "PARTS", 2)
    assert [len(rows) for rows in parts.rows] == [24, 22]
    monkeypatch.setattr(feature_parts, "MOST_BATCHES", 1)
    assert [len(rows) for rows in parts.rows] == [8, 8, 8, 8, 8, 6]
    assert (np.concatenate(parts.rows) == np.arange(46)).all()


def test_parts_that_were_finished_before_a_rank_died_are_not_computed_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder(root, "killed").frames.prepare([32])
    computed: list[int] = []
    extract = FeatureParts.extract

    def counted(self: FeatureParts, wanted: list[np.ndarray], share: WorkShare) -> None:
        computed.extend(map(len, wanted))
        extract(self, wanted, share)

    def dying(share: WorkShare) -> None:
        written: list[int] = []

        def check() -> None:
            written.append(1)
            if share.rank == 1 and len(written) == 2:
                raise KilledError

        extract_together([encoder(root, "killed")], WorkShare(share.rank, share.size, share.wait, check))

    monkeypatch.setattr(FeatureParts, "extract", counted)
    with pytest.raises(KilledError):
        together(2, dying)
    assert sum(computed) == 46
    computed.clear()
    together(3, lambda share: extract_together([encoder(root, "killed")], share))
    assert sum(computed) == 6
    assert files(root, "killed") == files(root, "alone")


def test_one_process_drops_the_parts_that_ranks_have_left(root: Path) -> None:
    one = encoder(root, "left")
    one.frames.prepare([32])
    parts = FeatureParts.of(one)
    parts.extract(parts.rows[:2], WorkShare())
    assert len(files(root, "left")) == 3
    assert len(one.features) == 46
    assert files(root, "left") == files(root, "alone")


def test_features_that_another_evaluation_with_the_cache_has_joined_before_are_taken(root: Path) -> None:
    one = encoder(root, "shared")
    one.frames.prepare([32])
    parts = FeatureParts.of(one)
    parts.path.write_bytes(files(root, "alone")[parts.path.name])
    parts.extract(parts.rows[3:5], WorkShare())
    parts.join(WorkShare())
    assert files(root, "shared") == files(root, "alone")


def test_a_file_that_other_machines_do_not_see_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trocar.downstream.work_share.SEEN_S", 0.0)
    with pytest.raises(TrocarError, match=r"rank 1 of 2 does not see .*gone\.npy.* all machines of the job share"):
        WorkShare(1, 2).see(tmp_path / "gone.npy")


@pytest.mark.parametrize(("count", "size"), [(7, 2), (3, 5), (0, 3), (64, 8)])
def test_blocks_are_every_item_once_and_of_equal_length(count: int, size: int) -> None:
    blocks = [WorkShare(rank, size).of(range(count)) for rank in range(size)]
    assert [item for block in blocks for item in block] == list(range(count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
