"""What a stage ran on, for its record: the device, and the state of the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import trocar
from trocar.study.run.stages import Stage


def device_of(stage: Stage) -> str:
    """`cpu`, or the name of the GPU that the stage's command worked on. To be asked in the process that ran it."""
    settings: Any = stage.config.get("run") if stage.kind == "pretrain" else stage.config
    wanted = str((settings or {}).get("device", "auto"))
    # Who has not loaded torch has used no GPU, and shall not wait for it.
    torch: Any = sys.modules.get("torch")
    if stage.kind == "report" or wanted == "cpu" or torch is None or not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_name())


def git_state(folder: Path | None = None) -> str | None:
    """The commit that the code in `folder` (None: of Trocar) is at, with `, changed` if tracked files differ from it;
    None outside a git checkout or without git.
    """
    folder = folder or Path(trocar.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    # A package that was installed inside some other project's checkout is no part of it.
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + (", changed" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git says, None if it fails."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
