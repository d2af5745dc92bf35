"""How much of a phantom's labels simple cues give away, against a network trained on the labels.

    python benchmarks/phantom_ceiling.py PHANTOM [--folds 3] [--epochs 10] [--size 128x96] [--fps 2.5]

Prints a markdown table: phase accuracy and macro-F1, and tool mAP, at 1 fps on cases that were not trained on
(three folds over cases; every number pools the predictions of all test folds that were run). The cues must stay well
below the network: a benchmark on which mean colour or the clock does as well as looking would measure nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pandas as pd
import timm
import torch
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from trocar.phantom import CLASSES, PHASES, TOOLS


@dataclass
class Corpus:
    """Frames uint8 [N, 3, H, W] with phase [N], tools [N, 7] (float, NaN between seconds), case [N] and time."""

    frames: torch.Tensor
    phase: np.ndarray
    tools: np.ndarray
    case: np.ndarray
    second: np.ndarray
    fraction: np.ndarray
    areas: np.ndarray
    """Share of the picture per class of the true mask [N, 8]."""

    @property
    def whole_second(self) -> np.ndarray:
        return np.isfinite(self.tools[:, 0])


def load(root: Path, size: tuple[int, int], fps: float) -> Corpus:
    """Read all videos at `fps`; parts of one case share its clock."""
    table = pd.read_csv(root / "videos.csv").sort_values(["case_id", "part"])
    total = table.groupby("case_id")["duration_s"].sum()
    frames, rows = [], []
    for case, parts in table.groupby("case_id"):
        clock = 0.0
        for _, video in parts.iterrows():
            labels = pd.read_csv(root / f"phase_annotations/{video.video}-phase.txt", sep="\t")["Phase"]
            tools = pd.read_csv(root / f"tool_annotations/{video.video}-tool.txt", sep="\t").set_index("Frame")
            step = max(1, round(video.fps / fps))
            with av.open(str(root / f"videos/{video.video}.mp4")) as container:
                for i, frame in enumerate(container.decode(video=0)):
                    if i % step and i not in tools.index:
                        continue
                    frames.append(frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray())
                    present = tools.loc[i].to_numpy(float) if i in tools.index else np.full(len(TOOLS), np.nan)
                    mask = np.asarray(Image.open(root / f"semseg/{video.video}/{video.video}_{i:06d}.png"))  # noqa: TID251
                    areas = np.bincount(mask.ravel(), minlength=len(CLASSES)) / mask.size
                    second = clock + i / video.fps
                    rows.append((PHASES.index(labels[i]), present, case, second, second / total[case], areas))
            clock += video.duration_s
    phase, tools_, cases, seconds, fraction, areas_ = zip(*rows, strict=True)
    stacked = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
    return Corpus(
        stacked,
        np.array(phase),
        np.stack(tools_),
        np.array(cases),
        np.array(seconds),
        np.array(fraction),
        np.stack(areas_),
    )


ORACLE = "true masks' class areas and true tools, boosted trees"


def prevalence(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    return np.tile(np.bincount(y, minlength=classes) / len(y), (len(test), 1))


def fitted(model: object) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]:
    """Class probabilities [n, classes] of a scikit-learn classifier; classes absent from training get 0."""

    def run(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
        scores = np.zeros((len(test), classes))
        if len(np.unique(y)) == 1:
            scores[:, y[0]] = 1
            return scores
        model.fit(x, y)  # type: ignore[attr-defined]
        scores[:, model.classes_] = model.predict_proba(test)  # type: ignore[attr-defined]
        return scores

    return run


def logistic() -> object:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1))


def cues(corpus: Corpus) -> dict[str, tuple[np.ndarray, Callable[..., np.ndarray]]]:
    """Name -> (features [N, D], learner)."""
    pixels = corpus.frames.float()
    colour = torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1).numpy()
    small = {s: F.adaptive_avg_pool2d(pixels, s).flatten(1).numpy() for s in (16, 32)}
    clock = np.stack([corpus.second, corpus.fraction], axis=1)
    boosted = HistGradientBoostingClassifier(max_iter=60, max_depth=3)
    return {
        "prevalence": (colour, prevalence),
        "mean and std colour, logistic": (colour, fitted(logistic())),
        "mean and std colour, boosted trees": (colour, fitted(boosted)),
        "16x16 pixels, logistic": (small[16], fitted(logistic())),
        "32x32 pixels, 20-NN": (small[32], fitted(make_pipeline(StandardScaler(), KNeighborsClassifier(20)))),
        "time and fraction, 20-NN": (clock, fitted(make_pipeline(StandardScaler(), KNeighborsClassifier(20)))),
        "time and fraction, boosted trees": (clock, fitted(boosted)),
        ORACLE: (np.concatenate([corpus.areas, corpus.tools], axis=1), fitted(boosted)),
    }


def cue_scores(corpus: Corpus, name: str, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase probabilities [n, 6] and tool scores [n, 7] of one cue on the test frames."""
    features, learner = cues(corpus)[name]
    phase = learner(features[train], corpus.phase[train], features[test], len(PHASES))
    tools = [
        learner(features[train], corpus.tools[train, k].astype(int), features[test], 2)[:, 1] for k in range(len(TOOLS))
    ]
    return phase, np.stack(tools, axis=1)


def network_scores(
    corpus: Corpus, train: np.ndarray, test: np.ndarray, epochs: int, arch: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a network trained from scratch on all training frames, phases and tools together."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=len(PHASES) + len(TOOLS), drop_rate=0.2)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    batch = 64
    steps = epochs * (len(train) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    weight = torch.tensor(1 / np.sqrt(np.bincount(corpus.phase[train], minlength=len(PHASES)) + 1.0)).float()
    model.train()
    for epoch in range(epochs):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(train))
        for at in range(0, len(order) - batch + 1, batch):
            rows = order[at : at + batch]
            images = _augment(_normalise(corpus.frames[rows])).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                out = model(images).float()
            loss = F.cross_entropy(out[:, : len(PHASES)], torch.from_numpy(corpus.phase[rows.numpy()]), weight)
            loss = loss + _tool_loss(out[:, len(PHASES) :], torch.from_numpy(corpus.tools[rows.numpy()]).float())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        out = torch.cat([model(_normalise(corpus.frames[rows])) for rows in torch.from_numpy(test).split(256)])
    return out[:, : len(PHASES)].softmax(1).numpy(), out[:, len(PHASES) :].sigmoid().numpy()


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Random rotation, zoom, shift, flips and channel gains, one draw per image."""
    n = len(images)
    angle, zoom = (torch.rand(n) - 0.5) * 0.8, 0.75 + 0.35 * torch.rand(n)
    flip = (torch.randint(0, 2, (n, 2)) * 2 - 1).float()
    c, s, shift = angle.cos() * zoom, angle.sin() * zoom, (torch.rand(n, 2) - 0.5) * 0.3
    first = torch.stack([c * flip[:, 0], -s, shift[:, 0]], dim=1)
    second = torch.stack([s, c * flip[:, 1], shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    gain = torch.exp(0.15 * torch.randn(n, 3, 1, 1)) * torch.exp(0.15 * torch.randn(n, 1, 1, 1))
    return (F.grid_sample(images, grid, align_corners=False) + 1) * gain - 1


def _normalise(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1


def _tool_loss(logits: torch.Tensor, tools: torch.Tensor) -> torch.Tensor:
    known = torch.isfinite(tools)
    return F.binary_cross_entropy_with_logits(logits[known], tools[known]) if known.any() else logits.sum() * 0


def score(phase: np.ndarray, tools: np.ndarray, truth: Corpus, rows: np.ndarray) -> tuple[float, float, float]:
    """Accuracy, macro-F1 over phases, mean AP over tools that occur."""
    guess, real = phase.argmax(1), truth.phase[rows]
    seen = [k for k in range(len(TOOLS)) if truth.tools[rows, k].any()]
    aps = [average_precision_score(truth.tools[rows, k], tools[:, k]) for k in seen]
    return accuracy_score(real, guess), f1_score(real, guess, average="macro"), float(np.mean(aps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phantom", type=Path)
    parser.add_argument("--folds", type=int, default=3, help="how many of three folds to run")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--size", default="128x96")
    parser.add_argument("--fps", type=float, default=2.5, help="training frames per second of the network")
    parser.add_argument("--arch", default="resnet10t")
    parser.add_argument("--no-network", action="store_true", help="only the cues, which take a minute")
    parser.add_argument("--confusion", action="store_true", help="also print the network's confusion matrix")
    args = parser.parse_args()
    width, height = (int(part) for part in args.size.split("x"))
    corpus = load(args.phantom, (width, height), args.fps)
    cases = np.unique(corpus.case)
    fold_of = dict(zip(cases, np.random.default_rng(0).permutation(len(cases)) % 3, strict=True))
    fold = np.array([fold_of[c] for c in corpus.case])
    network = f"network trained on labels ({args.arch}, {args.epochs} epochs)"
    names = [*cues(corpus), *([] if args.no_network else [network])]
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    tested = []
    for k in range(args.folds):
        test = np.flatnonzero((fold == k) & corpus.whole_second)
        train = np.flatnonzero((fold != k) & corpus.whole_second)
        for name in found:
            started = time.perf_counter()
            if name == network:
                result = network_scores(corpus, np.flatnonzero(fold != k), test, args.epochs, args.arch)
            else:
                result = cue_scores(corpus, name, train, test)
            found[name].append(result)
            values = ", ".join(f"{100 * v:.1f}" for v in score(*result, corpus, test))
            print(f"fold {k}: {name}: {values} ({time.perf_counter() - started:.0f} s)", flush=True)
        tested.append(test)
    rows = np.concatenate(tested)
    print(f"\n{len(cases)} cases, {len(rows)} test frames at 1 fps, {args.folds} of 3 folds\n")
    print("| what is used | accuracy % | macro-F1 % | tool mAP % |\n|---|---|---|---|")
    for name, parts in found.items():
        phase, tools = (np.concatenate([part[j] for part in parts]) for j in range(2))
        values = [f"{100 * v:.1f}" for v in score(phase, tools, corpus, rows)]
        # The oracle is given the tools, so its tool score says nothing.
        print(f"| {name} | {values[0]} | {values[1]} | {'-' if name == ORACLE else values[2]} |")
    if args.confusion and not args.no_network:
        table = pd.crosstab(corpus.phase[rows], phase.argmax(1), normalize="index").mul(100).round(0)
        print("\nnetwork, rows true, columns predicted, %\n", table)


if __name__ == "__main__":
    main()
