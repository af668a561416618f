"""Times on a GPU, between two events on the stream: the CPU's part counts where the GPU waits for it."""

from __future__ import annotations

from typing import Any

import torch

from lstmfast import _C

from .timing import Repeat

_OVER_L2 = 2  # times its size


def warm_timer(repeat: Repeat, calls: int) -> float:
    """Calls one after the other: weights and inputs that fit into L2 are read from there."""
    begin, end = _events(2)
    torch.cuda.synchronize()
    begin.record()
    repeat(calls)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls


class ColdTimer:
    """Each call between events of its own, and before it, untimed, L2 is filled with other data: as in a model, whose
    other layers have run since. While the GPU does that, the CPU gets ahead, as it does in a model."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self._other = torch.empty(_OVER_L2 * size, dtype=torch.uint8, device="cuda")

    def __call__(self, repeat: Repeat, calls: int) -> float:
        pairs = [_events(2) for _ in range(calls)]
        torch.cuda.synchronize()
        for begin, end in pairs:
            self._other.zero_()
            begin.record()
            repeat(1)
            end.record()
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in pairs) / 1000 / calls


def check_regime() -> None:
    """Raises RuntimeError if the driver has refused a launch whose blocks must run at once: since then the general path
    does the work of every plan, and a result or a time says nothing of the plan."""
    if not _C.gpu_info(torch.cuda.current_device())["persistent"]:
        raise RuntimeError("the driver has refused a launch, and the general path ran instead")


def describe() -> dict[str, Any]:
    """The GPU and its libraries, for a result file."""
    properties = torch.cuda.get_device_properties()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _events(count: int) -> list[torch.cuda.Event]:
    return [torch.cuda.Event(enable_timing=True) for _ in range(count)]
