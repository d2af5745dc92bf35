"""Tiny labelled masks: bright squares on dark ground, in the `folder` layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

CLASSES = ("ground", "square", "never")


def make_mask_folder(
    root: Path,
    cases: int = 3,
    frames: int = 4,
    shapes: tuple[tuple[int, int], ...] = ((40, 56),),
    more: str = "",
    task: str = "segmentation",
) -> Path:
    """A mask for every frame but the last of each case; images have the (height, width) of `shapes` in turn; the first
    column of pixels is 255 (not scored), the class `never` does not occur, most pixels are ground. Phase 1 is the
    second half of each case. `more` goes to the end of classes.yaml; `task` is that of the masks.
    """
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rows = []
    for case in range(cases):
        for k in range(frames):
            height, width = shapes[(case * frames + k) % len(shapes)]
            mask = np.zeros((height, width), dtype=np.uint8)
            top, left = generator.integers(2, height // 2), generator.integers(2, width // 2)
            mask[top : top + height // 3, left : left + width // 3] = 1
            image = generator.normal(60 + 130 * mask[..., None], 6, (height, width, 3)).clip(0, 255).astype(np.uint8)
            mask[:, 0] = 255
            name = f"{case}_{k}.png"
            Image.fromarray(image).save(root / "images" / name)
            Image.fromarray(mask).save(root / "masks" / name)
            masked = f"masks/{name}" if k < frames - 1 else None
            phase = k * 2 // frames
            rows.append({"path": f"images/{name}", "case": f"case{case}", "time_s": k, "mask": masked, "phase": phase})
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    (root / "classes.yaml").write_text(f"{task}: [{', '.join(CLASSES)}]\nnot_scored: 255\n{more}")
    return root
