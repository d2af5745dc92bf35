"""JPEG decoders: equal bits to a named reference, equal verdicts on damage, and processor time per frame.

    python benchmarks/jpeg_decoders.py JPEG_FOLDER [--frames 64] [--repeats 15]

Every contender that is installed turns bytes into uint8[3, H, W] in RGB, channels last in memory, on one thread. The
reference is torchvision's decoder while it exists, Pillow's afterwards. Three tables:

  bits      frames of the folder and JPEGs of many kinds: how many differ from the reference, and by how much of 255
  verdicts  1,500 small JPEGs with random damage: how many a contender accepts, how many of its verdicts differ from the
            reference's, over all of them and over those that the reader's check of markers lets pass
  speed     processor time per frame, medians of pairs: each frame by the reference and by a contender, in turns
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trocar.data.media.still import frame_size

Decoder = Callable[[bytes], Tensor]
DAMAGED = 1500


def pillow(data: bytes) -> Tensor:
    """Pillow, to the end of the file."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:  # noqa: TID251
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def torchvision(data: bytes) -> Tensor:
    """torchvision's, as the training loader used it."""
    from torchvision.io import ImageReadMode, decode_jpeg  # noqa: TID251

    image: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    return image


def torchcodec(data: bytes) -> Tensor:
    """TorchCodec, which turns by the EXIF orientation."""
    from torchcodec.decoders import decode_jpeg

    image: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode="RGB")
    return image


def simplejpeg(data: bytes) -> Tensor:
    """simplejpeg, refusing what libjpeg-turbo warns of."""
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(data)).permute(2, 0, 1)


def simplejpeg_lenient(data: bytes) -> Tensor:
    """simplejpeg, painting over what libjpeg-turbo warns of."""
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(data, strict=False)).permute(2, 0, 1)


def contenders() -> dict[str, Decoder]:
    """Name -> decoder of those that are installed, the reference first."""
    found: dict[str, Decoder] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if importlib.util.find_spec("torchvision.io") is not None and hasattr(
            __import__("torchvision").io, "decode_jpeg"
        ):
            found["torchvision"] = torchvision
    if importlib.util.find_spec("torchcodec") is not None:
        found["TorchCodec"] = torchcodec
    if importlib.util.find_spec("simplejpeg") is not None:
        found |= {"simplejpeg, strict": simplejpeg, "simplejpeg, lenient": simplejpeg_lenient}
    return {**found, "Pillow": pillow}


def kinds(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """JPEGs of one picture as cameras, recorders and programs write them."""
    rng = np.random.default_rng(seed)
    for width, height in ((160, 120), (161, 119), (17, 9), (1, 1)):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            yield f"{subsampling} {width}x{height}", saved(picture, subsampling=subsampling)
            yield (
                f"progressive {subsampling} {width}x{height}",
                saved(picture, subsampling=subsampling, progressive=True),
            )
        yield f"restart markers {width}x{height}", saved(picture, restart_marker_rows=1)
        yield f"grey {width}x{height}", saved(picture.convert("L"))
        yield f"quality 100 {width}x{height}", saved(picture, quality=100, optimize=True)
        yield f"CMYK {width}x{height}", saved(picture.convert("CMYK"))


def saved(picture: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def damaged(count: int) -> list[bytes]:
    """Small JPEGs with bytes changed, a stretch of zeros, a damaged header, or cut short; from a fixed seed."""
    rng, found = random.Random(0), []
    whole = [data for name, data in kinds() if "160x120" in name and not name.startswith("CMYK")]
    for number in range(count):
        data = bytearray(whole[number // 4 % len(whole)])
        scan = data.index(b"\xff\xda")
        if number % 4 == 0:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(scan, len(data))] = rng.randrange(256)
        elif number % 4 == 1:
            start = rng.randrange(scan, len(data))
            data[start : start + 200] = bytes(min(200, len(data) - start))
        elif number % 4 == 2:
            data[rng.randrange(2, scan + 14)] = rng.randrange(256)
        else:
            del data[rng.randrange(2, len(data)) :]
        found.append(bytes(data))
    return found


def decoded(decoder: Decoder, data: bytes) -> Tensor | None:
    try:
        return decoder(data)
    except Exception:
        return None


def is_whole(data: bytes) -> bool:
    try:
        width, height = frame_size(data)
    except ValueError:
        return False
    return width * height < 10**7


def bits(decoders: dict[str, Decoder], files: list[tuple[str, bytes]]) -> None:
    reference = next(iter(decoders.values()))
    wanted = [(name, data, decoded(reference, data)) for name, data in files]
    print(f"\n| bits of {len(files)} JPEGs | equal | refused | differ | such as | most of 255 |")
    print("|---|---|---|---|---|---|")
    for name, decoder in decoders.items():
        refused, different, most = [], [], 0
        for kind, data, right in wanted:
            found = decoded(decoder, data)
            if found is None or right is None:
                if (found is None) != (right is None):
                    refused.append(kind)
            elif found.shape != right.shape or not torch.equal(found, right):
                different.append(kind)
                if found.shape == right.shape:
                    most = max(most, int((found.int() - right.int()).abs().max()))
        equal = len(files) - len(refused) - len(different)
        such = ", ".join([*refused, *different][:4])
        print(f"| {name} | {equal} | {len(refused)} | {len(different)} | {such} | {most} |")


def verdicts(decoders: dict[str, Decoder], files: list[bytes]) -> None:
    reference = next(iter(decoders.values()))
    whole = [is_whole(data) for data in files]
    # A header that claims a huge picture makes every decoder allocate it; its size is checked before, in the reader.
    small = [data for data, ok in zip(files, whole, strict=True) if ok]
    right_all = [decoded(reference, data) for data in files]
    right = [one for one, ok in zip(right_all, whole, strict=True) if ok]
    print(f"\n{len(files)} damaged, of which the check of markers lets {len(small)} pass")
    print("| verdicts | accepts | differ | accepts of those that pass | differ | accepted by both with other bits |")
    print("|---|---|---|---|---|---|")
    for name, decoder in decoders.items():
        found_all = [decoded(decoder, data) for data in files]
        found = [one for one, ok in zip(found_all, whole, strict=True) if ok]
        differ_all = sum((a is None) != (b is None) for a, b in zip(found_all, right_all, strict=True))
        differ = sum((a is None) != (b is None) for a, b in zip(found, right, strict=True))
        both = [(a, b) for a, b in zip(found, right, strict=True) if a is not None and b is not None]
        other = sum(a.shape != b.shape or not torch.equal(a, b) for a, b in both)
        taken_all, taken = (sum(one is not None for one in those) for those in (found_all, found))
        print(f"| {name} | {taken_all} | {differ_all} | {taken} | {differ} | {other} |")


def speed(decoders: dict[str, Decoder], frames: list[bytes], repeats: int) -> None:
    (first, reference), *others = decoders.items()
    print(f"\n| {len(frames)} frames, one thread | ms/frame | x {first}, processor time | pairs |\n|---|---|---|---|")
    own = []
    for name, decoder in others:
        ratios, times = [], []
        for repeat in range(repeats + 1):
            ours = theirs = 0.0
            for number, data in enumerate(frames):
                if (number + repeat) % 2:
                    ours, theirs = ours + timed(decoder, data), theirs + timed(reference, data)
                else:
                    theirs, ours = theirs + timed(reference, data), ours + timed(decoder, data)
            if repeat:  # the first is to warm up
                ratios.append(theirs / ours)
                times.append(1000 * ours / len(frames))
                own.append(1000 * theirs / len(frames))
        low, *_, high = sorted(ratios)
        print(f"| {name} | {statistics.median(times):.3f} | {statistics.median(ratios):.2f} | {low:.2f} - {high:.2f} |")
    print(f"| {first} | {statistics.median(own):.3f} | 1 | |")


def timed(decoder: Decoder, data: bytes) -> float:
    started = time.process_time()
    decoder(data)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    decoders = contenders()
    paths = sorted(args.folder.rglob("*.jpg"))
    bits(decoders, [(path.name, path.read_bytes()) for path in paths[:: max(1, len(paths) // 400)]])
    bits(decoders, list(kinds()))
    verdicts(decoders, damaged(DAMAGED))
    frames = [path.read_bytes() for path in paths[:: max(1, len(paths) // args.frames)][: args.frames]]
    speed(decoders, frames, args.repeats)


if __name__ == "__main__":
    main()
