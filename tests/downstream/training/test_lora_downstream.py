"""Fine-tuning and segmentation by low-rank factors: the backbone's weights stay, and the factors alone carry what was
learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from mask_factory import make_mask_folder
from training_factory import colour_problem, make_encoder, open_bench, truth

from trocar.backbones.lora import LoraConfig, is_factor, merged_state
from trocar.backbones.preprocess import fit_input_size
from trocar.downstream.protocols import get_protocol, segmentation
from trocar.downstream.protocols.finetune import Finetune, finetuned
from trocar.downstream.protocols.segmentation import SegmentationProtocol, read_mask
from trocar.downstream.segmentation.train import fit_segmenter
from trocar.downstream.training.fit import parameter_groups
from trocar.errors import ConfigError

LORA = LoraConfig(rank=4, alpha=32)
RECIPE = Finetune(
    epochs=12, batch=8, lr=2e-2, layer_decay=0.9, warmup=0, augment=None, select="fixed_epochs", batch_norm="frozen"
)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_fine_tuned_factors_learn_and_merge_into_the_plain_network(tmp_path: Path, architecture: str) -> None:
    problem = colour_problem(tmp_path, architecture=architecture)
    recipe = RECIPE.model_copy(update={"lora": LORA})
    found = finetuned(problem, recipe.fine_tuning())
    scores = found.predict(problem.test)["phase"]
    assert (scores.argmax(1) == truth(problem, problem.test)).mean() >= 0.9  # the constant has 0.5
    network = problem.encoder.network
    assert network is not None
    plain, backbone = fit_input_size(network(), 32).eval(), found.network.backbone
    after = backbone.state_dict()
    assert [k for k, v in plain.state_dict().items() if not torch.equal(after[k], v)] == []
    require_learned({k: bool(v.any()) for k, v in after.items()})
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(plain(images), backbone(images), atol=1e-2)
        plain.load_state_dict(merged_state(backbone), strict=True)
        torch.testing.assert_close(plain(images), backbone(images), rtol=1e-5, atol=1e-5)


def require_learned(moved: dict[str, bool]) -> None:
    """Not all: timm's last norm of a block is zero at first, and what is before it gets no gradient yet."""
    factors = [moved[name] for name in moved if name.endswith("lora_b")]
    assert sum(factors) > len(factors) / 2


def test_factors_learn_at_the_rate_of_their_layer(tmp_path: Path) -> None:
    problem = colour_problem(tmp_path, architecture="test_vit")
    recipe = RECIPE.model_copy(update={"lora": LORA, "epochs": 1})
    network = finetuned(problem, recipe.fine_tuning()).network
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network.heads, network.backbone, 0.1, 0.5)
    scale = {names[p]: group["lr_scale"] for group in groups for p in group["params"]}
    assert all(is_factor(name) for name in scale if name.startswith("backbone."))
    depth = len(network.backbone.blocks)  # type: ignore[arg-type]
    for block in range(depth):
        assert scale[f"backbone.blocks.{block}.attn.qkv.lora_a"] == 0.5 ** (depth - block)


def watched(tmp_path: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The backbone's state before and after."""
    root = make_mask_folder(tmp_path / "data", cases=4, shapes=((40, 56), (48, 32)))
    bench = open_bench(root, "segmentation")
    problem = bench.problem(bench.folds[0], make_encoder(bench, tmp_path), 0)
    recipe = get_protocol({"name": "segmentation", "epochs": 2, "batch": 4, "lr": 5e-3, **settings})
    assert isinstance(recipe, SegmentationProtocol)
    states: list[dict[str, torch.Tensor]] = []

    def fit(model: Any, *arguments: Any, **more: Any) -> Any:
        states.append({k: v.clone() for k, v in model.backbone.state_dict().items()})
        history = fit_segmenter(model, *arguments, **more)
        states.append(model.backbone.state_dict())
        return history

    def size_of(row: int) -> tuple[int, int]:
        height, width = read_mask(problem, row).shape
        return height, width

    with patch.object(segmentation, "fit_segmenter", fit):
        assert len(dict(recipe.segment(problem, size_of).masks)) == len(problem.test)
    return states[0], states[1]


def test_segmentation_trains_the_factors_alone(tmp_path: Path) -> None:
    before, after = watched(tmp_path, lora={"rank": 2})
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    require_learned({k: k in moved for k in before})
    assert [k for k in moved if not is_factor(k) and "running_" not in k and "num_batches" not in k] == []


def test_a_frozen_backbone_has_no_factors() -> None:
    with pytest.raises(ConfigError, match="take one of them"):
        get_protocol({"name": "segmentation", "freeze": True, "lora": {}})
    found = get_protocol({"name": "segmentation", "lora": {"rank": 2}})
    assert isinstance(found, SegmentationProtocol)
    assert found.usual_label == "segmentation fpn, lora"
