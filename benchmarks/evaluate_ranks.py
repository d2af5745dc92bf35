"""What a second rank saves an evaluation: `trocar evaluate` by 1 and by several ranks on this machine, in pairs.

    python benchmarks/evaluate_ranks.py [--ranks 2] [--pairs 3] [--frames 512] [--backbone resnet50] [--size 224]

Every trial is the whole command in a new process, with a probe that costs next to nothing (k-NN) on frames that are
decoded already, so it extracts features and little else. Its start is in it: each rank imports torch, reads the labels
and loads the weights, which several ranks of one machine do at the same time on the same cores. How long that takes is
measured too, by the same command where the features are there. Contenders take turns in who begins; a ratio is the
median over pairs. Ranks divide the cores that one process has to itself, and their features must have its bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

BATCH = 32


def make_data(root: Path, frames: int) -> None:
    """Labelled frames of noise, which no network takes less time for."""
    (root / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = [{"path": f"images/{i}.jpg", "case": i * 8 // frames, "phase": i % 4} for i in range(frames)]
    for row in rows:
        Image.fromarray(generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(root / str(row["path"]))
    pd.DataFrame(rows).to_csv(root / "frames.csv", index=False)


def evaluate(root: Path, backbone: str, size: int, ranks: int) -> float:
    """Seconds of the command, whose cache and results are in `root`."""
    words = [f"backbone=[{root.parent / backbone}]", f"data={root.parent / 'data'}", f"size={size}", f"batch={BATCH}"]
    words += ["protocol=[knn]", "baselines=[]", "bootstrap=0", "figures=false", "folds=2", "device=cpu"]
    words += [f"ranks={ranks}", f"out={root}"]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "trocar", "evaluate", *words], capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return seconds


def trial(root: Path, backbone: str, size: int, ranks: int, decoded: list[Path]) -> tuple[float, float, bytes]:
    """Seconds with features to extract, seconds when they are there, and the file with them."""
    (root / "cache").mkdir(parents=True)
    for path in decoded:
        shutil.copy2(path, root / "cache")
    whole = evaluate(root, backbone, size, ranks)
    shutil.rmtree(root / "finished")
    start = evaluate(root, backbone, size, ranks)
    (features,) = (root / "cache").glob("features-*.npy")
    content = features.read_bytes()
    shutil.rmtree(root)
    return whole, start, content


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    from trocar.backbones.export import save_backbone
    from trocar.backbones.load import load_backbone

    print(f"load before: {os.getloadavg()[0]:.1f}, cores: {len(os.sched_getaffinity(0))}", flush=True)
    found: dict[int, list[tuple[float, float, bytes]]] = {1: [], args.ranks: []}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_data(base / "data", args.frames)
        save_backbone(load_backbone(f"random:{args.backbone}"), base / args.backbone, extra={})
        evaluate(base / "first", args.backbone, args.size, 1)
        decoded = list((base / "first/cache").glob("frames-*.npy"))
        for pair in range(args.pairs):
            for ranks in sorted(found, reverse=pair % 2 == 1):
                found[ranks].append(trial(base / "trial", args.backbone, args.size, ranks, decoded))
    print(f"\n| {args.frames} frames, {args.backbone} | s | of it without features to extract | frames/s between |")
    print("|---|--:|--:|--:|")
    for ranks, trials in found.items():
        whole, start = (statistics.median(values) for values in list(zip(*trials, strict=True))[:2])
        print(f"| {ranks} rank(s) | {whole:.1f} | {start:.1f} | {args.frames / (whole - start):.1f} |")
    pairs = list(zip(found[1], found[args.ranks], strict=True))
    for what, ratios in (
        ("the whole command", [one[0] / more[0] for one, more in pairs]),
        ("extraction alone", [(one[0] - one[1]) / (more[0] - more[1]) for one, more in pairs]),
    ):
        print(f"{what}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} - {max(ratios):.2f})")
    print(f"bytes of the features equal: {len({content for trials in found.values() for *_, content in trials}) == 1}")


if __name__ == "__main__":
    main()
