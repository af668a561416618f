"""What is measured: shapes, points, and the presets that are lists of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

CELLS = {"lstm": "LSTM", "rnn_tanh": "RNN_TANH", "rnn_relu": "RNN_RELU"}
GATES = {"LSTM": 4, "RNN_TANH": 1, "RNN_RELU": 1}
ITEM_SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
MODES = ("inference", "training")
DERIVATIVES = ("penalty", "per-sample")
VARIANTS = ("plain", "packed", "proj", "lastloss")


@dataclass(frozen=True)
class Shape:
    """T steps of B sequences of I features through L layers of H units, in one direction or, with a +, in two."""

    steps: int
    batch: int
    input: int
    hidden: int
    layers: int
    bidirectional: bool = False

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From TxBxIxHxL or TxBxIxHxL+. Raises ValueError."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)x(\d+)(\+?)", text)
        if match is None or "0" in match.groups():
            raise ValueError(f"a shape is TxBxIxHxL or, with two directions, TxBxIxHxL+, all at least 1; got '{text}'")
        *sizes, plus = match.groups()
        return cls(*map(int, sizes), plus == "+")

    def __str__(self) -> str:
        sizes = "x".join(map(str, (self.steps, self.batch, self.input, self.hidden, self.layers)))
        return sizes + "+" * self.bidirectional

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1


@dataclass(frozen=True)
class Point:
    """One comparison: what runs (shape to threads), and whom it is compared with (peer).

    mode: "inference", "training" (forward and backward), "streaming" (inference, hx carried from call to call),
        "penalty" (gradients of a gradient penalty) or "per-sample" (gradients of each sequence's own loss).
    flush_denormal: whether torch.set_flush_denormal(True) holds meanwhile; only the variant lastloss asks for it.
    callee: what of lstmfast is called: "module", or a lower layer of it where the cost of a call is taken apart; in
        streaming also "stream", lstmfast.Stream; in training also "recompute", the module with that option.
    metric: "seconds" per call or "bytes" of peak memory.
    sweeps: the sizes of which this point is part of a sweep, such as ("T",); in the preset gpu the names of its parts.
    """

    shape: Shape
    cell: str = "LSTM"
    mode: str = "inference"
    threads: int = 1
    dtype: str = "float32"
    variant: str = "plain"
    flush_denormal: bool = False
    precision: str = "highest"
    device: str = "cpu"
    peer: str = "nn"
    callee: str = "module"
    metric: str = "seconds"
    sweeps: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        parts = [str(self.shape), self.cell, self.mode, f"{self.threads} thread{'s' * (self.threads > 1)}"]
        parts += [x for x in (self.dtype, self.variant, self.callee) if x not in ("float32", "plain", "module")]
        return " ".join([*parts, *["flush_denormal"] * self.flush_denormal])

    @property
    def is_of_calls(self) -> bool:
        """Whether plain calls of the module, and their backward, are all that is timed: `flops` counts nothing else."""
        return self.mode not in DERIVATIVES

    @property
    def proj_size(self) -> int:
        """Half of the hidden size in the variant proj."""
        return self.shape.hidden // 2 if self.variant == "proj" else 0

    @property
    def state_size(self) -> int:
        """Width of h, which the recurrent weights multiply."""
        return self.proj_size or self.shape.hidden

    @property
    def lengths(self) -> list[int]:
        """Of the sequences, longest first: all T, or in the variant packed evenly spread from T down to T/4."""
        steps, batch = self.shape.steps, self.shape.batch
        if self.variant != "packed" or batch == 1:
            return [steps] * batch
        shortest = max(1, steps // 4)
        return [round(steps - (steps - shortest) * i / (batch - 1)) for i in range(batch)]

    @property
    def flops(self) -> int:
        """Of the matrix products of one call: the gates' arithmetic, some tens per unit and step, is left out.

        Backward multiplies twice for every product of forward: once for the gradient of each factor."""
        width = GATES[self.cell] * self.shape.hidden
        runs = [self.input_size(layer) for layer in range(self.shape.layers) for _ in range(self.shape.directions)]
        multiplications = sum(width * (inputs + self.state_size) for inputs in runs)
        multiplications += len(runs) * self.proj_size * self.shape.hidden
        return 2 * sum(self.lengths) * multiplications * (3 if self.mode == "training" else 1)

    @property
    def weights(self) -> int:
        """Elements of all parameters, biases too."""
        width = GATES[self.cell] * self.shape.hidden
        rows = sum(self.input_size(layer) + self.state_size + 2 for layer in range(self.shape.layers))
        layers = width * rows + self.shape.layers * self.proj_size * self.shape.hidden
        return self.shape.directions * layers

    @property
    def recurrent_weight_bytes(self) -> int:
        """Of W_hh and W_hr of all layers: what every step reads anew. A call of one step reads W_ih as well."""
        runs = self.shape.layers * self.shape.directions
        width = GATES[self.cell] * self.shape.hidden
        elements = runs * (width * self.state_size + self.proj_size * self.shape.hidden)
        if self.shape.steps == 1:
            elements += sum(
                width * self.input_size(layer) * self.shape.directions for layer in range(self.shape.layers)
            )
        return elements * ITEM_SIZES[self.dtype]

    def input_size(self, layer: int) -> int:
        """Features that enter a layer."""
        return self.shape.input if layer == 0 else self.shape.directions * self.state_size


# Ordered as in the tables: streaming and tiny calls, one sequence, small and large batches, stacks from practice.
_GRID = (
    "1x1x128x256x2 10x1x32x32x1 100x1x128x128x1 100x1x512x512x1 100x1x1024x1024x1 100x16x128x128x1+ 100x32x256x256x1+ "
    "100x64x512x512x1 50x64x1024x1024x1 512x32x64x64x2 250x128x40x64x1 35x20x650x650x2 128x64x96x512x3 1000x8x80x320x4+"
)
_GRID_CUDA = (
    "100x128x512x512x1 100x256x512x512x1 50x128x1024x1024x1 50x256x1024x1024x1 50x64x1536x1536x1 50x64x2048x2048x1"
)


def _shapes(text: str) -> list[Shape]:
    """Where marked +, both with one direction and with two."""
    shapes = []
    for word in text.split():
        shape = Shape.parse(word)
        shapes += [replace(shape, bidirectional=False), shape] if shape.bidirectional else [shape]
    return shapes


STANDARD = _shapes(_GRID)
STANDARD_CUDA = _shapes(f"{_GRID} {_GRID_CUDA}")
QUICK = _shapes("1x1x128x256x2 10x1x32x32x1 100x1x128x128x1 100x16x128x128x1+ 100x32x256x256x1 35x20x650x650x2")
MEMORY = _shapes(
    "100x32x256x256x1 100x64x512x512x1 50x64x1024x1024x1 512x32x64x64x2 250x128x40x64x1 35x20x650x650x2 "
    "128x64x96x512x3 1000x8x80x320x4+"
)
DERIVATIVE = _shapes("20x8x16x32x1 100x16x64x128x1 50x32x128x256x1 50x16x64x128x2+")
RECOMPUTE = _shapes("2000x8x128x256x2 1000x8x80x320x4+")
LATENCY = _shapes("1x1x32x32x1 1x1x128x128x1 1x1x128x256x2 1x1x512x512x1 1x1x1024x1024x1 1x4x256x256x1 1x16x256x256x1")
DISPATCH = _shapes("1x1x32x32x1")
SCALING_BASE = Shape.parse("100x32x256x256x1")

SWEPT = {"T", "B", "H", "threads", "H x B"}  # in Point.sweeps; its other names are of points that stand by themselves
SWEEPS = {
    "T": (1, 3, 10, 30, 100, 300, 1000),
    "B": (1, 2, 4, 8, 16, 32, 64, 128),
    "H": (32, 64, 128, 256, 512, 1024),
}


@dataclass(frozen=True)
class Preset:
    """Defaults of a run: what is measured, pairs of samples for a point, the least seconds of a sample, and the seconds
    after which a point is cut short."""

    shapes: Sequence[Shape]
    modes: Sequence[str] = MODES
    pairs: int = 11
    min_time: float = 0.02
    max_time: float = 30.0
    metric: str = "seconds"
    device: str = "cpu"


PRESETS = {
    "quick": Preset(QUICK, max_time=3.0),
    "standard": Preset(STANDARD),
    "scaling": Preset([SCALING_BASE], max_time=10.0),
    "memory": Preset(MEMORY, modes=("training",), pairs=3, metric="bytes"),
    "recompute": Preset(RECOMPUTE, modes=("training",)),
    "latency": Preset(LATENCY, modes=("streaming",), pairs=21),
    "dispatch": Preset(DISPATCH, pairs=31),
    "derivatives": Preset(DERIVATIVE, modes=DERIVATIVES),
    # What is measured, and in which order: schedule.py.
    "gpu": Preset((), pairs=7, min_time=0.004, max_time=0.6, device="cuda"),
}


def grid(
    shapes: Sequence[Shape],
    cells: Sequence[str],
    dtypes: Sequence[str],
    variants: Sequence[str],
    modes: Sequence[str],
    threads: Sequence[int],
    **fixed: str,
) -> list[Point]:
    """Every combination that means something, those of one shape together; `fixed` are further fields of Point."""
    return [
        Point(shape, CELLS[cell], mode, count, dtype, variant, flush, **fixed)
        for cell, dtype, variant, shape, count, mode in product(cells, dtypes, variants, shapes, threads, modes)
        # Which steps the loss sees makes no difference without a backward; and only LSTM has projections.
        if (variant != "lastloss" or mode == "training") and (variant != "proj" or cell == "lstm")
        for flush in ((False, True) if variant == "lastloss" else (False,))
    ]


def with_sweeps(base: Sequence[Point], threads: Sequence[int]) -> list[Point]:
    """For every point of `base`, the points around it in which T, B, H (and I, as large as H) or threads differs.

    A point that belongs to several sweeps is listed once."""
    found: dict[Point, tuple[str, ...]] = {}
    for point in base:
        shape = point.shape
        around = [("T", replace(point, shape=replace(shape, steps=n))) for n in SWEEPS["T"]]
        around += [("B", replace(point, shape=replace(shape, batch=n))) for n in SWEEPS["B"]]
        around += [("H", replace(point, shape=replace(shape, input=n, hidden=n))) for n in SWEEPS["H"]]
        around += [("threads", replace(point, threads=n)) for n in threads]
        for size, neighbour in around:
            found[neighbour] = (*found.get(neighbour, ()), size)
    return [replace(point, sweeps=sweeps) for point, sweeps in found.items()]
