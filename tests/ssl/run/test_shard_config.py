"""What can't be computed over parts of weights is refused before a run begins."""

from pathlib import Path

import pytest
from tiny_methods import tiny_run

from trocar.core.config import validate
from trocar.errors import ConfigError
from trocar.ssl.run.pretrain_config import PretrainConfig

SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}


def configured(shard, optim):
    tree = tiny_run(
        "simclr", Path("data"), Path("out"), 2, {}, train={"shard": shard}, optim=optim, backbone={"name": "test_vit"}
    )
    return validate(PretrainConfig, tree, "test")


@pytest.mark.parametrize("optim", [SGD | {"name": "lars"}, SGD | {"larc": {}}])
@pytest.mark.parametrize("shard", ["full", "hybrid"])
def test_rates_that_follow_from_norms_of_whole_weights_are_refused(shard, optim):
    with pytest.raises(ConfigError, match=rf"(?s)train.shard: {shard} .*norms of whole weights.*train.shard: none"):
        configured(shard, optim)
    configured("none", optim)


def test_sharding_is_no_part_of_what_determines_the_result():
    assert configured("full", SGD).recipe() == configured("none", SGD).recipe()
