"""Run one contender in a fresh process, so that none inherits another's threads, caches or memory."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trocar.errors import TrocarError


def fresh(
    function: str,
    arguments: dict[str, Any],
    threads: int,
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Call `module:function(**arguments)` in a new interpreter; arguments and result travel as JSON.

    `threads` is what OpenMP and the BLAS may use there. `python` names another environment's interpreter: then
    `function` is the path of a script that takes (input file, output file). `environment` replaces this process's.
    Raises TrocarError with the end of its output if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "in.json", Path(folder) / "out.json"
        given.write_text(json.dumps(arguments), encoding="utf-8")
        start = [python, function] if python else [sys.executable, "-m", "trocar.diagnostics.bench.process", function]
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        done = subprocess.run(
            [*start, str(given), str(found)],
            env={**(os.environ if environment is None else environment), **limits, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not found.exists():
            last = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
            raise TrocarError(f"{function} failed with exit code {done.returncode}:\n{last}")
        result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
        return result


def main(arguments: list[str]) -> None:
    """`python -m trocar.diagnostics.bench.process module:function IN.json OUT.json`."""
    name, given, found = arguments
    module, function = name.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(Path(given).read_text(encoding="utf-8")))
    Path(found).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
