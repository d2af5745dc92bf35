"""What pyproject.toml promises is what is tested."""

import re
import tomllib
from pathlib import Path

import pytest
from lane_places import LANE
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LANES = ROOT / ".ci" / "lanes"
SINGLE = ("slurm", "mlflow", "index", "onnx", "remote")
"""The extras that name packages; the others name these."""


def pins(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}


def test_the_lane_of_lowest_versions_has_the_lowest_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    promised = [*project["dependencies"], *(line for name in SINGLE for line in extras[name])]
    floors = dict(re.fullmatch(r"([\w-]+)>=([\d.]+).*", line).groups() for line in promised)
    lowest = pins(LANES / "lowest.txt")
    for name in ("torch", "torchvision"):  # the lanes keep these as they are installed
        assert floors.pop(name)
    assert {name: Version(lowest[name]) for name in floors} == {name: Version(low) for name, low in floors.items()}


def test_every_file_that_the_package_reads_is_in_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packed = {path for pattern in setuptools["package-data"]["trocar"] for path in (ROOT / "trocar").glob(pattern)}
    files = {path for path in (ROOT / "trocar").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path for path in files if path.name.endswith((".css", ".j2", ".yaml"))} >= {
        ROOT / "trocar/report/style.css",
        ROOT / "trocar/report/templates/base.html.j2",
    }
    assert files - packed == set()


@pytest.mark.parametrize("lane", ["lowest", "newest"])
def test_every_lane_keeps_the_torch_that_is_tested(lane):
    tested, pinned = pins(ROOT / "constraints.txt"), pins(LANES / f"{lane}.txt")
    assert [pinned[name] for name in ("torch", "torchvision")] == [tested[name] for name in ("torch", "torchvision")]


def test_every_place_that_a_lane_runs_is_there():
    assert [name for name in LANE if not (ROOT / "tests" / name).exists()] == []


def test_all_brings_every_extra_that_no_gpu_decides():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

    def named(name):
        inner = [re.fullmatch(r"trocar\[([\w,]+)\]", line) for line in extras[name]]
        return {name}.union(*(named(part) for match in inner if match for part in match[1].split(",")))

    assert named("all") == set(extras) - {"cuda12", "cuda13", "dev"}
    assert "all" in named("dev")
    assert {name for name in extras if not any(line.startswith("trocar[") for line in extras[name])} == {
        *SINGLE,
        "cuda12",
        "cuda13",
    }
