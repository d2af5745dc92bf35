"""`train.precision: auto` in a study: stages are named after what they compute in, so the plan knows it or refuses."""

import pytest
import torch
from study_factory import make_study

from trocar.cli.main import main
from trocar.errors import ConfigError
from trocar.slurm.profile import Profile
from trocar.study.config import load_study
from trocar.study.study_lock import drift
from trocar.study.study_plan import make_lock, make_plan

GPUS, CPUS = Profile(gpus_per_node=4), Profile(cpus_per_task=8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_study(folder)
    return folder


def plan(root, trained_in, profile=None, **changes):
    words = [] if trained_in is None else [f"train.precision={trained_in}"]
    tree = {"recipe": str(root / "recipe.yaml"), "steps": 3, "set": words}
    return make_plan(load_study(make_study(root, pretrain=tree, **changes)), profile)


def trains_in(found):
    return {found.trained[run.stage].config["train"]["precision"] for run in found.runs}


def evaluates_in(found):
    return {e.stage.config["precision"] for e in found.evaluations}


def plug_in(monkeypatch, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: capability >= (8, 0))


@pytest.mark.parametrize("profile", [None, CPUS, Profile(cluster="local")])
def test_without_gpus_auto_is_float32_by_name_and_by_what_the_stage_is_told(root, profile):
    auto, said = plan(root, "auto", profile), plan(root, "float32", profile)
    assert auto.stages.keys() - said.stages.keys() == set()
    assert trains_in(auto) == {"float32"}
    assert {run.precision for run in auto.runs} == {"float32"}


def test_on_this_machines_gpu_auto_is_what_the_card_has(root, monkeypatch):
    plug_in(monkeypatch, (9, 0))
    assert trains_in(plan(root, "auto")) == {"bfloat16"}
    assert trains_in(plan(root, "auto", Profile(cluster="local"))) == {"float32"}  # from which CUDA is hidden
    assert trains_in(plan(root, "auto", device="cpu")) == {"float32"}
    plug_in(monkeypatch, (7, 0))
    assert trains_in(plan(root, "auto")) == {"float32"}


@pytest.mark.parametrize("profile", [GPUS, Profile(extra={"gres": "gpu:a100:2"})])
def test_for_a_clusters_gpus_it_is_refused_for_every_arm_alike(root, profile):
    arm = {"sample": {"cases": 2}, "curate": "none", "on_short": "skip"}
    with pytest.raises(ConfigError, match=r"^train\.precision: auto depends on the GPUs that the jobs get"):
        plan(root, "auto", profile, arms={"all": arm})
    with pytest.raises(ConfigError, match=r"^precision: auto depends on the GPUs that the jobs get"):
        plan(root, "bfloat16", profile)
    found = plan(root, "auto", profile, precision="bfloat16")
    assert (trains_in(found), evaluates_in(found)) == ({"bfloat16"}, {"bfloat16"})
    found = plan(root, "float32", profile, precision="bfloat16")
    assert (trains_in(found), evaluates_in(found)) == ({"float32"}, {"bfloat16"})


def test_for_a_gpu_that_is_not_here_it_is_refused(root):
    with pytest.raises(ConfigError, match=r"auto can't be settled here: run\.device=cuda, but torch sees no GPU"):
        plan(root, "auto", device="cuda")


def test_a_plan_made_elsewhere_is_not_carried_out_in_another_precision_unsaid(root, monkeypatch):
    before = make_lock(plan(root, "auto"))
    plug_in(monkeypatch, (8, 0))
    after = make_lock(plan(root, "auto"))
    assert drift(before, after)[:2] == [
        f"arm {arm}, seed 0: train.precision: auto was float32 and is bfloat16 on this machine or profile; "
        f"pretrain.set: [train.precision=float32] keeps it"
        for arm in ("north", "south")
    ]
    assert drift(before, after)[2:] == [
        f"task {task}: precision: auto was float32 and is bfloat16 on this machine or profile; precision: float32 "
        f"keeps it"
        for task in before.tasks
    ]
    said = make_lock(plan(root, "auto", precision="float32"))
    assert {task.precision for task in said.tasks.values()} == {"float32"}
    assert drift(after, said)[2:] == []


def test_evaluations_in_float32_have_the_names_that_they_have_unsaid(root, monkeypatch):
    tuned = {"name": "temporal_finetuned", "finetune": {"precision": "auto"}}
    task = {"data": str(root / "labels"), "task": "phase", "protocol": ["knn", "finetune", tuned], "folds": 2}
    here = plan(root, "float32", tasks={"phase": task})
    assert evaluates_in(here) == {"float32"}
    assert not any("precision" in e.stage.inputs for e in here.evaluations)
    said = {e.stage.inputs["protocol"]["name"]: e.stage.inputs["protocol"] for e in here.evaluations}
    assert said["finetune"]["precision"] == said["temporal_finetuned"]["finetune"]["precision"] == "float32"
    plug_in(monkeypatch, (9, 0))
    there = plan(root, "float32", tasks={"phase": task})
    assert evaluates_in(there) == {"bfloat16"}
    assert not {e.stage.name for e in here.evaluations} & {e.stage.name for e in there.evaluations}


def test_the_command_plans_for_a_profile(root, capsys):
    make_study(root, pretrain={"recipe": str(root / "recipe.yaml"), "steps": 3, "set": ["train.precision=auto"]})
    assert main(["study", "plan", str(root / "small.yaml"), "--slurm", "gpu"]) == 2
    assert "train.precision: auto depends on the GPUs" in capsys.readouterr().err
    assert main(["study", "plan", str(root / "small.yaml"), "--slurm", "cpu"]) == 0
