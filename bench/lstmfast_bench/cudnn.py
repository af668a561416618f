"""Which of cuDNN's algorithms torch asks for, by the rules in its source: aten/src/ATen/native/cudnn/RNN.cpp.

Expected, not seen: the names of the kernels in a profile of torch.nn tell what really ran.
"""

from __future__ import annotations

from .points import Point

LEAST_MULTIPROCESSORS = 98


def expected(point: Point, *, backward: bool, multiprocessors: int, minor: int) -> str:
    """ "small h", "persistent" or "standard", for a GPU of compute capability 8.0 or newer, `minor` being its second
    number. Forward and backward are asked for apart."""
    if point.variant in ("packed", "proj"):
        return "standard"
    shape = point.shape
    is_lstm = point.cell == "LSTM"
    most = {(True, False): 192, (True, True): 128, (False, False): 384, (False, True): 256}[is_lstm, backward]
    if point.dtype != "float64" and shape.hidden <= most:
        return "small h"
    fits = shape.layers == 1 and not shape.bidirectional and shape.hidden <= 1024
    fits = fits and shape.hidden % 128 == 0 and shape.input % 128 == 0 and shape.batch % 8 == 0 and shape.batch <= 128
    fits = fits and (is_lstm or shape.batch < 96 or shape.hidden < 896)
    if point.dtype == "float16" and fits and multiprocessors >= LEAST_MULTIPROCESSORS and minor != 6:
        return "persistent"
    return "standard"
