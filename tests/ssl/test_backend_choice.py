"""`data.backend`: what auto becomes, and that a resume notices."""

import json

import pytest
import torch
from data_factory import make_catalog

from trocar.cli import main
from trocar.config import load
from trocar.errors import ConfigError
from trocar.ssl import setup as setting_up
from trocar.ssl.distributed import World
from trocar.ssl.pretrain_config import PretrainConfig
from trocar.ssl.setup import Pretraining


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 8)
    return folder


def pretraining(shards, *overrides):
    words = [f"data.catalog={shards}", f"run.out={shards / 'run'}", "train.batch=4", "data.composition.curate=none"]
    config = load(PretrainConfig, "small_dino", [*words, *overrides])
    return Pretraining(config, World(0, 1, 0), print)


@pytest.mark.parametrize(
    ("device", "dali", "backend"), [("cpu", True, "torch"), ("cuda", True, "dali"), ("cuda", False, "torch")]
)
def test_auto_is_dali_on_a_gpu_where_it_is_installed(shards, monkeypatch, device, dali, backend):
    monkeypatch.setattr(setting_up, "is_available", lambda: dali)
    setup = pretraining(shards)
    setup.__dict__["device"] = torch.device(device)
    assert setup.backend == backend
    assert setup.identity()["recipe"]["backend"] == backend


def test_dali_is_refused_where_it_is_not_installed(shards, monkeypatch):
    monkeypatch.setattr("trocar.data.dali_backend.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r'pip install "trocar\[cuda13\]"'):
        _ = pretraining(shards, "data.backend=dali").backend


@pytest.mark.slow
def test_a_run_with_dali_replaces_bad_frames_as_one_with_torch_and_does_not_change_backend(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("nvidia.dali")
    import data_factory

    whole, count = data_factory.random_jpeg, iter(range(1000))

    def some_damaged(rng, size):
        """Bytes as ingest would have recorded them, checksum and all."""
        jpeg = bytearray(whole(rng, size))
        number = next(count)
        if number == 5:  # the tables lie: no decoder gets through
            at = jpeg.index(b"\xff\xc4") + 5
            jpeg[at : at + 16] = b"\xff" * 16
        if number == 11:  # the header lies about the height
            at = jpeg.index(b"\xff\xc0") + 5
            jpeg[at : at + 2] = (2 * size[1]).to_bytes(2, "big")
        return bytes(jpeg)

    monkeypatch.setattr(data_factory, "random_jpeg", some_damaged)
    make_catalog(tmp_path / "shards", 4, 8)
    bad = {}
    for backend in ("torch", "dali"):
        out = tmp_path / backend
        words = [f"data.catalog={tmp_path / 'shards'}", f"run.out={out}", f"data.backend={backend}", "train.steps=8"]
        rest = ["train.batch=4", "data.composition.curate=none", "run.workers=1", "run.threads=1", "tracking.uri=none"]
        assert main(["pretrain", "small_dino", *words, *rest]) == 0
        bad[backend] = [json.loads(line) for line in (out / "bad_rows.jsonl").read_text().split("\n") if line]
    assert bad["torch"] == bad["dali"]
    assert {(line["video"], line["row"]) for line in bad["dali"]} == {("video00", 5), ("video01", 3)}
    words[2] = "data.backend=torch"
    assert main(["pretrain", "small_dino", *words, *rest, "train.steps=9", "resume.allow=[recipe.steps]"]) != 0
    assert "recipe.backend" in capsys.readouterr().err
