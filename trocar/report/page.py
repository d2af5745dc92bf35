"""Pages from the templates of this folder: one file each, made to be shared, nothing fetched from anywhere.

Numbers, counts and lists become plain text here, which a template escapes. Pictures become embedded files: contact
sheets, feature maps as colours, nearest neighbours, by the features of a timm backbone that these need.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from torch import Tensor, nn

from trocar import __version__
from trocar.backbones.preprocess import describe_backbone, require_finite_features
from trocar.core.config import validate
from trocar.errors import TrocarError
from trocar.leakage.guard import RunGuard
from trocar.privacy.aliases import Aliases
from trocar.privacy.redaction import html_without_folders, without_folders
from trocar.report.charts import bar
from trocar.ssl.ranks.distributed import World
from trocar.ssl.run.assembly import Pretraining
from trocar.ssl.run.pretrain_config import PretrainConfig

FOLDER = Path(__file__).parent
NOTHING_WITHHELD = Aliases()


def render_template(name: str, values: object, hidden: Aliases = NOTHING_WITHHELD) -> str:
    """The template `name` as HTML. The fields of `values`, a dataclass, are its variables.

    Strings are escaped, but for charts and the style sheet. A variable that is not there is an error
    (jinja2.UndefinedError): a page never silently lacks a number. A whole page names no folder of this machine and
    nothing that is `hidden`.
    """
    return _environment().get_template(name).render(**vars(values), hidden=hidden)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number,
        "signed": signed,
        "p_value": p_value,
        "clock": clock,
        "counted": count,
        "yaml": _yaml,
        "without_folders": without_folders,
        "shareable": _shareable,
    }
    found.tests["finite"] = math.isfinite
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    found.globals |= {"bar": bar, "span": span, "style": style, "version": __version__}
    return found


def _yaml(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


def _shareable(page: str, hidden: Aliases) -> str:
    """Charts bring text of their own, so names are taken out of the finished page and not of the variables."""
    return html_without_folders(hidden.html(str(page)))


def number(value: float | None, digits: int = 3) -> str:
    """`0.412`, or a dash for what is undefined or not finite."""
    return f"{value:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference with its sign; a true minus is as wide as the plus."""
    return f"{value:+.3f}".replace("-", "−") if math.isfinite(value) else "–"


def span(low: float, high: float, digits: int = 3) -> str:
    """`[0.412, 0.518]`, or what it means that there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"[{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def p_value(value: float) -> str:
    """`0.031`, or `< 0.001`, or a dash where nothing was tested."""
    return "< 0.001" if value < 0.001 else number(value)


def clock(seconds: float) -> str:
    """`m:ss` from the start of a video."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def count(number: int, word: str) -> str:
    """`1 arm`, `2 arms`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def times(number: int) -> str:
    """`once`, `twice`, `5 times`."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def verb(number: int) -> str:
    """`is` or `are`."""
    return "is" if number == 1 else "are"


def few_cases(cases: Sequence[str], shown: int = 6) -> str:
    """All cases, or of more than `shown` their number and the first three."""
    if len(cases) <= shown:
        return ", ".join(cases)
    return f"{len(cases)} cases: {', '.join(cases[:3])}, ..."


SAMPLES = 8


def first_views(config: Mapping[str, Any]) -> dict[str, Images]:
    """Views of the first samples of step 0 for a config.yaml: group -> uint8 [b, n, S, S, 3].

    Raises TrocarError when the configuration or its catalog can't be used any more.
    """
    read = validate(PretrainConfig, config, "config.yaml")
    setup = Pretraining(read, World(0, 1, 0), lambda _: None, RunGuard(probed=read.probe))
    shape = setup.networks.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (shape.mean, shape.std))
    found = {}
    for name, views in setup.loader().batch(0).views.items():
        pixels = (views[:SAMPLES].cpu() * std + mean).clamp(0, 1).mul(255).round().byte()
        found[name] = np.ascontiguousarray(pixels.permute(0, 1, 3, 4, 2).numpy())
    return found


Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Picture:
    """An image that is embedded in a page: its data URI, its size in pixels, and what it shows in words."""

    uri: str
    width: int
    height: int
    text: str

    @classmethod
    def of(cls, image: Images, text: str, height: int | None = None) -> Picture:
        """uint8 [h, w, 3] as a JPEG, scaled to `height` pixels where that is given."""
        pixels = image if height is None else resized(image, height)
        return cls(data_uri(pixels), pixels.shape[1], pixels.shape[0], text)

    @classmethod
    def of_png(cls, path: Path) -> Picture:
        """A PNG file as it is; its name without the suffix says what it shows."""
        with Image.open(path) as image:  # noqa: TID251  a figure of our own
            width, height = image.size
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return cls(f"data:image/png;base64,{data}", width, height, path.stem)


def pca_maps(features: Features) -> Images:
    """Patch features [n, h, w, c] -> uint8 [n, h, w, 3]: their first three principal components as red,
    green, blue.

    One decomposition over the patches of all n images, so a colour means the same thing in each of them. Each
    component is scaled from its 2nd to its 98th percentile, and its sign is fixed (the largest loading is
    positive): equal features give equal pictures. A component without variance is mid-grey. Raises ValueError
    for another shape or values that are not finite.
    """
    if features.ndim != 4 or not np.isfinite(features).all():
        raise ValueError(f"expected finite features [n, h, w, c], got {features.shape}")
    n, h, w, c = features.shape
    x = features.reshape(-1, c).astype(np.float64)
    x -= x.mean(0)
    spread, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    component = x @ axes
    component[:, spread[::-1][: axes.shape[1]] <= 1e-12 * max(float(spread[-1]), 1e-300)] = 0
    low, high = np.percentile(component, [2, 98], axis=0)
    flat = high - low <= 0
    scaled = np.where(flat, 0.5, (component - low) / np.where(flat, 1, high - low))
    colours = np.full((len(x), 3), 0.5)
    colours[:, : scaled.shape[1]] = scaled
    return np.round(colours.clip(0, 1) * 255).astype(np.uint8).reshape(n, h, w, 3)


def contact_sheet(images: Images, columns: int, *, gap: int = 4, background: int = 128) -> Images:
    """uint8 [n, h, w, 3] -> one picture [rows * (h + gap) - gap, columns * (w + gap) - gap, 3], in reading
    order.
    """
    n, h, w, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), background, np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (h + gap), index % columns * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet


def neighbours(
    features: Features, cases: Sequence[str], queries: npt.NDArray[np.int64], k: int = 5
) -> npt.NDArray[np.int64]:
    """The k most similar frames (cosine) to each query, from other cases than the query's own: int64 [q, k].

    features [m, d] with one case id each; a frame of the query's own case would be found because it is almost
    the same picture. Ties go to the lower index. Raises TrocarError when other cases hold fewer than k
    frames.
    """
    unit = features.astype(np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    case = np.asarray(cases)
    similarity = unit[queries] @ unit.T
    own = case[queries][:, None] == case[None]
    if (~own).sum(1).min() < k:
        raise TrocarError(f"nearest neighbours need {k} frames of other cases; there are {(~own).sum(1).min()}")
    similarity[own] = -np.inf
    # Rounded, so that equal frames don't swap places with the last bit of a matrix product.
    return np.argsort(-similarity.round(9), axis=1, kind="stable")[:, :k].astype(np.int64)


def data_uri(image: Images, *, quality: int = 86) -> str:
    """uint8 [h, w, 3] as a JPEG inside a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def resized(image: Images, height: int, *, smooth: bool = True) -> Images:
    """uint8 [h, w, 3] scaled to `height` pixels with its own aspect ratio; `smooth` is bicubic, else nearest."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), how))


def spread(length: int, count: int) -> list[int]:
    """At most `count` indices, evenly spaced over `length`, in the middle of their stretches."""
    count = min(count, length)
    return [int((index + 0.5) * length / count) for index in range(count)]


# A convolutional map has a 32nd of the input's side: enlarged frames give a map one can look at.
CONV_SIZE = 448
BATCH = 16


class PictureFeatures:
    """`model` in eval mode on the CPU, fed with uint8 [n, h, w, 3] at the size it expects."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()
        self.preprocessing = describe_backbone(model)
        self.is_grid = not hasattr(model, "patch_embed") and not hasattr(model, "cls_token")

    @torch.inference_mode()
    def pooled(self, images: Images) -> npt.NDArray[np.float32]:
        """The features [n, d] that a head would get."""
        size = self.preprocessing.size
        parts = [self.model(self._input(images[i : i + BATCH], size)) for i in range(0, len(images), BATCH)]
        found: npt.NDArray[np.float32] = torch.cat(parts).flatten(1).float().numpy()
        require_finite_features(found, "the backbone")
        return found

    @torch.inference_mode()
    def maps(self, images: Images) -> npt.NDArray[np.float32]:
        """The last patch features [n, h, w, c]."""
        size = (CONV_SIZE, CONV_SIZE) if self.is_grid and not self.preprocessing.fixed_size else self.preprocessing.size
        parts = [self._last_map(self._input(images[i : i + BATCH], size)) for i in range(0, len(images), BATCH)]
        found: npt.NDArray[np.float32] = torch.cat(parts).permute(0, 2, 3, 1).float().numpy()
        require_finite_features(found, "the backbone")
        return found

    def _last_map(self, x: Tensor) -> Tensor:
        found = self.model.forward_intermediates(x, indices=1, output_fmt="NCHW", intermediates_only=True)  # type: ignore[operator]
        return found[-1]  # type: ignore[no-any-return]

    def _input(self, images: Images, size: tuple[int, int]) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        if tuple(x.shape[-2:]) != size:
            x = F.interpolate(x.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255).byte()
        return self.preprocessing.normalise(x)
