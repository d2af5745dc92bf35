"""`data.backend`: what auto becomes, and that a resume notices."""

import json

import pytest
import torch
from data_factory import make_catalog

from trocar.cli.main import main
from trocar.core.config import load
from trocar.errors import ConfigError
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine.checkpoint import check_same
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run import assembly as setting_up
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_catalog(folder, 4, 8)
    return folder


def pretraining(shards, *overrides):
    words = [f"data.catalog={shards}", f"run.out={shards / 'run'}", "train.batch=4", "data.composition.curate=none"]
    words.append("train.precision=float32")  # which needs no card to be asked
    config = load(PretrainConfig, "small_dino", [*words, *overrides])
    return Pretraining(config, World(0, 1, 0), print, RunGuard())


@pytest.mark.parametrize(
    ("device", "dali", "backend"), [("cpu", True, "torch"), ("cuda", True, "dali"), ("cuda", False, "torch")]
)
def test_auto_is_dali_on_a_gpu_where_it_is_installed(shards, monkeypatch, device, dali, backend):
    monkeypatch.setattr(setting_up, "is_available", lambda: dali)
    setup = pretraining(shards)
    setup.__dict__["device"] = torch.device(device)
    assert setup.backend == backend
    assert setup.identity()["recipe"]["backend"] == backend


GPUS = ["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]


def on_a_gpu(shards, monkeypatch, load, ranks, gpu):
    """The identity of a run with DALI on the first of `ranks` GPUs."""
    monkeypatch.setattr(setting_up, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu)
    setup = pretraining(shards, f"data.hw_decoder_load={load}")
    setup.world = World(0, ranks, 0)
    setup.__dict__["device"] = torch.device("cuda", 0)
    return setup.identity()


def test_the_default_decoder_is_the_same_on_every_gpu_and_number_of_ranks(shards, monkeypatch):
    found = [on_a_gpu(shards, monkeypatch, 0, ranks, gpu) for ranks in (1, 2, 4) for gpu in GPUS]
    assert all(identity == found[0] for identity in found)
    assert found[0]["recipe"]["decoder"] == {"name": "nvjpeg", "hw_load": 0.0}
    assert pretraining(shards).config.data.hw_decoder_load == 0.0


@pytest.mark.parametrize(
    ("started", "resumed", "field"),
    [
        ((0, 1, GPUS[0]), (1, 1, GPUS[0]), "recipe.decoder.hw_load"),
        ((1, 1, GPUS[0]), (1, 1, GPUS[1]), "recipe.decoder.gpu"),
        ((0.65, 1, GPUS[0]), (0.65, 2, GPUS[0]), "recipe.decoder.ranks"),
    ],
)
def test_a_run_does_not_resume_where_another_decoder_would_get_a_frame(
    shards, monkeypatch, tmp_path, started, resumed, field
):
    saved, current = (on_a_gpu(shards, monkeypatch, *which) for which in (started, resumed))
    assert check_same(saved, saved, (), tmp_path) == []
    with pytest.raises(ConfigError, match=rf"{field}: .* in the checkpoint, .* now"):
        check_same(saved, current, (), tmp_path)


def test_with_all_frames_on_the_engine_the_number_of_ranks_does_not_matter(shards, monkeypatch):
    assert on_a_gpu(shards, monkeypatch, 1, 1, GPUS[0]) == on_a_gpu(shards, monkeypatch, 1, 4, GPUS[0])


@pytest.mark.parametrize("backend", ["torch", "dali"])
def test_on_a_cpu_no_decoder_is_part_of_the_identity(shards, monkeypatch, backend):
    monkeypatch.setattr(setting_up, "require", lambda: None)
    setups = [pretraining(shards, f"data.backend={backend}", f"data.hw_decoder_load={load}") for load in (0, 0.65)]
    assert "decoder" not in setups[0].identity()["recipe"]
    assert setups[0].identity() == setups[1].identity()


@pytest.mark.parametrize(
    ("backend", "load", "named"),
    [("auto", 0.0, "auto"), ("dali", 0.0, "dali"), ("torch", 0.5, "torch"), ("auto", 1.0, ["auto", 1.0])],
)
def test_a_study_names_a_pretraining_by_the_engines_share_where_it_has_one(shards, backend, load, named):
    from trocar.study.planned_pretrainings import _decoder

    config = pretraining(shards, f"data.backend={backend}", f"data.hw_decoder_load={load}").config
    assert _decoder(config) == named


def test_dali_is_refused_where_it_is_not_installed(shards, monkeypatch):
    monkeypatch.setattr("trocar.data.loading.dali_pipeline.is_available", lambda: False)
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
