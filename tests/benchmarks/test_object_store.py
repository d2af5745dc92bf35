"""Steps of shards in an object store and on a web server, while one request in a hundred fails or is slow."""

import sys
from pathlib import Path

import pytest
from data_factory import make_catalog
from store_factory import nginx

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import object_store

pytestmark = pytest.mark.slow

STEPS = 500


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_catalog(tmp_path_factory.mktemp("store") / "shards", 8, 400).root


@pytest.mark.parametrize(("kind", "shuffle"), [("s3", "global"), ("https", "global"), ("https", "window")])
def test_nothing_is_lost_and_the_order_is_exact(shards, tmp_path, kind, shuffle):
    if kind == "https" and nginx() is None:
        pytest.skip("no nginx here: tests/data/remote/nginx-up.sh installs it as root on Debian")
    local = object_store.passed(str(shards), STEPS, shuffle, tmp_path / "local")
    with object_store.store(kind, shards, tmp_path / "nginx", failing=True) as (address, environment):
        remote = object_store.passed(address, STEPS, shuffle, tmp_path / kind, environment)
    assert (remote.digest, remote.bad) == (local.digest, 0)
