"""What is computed of a call in torch's operations instead of kernels has the kernels' precision: float32 or more."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

HALF_TYPES = (torch.bfloat16, torch.float16)


def in_full_precision(function: Callable) -> Callable:
    """The function without autocast, which has been applied to the call's arguments: what is computed of a call in
    torch's operations is computed in the types that it was given, or float32."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return wrapper


def up(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t.float() if t is not None and t.dtype in HALF_TYPES else t for t in tensors]


def down(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if t is None else t.to(dtype) for t in tensors]
