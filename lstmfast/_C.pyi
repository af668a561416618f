"""Introspection of lstmfast's kernels; importing it registers torch.ops.lstmfast."""

from typing import Any

def build_info() -> dict[str, Any]: ...
def cells() -> dict[str, dict[str, int]]: ...
def isa_levels() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def reserve_width(cell: str, dtype: str, hidden_size: int, proj_size: int, device: str = "cpu") -> int: ...
def cuda_plan(
    cell: str,
    dtype: str,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    proj_size: int,
    backward: bool,
    allow_tf32: bool,
    gpu: str | int,
) -> str: ...
def gpu_names() -> list[str]: ...
def allow_tf32() -> bool: ...
def plan(
    cell: str,
    steps: int,
    batch: int,
    input_size: int,
    hidden_size: int,
    proj_size: int = 0,
    threads: int = 1,
    is_double: bool = False,
) -> dict[str, Any]: ...
