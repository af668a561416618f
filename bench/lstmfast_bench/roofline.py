"""Times that no GPU can beat, and times that the planner expects: what a measured time is set beside.

The floor is the larger of arithmetic and traffic, at the peak rates of the data sheet. Arithmetic is the matrix
products (Point.flops). Traffic is what must cross the memory's pins once, whoever computes: input, weights and output;
in training also the gradients of the output, the input and the weights. What a kernel keeps for backward, or moves
between layers, is not in it. Neither is latency, so with few sequences the floor is far away for everybody.

The model is the planner's: its microseconds of a step, for every step, and the products over all rows at the peak rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lstmfast import _C

from .points import GATES, ITEM_SIZES, Point


@dataclass(frozen=True)
class Peaks:
    """Per second, without sparsity: operations on half types (sums in float32), in TF32, in float32; bytes."""

    half: float
    tf32: float
    float32: float
    memory: float

    def flops(self, point: Point) -> float | None:
        if point.dtype == "float64":
            return None
        if ITEM_SIZES[point.dtype] == 2:
            return self.half
        return self.float32 if point.precision == "highest" else self.tf32


# From the data sheets, by the name that the driver gives the GPU; other variants of a name have other rates.
PEAKS = {
    "NVIDIA A100-SXM4-80GB": Peaks(312e12, 156e12, 19.5e12, 2.04e12),
    "NVIDIA GeForce RTX 3090": Peaks(71e12, 35.6e12, 35.6e12, 0.936e12),
    "NVIDIA GeForce RTX 4090": Peaks(165.2e12, 82.6e12, 82.6e12, 1.008e12),
    "NVIDIA H100 80GB HBM3": Peaks(989e12, 494e12, 67e12, 3.35e12),
    "NVIDIA H200": Peaks(989e12, 494e12, 67e12, 4.8e12),
    "NVIDIA B200": Peaks(2250e12, 1125e12, 75e12, 8e12),
}


def traffic(point: Point) -> int:
    """Bytes that a call reads or writes at least."""
    rows, shape = sum(point.lengths), point.shape
    outputs = rows * shape.directions * point.state_size
    elements = rows * shape.input + point.weights + outputs
    if point.mode == "training":
        elements += outputs + rows * shape.input + point.weights
    return elements * ITEM_SIZES[point.dtype]


def floor(point: Point, peaks: Peaks) -> dict[str, Any] | None:
    """`seconds`, and what sets them: `limit`, "arithmetic" or "memory"."""
    rate = peaks.flops(point)
    if rate is None:
        return None
    arithmetic, memory = point.flops / rate, traffic(point) / peaks.memory
    return {"seconds": max(arithmetic, memory), "limit": "arithmetic" if arithmetic >= memory else "memory"}


def model(point: Point, gpu: str | int, peaks: Peaks | None) -> dict[str, Any]:
    """`seconds` that the planner's model gives, and the `regimes` that it chooses, one for each layer, forward and then
    backward. As if layers and directions ran one after the other."""
    shape, rows = point.shape, sum(point.lengths)
    rate = peaks.flops(point) if peaks is not None else None
    seconds, regimes = 0.0, []
    width = GATES[point.cell] * shape.hidden
    for layer in range(shape.layers):
        inputs = point.input_size(layer)
        for backward in (False, True)[: 1 + (point.mode == "training")]:
            plan = _C.cuda_plan(
                point.cell,
                point.dtype,
                shape.steps,
                shape.batch,
                inputs,
                shape.hidden,
                point.proj_size,
                1,
                1,
                backward,
                point.precision != "highest",
                gpu,
            )
            regimes.append(plan["regime"])
            seconds += shape.directions * shape.steps * plan["microseconds"] * 1e-6
            # x W_ih; going back dx, dW_ih and dW_hh.
            products = width * (2 * inputs + point.state_size if backward else inputs)
            seconds += shape.directions * 2 * rows * products / rate if rate else 0.0
    return {"seconds": seconds, "regimes": regimes}
