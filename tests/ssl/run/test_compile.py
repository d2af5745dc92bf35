"""`train.compile`: other kernels, the same training, and nothing of it in the checkpoint."""

import pytest
import torch
from data_factory import make_catalog

from trocar.core.config import load
from trocar.leakage.guard import RunGuard
from trocar.ssl.engine.method import Progress, Views
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig


def placed(shards, compiled):
    words = [f"data.catalog={shards}", f"run.out={shards / 'run'}", "train.batch=4", "data.composition.curate=none"]
    words += [f"train.compile={compiled}", "train.precision=float32", "backbone.name=test_convnext"]
    return Pretraining(load(PretrainConfig, "small_dino", words), World(0, 1, 0), print, RunGuard())


@pytest.mark.slow
def test_compiled_backbones_give_the_loss_and_gradients_of_eager_ones_for_both_view_sizes(tmp_path):
    make_catalog(tmp_path, 4, 8)
    found = []
    for compiled in (False, True):
        setup = placed(tmp_path, compiled)
        method = setup.placed()
        method.train()
        losses = method(Views.of(setup.loader().batch(0)), Progress(0, 10, 1))
        losses["loss"].backward()
        gradients = torch.cat([p.grad.flatten() for p in method.student.parameters() if p.grad is not None])
        found.append((losses["loss"].item(), gradients, list(method.state_dict())))
    eager, compiled = found
    assert compiled[0] == pytest.approx(eager[0], abs=1e-4)
    assert torch.nn.functional.cosine_similarity(compiled[1], eager[1], dim=0) > 0.9999
    assert compiled[2] == eager[2]


def test_compile_is_no_part_of_the_recipe_but_of_the_environment(tmp_path):
    make_catalog(tmp_path, 4, 8)
    with_it, without = placed(tmp_path, True), placed(tmp_path, False)
    assert with_it.identity() == without.identity()
    assert with_it.environment()["compile"] is True
