"""What a backbone expects of its input, and the features of images that were made so.

The position table of a vision transformer at another size than its own: as timm resamples it, or as DINO does.

timm: bicubic with antialiasing, to the size that is wanted. DINO (`interpolate_pos_encoding`), and DINOv2 without
registers: bicubic without antialiasing, at a scale of (n + 0.1) / N for n of N patches, which shifts what is read by
up to a tenth of a new patch, more at the end than at the start. Weights that were trained with one give other
features with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MethodType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from trocar.backbones.device import Halves, Precision, autocast
from trocar.data.loading.prefetch import sent_ahead
from trocar.errors import ConfigError, TrocarError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Input of a backbone.

    `size` is (height, width) in pixels; `mean` and `std` are per RGB channel on the 0..1 scale;
    `interpolation` is the name timm uses (`bicubic`, `bilinear`); `fixed_size` is true for models that take
    no other size without resampling their position table.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    fixed_size: bool = False

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] (0..255) -> float32 of the same shape, `(x / 255 - mean) / std`."""
        scale, shift = in_levels(self.std, images.device), in_levels(self.mean, images.device)
        return (images.float() - shift).div_(scale)  # one pass through memory less than a new tensor


@lru_cache(maxsize=64)
def in_levels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """Values per channel on the 0..1 scale as float32 [3, 1, 1] on the 0..255 scale. Not to be written to.

    Made once for a device: a copy from ordinary host memory waits for all that is queued on a GPU.
    """
    with torch.inference_mode(False):  # what is made inside could not be used in a training later
        return torch.tensor(values, device=device).mul(255.0).view(3, 1, 1)


def describe_backbone(model: nn.Module) -> Preprocessing:
    """The preprocessing of a timm model: its `pretrained_cfg`, and the size its position table has now."""
    config: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    fixed = bool(config.get("fixed_input_size", False)) and not getattr(model, "dynamic_img_size", False)
    _, height, width = config.get("input_size") or (3, 224, 224)
    return Preprocessing(
        size=position_table_size(model) or (int(height), int(width)),
        mean=_triple(config.get("mean") or IMAGENET_MEAN),
        std=_triple(config.get("std") or IMAGENET_STD),
        interpolation=str(config.get("interpolation") or "bicubic"),
        fixed_size=fixed,
    )


def fit_input_size(model: nn.Module, size: int) -> nn.Module:
    """Make `model` take square images of `size` pixels; convolutional models are returned as they are.

    Models with a position table have it resampled by timm's own `set_input_size`. Raises ConfigError if this
    model cannot take the size (not a multiple of its patch, or no way to resample).
    """
    now = describe_backbone(model)
    if not now.fixed_size or now.size == (size, size):
        return model
    if not hasattr(model, "set_input_size"):
        raise ConfigError(f"this backbone takes {now.size[0]} px images only; ask for that size instead of {size}")
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patch is not None and (size % patch[0] or size % patch[1]):  # timm would drop the pixels that are left over
        raise ConfigError(f"this backbone cannot take {size} px images: its patches are of {patch[0]} x {patch[1]} px")
    resample: Callable[..., None] = model.set_input_size  # type: ignore[assignment]
    try:
        resample(img_size=(size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"this backbone cannot take {size} px images: {error}") from None
    return model


def position_table_size(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) in pixels the patch embedding was built for; None for models without one."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if size is not None else None


@torch.no_grad()
def feature_width(backbone: nn.Module, name: str, sizes: Sequence[int]) -> int:
    """Width D of the pooled features [n, D], found by trying a view of each size; the mode is left as it was.

    Raises ConfigError if a size does not fit, or if what comes out is no [n, D] of one D.
    """
    was_training = backbone.training
    like = next(backbone.parameters())
    backbone.eval()
    try:
        shapes = {tuple(backbone(like.new_zeros(1, 3, size, size)).shape) for size in dict.fromkeys(sizes)}
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone {name!r} does not take views of {list(sizes)} pixels: {error}") from None
    finally:
        backbone.train(was_training)
    shape = shapes.pop()
    if shapes or len(shape) != 2:
        raise ConfigError(
            f"backbone {name!r} gives {list(shape)} for a picture, not pooled features [1, D] of one width D: with "
            "num_classes=0 its forward must pool"
        )
    return int(shape[1])


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


Resampling = Literal["antialiased", "dino"]
OFFSET = 0.1
POSITIONS = "positions"
"""Where an exported backbone's config.json says it."""
_OWN = ("_pos_embed", "set_input_size")


def resample_as_dino(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int = 1) -> Tensor:
    """Positions [1, prefix + N, D] of `old` (rows, columns) of patches -> [1, prefix + n, D] of `new`; the first
    `prefix` stay as they are.
    """
    if old == new:
        return table
    first, patches = table[:, :prefix], table[:, prefix:]
    grid = patches.float().view(1, *old, -1).permute(0, 3, 1, 2)
    scale = ((new[0] + OFFSET) / old[0], (new[1] + OFFSET) / old[1])
    found = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    return torch.cat([first, found.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def resampling_of(model: nn.Module) -> Resampling:
    """How a model's position table is resampled."""
    return "dino" if "_pos_embed" in vars(model) else "antialiased"


def set_resampling(model: nn.Module, how: Resampling) -> None:
    """Have the position table of `model` resampled like that from now on: for views of another size, and by
    `set_input_size`. A model without a table stays as it is.

    Raises ConfigError for `dino` and a model with a table that isn't timm's plain vision transformer.
    """
    for name in _OWN:
        vars(model).pop(name, None)
    if how == "antialiased" or getattr(model, "pos_embed", None) is None:
        return
    if type(model) is not VisionTransformer:
        raise ConfigError(
            f"positions are resampled as in DINO for timm's plain vision transformers (vit_*) alone, and this is a "
            f"{type(model).__name__}; use backbone.position_resampling=antialiased"
        )
    methods: tuple[Callable[..., Any], ...] = (_pos_embed, _set_input_size)
    for name, method in zip(_OWN, methods, strict=True):
        object.__setattr__(model, name, MethodType(method, model))


def _prefix(model: Any) -> int:
    return 0 if model.no_embed_class else int(model.num_prefix_tokens)


def _pos_embed(model: Any, x: Tensor) -> Tensor:
    """`VisionTransformer._pos_embed`: patches [b, H, W, D], or [b, N, D] of one size, -> tokens with positions."""
    grid = tuple(model.patch_embed.grid_size)
    if x.ndim == 3 or tuple(x.shape[1:3]) == grid:
        found: Tensor = VisionTransformer._pos_embed(model, x)
        return found
    table = resample_as_dino(model.pos_embed, grid, (x.shape[1], x.shape[2]), _prefix(model))
    tokens = x.flatten(1, 2)
    before = [token.expand(len(x), -1, -1) for token in (model.cls_token, model.reg_token) if token is not None]
    if model.no_embed_class:
        tokens = torch.cat([*before, tokens + table], 1)
    else:
        tokens = torch.cat([*before, tokens], 1) + table
    placed: Tensor = model.pos_drop(tokens)
    return placed


def _set_input_size(model: Any, img_size: Any = None, patch_size: Any = None) -> None:
    """`VisionTransformer.set_input_size`, with the table resampled from what it was."""
    table, before = model.pos_embed, tuple(model.patch_embed.grid_size)
    VisionTransformer.set_input_size(model, img_size=img_size, patch_size=patch_size)
    after = tuple(model.patch_embed.grid_size)
    with torch.no_grad():
        resampled = resample_as_dino(table, before, after, _prefix(model))
    model.pos_embed = nn.Parameter(resampled.contiguous(), requires_grad=table.requires_grad)


CHECKED = 4096  # rows of features that are looked at together: they may be mapped from a file larger than the memory
GATHERED = 8  # batches whose features come back from a GPU in one copy, for which host and GPU wait for each other
ON_CPU, ON_GPU = 64, 512
"""Images at a time where nobody says how many."""


class Embedder:
    """A frozen backbone on a device, in eval mode; nothing is trained, augmented or dropped out.

    With `halving`, a batch that there is no memory for is computed in halves, as is every one after it. A feature does
    not depend on what it is computed with, but for rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        device: str,
        precision: Precision = "float32",
        halving: bool = False,
    ) -> None:
        self.model, self.preprocessing = model.eval().to(device), preprocessing
        self.device, self.precision = torch.device(device), precision
        self._halves = Halves(self.device, halving)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [b, 3, S, S] -> float32 [b, num_features], both on the device.

        They may be NaN or infinite, where weights overflow or an image is met that a network cannot take: whoever asks
        for features for a purpose calls `require_finite_features` and can say which images it were.
        """
        found = list(self._halves(self._features, images))
        return torch.cat(found) if len(found) > 1 else found[0]

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            features: Tensor = self.model(self.preprocessing.normalise(images))
        return features.float()

    def stream(self, batches: Iterable[Tensor]) -> Iterator[npt.NDArray[np.float32]]:
        """Batches of images on the host -> their features there, in order: those of one batch, from a GPU of several.

        A GPU computes one batch while the next one is copied to it, if that lies in pinned memory.
        """
        if self.device.type != "cuda":
            for images in batches:
                yield self(images.to(self.device)).cpu().numpy()
            return
        held: list[Tensor] = []
        before: torch.cuda.Event | None = None
        for _, (images,) in sent_ahead(((None, [images]) for images in batches), self.device):
            held.append(self(images))
            done = torch.cuda.current_stream(self.device).record_event()
            if before is not None:
                before.synchronize()  # of batches that are queued each takes memory: two are enough
            before = done
            if len(held) == GATHERED:
                yield torch.cat(held).cpu().numpy()
                held = []
        if held:
            yield torch.cat(held).cpu().numpy()


def usual_batch(device: str) -> int:
    """Images at a time through a frozen backbone: enough to fill a GPU; on a CPU no more than its caches like."""
    return ON_GPU if torch.device(device).type == "cuda" else ON_CPU


def prediction_batch(batch: int, device: str) -> int:
    """Images at a time through a network that trains on `batch` of them: a GPU keeps nothing for a gradient when it
    predicts, and takes as many as of a frozen backbone. To be computed in `Halves`.
    """
    return max(batch, ON_GPU) if torch.device(device).type == "cuda" else batch


def require_finite_features(
    features: npt.NDArray[np.floating], whose: str, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Raises TrocarError if features [n, ...] of any frame are NaN or infinite: a score of such would mean nothing.

    `whose` names the backbone, `rows` [n] the frames as their table numbers them; default: from 0.
    """
    for start in range(0, len(features), CHECKED):
        part = features[start : start + CHECKED]
        finite = np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
        if not finite.all():
            first = start + int(np.argmin(finite))
            raise TrocarError(
                f"{whose} gives features that are NaN or infinite, the first for frame "
                f"{first if rows is None else rows[first]}; look at that frame, and at the backbone: its values may "
                "overflow"
            )
