"""Result files: one JSON object per run, with a record for each point; and what is computed from the records."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .points import MODES, SWEPT, Point, Shape

SCHEMA = 1

Record = dict[str, Any]

_ANY = Shape(1, 1, 1, 1, 1)


class BadResult(Exception):
    """A file is not a result file of this version."""


def fields_of(point: Point) -> Record:
    """The point as the first fields of its record."""
    return asdict(point) | {"shape": str(point.shape), "sweeps": list(point.sweeps)}


def point_of(record: Record) -> Point:
    own = {f.name: record[f.name] for f in fields(Point)}
    return Point(**own | {"shape": Shape.parse(record["shape"]), "sweeps": tuple(record["sweeps"])})


def save(result: dict[str, Any], path: Path) -> None:
    """Replaces the file at once, so that a run that is cut off leaves the last state whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any]:
    """Raises BadResult if it cannot be read as a result file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or result.get("schema") != SCHEMA:
            raise BadResult(f"{path}: not a result file of schema {SCHEMA}")
        for record in result["points"]:
            point_of(record)
            float(record["ratio"]["median"])
    except OSError as error:
        raise BadResult(f"{path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadResult(f"{path}: {type(error).__name__}: {error}") from error
    return result


@dataclass(frozen=True)
class Group:
    """Points that differ in their shape alone, or those of them for which `restriction` holds.

    geometric_mean, worst: of the ratios, worst_shape where the latter was found; below_one: how many are under 1.
    """

    point: Point  # any of them: read everything but the shape
    restriction: str
    count: int
    geometric_mean: float
    worst: float
    worst_shape: str
    below_one: int

    def as_json(self) -> Record:
        named = fields_of(self.point)
        del named["shape"], named["sweeps"]
        figures = asdict(self)
        del figures["point"]
        return named | figures


_RESTRICTIONS: dict[str, Callable[[Shape], bool]] = {
    "": lambda shape: True,
    "B = 1, H <= 512": lambda shape: shape.batch == 1 and shape.hidden <= 512,
    "B >= 64, H >= 512": lambda shape: shape.batch >= 64 and shape.hidden >= 512,
}


def group_key(record: Record) -> tuple[Any, ...]:
    """Everything that names a point but its shape."""
    return tuple(record[f.name] for f in fields(Point) if f.name not in ("shape", "sweeps"))


def point_key(record: Record) -> tuple[Any, ...]:
    return record["shape"], *group_key(record)


def stands_alone(record: Record) -> bool:
    """Whether the point was not measured for a sweep only."""
    return not record["sweeps"] or not SWEPT.issuperset(record["sweeps"])


def main_points(records: Iterable[Record]) -> list[Record]:
    """Those that means are taken over: the points that stand alone, or all where there is none."""
    records = list(records)
    return [r for r in records if stands_alone(r)] or records


def groups(records: Iterable[Record]) -> list[Group]:
    """Whole groups, each followed by those of its restrictions that hold for some, but not all, of its points."""
    members: dict[tuple[Any, ...], list[Record]] = {}
    for record in main_points(records):
        members.setdefault(group_key(record), []).append(record)
    found = []
    for group in members.values():
        for name, holds in _RESTRICTIONS.items():
            chosen = [r for r in group if holds(Shape.parse(r["shape"]))]
            if chosen and (not name or len(chosen) < len(group)):
                found.append(_summary(name, chosen))
    return found


@dataclass(frozen=True)
class Pivot:
    """Ratios by shape (rows) and by mode and threads (columns), all else being that of `point`.

    columns: (mode, threads). cells: the record of a shape and a column; there may be gaps."""

    point: Point
    shapes: list[str]
    columns: list[tuple[str, int]]
    cells: dict[tuple[str, tuple[str, int]], Record]

    def ratio(self, shape: str, column: tuple[str, int]) -> float | None:
        record = self.cells.get((shape, column))
        return None if record is None else record["ratio"]["median"]

    def geometric_mean(self, column: tuple[str, int]) -> float:
        return _geometric_mean([r["ratio"]["median"] for (_, c), r in self.cells.items() if c == column])

    @property
    def name(self) -> str:
        """For file names, such as LSTM-bfloat16-packed."""
        point = self.point
        usual = {"dtype": "float32", "variant": "plain", "precision": "highest", "callee": "module", "peer": "nn"}
        parts = [getattr(point, name) for name, value in usual.items() if getattr(point, name) != value]
        parts += ["flushed"] * point.flush_denormal + ["cuda"] * (point.device == "cuda")
        return "-".join([point.cell, *parts, *["memory"] * (point.metric == "bytes")]).replace(" ", "_")


def pivots(records: Iterable[Record]) -> list[Pivot]:
    """Rows and columns in the order in which the records first have them."""
    members: dict[Point, list[Record]] = {}
    for record in records:
        point = replace(point_of(record), shape=_ANY, mode=MODES[0], threads=1, sweeps=())
        members.setdefault(point, []).append(record)
    return [
        Pivot(
            point,
            shapes=list(dict.fromkeys(r["shape"] for r in own)),
            columns=sorted({(r["mode"], r["threads"]) for r in own}),
            cells={(r["shape"], (r["mode"], r["threads"])): r for r in own},
        )
        for point, own in members.items()
    ]


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))


def _summary(restriction: str, records: Sequence[Record]) -> Group:
    worst = min(records, key=lambda r: r["ratio"]["median"])
    ratios = [r["ratio"]["median"] for r in records]
    return Group(
        point=point_of(records[0]),
        restriction=restriction,
        count=len(records),
        geometric_mean=_geometric_mean(ratios),
        worst=worst["ratio"]["median"],
        worst_shape=worst["shape"],
        below_one=sum(ratio < 1 for ratio in ratios),
    )
