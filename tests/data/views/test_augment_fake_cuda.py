"""Views of every recipe over tensors that say they are on a GPU: nothing there waits, or is on another device.

Fake tensors have shapes and devices and no data, so this needs no GPU. What would read data, such as a branch on a
value, an index list made on the device or a blocking copy, fails here or is found among the operations.
"""

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trocar.backbones.preprocess import IMAGENET_MEAN, IMAGENET_STD
from trocar.core.config import load, preset_names
from trocar.data.views.augment import augment
from trocar.data.views.pixel_ops import constant
from trocar.data.views.randaugment import Erasing, RandAugment
from trocar.data.views.recipe import ViewGroup, ViewPlan, ViewRecipe
from trocar.ssl.run.pretrain_config import PretrainConfig

CUDA = torch.device("cuda", 0)
EVERYTHING = ViewRecipe(
    groups={
        "all": ViewGroup(
            count=2, size=24, scale=(0.4, 1), solarize=0.3, rand_augment=RandAugment(layers=4, p=1), erase=Erasing()
        ),
        "plain": ViewGroup(count=1, size=16, scale=(0.4, 1), blur=0),
    }
)
PRESETS = sorted(name for name in preset_names() if name.startswith("pretrain/"))
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "item", "is_nonzero", "equal"}
# Matrix products, and what is made of them: rounded to TF32, where a user or another library allows that.
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "convolution", "linear", "matmul"}
PRODUCTS |= {"affine_grid_generator", "cdist", "_cdist_forward"}


class Operations(TorchDispatchMode):
    """Notes each operation: its name, its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen.append((func.overloadpacket.__name__, args, kwargs or {}, out))
        return out


@pytest.fixture(autouse=True)
def no_constants_from_elsewhere() -> Iterator[None]:
    """Those that are kept are of a fake GPU for as long as a test takes."""
    constant.cache_clear()
    yield
    constant.cache_clear()


def operations(recipe, b=6):
    """What making the views of a second batch calls; the first copies constants."""
    size = np.full((b, recipe.frames), 100)
    params = ViewPlan(recipe, 0).params(0, np.arange(b), size, size)
    seen = Operations()
    # Without a GPU there is no page-locked memory.
    with FakeTensorMode(allow_non_fake_inputs=True), patch.object(torch.Tensor, "pin_memory", lambda x: x):
        crops = {
            name: torch.empty(b, group.count, 3, group.size, group.size, dtype=torch.uint8, device=CUDA)
            for name, group in recipe.groups.items()
        }
        augment(crops, params, recipe, IMAGENET_MEAN, IMAGENET_STD)
        with seen:
            views = augment(crops, params, recipe, IMAGENET_MEAN, IMAGENET_STD)
    for name, made in views.items():
        assert (made.device, made.dtype, made.shape) == (CUDA, torch.float32, crops[name].shape)
    return seen.seen


def tensors(values):
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


def recipe_of(name):
    if name == "everything":
        return EVERYTHING
    return load(PretrainConfig, name, ["data.catalog=shards", "run.out=run"]).method.recipe()


@pytest.mark.parametrize("name", ["everything", *PRESETS])
def test_a_recipe_s_views_are_made_on_the_gpu_without_waiting_for_it_and_without_tf32(name):
    seen = operations(recipe_of(name))
    assert len(seen) > 20
    called = {operation for operation, *_ in seen}
    assert not called & READS
    assert not called & PRODUCTS
    for operation, args, kwargs, out in seen:
        before, after = ({x.device.type for x in tensors(values)} for values in ((args, kwargs), out))
        assert not ("cuda" in before and "cpu" in after), f"{operation} brings something back to the host"
        if "cpu" in before and "cuda" in after:
            assert operation == "_to_copy"
            assert kwargs["non_blocking"], f"{operation} copies and waits"


def test_all_operations_of_rand_augment_are_among_them():
    called = {operation for operation, *_ in operations(EVERYTHING, b=64)}
    assert {"grid_sampler_2d", "scatter_add_", "index_copy_", "amax", "replication_pad2d"} <= called


def test_a_copy_that_waits_would_be_found():
    """The first batch copies constants to the GPU from ordinary memory: without the cache each batch would."""
    with patch("trocar.data.views.augment.constant", constant.__wrapped__):
        seen = operations(EVERYTHING)
    moves = [kwargs for operation, _, kwargs, _ in seen if operation == "_to_copy" and "device" in kwargs]
    assert any(not kwargs.get("non_blocking") for kwargs in moves)
