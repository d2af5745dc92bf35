"""The DALI pipeline: JPEG bytes and integer boxes -> uint8 crops. No random operator, so no state to save.

`fn.external_source` -> `fn.decoders.image` -> one `fn.resize` with a region of interest per view -> a stack per group.
A sample of several frames has one input and one decoder for each of them.
On a CPU (`device_id=None`) it is the same graph with other backends of the same operators.

Against the torch backend: the CPU decoder is the same libjpeg-turbo, bit for bit; the resampling kernels are the same
(cubic with a = -0.5, or a triangle, widened by the scale when shrinking). The one difference is at a crop's border,
where DALI reads the frame's own pixels beyond the box and torch, given the cropped frame, has none: `border` says how
far that reaches.

Device memory that a GPU's decoders reserve before the first frame, so that no allocation stops the device later.

A single 4K video in a catalog would reserve 16 GB for the engine at batches of 1,024. So what is reserved follows the
size that 99 of 100 frames don't exceed, and never more than a fixed amount: what a larger frame needs beyond is
allocated when it comes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trocar.data.catalog.catalog import Catalog
from trocar.data.loading.steps import Delivered
from trocar.data.media.still import Jpeg
from trocar.data.selection.selection import Selection
from trocar.data.views.recipe import Interpolation, ViewRecipe
from trocar.errors import ConfigError

MOST = 1 << 30
"""Bytes that the decoders of one pipeline reserve, all together."""
PADDING = 16 << 20
"""Bytes of a thread's buffers, DALI's own default: frames up to 1920x1080."""
ENGINE_BYTES_PER_PIXEL = 3  # of every frame of a batch, however much of it the engine gets
THREAD_BYTES_PER_PIXEL = 8
SHARE = 99  # per cent of the frames
LOOKED_AT = 1 << 14  # frames of a selection


@dataclass(frozen=True)
class Reserved:
    """For one decoder: `width` and `height` of the frames that the JPEG engine has room for, `padding` bytes a thread.

    1 x 1 where the engine decodes nothing.
    """

    width: int
    height: int
    padding: int


def reserve(
    frame: tuple[int, int], batch: int, threads: int, hw_decoder_load: float, decoders: int = 1, most: int = MOST
) -> Reserved:
    """What each of `decoders` decoders reserves for batches of frames (width, height): below `most` bytes together."""
    width, height = frame
    budget = most // decoders
    padding = min(max(PADDING, THREAD_BYTES_PER_PIXEL * width * height), budget // 2 // threads)
    if hw_decoder_load == 0:
        return Reserved(1, 1, padding)
    pixels = (budget - padding * threads) // (ENGINE_BYTES_PER_PIXEL * batch)
    shrink = min(1.0, math.sqrt(pixels / (width * height)))
    return Reserved(max(1, int(width * shrink)), max(1, int(height * shrink)), padding)


def usual_frame(selection: Selection, catalog: Catalog) -> tuple[int, int]:
    """(width, height) that 99 of 100 frames of a selection don't exceed, by frames spread evenly over its pools."""
    widths, heights = [], []
    for pool in selection.pools:
        index = np.linspace(0, len(pool) - 1, max(1, round(LOOKED_AT * pool.share))).astype(np.int64)
        rows = pool.runs.rows(index)
        widths.append(catalog.frames["width"][rows])
        heights.append(catalog.frames["height"][rows])
    width, height = (np.percentile(np.concatenate(x), SHARE, method="higher") for x in (widths, heights))
    return int(width), int(height)


DEPTH = 2  # steps inside the pipeline
INSTALL = 'pip install "trocar[cuda13]"'

Source = Callable[[], list[Any]]


def _dali(module: str) -> Any:
    # By name: it is optional, slow to import and typed only in part.
    return importlib.import_module(f"nvidia.dali.{module}")


def is_available() -> bool:
    """Whether DALI can be imported."""
    try:
        _dali("fn")
    except (ImportError, OSError):  # OSError: a library of the wheel that does not load
        return False
    return True


def require() -> None:
    """Raises ConfigError, with what to install, where DALI can't be imported."""
    if not is_available():
        raise ConfigError(
            f"data.backend: dali, but nvidia.dali can't be imported; {INSTALL} (cuda12 for a CUDA 12 driver), or use "
            f"data.backend=torch"
        )


REACH: dict[Interpolation, int] = {"bicubic": 2, "bilinear": 1}
"""Pixels, of the coarser of the two grids, to which a kernel reaches."""


def border(box: Sequence[int], size: int, interpolation: Interpolation) -> tuple[int, int]:
    """(vertical, horizontal) pixels of a view of `size` whose filter reaches beyond its box (top, left, height,
    width).
    """
    vertical, horizontal = (math.ceil(REACH[interpolation] * max(1.0, size / side)) for side in (box[2], box[3]))
    return vertical, horizontal


def build_pipeline(
    recipe: ViewRecipe,
    batch: int,
    source: Source,
    device: torch.device,
    threads: int,
    frame: tuple[int, int],
    hw_decoder_load: float,
) -> Any:
    """A built pipeline; its outputs are the tags int64[b, 1 + F] and one uint8[b, n, S, S, 3] per group.

    `source` is called once per step ahead of the outputs, in the thread that runs the pipeline, and returns `inputs` or
    raises StopIteration. `frame` (width, height) is what memory is reserved for; larger ones may come.
    """
    fn, types = _dali("fn"), _dali("types")
    gpu = device.type == "cuda"
    pipeline = _dali("pipeline").Pipeline(
        batch_size=batch,
        num_threads=threads,
        device_id=device.index or 0 if gpu else None,
        prefetch_queue_depth=DEPTH,
        exec_dynamic=True,  # its outputs stay valid for as long as they are held: see `dali_outputs`
    )
    on_gpu = _on_gpu(frame, batch, threads, hw_decoder_load, recipe.frames)
    with pipeline:
        F = recipe.frames
        inputs = fn.external_source(source, num_outputs=F + 1 + 2 * recipe.count, batch=True)
        jpegs, tags, corners = inputs[:F], inputs[F], inputs[F + 1 :]
        frames = [
            fn.decoders.image(
                encoded,
                output_type=types.RGB,
                adjust_orientation=False,
                **(on_gpu if gpu else {"device": "cpu"}),
            )
            for encoded in jpegs
        ]
        groups = []
        kernels = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
        for group, which in zip(recipe.groups.values(), recipe.slices().values(), strict=True):
            cut = [
                fn.resize(
                    frames[recipe.frame[view]],
                    size=[group.size, group.size],
                    roi_start=corners[2 * view],
                    roi_end=corners[2 * view + 1],
                    interp_type=kernels[group.interpolation],
                    antialias=True,
                )
                for view in range(which.start, which.stop)
            ]
            groups.append(fn.stack(*cut, axis=0))
        pipeline.set_outputs(tags, *groups)
    pipeline.build()
    return pipeline


def _on_gpu(frame: tuple[int, int], batch: int, threads: int, hw_decoder_load: float, decoders: int) -> dict[str, Any]:
    memory = reserve(frame, batch, threads, hw_decoder_load, decoders)
    return {
        "device": "mixed",
        "hw_decoder_load": hw_decoder_load,
        "preallocate_width_hint": memory.width,
        "preallocate_height_hint": memory.height,
        "device_memory_padding": memory.padding,
        "jpeg_fancy_upsampling": True,  # as libjpeg-turbo does; nvJPEG repeats chroma otherwise
        "affine": False,  # DALI would tie the threads of every rank of a machine to the same first cores
    }


def decoder_identity(hw_decoder_load: float, ranks: int, gpu: Callable[[], str]) -> dict[str, Any]:
    """What decides which decoder of a GPU handles a frame: part of what a run is.

    At 0 it is always nvJPEG's CUDA decoder. Above, the JPEG engine takes part on GPUs that have one: the name of the
    GPU counts. Strictly between 0 and 1 it gets the first frames of a rank's batch
    (`NvJpegHwDecoderPlugin::Decoder::canDecode`, nvImageCodec's extensions/nvjpeg/hw_decoder.cpp), so the number of
    ranks counts as well.
    """
    identity: dict[str, Any] = {"name": "nvjpeg", "hw_load": float(hw_decoder_load)}
    if hw_decoder_load > 0:
        identity["gpu"] = gpu()
    if 0 < hw_decoder_load < 1:
        identity["ranks"] = ranks
    return identity


def inputs(recipe: ViewRecipe, samples: list[list[Jpeg]], done: Delivered) -> list[Any]:
    """One entry per output of the external source: JPEGs of each frame of the samples (b lists of F), tags
    (step, rows), corners of every view's box.

    Views of the bytes, which may be overwritten when DALI asks again: it copies what it is fed in host order before
    `feed_input` returns (`InputOperator<CPUBackend>::CopyUserData`, dali/pipeline/operator/builtin/input_operator.h),
    and into page-locked memory in its own threads where a decoder wants it there (`ForwardCurrentData`,
    input_operator.cc).
    """
    per_frame = [[np.frombuffer(jpeg, dtype=np.uint8) for jpeg in frame] for frame in zip(*samples, strict=True)]
    boxes = done.params.boxes.astype(np.float32)
    corners = []
    for view in range(recipe.count):
        start = boxes[:, view, :2]
        corners += [np.ascontiguousarray(start), start + boxes[:, view, 2:]]
    return [*per_frame, tags(done), *corners]


def tags(done: Delivered) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64[b, 1 + F]: the step and the rows of each sample, which travel through the pipeline with its pixels."""
    return np.concatenate([np.full((len(done.frames), 1), done.step, np.int64), done.frames], axis=1)


def is_decodable(jpeg: Jpeg, device: torch.device) -> bool:
    """Whether DALI's decoder takes this frame; tried in a pipeline of its own."""
    fn, gpu = _dali("fn"), device.type == "cuda"
    pipeline = _dali("pipeline").Pipeline(batch_size=1, num_threads=1, device_id=device.index or 0 if gpu else None)
    with pipeline:
        given = fn.external_source(lambda: [np.frombuffer(jpeg, dtype=np.uint8)], batch=True)
        frames = fn.decoders.image(given, device="mixed" if gpu else "cpu", adjust_orientation=False)
        pipeline.set_outputs(frames)
    try:
        pipeline.run()
    except RuntimeError:
        return False
    return True
