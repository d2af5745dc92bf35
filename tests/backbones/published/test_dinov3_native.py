"""Meta's DINOv3 files, in the names of its own code, become timm's network tensor by tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from published_files import CASES

from trocar.backbones import load_backbone
from trocar.backbones.published.convert import convert
from trocar.backbones.published.family import BACKBONES
from trocar.errors import TrocarError

CASE = next(case for case in CASES if case.name == "dinov3_vits16")
BIAS = "blocks.3.attn.qkv.bias"


@pytest.fixture
def content() -> dict[str, Any]:
    return CASE.build()[1]


def test_every_tensor_of_timms_network_is_the_stored_one_under_its_other_name(
    content: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "native.pth")
    loaded = load_backbone(f"dinov3_vits16@{tmp_path / 'native.pth'}").state_dict()
    own = timm.create_model("vit_small_patch16_dinov3", num_classes=0).state_dict()
    assert loaded.keys() == own.keys()
    others = {"reg_token": "storage_tokens", **{f"blocks.{i}.gamma_1": f"blocks.{i}.ls1.gamma" for i in range(12)}}
    others |= {f"blocks.{i}.gamma_2": f"blocks.{i}.ls2.gamma" for i in range(12)}
    for key, tensor in loaded.items():
        assert torch.equal(tensor, content[others.get(key, key)]), key
    left_out = content.keys() - {others.get(key, key) for key in loaded}
    qkv = {f"blocks.{i}.attn.qkv.{kind}" for i in range(12) for kind in ("bias", "bias_mask")}
    assert left_out == qkv | {"mask_token", "rope_embed.periods"}


def test_the_bias_of_keys_may_be_anything_because_the_mask_takes_it_out(content: dict[str, Any]) -> None:
    content[BIAS][384:768] = 5.0
    convert(BACKBONES.get("dinov3_vits16"), content, "the file")


@pytest.mark.parametrize("place", [0, 383, 768, 1151])
def test_a_bias_of_queries_or_values_that_timms_network_has_no_place_for_is_refused(
    content: dict[str, Any], place: int
) -> None:
    content[BIAS][place] = 1e-3
    with pytest.raises(TrocarError, match=rf"{BIAS}_mask: its bias is not zero where its mask lets it act"):
        convert(BACKBONES.get("dinov3_vits16"), content, "the file")
