"""A backbone of one's own in pretraining: what identifies it, how it is saved, and where it may not go."""

import json

import pytest
import torch
import yaml
from data_factory import make_catalog
from own_factory import Net, net, own_batches, simclr_run
from run_factory import assert_identical
from safetensors.torch import load_file
from torch import nn

import trocar
from trocar.backbones.own_module import identity
from trocar.cli.main import main
from trocar.core.config import validate
from trocar.errors import StoppedError
from trocar.jobs.pretrain import pretrain
from trocar.leakage.exposure import exposure_of
from trocar.ssl.engine import checkpoint
from trocar.ssl.run.pretrain_config import PretrainConfig

OWN = "module:own_factory:Net"


@pytest.fixture
def shards(tmp_path):
    make_catalog(tmp_path / "shards", 2, 8)
    return tmp_path / "shards"


def half(tree, **own):
    """The run of `tree`, stopped after two of its four steps and not yet resumed."""
    polled = []

    def stop():
        polled.append(1)
        return 15 if len(polled) == 2 else 0

    config = validate(PretrainConfig, tree, "test")
    with pytest.raises(StoppedError):
        pretrain(config, lambda line: None, stop=stop, **own)


def test_a_stopped_run_of_an_own_module_ends_in_the_bits_of_one_that_was_not(shards, tmp_path):
    before = {name: value.clone() for name, value in net().state_dict().items()}
    model = net()
    whole = trocar.pretrain(simclr_run(shards, tmp_path / "whole"), model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # a copy is trained
    tree = simclr_run(shards, tmp_path / "stopped", backbone={"name": OWN})
    half(tree, model=net())
    again = trocar.pretrain(simclr_run(shards, tmp_path / "stopped"), model=net())
    assert_identical(again.folder, whole.folder, 4, resumed_after=2)


def test_a_resume_with_other_first_weights_or_another_shape_is_refused_by_name(shards, tmp_path):
    tree = simclr_run(shards, tmp_path / "run")
    trocar.pretrain(tree, model=net())
    for other in (net(seed=1), net(width=4)):
        with pytest.raises(trocar.ConfigError, match="own_backbone"):
            trocar.pretrain(simclr_run(shards, tmp_path / "run", train={"steps": 6}), model=other)


def test_the_identity_names_class_source_and_weights():
    assert identity(net())["class"] == "module:own_factory:Net"
    assert identity(net()) == identity(net())
    assert identity(net())["weights"] != identity(net(seed=1))["weights"]
    assert identity(net())["source"] != identity(nn.Sequential(net()))["source"]
    changed = net()
    changed.scale = 2.0  # a plain setting, which may change what forward does
    assert identity(changed)["source"] != identity(net())["source"]


def test_it_is_saved_as_safetensors_with_the_path_of_its_class_and_an_unknown_history(shards, tmp_path):
    run = trocar.pretrain(simclr_run(shards, tmp_path / "run"), model=net(width=6))
    folder = run.folder / "backbone"
    said = json.loads((folder / "config.json").read_text())
    assert (said["architecture"], said["num_features"]) == ("module:own_factory:Net", 6)
    weights = load_file(folder / "model.safetensors")
    loaded = run.backbone(model=Net(6))
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert "module:own_factory:Net" in (folder / "README.md").read_text()
    assert [part.known for part in exposure_of(run.folder).parts if part.role == "init"] == [False]
    with pytest.raises(trocar.TrocarError, match="do not fit"):  # built without arguments it has another width
        run.backbone()
    with pytest.raises(trocar.ConfigError, match="holds a module:own_factory:Net"):
        run.backbone(model=nn.Identity())


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (nn.Conv2d(3, 4, 3), {}, "not pooled features"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), {}, "does not take views"),
        (nn.AdaptiveAvgPool2d(1), {}, "no weight that can be trained"),
        (net(), {"backbone": {"drop_path": 0.1}}, "backbone.drop_path"),
        (net(), {"train": {"grad_checkpointing": True}}, "train.grad_checkpointing"),
        (net(), {"run": {"ranks": 2}}, "run.ranks"),
        (net(), {"method": {"name": "dinov2", "views": {}, "head": {}}}, "vision transformer"),
    ],
)
def test_what_an_own_module_cannot_do_is_refused_before_a_run_begins(shards, tmp_path, model, changes, words):
    with pytest.raises(trocar.ConfigError, match=words):
        trocar.pretrain(simclr_run(shards, tmp_path / "run", **changes), model=model)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("words", [[], ["--dry-run"], ["--slurm", "gpu", "--dry-run"]])
def test_neither_module_nor_batches_of_ones_own_go_to_the_command_line_or_a_cluster(shards, tmp_path, words, capsys):
    tree = simclr_run("own batches", tmp_path / "run", backbone={"name": OWN})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert main(["pretrain", str(tmp_path / "run.yaml"), *words]) == 2
    assert f"model ({OWN}) and batches of its own, which a file cannot hold" in capsys.readouterr().err


def test_own_batches_resume_where_a_function_of_the_step_goes_on(tmp_path, caplog):
    def run(name, batches):
        return trocar.pretrain(simclr_run(None, tmp_path / name), model=net(), batches=batches, say=said.append)

    said = []
    whole = run("whole", own_batches)
    tree = simclr_run("own batches", tmp_path / "stopped", backbone={"name": OWN})
    half(tree, model=net(), batches=own_batches)
    again = run("stopped", own_batches)
    assert_identical(again.folder, whole.folder, 4, resumed_after=2)
    assert checkpoint.load(checkpoint.path_of(again.folder, 4)).manifest["identity"]["data"] == "own batches"
    assert not (again.folder / "leaks.json").exists()
    assert [part.known for part in exposure_of(again.folder).parts] == [False]


def test_an_iterable_that_begins_again_is_said(tmp_path):
    tree = simclr_run("own batches", tmp_path / "run")
    half(tree, batches=own_batches(0))
    said = []
    trocar.pretrain(simclr_run(None, tmp_path / "run"), batches=own_batches(0), say=said.append)
    assert any("begin again with their first, as step 2" in line for line in said)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda batch: {**batch, "views": {"local": batch["views"]["global"]}},
            "expected the groups global, got local",
        ),
        (lambda batch: {**batch, "views": {"global": batch["views"]["global"][:2]}}, r"\[4, 2, 3, 32, 32\]"),
        (lambda batch: {**batch, "views": {"global": batch["views"]["global"].double()}}, "got torch.float64"),
        (lambda batch: {"views": batch["views"]}, "ids: expected 4 integers"),
        (lambda batch: {**batch, "mask_seeds": [[1]]}, r"mask_seeds: expected \[4, 2\]"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_in_words(tmp_path, change, words):
    batches = [change(batch) for batch in own_batches(0)]
    with pytest.raises(trocar.ConfigError, match=words):
        trocar.pretrain(simclr_run(None, tmp_path / "run"), batches=batches)


def test_batches_that_end_before_the_run_and_epochs_of_them_are_errors(tmp_path):
    with pytest.raises(trocar.TrocarError, match="ended before step 2 of 4"):
        trocar.pretrain(simclr_run(None, tmp_path / "run"), batches=own_batches(0, 2))
    epochs = {"train": {"steps": None, "epochs": 2}}
    with pytest.raises(trocar.ConfigError, match=r"give train\.steps"):
        trocar.pretrain(simclr_run(None, tmp_path / "other", **epochs), batches=own_batches(0))
