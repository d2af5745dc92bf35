"""Making the data of a study: it may take hours, so that only `study run` and `study plan --prepare` do it."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

from trocar.core.messages import Say
from trocar.data.catalog.catalog import FOLDER
from trocar.errors import ConfigError, TrocarError
from trocar.study.config import StudyConfig


def run_prepare(commands: list[str], say: Say) -> None:
    """The trocar commands that make the data; `say` is told each. Raises TrocarError for the first that fails."""
    for command in commands:
        say(f"$ trocar {command}")
        code = subprocess.run([sys.executable, "-m", "trocar", *shlex.split(command)], check=False).returncode
        if code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            raise TrocarError(f"prepare: `trocar {command}` ended with exit code {code}; its message is above")


def require_prepared(study: StudyConfig) -> str:
    """What was not run, in a line, '' where the study has nothing to prepare.

    Raises ConfigError that lists the commands if the catalog or a task's data are not there.
    """
    if not study.prepare:
        return ""
    gone = [str(path) for path in _needed(study) if not path.exists()]
    if not gone:
        listed = "; ".join(f"trocar {command}" for command in study.prepare)
        return f"planned on the data that are there; `study run` and --prepare run first: {listed}"
    listed = "\n".join(f"  trocar {command}" for command in study.prepare)
    raise ConfigError(
        f"study {study.name}: the data are not there yet ({', '.join(gone)}). The study makes them with\n{listed}\n"
        "`trocar study plan --prepare` runs that now and then plans; `trocar study run` does it too"
    )


def _needed(study: StudyConfig) -> list[Path]:
    """The catalog, which is written last, and the folders of labels; each once."""
    return list(dict.fromkeys([study.catalog / FOLDER, *(task.data for task in study.tasks.values())]))
