"""What a network computes in: a setting `precision` resolved for a device, and TF32 for what stays float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from trocar.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]


def resolved(wanted: Wanted, device: torch.device, option: str = "precision") -> Precision:
    """`auto` is bfloat16 on a GPU that has it (NVIDIA's since Ampere), float32 on all others and on a CPU.

    `option` is what a user calls the setting. Raises ConfigError for bfloat16 on a GPU without it, where torch would
    compute in float32 and round.
    """
    if device.type != "cuda":
        return "float32" if wanted == "auto" else wanted
    if wanted == "float32":
        return wanted
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0) and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    if wanted == "bfloat16":
        major, minor = capability
        raise ConfigError(
            f"{option}: bfloat16, but {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) "
            f"can't compute in it: torch would emulate it, slower than float32. Set {option} to float32, or to "
            f"auto, which takes bfloat16 where the card has it"
        )
    return "float32"


def allow_tf32(device: torch.device) -> None:
    """Let products of float32 matrices on a GPU round their factors to TF32's 10 bits, as its convolutions do anyway.

    For the whole process. Nothing changes on a CPU, and on a GPU without TF32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within, products are computed in `precision`; weights and what is not a product stay what they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def float32_means_float32(device: torch.device, precision: Precision) -> Iterator[None]:
    """Within, TF32 is allowed on a GPU where `precision` is bfloat16, and nowhere else; then it is as it was before.

    Who asks for float32 on a card that has bfloat16 asks for the numbers of other machines, and torch by itself lets
    convolutions round their factors to TF32's 10 bits. Beside products in bfloat16, of 7 bits, TF32 loses nothing.
    """
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    rounded = precision == "bfloat16"
    try:
        torch.set_float32_matmul_precision("high" if rounded else "highest")
        torch.backends.cudnn.allow_tf32 = rounded
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
