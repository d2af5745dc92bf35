"""The model card of an exported backbone, made from what the run folder says; nothing is invented."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from trocar.backbones.source import KEY, WEIGHTS, WEIGHTS_KEY, WeightHistory, is_timms
from trocar.privacy.aliases import withheld
from trocar.privacy.redaction import tree_without_folders
from trocar.runs.run_folder import read_metrics

OWN_ARCHITECTURES = "architectures.py"
"""Beside weights whose architecture timm does not know: the file that registers it."""


def model_card(run: Path, source: Path, history: WeightHistory) -> str:
    """README.md in Markdown for the backbone in `source`, a folder of `run`.

    `history` has the section on what the weights have seen (`trocar.leakage.exposure`).
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
        _origin(config.get("trocar") or {}, history),
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
        ("Weights from", _moment(run, source, config)),
        ("Run", record.get("run_id", "unknown")),
        ("Trocar version", record.get("trocar", record.get("trocar_version", "unknown"))),
    ]
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows) + "\n"


def _moment(run: Path, source: Path, config: dict[str, Any]) -> str:
    about = config.get("trocar") or {}
    if chosen := about.get("chosen"):
        return f"step {about['step']} of the run, where {chosen['by']} gave {chosen['value']:.3f} ({chosen['note']})"
    return "the finished run" if source.parent == run else f"checkpoint {source.parent.name}"


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


def _origin(about: dict[str, Any], history: WeightHistory) -> str:
    """What the weights have seen, as far as it is recorded: the first thing to know before testing on public data."""
    text = "## What it was trained on, and test data\n\n"
    if init := about.get("init"):
        from_whom = f": {init['citation']} ({init['homepage']})" if init.get("citation") else ""
        text += f"The first weights are {init['name']}{from_whom}, licence {init['licence']}"
        text += f", sha256 `{init['sha256']}`.\n" if init.get("sha256") else ".\n"
    return text + history.section(about)


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
