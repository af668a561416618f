"""What the machine could do at a point, measured in the same minutes: rates of torch's GEMM and of reading memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from .points import GATES, ITEM_SIZES, Point
from .timing import Timer

SMALL_BATCH = 4
_ROWS = (512, 2048)  # below, a product does not reach its rate; above, only time is lost
_SLOW = 0.5  # seconds: torch multiplies half types at 1 GFLOP/s on a CPU that has no instructions for them


class Rates:
    """Buffers for a point, and rates sampled at several times; sample() before and after the point's own samples.

    gemm_shape: (M, N, K) of torch.mm, like the input projection and the recurrence in one, over all steps.
    """

    def __init__(self, point: Point, timer: Timer, min_time: float):
        self.timer, self.min_time = timer, min_time
        options = {"dtype": getattr(torch, point.dtype), "device": point.device}
        rows = min(max(sum(point.lengths), _ROWS[0]), _ROWS[0] if ITEM_SIZES[point.dtype] == 2 else _ROWS[1])
        width = GATES[point.cell] * point.shape.hidden
        depth = point.shape.input + point.state_size
        self.gemm_shape = (rows, width, depth)
        a, b = torch.randn(rows, depth, device=point.device), torch.randn(depth, width, device=point.device)
        self._factors = a.to(**options), b.to(**options)
        self._product = torch.empty(rows, width, **options)
        self._gemm: list[float] = []
        self._reads: list[float] = []
        # Of the same size as the weights, and therefore in the same level of cache.
        self._weights = None
        if point.shape.batch <= SMALL_BATCH:
            side = max(1, round((point.recurrent_weight_bytes / 4) ** 0.5))
            self._weights = torch.ones(side, side, device=point.device)
            self._vector = torch.ones(side, device=point.device)

    def sample(self) -> None:
        for _ in range(2):
            if not self._gemm or self._gemm[-1] < _SLOW:
                self._gemm.append(self._seconds(lambda: torch.mm(*self._factors, out=self._product)))
        if self._weights is not None:
            # Neither reads at full speed everywhere.
            sums = self._seconds(lambda: self._weights.sum())
            products = self._seconds(lambda: torch.mv(self._weights, self._vector))
            self._reads.append(min(sums, products))

    @property
    def gemm_flops(self) -> float:
        """Per second."""
        rows, width, depth = self.gemm_shape
        return 2 * rows * width * depth / statistics.median(self._gemm)

    @property
    def read_bytes(self) -> float | None:
        """Per second, for batches of at most SMALL_BATCH; None for larger ones, which reading does not limit."""
        return None if self._weights is None else self._weights.nbytes / statistics.median(self._reads)

    def _seconds(self, function: Callable[[], object]) -> float:
        def repeat(calls: int) -> None:
            for _ in range(calls):
                function()

        seconds = self.timer(repeat, 1)
        if seconds >= _SLOW:
            return seconds
        return self.timer(repeat, max(1, int(self.min_time / seconds)))
