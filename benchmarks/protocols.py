"""A ResNet-50 and a vision transformer through every protocol of every task: pretrained, random, and the constant.

    python benchmarks/protocols.py OUT [--steps 60] [--lanes 2]

In the folder of `benchmarks/methods.py` it uses that phantom (96 cases, 36 of them to train on), else it makes it. Both
networks are pretrained on the unlabelled training cases by SimCLR, then go through the protocols beside the same
architecture with random weights (for those that train the backbone, trained from there) and the majority class; every
tenth labelled second is used. Run again, it continues.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from phantom_split import make_phantom, trocar

RECIPE = Path(__file__).parent / "methods" / "simclr.yaml"
NETWORKS = {"resnet50": "resnet50", "vit": "vit_tiny_patch16_224"}
CASES = 96
SIZE = 64
TUNED = {
    "epochs": 3,
    "batch": 32,
    "lr": 1.0e-3,
    "layer_decay": 0.75,
    "class_weights": "balanced",
    "select": "fixed_epochs",
    "precision": "bfloat16",
}
TEMPORAL = {"lr": 5.0e-3, "epochs": 20}
PROTOCOLS: list[dict[str, Any]] = [
    {"name": "knn"},
    {"name": "linear"},
    {"name": "finetune", **TUNED},
    {"name": "temporal_frozen", "head": {"name": "mstcn", "layers": 4, "maps": 32}, **TEMPORAL},
    {"name": "temporal_frozen", "head": {"name": "asformer", "layers": 4, "decoders": 1, "maps": 32}, **TEMPORAL},
    {"name": "temporal_finetuned", "head": {"name": "gru", "hidden": 64}, **TEMPORAL, "finetune": TUNED},
    {"name": "segmentation", "epochs": 4, "batch": 16, "lr": 1.0e-3, "precision": "bfloat16"},
    {"name": "segmentation", "decoder": "linear", "freeze": True, "epochs": 4, "batch": 16, "lr": 1.0e-2},
]


def pretrain(out: Path, name: str, steps: int) -> Path:
    """The run of one network."""
    run = out / "runs" / f"protocols-{name}"
    words = [f"data.catalog={out / 'shards'}", "data.composition.include=[{split: [train]}]", f"run.out={run}"]
    words += [
        f"backbone.name={NETWORKS[name]}",
        f"method.views.size={SIZE}",
        f"train.steps={steps}",
        "optim.lr=1e-3",
        "train.batch=64",
    ]
    trocar("pretrain", str(RECIPE), *words)
    return run


def evaluate(out: Path, name: str, run: Path) -> list[dict[str, Any]]:
    """Rows of the results of one network."""
    target = out / "evaluation" / f"protocols-{name}"
    if not (target / "results.json").exists():
        config = {
            "data": str(out / "phantom"),
            "backbone": [f"{name}={run}"],
            "task": ["phase", "tools", "cvs", "segmentation", "phase+tools"],
            "protocol": PROTOCOLS,
            "baselines": ["majority", "random"],
            "seeds": 1,
            "size": SIZE,
            "fps": 0.1,
            "bootstrap": 0,
            "figures": False,
        }
        target.mkdir(parents=True, exist_ok=True)
        (target / "evaluate.yaml").write_text(yaml.safe_dump(config))
        trocar("evaluate", str(target / "evaluate.yaml"), "--out", str(target), "--cache", str(out / "cache"))
    rows: list[dict[str, Any]] = json.loads((target / "results.json").read_text())["rows"]
    return rows


def table(name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: a line per task and protocol."""
    of = {(r["task"], r["protocol"], r["kind"]): (r["headline"], r["metrics"][r["headline"]]["mean"]) for r in rows}
    constants = {task: value for (task, _, kind), (_, value) in of.items() if kind == "majority"}
    lines = []
    for (task, protocol, kind), (metric, value) in of.items():
        if kind == "backbone":
            random, constant = of[task, protocol, "random"][1], constants[task]
            verdict = "yes" if value > max(random, constant) else "**no**"
            cells = f"{constant:.3f} | {random:.3f} | {value:.3f} | {verdict}"
            lines.append(f"| {NETWORKS[name]} | {task} | {protocol} | {metric} | {cells} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lanes", type=int, default=2, help="networks at a time (default: 2)")
    args = parser.parse_args()
    make_phantom(args.out / "phantom", args.out / "shards", CASES)
    with ThreadPoolExecutor(args.lanes) as pool:
        runs = list(pool.map(lambda name: pretrain(args.out, name, args.steps), NETWORKS))
        rows = list(pool.map(lambda name, run: evaluate(args.out, name, run), NETWORKS, runs))
    print("| backbone | task | protocol | metric | constant | random | pretrained | above both |")
    print("|---|---|---|---|--:|--:|--:|---|")
    print("\n".join(line for name, found in zip(NETWORKS, rows, strict=True) for line in table(name, found)))


if __name__ == "__main__":
    main()
