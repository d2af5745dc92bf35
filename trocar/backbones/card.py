"""The model card of an exported backbone, made from what the run folder says; nothing is invented."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from trocar.backbones.exposure import KEY, WEIGHTS_KEY, Exposure, by_identity
from trocar.backbones.source import WEIGHTS, is_timms
from trocar.data.leak.identities import identities
from trocar.data.leak.verdict import Verdict
from trocar.privacy.marks import tree_without_folders, withheld
from trocar.runs.step_metrics import read_metrics

OWN_ARCHITECTURES = "architectures.py"
"""Beside weights whose architecture timm does not know: the file that registers it."""


def model_card(run: Path, source: Path) -> str:
    """README.md in Markdown for the backbone in `source`, a folder of `run`.

    Data composition, recipe, steps and last metrics come from config.yaml, run.json, the checkpoint's
    manifest.json and metrics/; what is absent is said to be unknown. Names that the run withholds are not in it. Raises
    TrocarError where it is not known what to withhold.
    """
    hidden = withheld(run)
    config = _read_json(source / "config.json")
    sections = [
        _front(config),
        f"# {config.get('architecture', 'backbone')}, self-supervised on surgical video\n",
        _facts(run, source, config),
        _usage(config, (source / OWN_ARCHITECTURES).is_file()),
        _origin(config),
        _yaml_section("Pretraining configuration", hidden.tree(_read_yaml(run / "config.yaml"))),
        _yaml_section("Recorded with the weights", _recorded(config)),
        _metrics_section(run),
    ]
    return hidden.text("\n".join(section for section in sections if section))


def parameter_count(folder: Path) -> int:
    """Number of values stored in `model.safetensors`, batch-norm buffers included."""
    with safe_open(folder / WEIGHTS, framework="np") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def _front(config: dict[str, Any]) -> str:
    # What is trained from weights under a licence is bound by it; for anything else only its owner can say.
    about = config.get("trocar") or {}
    licence = str(about.get("license") or (about.get("init") or {}).get("licence") or "unknown").lower()
    tags = "tags: [surgery, self-supervised, feature-extraction]"
    return f"---\nlibrary_name: timm\nlicense: {licence}\n{tags}\n---\n"


def _facts(run: Path, source: Path, config: dict[str, Any]) -> str:
    record = _read_json(run / "run.json")
    pretrained = config.get("pretrained_cfg") or {}
    rows = [
        ("Architecture", config.get("architecture", "unknown")),
        ("Features", config.get("num_features", "unknown")),
        ("Stored values", f"{parameter_count(source):,}"),
        ("Input", " x ".join(str(n) for n in pretrained.get("input_size", [])) or "unknown"),
        ("Mean, std", f"{pretrained.get('mean')}, {pretrained.get('std')}"),
        ("Weights from", "the finished run" if source.parent == run else f"checkpoint {source.parent.name}"),
        ("Run", record.get("run_id", "unknown")),
        ("Trocar version", record.get("trocar", record.get("trocar_version", "unknown"))),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows) + "\n"


def _usage(config: dict[str, Any], own: bool) -> str:
    if not is_timms(str(config.get("architecture"))):
        return (
            '## Use\n\n```python\nimport trocar\n\nmodel = trocar.load_backbone("PATH").eval()\n'
            f"features = model(images)  # [B, {config.get('num_features', 'D')}]\n```\n\n"
            f"`PATH` is this folder. The architecture `{config.get('architecture')}` is neither timm's nor Trocar's: "
            "import the module that registers it first. Images are RGB, scaled to 0..1 and normalised with the mean "
            "and std above.\n"
        )
    importing = ""
    if own:
        importing = 'import sys\n\nsys.path.insert(0, "PATH")\nimport architectures  # timm has no name for this one\n'
    return (
        f"## Use\n\n```python\n{importing}import timm\n\n"
        'model = timm.create_model("local-dir:PATH", pretrained=True).eval()\n'
        f"features = model(images)  # [B, {config.get('num_features', 'D')}]\n```\n\n"
        "`PATH` is this folder. Images are RGB, scaled to 0..1 and normalised with the mean and std above.\n"
    )


def _origin(config: dict[str, Any]) -> str:
    """What the weights have seen, as far as it is recorded: the first thing to know before testing on public data."""
    init = (config.get("trocar") or {}).get("init")
    text = "## What it was trained on, and test data\n\n"
    exposure = _exposure(config)
    if init:
        from_whom = f": {init['citation']} ({init['homepage']})" if init.get("citation") else ""
        text += f"The first weights are {init['name']}{from_whom}, licence {init['licence']}"
        text += f", sha256 `{init['sha256']}`.\n" if init.get("sha256") else ".\n"
    if exposure is None:
        return text + "Verdict on test data: unknown. What the weights have seen is not recorded.\n"
    return text + _parts_table(exposure) + _verdicts(exposure)


def _exposure(config: dict[str, Any]) -> Exposure | None:
    tree = (config.get("trocar") or {}).get(KEY)
    try:
        return None if tree is None else Exposure.from_json(tree)
    except (TypeError, KeyError, ValueError):
        return None


def _parts_table(exposure: Exposure) -> str:
    lines = ["\n| part of the history | data set | cases | labels used | |", "|---|---|---|---|---|"]
    for part in exposure.parts:
        who = f"{part.role}: {part.name}"
        for seen in part.seen:
            used = "yes" if seen.labels else "no"
            lines.append(f"| {who} | {seen.dataset} | {seen.cases} | {used} | {seen.note} |")
        for source in sorted({case.partition("/")[0] for case in part.cases}):
            count = sum(case.startswith(f"{source}/") for case in part.cases)
            lines.append(f"| {who} | {source} | {count} | no | |")
        if not part.known:
            lines.append(f"| {who} | not recorded | | | |")
    return "\n".join(lines) + "\n\n"


def _verdicts(exposure: Exposure) -> str:
    """By names alone: what stands beside a score also rests on pictures, where they can be compared."""
    table = identities()
    lines = [
        "Verdict on test data, by the names of cases alone and over all cases of each data set. `trocar evaluate`",
        "gives it for the test cases of a score, and compares pictures where the pretraining frames are at hand:",
        "",
        "| data set | verdict |",
        "|---|---|",
    ]
    for slug in table.table.datasets:
        if cases := table.cases_of(slug):
            worst = Verdict.worst(f.verdict for part in exposure.parts for f in by_identity(part, cases))
            lines.append(f"| {slug} | {worst.value} |")
    compared = sum(len(part.compared) for part in exposure.parts)
    told = f"\nPictures of {compared} held-out cases were compared before training.\n" if compared else ""
    return "\n".join(lines) + "\n" + told


def _recorded(config: dict[str, Any]) -> dict[str, Any]:
    """All but the list of cases, which has a section of its own and may be long, and the checksum."""
    about = config.get("trocar") or {}
    return {key: value for key, value in about.items() if key not in (KEY, WEIGHTS_KEY)}


def _yaml_section(title: str, tree: Any) -> str:
    if not tree:
        return f"## {title}\n\nUnknown: the run folder does not say.\n"
    text = yaml.safe_dump(tree_without_folders(tree), sort_keys=True, width=100)
    return f"## {title}\n\n```yaml\n{text}```\n"


def _metrics_section(run: Path) -> str:
    rows = read_metrics(run)
    if not rows:
        return "## Last logged metrics\n\nUnknown: the run folder has none.\n"
    lines = [f"| {name} | {value:.6g} |" for name, value in sorted(rows[-1].items())]
    return "## Last logged metrics\n\n| | |\n|---|---|\n" + "\n".join(lines) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
