"""The page about temporal heads."""

import re
from pathlib import Path

import pytest
import yaml

from trocar.core.config import validate
from trocar.downstream.temporal.head import HEADS
from trocar.downstream.temporal.heads import get_head
from trocar.downstream.temporal.train import TemporalConfig

PAGE = (Path(__file__).parents[3] / "docs" / "temporal.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HEADS.names())
def test_the_page_has_every_head_with_its_real_recipe_and_whether_it_is_online(name):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    head = get_head(name)
    _, _, online, _, recipe, *_ = (cell.strip() for cell in row.split("|"))
    assert online.startswith("online" if head.causal else "offline")
    assert recipe.startswith(
        f"{'Adam' if head.recipe.optimiser == 'adam' else 'AdamW'} {head.recipe.lr:.0e}".replace("e-0", "e-")
    )
    assert f"{head.recipe.epochs} epochs" in recipe


def test_the_settings_on_the_page_validate():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        validate(TemporalConfig, yaml.safe_load(block), "docs/temporal.md")


def test_the_example_of_the_page_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["scores"].shape == (300, 7)
