"""Verdicts pass on through first weights, teachers, neighbour indexes and published weights."""

import json

import pytest
from leak_factory import make_labelled, make_pool, operation
from run_factory import small_run

from trocar.backbones.export import export_timm, save_backbone
from trocar.backbones.load import load_backbone
from trocar.backbones.published.family import Seen
from trocar.core.config import validate
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourTable
from trocar.downstream.datasets import open_dataset
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.jobs.evaluate import evaluate
from trocar.leakage.exposure import Exposure, Part, RecordedHistory, by_identity, exposure_of, exposure_of_index
from trocar.leakage.guard import RunGuard
from trocar.leakage.judge import Judge, verdict_of
from trocar.leakage.verdict import Finding, Verdict
from trocar.ssl.neighbour_index import NeighbourIndexConfig, build_index
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain import run as pretrain
from trocar.ssl.run.pretrain_config import PretrainConfig

NET = "random:test_resnet"
TEST = [("cholec80", str(n)) for n in range(41, 81)]


def worst(part, tests=TEST):
    return Verdict.worst(finding.verdict for finding in by_identity(part, tests))


def seen(*items, known=True):
    return Part("published", "weights", tuple(items), known=known)


def test_verdicts_are_ordered_and_the_worst_counts():
    assert [v.value for v in Verdict] == [
        "clean",
        "unknown",
        "suspect",
        "test case seen unlabelled",
        "test labels seen",
    ]
    assert Verdict.worst([Verdict.UNKNOWN, Verdict.SEEN, Verdict.CLEAN]) is Verdict.SEEN
    assert Verdict.worst([]) is Verdict.CLEAN


@pytest.mark.parametrize(
    ("part", "verdict"),
    [
        (seen(Seen("cholec80", "1-40")), Verdict.CLEAN),
        (seen(Seen("cholec80", "1-48")), Verdict.SEEN),
        (seen(Seen("cholec80", "1-48", labels=True)), Verdict.LABELS_SEEN),
        (seen(Seen("cholect50", "51")), Verdict.SEEN),  # the same operation as Cholec80's 51
        (seen(Seen("m2cai16_tool")), Verdict.SEEN),
        (seen(Seen("endoscapes", "2,3")), Verdict.SEEN),
        (seen(Seen("endoscapes", "122-201")), Verdict.CLEAN),
        (seen(Seen("cholec80", "76 of 80, which is not published")), Verdict.SEEN),
        (seen(Seen("cholec80", "a tenth of the frames")), Verdict.SUSPECT),
        (seen(Seen("imagenet1k", "train", labels=True)), Verdict.CLEAN),
        (seen(Seen("heichole", "30 videos")), Verdict.CLEAN),
        (seen(Seen("lemon")), Verdict.UNKNOWN),
        (seen(Seen("m2cai16_workflow")), Verdict.UNKNOWN),
        (seen(known=False), Verdict.UNKNOWN),
    ],
)
def test_what_names_say_of_cholec80s_test_videos(part, verdict):
    assert worst(part) is verdict


def test_76_of_80_says_nothing_sure_of_four_test_cases_or_fewer():
    part = seen(Seen("cholec80", "76 of 80, which is not published"))
    assert worst(part, TEST[:4]) is Verdict.SUSPECT
    assert worst(part, TEST[:5]) is Verdict.SEEN


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        (NET, Verdict.CLEAN),
        ("timm:resnet50.a1_in1k", Verdict.CLEAN),
        ("timm:vit_base_patch16_clip_224.openai", Verdict.UNKNOWN),
        ("surgenetxl_caformer_s18", Verdict.SEEN),
        ("selfsupsurg_dino_resnet50", Verdict.CLEAN),
    ],
)
def test_every_kind_of_weights_says_what_it_has_seen(name, verdict):
    assert Verdict.worst(worst(part) for part in exposure_of(name).parts) is verdict


def test_an_exposure_survives_json():
    part = Part("init", "a", (Seen("x", "1-2"),), ("s/c",), "/c", "f", {"d": (Finding(Verdict.SEEN, "x/1", "why"),)})
    exposure = Exposure((part, seen(known=False)))
    assert Exposure.from_json(json.loads(json.dumps(exposure.as_json()))) == exposure


def test_a_sealed_exposure_keeps_its_verdicts_and_public_names():
    part = Part("pretraining", "run", cases=("cholec80/video41", "clinic/p-1234")).sealed()
    assert part.cases[0] == "cholec80/video41"
    assert "p-1234" not in part.cases[1]
    assert part.sealed() == part
    assert worst(part, [("clinic", "p-1234")]) is Verdict.SEEN
    assert worst(part, [("cholect50", "1")]) is Verdict.UNKNOWN  # what the private case shows is not known
    assert worst(part) is Verdict.SEEN


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cases = {name: operation(seed) for seed, name in enumerate(("one", "two", "three"))}
    return make_labelled(tmp_path_factory.mktemp("data") / "clinic", cases)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """A clean pool, and one in which the labelled case `two` lies under another name."""
    clean = {f"v{i}": ("north", f"op{i}", operation(40 + i)) for i in range(3)}
    root = tmp_path_factory.mktemp("pools")
    return make_pool(root / "clean", clean), make_pool(root / "leaky", clean | {"v9": ("north", "op9", operation(1))})


def trained(catalog, out, backbone=NET, leak=None, method=None):
    composition = {"curate": "none", **({"leak": leak} if leak else {})}
    sections = {
        "data": {"catalog": str(catalog.root), "composition": composition, "backend": "torch"},
        "backbone": {"name": backbone},
        "method": method or {"name": "simclr", "views": {"size": 32}},
        "train": {"steps": 1, "batch": 8, "precision": "float32"},
        "run": {"workers": 0, "device": "cpu", "checkpoint_every": 1},
    }
    config = validate(PretrainConfig, small_run(catalog.root, out, **sections), "test")
    pretrain(Pretraining(config, World(), lambda line: None, RunGuard()))
    return out


def judged(backbone, data):
    return verdict_of(backbone, open_dataset(data), ["one", "two", "three"])


def test_a_run_is_judged_by_its_own_frames(tmp_path, data, pools):
    clean, leaky = (trained(pool, tmp_path / name) for pool, name in zip(pools, ("clean", "leaky"), strict=True))
    assert judged(clean, data).verdict is Verdict.CLEAN
    found = judged(leaky, data)
    assert found.verdict is Verdict.SEEN
    assert found.as_json()["cases"] == ["clinic/two"]
    assert "north/op9" in found.as_json()["why"][0]


def test_the_verdict_passes_on_to_what_is_trained_from_it_and_to_its_export(tmp_path, data, pools):
    clean, leaky = pools
    first = trained(leaky, tmp_path / "first")
    second = trained(clean, tmp_path / "second", backbone=str(first))
    export_timm(second, tmp_path / "export", RecordedHistory())
    found = judged(tmp_path / "export", data)
    assert found.verdict is Verdict.SEEN
    assert "(init)" in found.findings[0].why
    assert "| init: first | north | 4 |" in (tmp_path / "export" / "README.md").read_text()
    exported = (tmp_path / "export" / "config.json").read_text()
    assert "op9" not in exported
    assert "north/#" in exported


def test_the_verdict_passes_on_from_a_teacher(tmp_path, data, pools):
    clean, leaky = pools
    teacher = trained(leaky, tmp_path / "teacher")
    method = {"name": "distillation", "teacher": {"name": str(teacher)}, "views": {"size": 32}}
    student = trained(clean, tmp_path / "student", method=method)
    found = judged(student, data)
    assert found.verdict is Verdict.SEEN
    assert "(teacher)" in found.findings[0].why


def test_the_verdict_passes_on_from_the_backbone_of_a_neighbour_index(tmp_path, data, pools):
    clean, leaky = pools
    backbone = trained(leaky, tmp_path / "backbone")
    composition = Composition(curate="none")
    build_index(
        NeighbourIndexConfig(
            catalog=clean.root, backbone=str(backbone), name="alike", size=32, workers=0, composition=composition
        ),
        RunGuard(),
        lambda line: None,
    )
    found = Verdict.worst(
        finding.verdict
        for part in exposure_of_index(NeighbourTable.open(clean, "alike")).parts
        for finding in Judge(open_dataset(data), ["two"]).of_exposure(Exposure((part,)))
    )
    assert found is Verdict.SEEN
    config = validate(
        PretrainConfig,
        small_run(
            clean.root,
            tmp_path / "run",
            data={"catalog": str(clean.root), "composition": {"curate": "none"}},
            backbone={"name": NET},
            method={"name": "augmented_distillation", "neighbours": {"source": "knn", "index": "alike"}},
            train={"steps": 1, "batch": 8},
        ),
        "test",
    )
    parts = Exposure.from_json(Pretraining(config, World(), lambda line: None, RunGuard()).exposure).parts
    assert [part.role for part in parts] == ["pretraining", "neighbour index"]
    assert parts[1].cases == exposure_of(backbone).parts[0].cases


def test_what_a_guarded_run_compared_holds_after_its_catalog_is_gone(tmp_path, data):
    pool = make_pool(
        tmp_path / "pool",
        {
            "v0": ("north", "op0", operation(1)),
            **{f"v{i}": ("north", f"op{i}", operation(40 + i)) for i in range(1, 4)},
        },
    )
    run = trained(pool, tmp_path / "run", leak={"against": [str(data)]})
    bare = trained(pool, tmp_path / "bare")
    pool.root.rename(tmp_path / "moved")
    assert judged(run, data).verdict is Verdict.CLEAN
    assert judged(bare, data).verdict is Verdict.UNKNOWN
    record = json.loads((run / "leaks.json").read_text())
    assert [(leak["pool"], leak["test"]) for leak in record["found"]] == [("north/op0", "clinic/two")]
    assert record["exposure"][0]["cases"] == ["north/op1", "north/op2", "north/op3"]


def test_allow_writes_the_verdict_into_the_weights(tmp_path, data, pools):
    run = trained(pools[1], tmp_path / "run", leak={"against": [str(data)], "policy": "allow"})
    (part,) = exposure_of(run).parts
    assert [f.case for found in part.compared.values() for f in found] == ["clinic/two"]


def test_a_backbone_that_says_nothing_is_unknown(tmp_path, data):
    save_backbone(load_backbone(NET), tmp_path / "plain", extra={})
    assert judged(tmp_path / "plain", data).verdict is Verdict.UNKNOWN


def test_only_the_cases_that_are_scored_count(tmp_path, data, pools):
    run = trained(pools[1], tmp_path / "run")
    labelled = open_dataset(data)
    assert Judge(labelled, ["one", "three"]).verdict([run]).verdict is Verdict.CLEAN
    assert Judge(labelled, ["two"]).verdict([run]).verdict is Verdict.SEEN


def test_evaluate_writes_the_verdict_beside_every_row(tmp_path, data, pools):
    run = trained(pools[1], tmp_path / "run")
    config = EvaluateConfig(
        backbone=[f"ours={run}"], data=data, task=["phase"], protocol=["knn"], seeds=1, size=32, bootstrap=10,
        baselines=["random", "majority"], out=tmp_path / "out",
    )  # fmt: skip
    results = evaluate(config)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    verdicts = {row["backbone"]: row["leak"]["verdict"] for row in written["rows"]}
    assert verdicts == {
        "ours": "test case seen unlabelled",
        "random test_resnet": "clean",
        "majority": "clean",
    }
    assert "| test case seen unlabelled |" in results.to_markdown()
