"""Tiny labelled data sets in published layouts, made on the fly."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image

PHASES = ("Preparation", "CalotTriangleDissection")
TOOLS = ("Grasper", "Hook")


def write_clip(path: Path, frames: int, fps: int = 5, size: int = 64) -> None:
    """A clip whose frame k is uniformly grey with value 8 * k + 16 (k below 30)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for k in range(frames):
            image = np.full((size, size, 3), 8 * k + 16, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def make_cholec80(root: Path, videos: int = 3, frames: int = 20, fps: int = 5, extra: int = 0) -> Path:
    """Videos of `frames` frames; the second half is the second phase; `extra` label rows lie behind the last frame."""
    for number in range(1, videos + 1):
        name = f"video{number:02d}"
        write_clip(root / "videos" / f"{name}.mp4", frames, fps)
        rows = range(frames + extra)
        phase = pd.DataFrame({"Frame": rows, "Phase": [PHASES[int(k >= frames / 2)] for k in rows]})
        ids = list(rows)[::fps]
        tools = pd.DataFrame({"Frame": ids, "Grasper": 1, "Hook": [int(k >= frames / 2) for k in ids]})
        for kind, table in (("phase", phase), ("tool", tools)):
            path = root / f"{kind}_annotations" / f"{name}-{kind}.txt"
            path.parent.mkdir(exist_ok=True)
            table.to_csv(path, sep="\t", index=False)
    return root


def make_folder(root: Path, cases: int = 4, frames: int = 12, seed: int = 0) -> Path:
    """Images whose brightness tells the phase and whose redness tells the tool, in the `folder` layout."""
    generator = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows = []
    for case in range(cases):
        for k in range(frames):
            phase, tool = k * 2 // frames, int(k % 3 == 0)
            image = generator.normal(60 + 90 * phase, 8, (48, 64, 3))
            image[..., 0] += 60 * tool
            path = f"images/{case}_{k:03d}.png"
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / path)
            rows.append({"path": path, "case": f"case{case}", "time_s": k, "phase": phase, "tool_red": tool})
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)
    return root
