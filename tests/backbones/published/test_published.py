"""Published weights load from their own layout, all keys accounted for; features are an independent network's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published_files import CASES, Case, dino_training
from reference_caformer import CAFormer
from torch import Tensor

from trocar.backbones import load_backbone
from trocar.backbones.preprocess import describe_backbone
from trocar.backbones.published.convert import convert
from trocar.backbones.published.family import BACKBONES, unchunked
from trocar.backbones.source import origin_of
from trocar.errors import ConfigError, TrocarError
from trocar.leakage.identities import parse_numbers

SMALL = next(case for case in CASES if case.name == "surgenetxl_caformer_s18")


def save(content: dict[str, Any], folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def picture(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_features_are_those_of_an_independent_network_with_the_same_weights(case: Case, tmp_path: Path) -> None:
    network, content = case.build()
    model = load_backbone(f"{case.name}@{save(content, tmp_path)}").eval()
    images = picture(case.size)
    with torch.no_grad():
        difference = (model(images) - network(images)).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_key_dropped_added_or_swapped_is_an_error_that_names_it(case: Case) -> None:
    entry = BACKBONES.get(case.name)
    with torch.device("meta"):
        content = case.wrap({k: v for k, v in case.network().state_dict().items() if "fc." not in k[:3]})
    convert(entry, content, "file")

    place = innermost(content)
    own = [key for key in place if not any(word in key for word in FOREIGN)]
    one = own[5]
    other = next(key for key in own if place[key].shape != place[one].shape)
    kept = place.pop(one)
    with pytest.raises(TrocarError) as dropped:
        convert(entry, content, "file")
    named = [line.split(":")[0].strip() for line in str(dropped.value).splitlines() if "missing" in line]
    assert len(named) == 1
    assert entry.family.canonical(one).endswith(named[0]) or unchunked(one.split("backbone.")[-1]) == named[0]
    place[one] = kept
    place[f"{one}.stranger"] = torch.zeros(1, device="meta")
    with pytest.raises(TrocarError, match=r"stranger: in the file"):
        convert(entry, content, "file")
    del place[f"{one}.stranger"]
    place[one], place[other] = place[other], place[one]
    with pytest.raises(TrocarError) as swapped:
        convert(entry, content, "file")
    lines = [line for line in str(swapped.value).splitlines() if "stored" in line]
    assert all(any(key in line for line in lines) for key in (unwrapped(one), unwrapped(other)))


FOREIGN = ("head", "student", "momentum", "decoder", "text", "mask_token", "embedder", "predictor", "dino_loss")


def unwrapped(key: str) -> str:
    return key.removeprefix("module.")


def innermost(tree: Any) -> dict[str, Tensor]:
    """The dictionary with the most tensors, the teacher's where there are two as large: the backbone's."""
    found: list[dict[str, Any]] = []

    def walk(place: Any) -> None:
        if isinstance(place, dict):
            found.append(place)
            for key in sorted(place, key=lambda k: (k != "teacher", str(k))):
                walk(place[key])

    walk(tree)
    return max(found, key=lambda place: sum(isinstance(value, Tensor) for value in place.values()))


def test_every_name_is_built_by_timm_and_knows_its_provenance() -> None:
    for name, entry in BACKBONES.items():
        assert entry.seen, name
        assert entry.family.citation
        assert entry.family.homepage.startswith("https://")
        assert entry.url is None or entry.url.startswith("https://")
        assert entry.url is not None or "homepage" in entry.note or "https://" in entry.note
    cholec = {seen.dataset: seen for seen in BACKBONES.get("surgenetxl_caformer_s18").seen}["cholec80"]
    assert cholec.cases.startswith("76 of 80")
    assert {seen.dataset for seen in BACKBONES.get("surgenet_public_caformer_s18").seen} & {
        "ramie_umcu",
        "rarp_avl",
    } == set()
    assert BACKBONES.get("surgenet_public_caformer_s18").url.endswith("Public_checkpoint_epoch0050_teacher.pth")


def test_the_teacher_is_taken_from_a_training_checkpoint_unless_the_student_is_asked_for(tmp_path: Path) -> None:
    case = Case("surgenet_small_caformer_s18", lambda: CAFormer(), dino_training)
    network, content = case.build()
    content["student"] = {k: v + 1 if v.is_floating_point() else v for k, v in content["student"].items()}
    file = save(content, tmp_path)
    teacher, student = (load_backbone(f"{case.name}@{file}{part}") for part in ("", "#student"))
    key = "stages.0.blocks.0.norm1.weight"
    assert torch.equal(teacher.state_dict()[key], network.state_dict()["stages.0.0.norm1.weight"])
    assert torch.equal(student.state_dict()[key], torch.ones(64))
    with pytest.raises(ConfigError, match="has no 'pupil'; it has student, teacher"):
        load_backbone(f"{case.name}@{file}#pupil")


def test_wrong_files_are_refused_with_the_likely_cause(tmp_path: Path) -> None:
    _, content = SMALL.build()
    file = save(content, tmp_path)
    with pytest.raises(TrocarError, match=r"no weights where files of SelfSupSurg have them.*top level \(152\)"):
        load_backbone(f"selfsupsurg_dino_resnet50@{file}")
    with pytest.raises(TrocarError, match="Most likely weights of another family"):
        load_backbone(f"surgenet_pvt_v2_b2@{file}")
    nested = save({"net": {"weights": content}, "epoch": 3}, tmp_path)
    with pytest.raises(TrocarError, match=r"Its tensors lie under: net.weights \(152\)"):
        load_backbone(f"{SMALL.name}@{nested}")
    with pytest.raises(ConfigError, match="no file"):
        load_backbone(f"{SMALL.name}@{tmp_path / 'gone.pth'}")


def test_origin_and_fingerprint_come_with_the_weights_and_can_be_pinned(tmp_path: Path) -> None:
    _, content = SMALL.build()
    file = save(content, tmp_path)
    model = load_backbone(f"{SMALL.name}@{file}")
    origin = origin_of(model)
    assert origin is not None
    assert (origin.name, origin.licence) == (SMALL.name, "CC-BY-NC-SA-4.0")
    assert load_backbone(f"{SMALL.name}@{file}", expect=origin.fingerprint) is not None
    _, other = SMALL.build(seed=8)
    with pytest.raises(TrocarError, match="other weights than expected"):
        load_backbone(f"{SMALL.name}@{save(other, tmp_path)}", expect=origin.fingerprint)
    with pytest.raises(ConfigError, match="is no fingerprint"):
        load_backbone(SMALL.name + f"@{file}", expect="abc")


def test_preprocessing_is_the_family_s_own() -> None:
    shape = describe_backbone(load_backbone("random:endovit_phase_vitb16"))
    assert shape.mean == (0.3464, 0.2280, 0.2228)
    assert describe_backbone(load_backbone("random:surgenetdino_v2_vits")).size == (336, 336)


@pytest.mark.parametrize(
    ("task", "left_out"),
    [
        ("segmentation", {12, 17, 27, 52}),
        ("triplets", {1, 4, 13, 35, 43, 56, 62, 74, 78}),
        ("phase", set(range(41, 81))),
    ],
)
def test_of_cholec80_endovit_saw_all_but_what_its_script_takes_out(task: str, left_out: set[int]) -> None:
    seen = BACKBONES.get(f"endovit_{task}_vitb16").seen[0]
    assert seen.dataset == "cholec80"
    assert parse_numbers(seen.cases) == set(range(1, 81)) - left_out


@pytest.mark.slow
def test_pretraining_starts_from_published_weights_and_its_backbone_says_so(tmp_path: Path) -> None:
    from data_factory import make_catalog

    from trocar.cli.main import main

    make_catalog(tmp_path / "shards", 4, 8)
    _, content = SMALL.build()
    name = f"{SMALL.name}@{save(content, tmp_path)}"
    run = tmp_path / "run"
    words = [f"data.catalog={tmp_path / 'shards'}", "data.composition.curate=none", f"run.out={run}", "train.steps=1"]
    words += ["train.batch=2", "run.workers=0", "tracking.uri=none", "train.precision=float32", f"backbone.name={name}"]
    fingerprint = origin_of(load_backbone(name)).fingerprint
    assert main(["pretrain", "small_dino", *words, "backbone.fingerprint=f1:0:0:0:0:0"]) == 1
    assert main(["pretrain", "small_dino", *words, f"backbone.fingerprint={fingerprint}"]) == 0
    trained = load_backbone(run)
    assert origin_of(trained) == origin_of(load_backbone(name))
    first, now = (m.state_dict()["stages.0.blocks.0.norm1.weight"] for m in (load_backbone(name), trained))
    assert torch.allclose(first, now, atol=1e-3)  # one step at the start of the warm-up moves next to nothing


def test_a_tensor_that_is_there_twice_is_refused_and_not_overwritten() -> None:
    entry = BACKBONES.get(SMALL.name)
    with torch.device("meta"):
        state = SMALL.network().state_dict()
    key = "stages.0.0.norm1.weight"
    with pytest.raises(TrocarError, match="twice, with and without"):
        convert(entry, {**state, f"module.{key}": state[key]}, "file")
    teacher = {f"backbone.{k}": v for k, v in state.items()} | {key: state[key]}
    with pytest.raises(TrocarError, match=rf"{key} twice, as backbone.{key}|{key} twice, as {key}"):
        convert(entry, {"teacher": teacher}, "file")
