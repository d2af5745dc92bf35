"""`renew.py lowest|newest PYTHON`: install those versions into PYTHON's environment and print them as a file of pins.

`lowest` is the lowest version of every direct dependency that pyproject.toml allows, with whatever else those need;
`newest` the newest versions of everything. torch and torchvision stay as they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("torch", "torchvision")
LOWEST_EXTRAS = ("slurm", "mlflow", "index", "onnx", "remote")
"""What users install; the tools of `dev` are no promise to anybody."""


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in LOWEST_EXTRAS for line in project["optional-dependencies"][name]]
    return [line for line in (*project["dependencies"], *extras) if re.split(r"[><=! ]", line)[0] not in KEPT]


def pip(python: str, *words: str) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(lane: str, python: str) -> None:
    frozen = pip(python, "freeze", "--exclude", "trocar").splitlines()
    kept = [line for line in frozen if line.partition("==")[0] in KEPT]
    if lane == "lowest":
        pip(python, "install", "--quiet", *[line.replace(">=", "==") for line in requirements()], *kept)
    else:
        pip(python, "install", "--quiet", "--upgrade", "--upgrade-strategy", "eager", *requirements(), *kept)
    pins = [line for line in pip(python, "freeze", "--all", "--exclude", "trocar").splitlines() if "==" in line]
    print(f"# Written by `.ci/lane --renew {lane}`.")
    print("\n".join(sorted(pins, key=str.lower)))


if __name__ == "__main__":
    main(*sys.argv[1:])
