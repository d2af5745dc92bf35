"""A teacher that is the moving average of its student (Tarvainen & Valpola, arXiv 1703.01780; MoCo's key encoder)."""

from __future__ import annotations

import torch
from torch import nn


def start_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Give the teacher the student's weights; it takes no gradient."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Exponential moving average of parameters: teacher = m teacher + (1 - m) student. Buffers are not averaged."""
    theirs = [p.detach() for p in teacher.parameters()]
    ours = [p.detach() for p in student.parameters()]
    torch._foreach_mul_(theirs, momentum)
    torch._foreach_add_(theirs, ours, alpha=1 - momentum)
