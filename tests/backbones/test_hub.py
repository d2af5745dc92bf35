"""timm's weights: brought by `trocar fetch`, and what is said where they are not. No network: the hub is a fake."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
from timm.models import _builder

from trocar.backbones import load_backbone
from trocar.backbones.weight_names import licence_of, weights_in
from trocar.cli.main import main
from trocar.errors import TrocarError

NAME = "vit_small_patch16_dinov3.lvd1689m"
SMALL = "resnet18.a1_in1k"


@pytest.fixture
def hub(monkeypatch):
    """Answers like timm's: a state dict, or the error that is put into it. Counts what it was asked for."""
    asked = []

    def load(model_id, *args, **kwargs):
        asked.append(model_id)
        if hub.error is not None:
            raise hub.error
        return timm.create_model(model_id.partition("/")[2].partition(".")[0]).state_dict()

    hub.error = None
    hub.asked = asked
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", load)
    return hub


class GatedError(GatedRepoError):
    """One that needs no answer of a server."""

    def __init__(self) -> None:
        Exception.__init__(self, "401 Client Error")


def test_fetch_brings_timms_weights_and_says_licence_and_place(hub, capsys):
    assert main(["fetch", f"timm:{SMALL}"]) == 0
    said = capsys.readouterr().out
    assert hub.asked == [f"timm/{SMALL}"]
    assert f"timm:{SMALL}: in {constants.HF_HUB_CACHE}, fingerprint" in said
    assert "licence apache-2.0" in said
    assert "HF_HOME" in said


def test_gated_weights_name_licence_page_and_token(hub, capsys):
    hub.error = GatedError()
    assert main(["fetch", f"timm:{NAME}"]) == 1
    said = capsys.readouterr().err
    assert "accepted their licence (dinov3-license)" in said
    assert f"page of timm/{NAME}" in said
    assert "HF_TOKEN" in said
    assert f"trocar fetch timm:{NAME}" in said


def test_a_job_without_weights_fails_at_once_and_names_the_command(hub, monkeypatch):
    hub.error = LocalEntryNotFoundError("Cannot find the requested files in the disk cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TrocarError, match=rf"not in .*HF_HUB_OFFLINE is set.*trocar fetch timm:{SMALL}"):
        load_backbone(f"timm:{SMALL}")


def test_a_network_that_fails_is_said_with_the_command(hub):
    hub.error = ConnectionError("no route to host")
    with pytest.raises(TrocarError, match=rf"no route to host. Where there is a network: trocar fetch timm:{SMALL}"):
        load_backbone(f"timm:{SMALL}")


def test_the_real_hub_offline_asks_nobody(monkeypatch, tmp_path):
    """Of huggingface_hub itself: with the variable of jobs set nothing is tried, let alone again and again."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail("a request"))
    with pytest.raises(TrocarError, match="HF_HUB_OFFLINE is set, as in every job"):
        load_backbone(f"timm:{SMALL}")


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ({"backbone": {"name": "timm:resnet18.a1_in1k"}}, ["timm:resnet18.a1_in1k"]),
        ({"backbone": {"name": "vit_small_patch16_224"}, "train": {"batch": 8}}, []),  # random weights
        ({"method": {"teacher": {"name": "dino_vits16"}}, "backbone": {"name": "dinov2_vits14#teacher"}},
         ["dino_vits16", "dinov2_vits14"]),
        ({"backbone": ["ImageNet=timm:a.b,timm:c.d", "own=runs/1"]}, ["timm:a.b", "timm:c.d"]),
        ({"arms": {"x": {"set": ["backbone.name=timm:a.b"]}}, "baselines": {"backbones": {"y": "timm:a.b"}}},
         ["timm:a.b"]),
        ({"pretrain": {"recipe": "other"}}, ["timm:of.other"]),
    ],
)  # fmt: skip
def test_every_place_of_a_configuration_that_names_weights_is_found(tree, found):
    others = {"other": {"backbone": {"name": "timm:of.other"}, "recipe": "other"}}
    assert weights_in(tree, lambda name: others[name]) == found


def test_a_study_brings_the_weights_of_its_recipe_and_its_baselines(hub, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"backbone": {"name": f"timm:{SMALL}"}}))
    study = {"pretrain": {"recipe": str(tmp_path / "recipe.yaml")}, "baselines": {"backbones": {"A": "timm:resnet34"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert main(["fetch", str(tmp_path / "study.yaml")]) == 0
    assert sorted(name.partition(".")[0] for name in hub.asked) == ["timm/resnet18", "timm/resnet34"]
    assert main(["fetch", "study/phantom"]) == 0
    assert "names no weights" in capsys.readouterr().out


def test_timms_weights_come_from_nowhere_else(capsys):
    assert main(["fetch", f"timm:{SMALL}", "--from", "file"]) == 2
    assert "--from goes with one name" in capsys.readouterr().err


def test_a_licence_that_timm_does_not_know_is_said_to_be_unknown(monkeypatch):
    assert licence_of(NAME) == "dinov3-license"
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    assert licence_of("x").startswith("unknown")


def test_random_weights_ask_no_hub(hub):
    with torch.random.fork_rng(devices=[]):
        load_backbone("random:resnet18")
    assert hub.asked == []
