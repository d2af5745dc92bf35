"""SLURM's commands as programs that note what they are given: submissions without a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

COMMANDS = {
    "sbatch": 'n=$(( $(ls "$here" | grep -c script-) + 1 )); cp "$1" "$here/script-$n"; echo "Submitted batch job $n"',
    "squeue": 'cat "$here/active"',
    "sacct": "exit 1",  # a cluster without accounting
    "scontrol": 'echo "MaxArraySize = 1001"',
}


class SbatchStandIn:
    """Jobs are numbered from 1 and never start; `active` is what squeue prints: `ID|STATE|REASON|NODES` each."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        self.active = []
        for name, body in COMMANDS.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\nhere={folder}\n{body}\n")
            path.chmod(0o755)
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    @property
    def active(self) -> list[str]:
        return (self.folder / "active").read_text().splitlines()

    @active.setter
    def active(self, lines: list[str]) -> None:
        (self.folder / "active").write_text("".join(f"{line}\n" for line in lines))

    def scripts(self) -> list[str]:
        """What sbatch was given, in order."""
        count = len(list(self.folder.glob("script-*")))
        return [(self.folder / f"script-{n}").read_text() for n in range(1, count + 1)]
