# %% [markdown]
# # A backbone of one's own, labels of one's own
#
# From videos to a table that says what pretraining was worth, without a configuration file: a network that is a plain
# `nn.Module`, and labels that are a DataFrame. Run it cell by cell, or as a program; it takes less than a minute on one
# core, on synthetic videos that it makes itself, and writes to `own_model_and_labels/`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn

import trocar
from trocar.phantom import PhantomSpec, generate

OUT = Path("own_model_and_labels")

# %% [markdown]
# Four short operations, and their frames as shards. Your own videos go in the same way.

# %%
generate(OUT / "phantom", PhantomSpec(cases=4, minutes=0.2, size=(96, 72), seed=1))
shards = trocar.ingest(OUT / "phantom" / "videos", OUT / "shards", fps=2, short_side=72)
print(f"{len(shards.catalog)} frames, the first of {shards.catalog[0].size} pixels")

# %% [markdown]
# ## The network
#
# Anything whose `forward` makes features [n, D] of pictures [n, 3, S, S].


# %%
class SmallNet(nn.Module):
    """Four strided convolutions and a mean over positions."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.GELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


torch.manual_seed(0)  # the first weights are part of the run's identity: a resume has to begin with the same ones
first = SmallNet()

# %%
run = trocar.pretrain(
    "small_simclr",
    data=shards.folder,
    out=OUT / "run",
    model=first,
    method={"views": {"size": 64}, "head": {"layers": [64, 32]}},
    train={"batch": 16, "steps": 20, "precision": "float32"},
    run={"workers": 0, "checkpoint_every": 20, "log_every": 5},
    tracking={"uri": "none"},
    **{"data.composition.curate": "none"},
)
print(run.metrics[["loss", "pair_accuracy"]])

# %% [markdown]
# ## The labels
#
# A row per labelled frame: which picture, of which operation, and what it shows. Here they are read from the text files
# of the synthetic videos; yours may come from anywhere.

# %%
videos = pd.read_csv(OUT / "phantom" / "videos.csv")
parts = []
for video in videos.itertuples():
    phases = pd.read_csv(OUT / "phantom" / "phase_annotations" / f"{video.video}-phase.txt", sep="\t")
    parts.append(
        pd.DataFrame(
            {
                "path": f"videos/{video.video}.mp4",
                "frame": phases["Frame"],
                "time_s": phases["Frame"] / video.fps,
                "case": video.case_id,
                "video": video.video,
                "phase": phases["Phase"],
            }
        )
    )
labels = pd.concat(parts, ignore_index=True)
print(labels.groupby("case")["phase"].value_counts().unstack(fill_value=0))

# %% [markdown]
# ## What it was worth
#
# The trained network beside its own first weights, raw pixels and the majority class, in folds by operation. The leak
# verdict of a network that Trocar does not know is `unknown`: it may have seen these operations, and here it has.

# %%
result = trocar.evaluate(
    {"pretrained": run.backbone(), "first weights": first},
    data=labels,
    root=OUT / "phantom",
    tasks=["phase"],
    protocols=["knn"],
    out=OUT / "evaluation",
    folds=2,
    size=64,
    bootstrap=100,
    figures=False,
    baselines=["raw pixels", "majority"],
)
print(result.table[["backbone", "protocol", "metric", "value", "leak"]])

# %%
table = result.table.set_index("backbone")
axes = table["value"].plot.barh(xlabel=table["metric"].iloc[0])
axes.figure.tight_layout()
axes.figure.savefig(OUT / "table.png")
plt.close(axes.figure)

# %% [markdown]
# The same metric from arrays of anybody's:

# %%
shown = result.predictions[result.predictions["backbone"] == "pretrained"]
print(trocar.metrics.f1_pooled_macro(shown["gt"], shown["pred"], shown["case"]))
