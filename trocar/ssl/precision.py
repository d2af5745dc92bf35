"""What a run computes in: `train.precision` resolved for a device, and TF32 for what stays float32."""

from __future__ import annotations

from typing import Literal

import torch

from trocar.errors import ConfigError

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]


def resolved(wanted: Wanted, device: torch.device) -> Precision:
    """`auto` is bfloat16 on a GPU that has it (NVIDIA's since Ampere), float32 on all others and on a CPU.

    Raises ConfigError for bfloat16 on a GPU without it, where torch would compute in float32 and round.
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
            f"train.precision: bfloat16, but {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) "
            f"can't compute in it: torch would emulate it, slower than float32. Set train.precision to float32, or to "
            f"auto, which takes bfloat16 where the card has it"
        )
    return "float32"


def allow_tf32(device: torch.device) -> None:
    """Let products of float32 matrices on a GPU round their factors to TF32's 10 bits, as its convolutions do anyway.

    For the whole process. Nothing changes on a CPU, and on a GPU without TF32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
