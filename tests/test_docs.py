"""The commands of the README and of the pages that no other test runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from data_factory import make_catalog

from trocar.backbones.export import save_backbone
from trocar.backbones.load import load_backbone
from trocar.cli.main import main, parse
from trocar.core.config import load, preset_names, validate
from trocar.data.selection.composition import Composition
from trocar.data.selection.neighbours import NeighbourTable
from trocar.ssl.engine.method import METHODS
from trocar.ssl.methods.distillation import AugmentedDistillationConfig, DrawnNeighbours
from trocar.ssl.run.pretrain_config import PretrainConfig

ROOT = Path(__file__).parents[1]


def indented_commands(text):
    return [line.strip().partition("#")[0] for line in text.splitlines() if line.startswith("    trocar ")]


def test_every_command_of_the_readme_parses():
    commands = indented_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(commands) >= 7
    for command in commands:
        parse(shlex.split(command)[1:])


def test_every_page_and_picture_the_readme_links_to_is_there():
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_benchmark_that_a_page_names_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"benchmarks/\w+\.py", page.read_text(encoding="utf-8"))}
    assert len(named) >= 6
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_composition_on_the_data_page_validates():
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.DOTALL)
    composition = validate(Composition, yaml.safe_load(block[1])["data"]["composition"], "docs/data.md")
    assert composition.sample.cases == 20


def test_the_neighbours_on_the_data_page_validate_and_their_command_works(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").partition("## Neighbour frames")[2]
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1]
    neighbours = validate(AugmentedDistillationConfig, yaml.safe_load(block)["method"], "docs/data.md").neighbours
    assert neighbours == DrawnNeighbours(source="knn", index="alike")  # what the page shows are the defaults
    monkeypatch.chdir(tmp_path)
    catalog = make_catalog(tmp_path / "shards", 4, 8)
    save_backbone(load_backbone("random:test_resnet"), tmp_path / "runs/a/backbone", extra={})
    (command,) = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1].splitlines()
    assert main([*shlex.split(command)[1:], "--size", "32", "--workers", "0"]) == 0
    assert NeighbourTable.open(catalog, neighbours.index).about["frames"] == 32


@pytest.mark.parametrize("page", ["bench.md", "gpu.md"])
def test_the_commands_of_the_speed_pages_parse(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.lstrip().startswith("trocar ")]
    assert len(commands) >= 3
    for command in commands:
        parse(shlex.split(command.partition("#")[0])[1:])


def test_the_commands_and_settings_of_the_methods_page_are_legal(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["presets", "copy", "pretrain/surgenetdino_v1_vits", "my.yaml"]) == 0
    commands = indented_commands(page)
    assert len(commands) >= 5
    for command in commands:
        args = parse(shlex.split(command)[1:])
        if args.command == "pretrain":
            load(PretrainConfig, args.config, args.overrides)
    place = {"data": {"catalog": "shards"}, "run": {"out": "run"}, "train": {"steps": 1}, "backbone": {"name": "a"}}
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        validate(PretrainConfig, place | yaml.safe_load(block), "docs/methods.md")


def test_the_methods_page_has_every_method_in_both_tables_and_every_preset():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    tables = page.partition("## Measured")[0]
    for name in METHODS.names():
        assert tables.count(f"\n| `{name}` |") == 2, name
    published, _, adapting = page.partition("## Recipes")[2].partition("\nTo go on from weights that exist")
    presets = set(re.findall(r"`((?:selfsupsurg|surgenet|lemonfm|jumpstarting)\w+)`", published))
    assert presets == {name.removeprefix("pretrain/") for name in preset_names() if name.startswith("pretrain/")}
    rows = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`\w+`[^|]*)\|", adapting, re.MULTILINE))))
    assert {name.removeprefix("adapt/") for name in preset_names() if name.startswith("adapt/")} <= rows


def test_the_dry_runs_of_the_methods_page_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_catalog(tmp_path / "shards", 4, 30)
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    commands = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1].splitlines()
    assert [c.split()[1] for c in commands] == ["presets", "presets", "pretrain", "pretrain"]
    for command in commands:
        smaller = ["method.head.prototypes=64"] if "my.yaml" in command and "--dry-run" in command else []
        assert main([*shlex.split(command)[1:], *smaller]) == 0
    assert "TFLOP" in capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_of_the_pretraining_page_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_catalog(tmp_path / "shards", 4, 30)
    page = (ROOT / "docs" / "pretrain.md").read_text(encoding="utf-8")
    commands = re.search(r"```bash\n(.*?)```", page, re.DOTALL)[1].splitlines()
    assert [c.split()[1] for c in commands] == ["presets", "pretrain", "pretrain"]
    for command in commands:
        extra = ["train.batch=4", "data.composition.curate=none"] if "pretrain small_" in command else []
        assert main([*shlex.split(command)[1:], *extra]) == 0
    assert (tmp_path / "runs/a/backbone/model.safetensors").is_file()
    assert (tmp_path / "runs/a/checkpoints/step-00000020/manifest.json").is_file()
