"""A catalog's frames as WebDataset samples: the bytes of the shards, in catalog order or as a plan has them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import webdataset
from data_factory import make_catalog
from torch.utils.data import DataLoader

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.reader import Reader
from trocar.data.selection.composition import Composition, VideoFilter
from trocar.data.selection.plan import Plan
from trocar.errors import TrocarError

EVERYTHING = Composition(curate="none")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return make_catalog(tmp_path, videos=4, frames=5)


def test_samples_are_the_frames_in_catalog_order(catalog: Catalog) -> None:
    samples = list(catalog.webdataset())
    assert [sample["jpg"] for sample in samples] == [Reader(catalog).read(row) for row in range(20)]
    assert [sample["__key__"] for sample in samples[4:6]] == ["video00-0000004", "video01-0000000"]
    assert json.loads(samples[6]["json"]) == {
        "case_id": "case01",
        "hospital": "south",
        "part": 1,
        "procedure": "cholecystectomy",
        "source": "phantom",
        "time_s": 1.0,
        "video": "video01",
    }


def test_a_composition_selects(catalog: Catalog) -> None:
    south = Composition(include=[VideoFilter(hospital=["south"])], curate="none")
    samples = catalog.webdataset(south)
    assert len(samples) == 10
    assert {json.loads(sample["json"])["hospital"] for sample in samples} == {"south"}
    assert len(list(catalog.webdataset(south.resolve(catalog)))) == 10


def test_a_seed_gives_the_order_of_a_plan(catalog: Catalog) -> None:
    rows = Plan(EVERYTHING.resolve(catalog), batch=20, seed=7).rows(0).tolist()
    assert rows != sorted(rows)
    assert [sample["jpg"] for sample in catalog.webdataset(seed=7)] == [Reader(catalog).read(row) for row in rows]


@pytest.mark.parametrize("seed", [None, 7])
def test_ranks_and_workers_share_the_frames(catalog: Catalog, seed: int | None) -> None:
    whole = [sample["__key__"] for sample in catalog.webdataset(seed=seed)]
    parts = [[s["__key__"] for s in catalog.webdataset(seed=seed, rank=r, world=3)] for r in range(3)]
    assert parts == [whole[rank::3] for rank in range(3)]
    assert [len(catalog.webdataset(seed=seed, rank=r, world=3)) for r in range(3)] == [len(part) for part in parts]
    loader = DataLoader(catalog.webdataset(seed=seed), batch_size=None, num_workers=2)
    assert sorted(sample["__key__"] for sample in loader) == sorted(whole)


def test_a_webdataset_pipeline_takes_it(catalog: Catalog) -> None:
    pipeline = webdataset.DataPipeline(
        catalog.webdataset(), webdataset.decode("torchrgb"), webdataset.to_tuple("jpg", "json")
    )
    pictures, said = zip(*pipeline, strict=True)
    assert len(pictures) == 20
    assert pictures[0].shape == (3, 48, 64)
    assert pictures[0].dtype == torch.float32
    assert said[19]["video"] == "video03"


def test_a_frame_that_is_not_what_was_ingested_is_an_error_in_catalog_order(catalog: Catalog) -> None:
    shard = catalog.shard_paths[0]
    data = bytearray(shard.read_bytes())
    data[int(catalog.frames["offset"][0]) + 300] ^= 255
    shard.write_bytes(data)
    with pytest.raises(TrocarError, match="checksum differs from the catalog"):
        next(iter(catalog.webdataset()))
    assert len(list(catalog.webdataset(seed=1))) == 20


def test_the_pipeline_of_the_data_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page.partition("## Frames for other pipelines")[2], re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make_catalog(tmp_path / "shards", videos=4, frames=5)
    names: dict[str, object] = {}
    exec(block, names)
    samples = list(names["samples"])  # type: ignore[call-overload]
    assert len(samples) == 10
    assert {said["hospital"] for _, said in samples} == {"north"}
