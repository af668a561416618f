"""What the design expected of a GPU, before anything was measured there: ratios to torch.nn on cuDNN, on an H200.

One layer, one direction, as many features as hidden units, the products over all steps included, both directions of
time: (forward, forward and backward). From a model of both sides that is good to 40 % or so; where it said "more than",
the bound stands here.
"""

from __future__ import annotations

from .points import Point

SHORT = 1.5  # a ratio that is this many times below its expectation wants an explanation from a profile

BATCHES = (1, 16, 64, 128, 256)
_HALF_2048 = ((5.3, 3.8), (3.2, 2.1), (1.4, 1.2), (1.2, 1.2), (1.2, 1.2))
RATIOS = {
    ("float16", 64): ((2.2, 2.8), (2.2, 2.8), (2.2, 2.8), (2.1, 2.8), (3, 3)),
    ("float16", 128): ((4.9, 5.0), (4.9, 5.0), (5, 5), (5, 5), (5, 5)),
    ("float16", 256): ((12, 11), (2.7, 2.4), (3.1, 2.9), (3.3, 3.1), (6.7, 5.9)),
    ("float16", 512): ((7.5, 6.7), (1.9, 1.7), (2.1, 1.9), (2.0, 2.0), (2.2, 2.0)),
    ("float16", 768): ((5.1, 5.2), (1.4, 1.5), (1.7, 1.7), (1.9, 1.8), (1.6, 1.5)),
    ("float16", 1024): ((4.5, 4.6), (1.4, 1.4), (1.6, 1.5), (1.7, 1.7), (1.4, 1.3)),
    ("float16", 2048): _HALF_2048,
    ("bfloat16", 256): ((12, 11), (12, 10), (9.8, 8.7), (7.4, 6.8), (6.7, 5.9)),
    ("bfloat16", 512): ((7.5, 6.7), (7.1, 6.2), (4.6, 4.0), (3.0, 2.8), (2.2, 2.0)),
    ("bfloat16", 1024): ((4.5, 4.6), (4.1, 3.9), (2.3, 2.1), (1.6, 1.5), (1.4, 1.3)),
    ("bfloat16", 2048): _HALF_2048,
    ("tf32", 256): ((8.7, 7.0), (8.4, 6.7), (6.5, 5.3), (4.3, 3.7), (3.9, 3.3)),
    ("tf32", 512): ((4.7, 4.6), (4.4, 4.2), (3.0, 2.6), (2.0, 1.9), (1.4, 1.5)),
    ("tf32", 1024): ((3.4, 3.0), (3.0, 2.5), (1.4, 1.3), (1.3, 1.2), (1.2, 1.2)),
}


def ratio(point: Point) -> float | None:
    """The expected ratio, or None where there is none."""
    shape = point.shape
    plain = point.cell == "LSTM" and point.variant == "plain" and point.peer == "nn" and point.metric == "seconds"
    if not plain or point.mode == "streaming" or shape.layers > 1 or shape.bidirectional or shape.input != shape.hidden:
        return None
    kind = "tf32" if point.dtype == "float32" and point.precision != "highest" else point.dtype
    row = RATIOS.get((kind, shape.hidden))
    if row is None or shape.batch not in BATCHES:
        return None
    return row[BATCHES.index(shape.batch)][point.mode == "training"]
