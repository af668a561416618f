"""What a time on a GPU is set beside: its floor, the planner's model, the expected ratio, cuDNN's algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from . import cudnn, expected, roofline
from .points import Point


@dataclass(frozen=True)
class Gpu:
    """planned_as: what the planner knows the GPU as, a device's index or a name of its own."""

    name: str
    multiprocessors: int
    minor: int
    planned_as: int | str

    @classmethod
    def present(cls) -> Gpu:
        properties = torch.cuda.get_device_properties()
        return cls(properties.name, properties.multi_processor_count, properties.minor, torch.cuda.current_device())


def figures(point: Point, gpu: Gpu, ours: float, ratio: float) -> dict[str, Any]:
    """For a point's record, given our seconds and the ratio. Shares are of what would be reached at best: the floor's,
    or the model's, seconds over ours. What is not known is None."""
    peaks = roofline.PEAKS.get(gpu.name)
    floor = roofline.floor(point, peaks) if peaks is not None else None
    model = roofline.model(point, gpu.planned_as, peaks)
    hoped = expected.ratio(point)
    algorithms = None
    if point.peer == "nn":
        passes = (False, True)[: 1 + (point.mode == "training")]
        known = {"multiprocessors": gpu.multiprocessors, "minor": gpu.minor}
        algorithms = [cudnn.expected(point, backward=backward, **known) for backward in passes]
    return {
        "floor": None if floor is None else floor | {"share": floor["seconds"] / ours},
        "model": model | {"share": model["seconds"] / ours},
        "expected_ratio": hoped,
        "is_short": None if hoped is None else ratio * expected.SHORT < hoped,
        "cudnn": algorithms,
    }
