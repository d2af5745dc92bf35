"""The head on the page about things of one's own is found by its name, and the page says what there is."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from registry_factory import changeable, forget

from trocar import registries
from trocar.core.config import validate
from trocar.core.plugins import GROUPS
from trocar.downstream.evaluation.evaluate_config import EvaluateConfig
from trocar.downstream.protocols import get_protocol
from trocar.downstream.temporal.head import HEADS
from trocar.downstream.temporal.heads import get_head

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
(MODULE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LISTED, PROTOCOL = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def head(tmp_path, monkeypatch):
    """The page's file as the module that its configuration lists."""
    changeable(HEADS, monkeypatch)
    forget(monkeypatch)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "moving_average.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    for name in ("my_package", "my_package.moving_average"):
        sys.modules.pop(name, None)


def test_a_file_that_lists_the_page_s_package_may_name_its_head(head):
    config = validate(EvaluateConfig, {**LISTED, **PROTOCOL, "data": "somewhere"}, "docs/plugins.md")
    protocol = get_protocol(config.protocol[0])
    assert protocol.label == "temporal_frozen moving_average, online"
    assert protocol.head.frames == 10


def test_the_page_s_head_averages_the_last_frames(head):
    validate(EvaluateConfig, {**LISTED, "data": "somewhere"}, "docs/plugins.md")
    built = get_head("moving_average", frames=2).build(1, 1, "multiclass")
    torch.nn.init.ones_(built.classify.weight)
    torch.nn.init.zeros_(built.classify.bias)
    (logits,) = built(torch.tensor([[1.0], [3.0], [5.0]]))
    assert logits.flatten().tolist() == [1.0, 2.0, 4.0]


def test_the_page_s_table_has_every_kind_and_its_entry_points():
    rows = re.findall(r"^\| .* \| `register_(\w+)` \| `([\w.]+)` \|$", PAGE, re.MULTILINE)
    found = {noun: GROUPS + registries.registry_of(noun).kind for noun in registries.PLACES}
    assert dict(rows) == found
    for noun in registries.PLACES:
        assert getattr(registries, f"register_{noun}") == registries.registry_of(noun).register
