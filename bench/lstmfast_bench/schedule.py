"""The points of the preset gpu, the most telling first, since a run may have to end before the last.

A part is a list of shapes with everything they are measured in. A point that belongs to several parts is measured once,
where it comes first, and names them all in `sweeps`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .peers import PEERS
from .points import MODES, STANDARD_CUDA, Point, Shape, grid

# dtype and precision of float32 products: the fast types first.
KINDS = (("bfloat16", "highest"), ("float32", "high"), ("float16", "highest"), ("float32", "highest"))


@dataclass(frozen=True)
class Part:
    """name: what its points carry in `sweeps`."""

    name: str
    shapes: Sequence[Shape]
    kinds: Sequence[tuple[str, str]] = KINDS
    cells: Sequence[str] = ("lstm",)
    variants: Sequence[str] = ("plain",)
    modes: Sequence[str] = MODES
    peers: Sequence[str] = ("nn",)

    def points(self, threads: int, device: str) -> list[Point]:
        return [
            replace(point, sweeps=(self.name,))
            for peer in self.peers
            for shape in self.shapes
            for dtype, precision in self.kinds
            for point in grid(
                [shape],
                self.cells,
                [dtype],
                self.variants,
                self.modes,
                [threads],
                precision=precision,
                device=device,
                peer=peer,
            )
        ]


def _shapes(text: str) -> list[Shape]:
    return [Shape.parse(word) for word in text.split()]


# One for each way in which the planner runs a call, and for each algorithm of cuDNN's.
CORE = _shapes(
    "100x16x128x128x1 100x32x256x256x1 100x64x512x512x1 50x64x1024x1024x1 100x1x512x512x1 50x64x2048x2048x1 "
    "100x32x256x256x1+ 1x1x128x256x2"
)
MAP = [Shape(100, batch, hidden, hidden, 1) for hidden in (64, 128, 256, 512, 1024, 2048) for batch in (1, 16, 64, 256)]
STEPS = [Shape(steps, 16, 512, 512, 1) for steps in (1, 3, 10, 30, 100, 300, 1000)]
WIDTHS = [Shape(100, 32, n, n, 1) for n in (32, 96, 160, 192, 320, 384, 650, 768, 1536)]  # between the map's
BATCHES = [Shape(100, n, 512, 512, 1) for n in (1, 2, 4, 8, 12, 16, 32, 64, 100, 128, 256)]

PARTS = (
    Part("core", CORE),
    Part("H x B", MAP, KINDS[:2]),
    Part("grid", [shape for shape in STANDARD_CUDA if shape not in CORE]),
    Part("H x B", MAP, KINDS[2:3]),
    Part("T", STEPS, KINDS[:2]),
    Part("H", WIDTHS, KINDS[:3]),
    Part("B", BATCHES, KINDS[:2]),
    Part("variants", CORE[1:3], KINDS[:2], variants=("packed", "proj")),
    Part("cells", CORE[:4], KINDS[:3], cells=("rnn_tanh", "rnn_relu")),
    Part("peers", CORE[1:4], KINDS, peers=tuple(name for name in PEERS if name not in ("nn", "checkpoint"))),
)


def points(threads: int, device: str, parts: Sequence[Part] = PARTS) -> list[Point]:
    """All of them, without the peers that are not installed."""
    found: dict[Point, tuple[str, ...]] = {}
    for part in parts:
        for point in part.points(threads, device):
            if PEERS[point.peer].missing() is None:
                found[point] = tuple(dict.fromkeys((*found.get(point, ()), *point.sweeps)))
    return [replace(point, sweeps=sweeps) for point, sweeps in found.items()]


class Budget:
    """Seconds that a run may take. `clock` tells the time."""

    def __init__(self, seconds: float, clock: Callable[[], float]):
        self.end, self.clock = clock() + seconds, clock

    def allows(self, point: Point) -> bool:
        """Whether there is time for one more point: peers that compile code for each take their time."""
        return self.clock() + PEERS[point.peer].seconds < self.end
