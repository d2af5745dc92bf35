"""What `phantom_ceiling.py` sets against each other: a phantom's frames and labels in memory, cues and networks."""

from __future__ import annotations

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
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from trocar.phantom import CLASSES, PHASES, TOOLS

RANDOM_DRAWS = 3
RANDOM_ARCH = "resnet18"
VIEWS = 4
"""Augmented views of a test frame whose mean counts."""


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
    about: pd.DataFrame
    """Hospital and procedure by case."""

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
    about = table.drop_duplicates("case_id").set_index("case_id")[["hospital", "procedure"]]
    return Corpus(
        stacked,
        np.array(phase),
        np.stack(tools_),
        np.array(cases),
        np.array(seconds),
        np.array(fraction),
        np.stack(areas_),
        about,
    )


Learner = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
"""(training features [n, D], labels [n], test features [m, D], classes) -> scores [m, classes]."""


def prevalence(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    return np.tile(np.bincount(y, minlength=classes) / len(y), (len(test), 1))


def fitted(make: Callable[[], object]) -> Learner:
    """Class probabilities of a scikit-learn classifier; classes absent from training get 0."""

    def run(x: np.ndarray, y: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
        scores = np.zeros((len(test), classes))
        if len(np.unique(y)) == 1:
            scores[:, y[0]] = 1
            return scores
        model = make()
        model.fit(x, y)  # type: ignore[attr-defined]
        scores[:, model.classes_] = model.predict_proba(test)  # type: ignore[attr-defined]
        return scores

    return run


logistic = fitted(lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300, C=0.1)))
boosted = fitted(lambda: HistGradientBoostingClassifier(max_iter=60, max_depth=3))
neighbours = fitted(lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(20)))


def random_features(frames: torch.Tensor, seed: int) -> np.ndarray:
    """Pooled features [N, D] of a network with random weights whose normalisation has seen the frames."""
    torch.manual_seed(seed)
    model = timm.create_model(RANDOM_ARCH, num_classes=0).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model.train()
        for rows in torch.randperm(len(frames))[:2048].split(128):
            model(normalised(frames[rows]))
        model.eval()
        return torch.cat([model(normalised(part)).float() for part in frames.split(256)]).numpy()


@dataclass(frozen=True)
class Cue:
    """Something that is known of a frame without looking closely: its kind, its features [N, D] and a learner."""

    kind: str
    features: Callable[[Corpus], np.ndarray]
    learn: Learner


def colour(corpus: Corpus) -> np.ndarray:
    pixels = corpus.frames.float()
    return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], dim=1).numpy()


def pixels(side: int) -> Callable[[Corpus], np.ndarray]:
    return lambda corpus: F.adaptive_avg_pool2d(corpus.frames.float(), side).flatten(1).numpy()


def clock(corpus: Corpus) -> np.ndarray:
    return np.stack([corpus.second, corpus.fraction], axis=1)


def truth(corpus: Corpus) -> np.ndarray:
    return np.concatenate([corpus.areas, corpus.tools], axis=1)


ORACLE = "true masks' class areas and true tools, boosted trees"
CUES = {
    "chance": Cue("chance", colour, prevalence),
    "mean and std colour, logistic": Cue("floor", colour, logistic),
    "mean and std colour, boosted trees": Cue("floor", colour, boosted),
    "16 x 16 pixels, logistic": Cue("floor", pixels(16), logistic),
    "32 x 32 pixels, 20-NN": Cue("floor", pixels(32), neighbours),
    "time and fraction, 20-NN": Cue("clock", clock, neighbours),
    "time and fraction, boosted trees": Cue("clock", clock, boosted),
    ORACLE: Cue("oracle", truth, boosted),
}
for draw in range(RANDOM_DRAWS):
    for name, learner in (("linear", logistic), ("20-NN", neighbours)):
        CUES[f"random {RANDOM_ARCH} {draw + 1}, {name}"] = Cue(
            "floor", lambda corpus, draw=draw: random_features(corpus.frames, draw), learner
        )


def cue_scores(corpus: Corpus, cue: Cue, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase probabilities [n, 6] and tool scores [n, 7] of one cue on the test frames."""
    features = cue.features(corpus)
    phase = cue.learn(features[train], corpus.phase[train], features[test], len(PHASES))
    tools = [
        cue.learn(features[train], corpus.tools[train, k].astype(int), features[test], 2)[:, 1]
        for k in range(len(TOOLS))
    ]
    return phase, np.stack(tools, axis=1)


def network_scores(
    corpus: Corpus, train: np.ndarray, test: np.ndarray, steps: int, arch: str
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a network trained from scratch on all training frames, phases and tools together."""
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=len(PHASES) + len(TOOLS), drop_rate=0.2)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    weight = torch.tensor(1 / np.sqrt(np.bincount(corpus.phase[train], minlength=len(PHASES)) + 1.0)).float()
    model.train()
    for rows in _batches(train, steps, 64):
        images = _augment(normalised(corpus.frames[rows])).contiguous(memory_format=torch.channels_last)
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
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        parts = [normalised(corpus.frames[rows]) for rows in torch.from_numpy(test).split(256)]
        # Resampling softens a frame: tested as they are, frames would be sharper than all that was trained on.
        out = torch.cat([torch.stack([model(_augment(part)).float() for _ in range(VIEWS)]).mean(0) for part in parts])
    return out[:, : len(PHASES)].softmax(1).numpy(), out[:, len(PHASES) :].sigmoid().numpy()


def _batches(train: np.ndarray, steps: int, batch: int) -> list[torch.Tensor]:
    """`steps` batches, epoch after epoch in a new order."""
    rng = np.random.default_rng(0)
    epochs = -(-steps * batch // len(train))
    order = np.concatenate([rng.permutation(train) for _ in range(epochs)])
    return list(torch.from_numpy(order[: steps * batch]).split(batch))


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Random rotation, zoom (as often in as out), shift, flips and channel gains, one draw per image."""
    n = len(images)
    angle, zoom = (torch.rand(n) - 0.5) * 0.8, torch.exp((torch.rand(n) - 0.5) * 0.3)
    flip = (torch.randint(0, 2, (n, 2)) * 2 - 1).float()
    c, s, shift = angle.cos() * zoom, angle.sin() * zoom, (torch.rand(n, 2) - 0.5) * 0.3
    first = torch.stack([c * flip[:, 0], -s, shift[:, 0]], dim=1)
    second = torch.stack([s, c * flip[:, 1], shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    gain = torch.exp(0.15 * torch.randn(n, 3, 1, 1)) * torch.exp(0.15 * torch.randn(n, 1, 1, 1))
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return (moved + 1) * gain - 1


def normalised(images: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 3, H, W] -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def _tool_loss(logits: torch.Tensor, tools: torch.Tensor) -> torch.Tensor:
    known = torch.isfinite(tools)
    return F.binary_cross_entropy_with_logits(logits[known], tools[known]) if known.any() else logits.sum() * 0
