"""Write a backbone as timm's own folder format, a run's backbone with its model card, and a backbone as one ONNX
file, which is compared with torch before it is kept.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trocar.backbones import architectures
from trocar.backbones.card import OWN_ARCHITECTURES, model_card
from trocar.backbones.load import load_backbone
from trocar.backbones.lora import merged_state
from trocar.backbones.preprocess import (
    POSITIONS,
    Preprocessing,
    describe_backbone,
    feature_width,
    position_table_size,
    resampling_of,
)
from trocar.backbones.source import KEY, WEIGHTS, WEIGHTS_KEY, WeightHistory, find_backbone_folder, origin_of
from trocar.backbones.weights_file import require_finite, write_weights
from trocar.core.files import fsync_folder, sha256_of
from trocar.errors import ConfigError, TrocarError
from trocar.privacy.aliases import Aliases, withheld

# Regularisation while training changes no feature in eval mode; whoever fine-tunes chooses their own.
TRAINING_ONLY = {
    *("drop_rate", "drop_path_rate", "drop_block_rate", "proj_drop_rate"),
    *("attn_drop_rate", "pos_drop_rate", "patch_drop_rate"),
}
NOT_ARCHITECTURE = TRAINING_ONLY | {
    *("num_classes", "pretrained", "pretrained_cfg", "pretrained_model_args", "device", "dtype"),
}
# They describe the published weights of the architecture: an export must not be loaded from there or carry
# their licence and papers.
STALE = {
    *("url", "file", "hf_hub_id", "hf_hub_filename", "state_dict", "source", "tag", "label_offset"),
    *("label_names", "label_descriptions", "test_input_size", "test_crop_pct", "test_pool_size"),
    *("paper_ids", "paper_name", "origin_url", "notes", "license"),
}


@dataclass(frozen=True)
class BackboneFiles:
    """What the folder of a backbone will hold. `state` are the model's own tensors, without the classifier's, and the
    merged ones where it has factors of LoRA.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]

    def write(self, folder: Path, go_on: Callable[[], None] = lambda: None) -> dict[str, str]:
        """Write `folder/config.json` and `folder/model.safetensors` (timm's hub layout); {name: sha256} of all files.

        Nothing is fsynced: that is the caller's. `go_on` is called before each MiB; what it raises ends the writing.
        Raises OSError, and TrocarError for weights that are not finite.
        """
        require_finite(self.state, "the backbone")
        folder.mkdir(parents=True, exist_ok=True)
        weights = write_weights(self.state, folder / WEIGHTS, go_on)
        config = {**self.config, "trocar": {**self.config["trocar"], WEIGHTS_KEY: weights}}
        (folder / "config.json").write_text(_config_text(config), encoding="utf-8")
        if config["architecture"] in architectures.__all__:
            shutil.copyfile(architectures.__file__, folder / OWN_ARCHITECTURES)
        small = [name for name in ("config.json", OWN_ARCHITECTURES) if (folder / name).is_file()]
        return {WEIGHTS: weights, **{name: sha256_of(folder / name) for name in small}}


def backbone_files(
    model: nn.Module, *, extra: Mapping[str, Any], preprocessing: Preprocessing | None = None
) -> BackboneFiles:
    """The files of `model`, as `save_backbone` writes them; its tensors are not copied, but for weights that the
    factors of LoRA are merged into. Raises TrocarError as that.
    """
    model = getattr(model, "_orig_mod", model)
    config = backbone_config(model, preprocessing)
    origin = origin_of(model)
    how = resampling_of(model)
    config["trocar"] = {
        **({"init": origin.as_json()} if origin else {}),
        **({POSITIONS: how} if how != "antialiased" else {}),
        **extra,
    }
    _config_text(config)  # before anything is written
    classifier = _classifier_keys(model)
    return BackboneFiles(config, {k: v for k, v in merged_state(model).items() if k not in classifier})


def save_backbone(
    model: nn.Module, folder: Path, *, extra: Mapping[str, Any], preprocessing: Preprocessing | None = None
) -> None:
    """Write `folder/config.json` and `folder/model.safetensors` in timm's hub layout, without the classifier.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` loads them in a process that has no Trocar, with
    the same features. `extra` (JSON values) is kept under the key `trocar`; `preprocessing` replaces the
    model's own when training normalised otherwise. Equal weights give equal bytes. Nothing is fsynced: that
    is the caller's. Raises TrocarError if the model does not come from timm, was built with an argument JSON
    cannot hold, or has weights that are not finite.
    """
    backbone_files(model, extra=extra, preprocessing=preprocessing).write(folder)


def backbone_config(model: nn.Module, preprocessing: Preprocessing | None = None) -> dict[str, Any]:
    """timm's `config.json` for `model` as a headless feature extractor, as a dictionary."""
    source = dict(getattr(model, "pretrained_cfg", None) or {})
    if "architecture" not in source:
        raise TrocarError(
            "only backbones of `load_backbone` and timm models can be exported: this one has no pretrained_cfg that "
            "names its architecture"
        )
    config = {key: value for key, value in source.items() if value is not None and key not in STALE}
    shape = preprocessing or describe_backbone(model)
    channels = int((config.get("input_size") or (3,))[0])
    config.update(
        mean=list(shape.mean),
        std=list(shape.std),
        interpolation=shape.interpolation,
        input_size=[channels, *shape.size],
        num_classes=0,
        custom_load=False,
    )
    architecture = config.pop("architecture")
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": _width(model, shape),
        "global_pool": getattr(model, "global_pool", None)
        if isinstance(getattr(model, "global_pool", None), str)
        else "",
        "model_args": architecture_args(model),
        "pretrained_cfg": config,
    }


def require_exportable(model: nn.Module, preprocessing: Preprocessing) -> None:
    """Raises what `save_backbone` would: better before a training than after it."""
    _config_text(backbone_config(getattr(model, "_orig_mod", model), preprocessing))


def _config_text(config: Mapping[str, Any]) -> str:
    try:
        return json.dumps(config, indent=2, sort_keys=True) + "\n"
    except TypeError as error:
        raise TrocarError(f"the backbone's configuration cannot be written as JSON: {error}") from None


def _width(model: nn.Module, shape: Preprocessing) -> int:
    """Of the pooled features: timm's models say it, one of somebody's own is asked with a picture."""
    if hasattr(model, "num_features"):
        return int(cast(int, model.num_features))
    return feature_width(model, "this backbone", [shape.size[0]])


def architecture_args(model: nn.Module) -> dict[str, Any]:
    """The timm arguments that shape the features: what the model was built with, without training-only
    ones.
    """
    args = {k: v for k, v in getattr(model, "_model_args", {}).items() if k not in NOT_ARCHITECTURE}
    size = position_table_size(model)
    if size is not None and (describe_backbone(model).fixed_size or "img_size" in args):
        args["img_size"] = list(size)
    return args


def export_timm(name_or_path: str | Path, out: Path, history: WeightHistory) -> str:
    """Write a backbone to `out` as timm's folder with a model card (README.md); returns where the weights came from.

    `history` knows what weights have seen (`trocar.leakage.exposure`).
    A run, a checkpoint or an export is copied as it is, but for the names of its cases, which may be private and become
    hashes; anything else `load_backbone` takes is loaded and saved. Raises ConfigError if it holds no backbone or `out`
    exists and is not empty, TrocarError for weights that are damaged or not finite; what was begun is removed on an
    error.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty; choose another --out")
    run = Path(name_or_path)
    source = find_backbone_folder(run) if run.is_dir() else None
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if source is None:
            save_backbone(load_backbone(name_or_path), out, extra={KEY: history.recorded(name_or_path)})
        else:
            require_finite(load_file(source / WEIGHTS), str(source))
            for name in ("config.json", WEIGHTS, OWN_ARCHITECTURES):
                if name != OWN_ARCHITECTURES or (source / name).is_file():
                    shutil.copyfile(source / name, out / name)
            text = public_config(source / "config.json", withheld(run), history)
            (out / "config.json").write_text(text, encoding="utf-8")
        (out / "README.md").write_text(model_card(run, source or out, history), encoding="utf-8")
    except BaseException as error:
        for name in ("config.json", WEIGHTS, OWN_ARCHITECTURES, "README.md"):
            (out / name).unlink(missing_ok=True)
        if not existed:
            out.rmdir()
        if isinstance(error, SafetensorError):
            raise TrocarError(f"{source} is damaged ({error}); export another checkpoint of the run") from None
        if isinstance(error, OSError):
            raise TrocarError(f"cannot write {out}: {error.strerror}; nothing is left there") from None
        raise
    return str(source or name_or_path)


def public_config(path: Path, hidden: Aliases, history: WeightHistory) -> str:
    """A backbone's config.json for others: names of cases are sealed, and what the run withholds is not in it."""
    config = json.loads(path.read_text(encoding="utf-8"))
    about = config.get("trocar") or {}
    if KEY in about:
        about[KEY] = history.sealed(about[KEY])
    return json.dumps(hidden.tree(config), indent=2, sort_keys=True) + "\n"


def _classifier_keys(model: nn.Module) -> set[str]:
    if getattr(model, "num_classes", 0) == 0:
        return set()
    names = dict(getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


TOLERANCE = 1e-4
"""Allowed difference to torch, relative to the largest feature."""
BATCHES = (1, 3)


def export_onnx(model: nn.Module, path: Path) -> float:
    """Write `model` (timm, pooled output) to `path`; returns the largest difference to torch, relative to the features.

    Input `images` float32 [batch, 3, H, W], normalised, any batch size; output `features` float32 [batch, D]. The file
    appears only if onnxruntime gives torch's features for batches of 1 and 3. Raises ConfigError where the extra `onnx`
    is not installed or `path` exists, TrocarError for a model that can't be exported or comes out different.
    """
    runtime = _runtime()
    if path.exists():
        raise ConfigError(f"{path} exists; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    was_training = model.training
    model.eval()
    try:
        _write(model, temporary)
        worst = max(_difference(model, runtime.InferenceSession(str(temporary)), batch) for batch in BATCHES)
        if not worst <= TOLERANCE:  # NaN as well
            raise TrocarError(
                f"onnxruntime's features differ from torch's by {worst:.1e} of the largest; nothing is kept"
            )
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        model.train(was_training)
    return worst


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401  what torch's exporter needs, here so that it is named in time
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--format onnx needs {error.name}: pip install 'trocar[onnx]'") from None
    return onnxruntime


def _write(model: nn.Module, path: Path) -> None:
    images = _images(model, 2)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (images,),
                str(path),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=["features"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch has a class of its own for each of a dozen stages
        raise TrocarError(f"torch cannot export this backbone to ONNX: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def _difference(model: nn.Module, session: Any, batch: int) -> float:
    images = _images(model, batch)
    expected = model(images).numpy()
    (found,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def _images(model: nn.Module, batch: int) -> torch.Tensor:
    height, width = describe_backbone(model).size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
