"""One trial of lightly-train's DINO, run by the interpreter of an environment of its own: IN.json OUT.json.

Times the gap between the starts of its training steps, so that everything it does between them counts.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main(given: str, found: str) -> None:
    """Train a few steps and write images, seconds and peak memory."""
    lightly_train = importlib.import_module("lightly_train")
    DINO = importlib.import_module("lightly_train._methods.dino.dino").DINO

    settings = json.loads(Path(given).read_text(encoding="utf-8"))
    warm_up = settings["warm_up"]
    starts: list[float] = []
    step = DINO.training_step_impl

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        starts.append(time.perf_counter())
        return step(self, *args, **kwargs)

    DINO.training_step_impl = noted
    with tempfile.TemporaryDirectory() as out:
        lightly_train.pretrain(
            out=out,
            data=settings["frames"],
            model=f"timm/{settings['backbone']}",
            method="dino",
            method_args={"output_dim": settings["prototypes"], "hidden_dim": 2048, "bottleneck_dim": 256},
            transform_args={"local_view": {"num_views": 8, "view_size": [96, 96]}},
            batch_size=settings["batch"],
            num_workers=settings["workers"],
            precision="32-true",
            accelerator="cpu",
            overwrite=True,
            trainer_args={"max_steps": warm_up + settings["steps"] + 1},
        )
    result = {
        "images": settings["batch"] * settings["steps"],
        "seconds": starts[warm_up + settings["steps"]] - starts[warm_up],
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    Path(found).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
