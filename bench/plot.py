"""Draws a result file of bench.py: python bench/plot.py RESULT.json --out DIR

Heat maps of the ratios by shape, mode and threads; times and ratios along the sweeps of the presets scaling and gpu;
and for the latter heat maps of the ratios by H and B.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from lstmfast_bench import environment, results
from lstmfast_bench.peers import describe
from lstmfast_bench.points import Point, Shape
from lstmfast_bench.results import Pivot, Record

matplotlib.use("Agg")  # draws into files, so that no display is needed
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator

HXB = "H x B"  # in Point.sweeps

_FACTORS = (0.25, 0.5, 1, 2, 4, 8)  # of the colours; beyond, the colour stays and the number tells


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="made if it is not there")
    options = parser.parse_args(arguments)
    try:
        result = results.load(options.result)
    except results.BadResult as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    for path in draw(result, options.out):
        print(path)
    return 0


def draw(result: dict[str, Any], directory: Path) -> list[Path]:
    """Returns the paths of what it has written."""
    source = environment.one_line(result)
    paths = []
    for pivot in results.pivots(filter(results.stands_alone, result["points"])):
        paths.append(directory / f"speedup-{pivot.name}.png")
        draw_heat_map(pivot, source, paths[-1])
    for pivot in results.pivots(r for r in result["points"] if HXB in r["sweeps"]):
        paths.append(directory / f"map-{pivot.name}.png")
        draw_map(pivot, source, paths[-1])
    for size, pivot in _sweeps(result["points"]):
        paths.append(directory / f"scaling-{pivot.name}-{size}.png")
        draw_sweep(size, pivot, source, paths[-1])
    return paths


def draw_heat_map(pivot: Pivot, source: str, path: Path) -> None:
    """Blue where lstmfast wins, red where it loses, as deep on a logarithmic scale; the last row is the mean."""
    values = [[pivot.ratio(shape, column) or math.nan for column in pivot.columns] for shape in pivot.shapes]
    rows = list(pivot.shapes)
    if len(rows) > 1:
        values.append([pivot.geometric_mean(column) for column in pivot.columns])
        rows.append("geometric mean")
    figure, axes = plt.subplots(
        figsize=(max(9.0, 4.6 + 1.3 * len(pivot.columns)), max(4.6, 2.2 + 0.42 * len(rows))),
        layout="constrained",
        dpi=110,
    )
    image = _show_ratios(axes, values)
    axes.set_xticks(range(len(pivot.columns)), ["\n".join((mode, *_ran_on(pivot, n))) for mode, n in pivot.columns])
    axes.set_yticks(range(len(rows)), rows, family="monospace")
    axes.set_ylabel("T x B x I x H x layers (+: two directions)")
    if rows[-1] == "geometric mean":
        axes.axhline(len(rows) - 1.5, color="black", linewidth=1.5)
    _finish_heat_map(figure, axes, image, pivot)
    _save(figure, source, path)


def draw_map(pivot: Pivot, source: str, path: Path) -> None:
    """By hidden units (rows) and sequences (columns), a panel for each mode."""
    modes = sorted({mode for mode, _ in pivot.columns})
    figure, panels = plt.subplots(
        1, len(modes), figsize=(max(9.0, 1.5 + 5.0 * len(modes)), 5.2), layout="constrained", dpi=110, squeeze=False
    )
    for axes, mode in zip(panels[0], modes, strict=True):
        ratios = {}
        for record in pivot.cells.values():
            if record["mode"] == mode:
                ratios[_size_of("H", record), _size_of("B", record)] = record["ratio"]["median"]
        heights, batches = (sorted({key[i] for key in ratios}) for i in (0, 1))
        image = _show_ratios(axes, [[ratios.get((h, b), math.nan) for b in batches] for h in heights])
        axes.set_xticks(range(len(batches)), batches)
        axes.set_yticks(range(len(heights)), heights)
        axes.set(title=mode, xlabel=_AXES["B"], ylabel=_AXES["H"])
    _finish_heat_map(figure, list(panels[0]), image, pivot)
    _save(figure, source, path)


def _show_ratios(axes: Any, values: Sequence[Sequence[float]]) -> Any:
    """Coloured by their logarithm, with the figure in each field; NaN is left blank."""
    logs = np.log2(values)
    norm = matplotlib.colors.TwoSlopeNorm(0, math.log2(_FACTORS[0]), math.log2(_FACTORS[-1]))
    image = axes.imshow(logs, cmap="RdBu", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(logs):
        if not math.isnan(value):
            is_dark = abs(norm(value) - 0.5) > 0.35
            axes.text(column, row, f"{2**value:.2f}", ha="center", va="center", color="white" if is_dark else "black")
    return image


def _finish_heat_map(figure: Any, axes: Any, image: Any, pivot: Pivot) -> None:
    bar = figure.colorbar(image, ax=axes, ticks=[math.log2(f) for f in _FACTORS], format=lambda x, _: f"{2**x:g}")
    bar.set_label(f"{_quantity(pivot.point)} of {describe(pivot.point.peer, pivot.point.cell)} / lstmfast")
    figure.suptitle(f"{pivot.name}: above 1 lstmfast is {'smaller' if pivot.point.metric == 'bytes' else 'faster'}")


def draw_sweep(size: str, pivot: Pivot, source: str, path: Path) -> None:
    """Above the times of both sides, below their ratio with its quartiles; a column for each mode."""
    modes = sorted({mode for mode, _ in pivot.columns})
    figure, axes = plt.subplots(
        2, len(modes), figsize=(1.0 + 5.2 * len(modes), 7.2), layout="constrained", dpi=110, squeeze=False, sharex=True
    )
    peer = describe(pivot.point.peer, pivot.point.cell)
    for (times, ratios), mode in zip(axes.T, modes, strict=True):
        records = sorted((r for r in pivot.cells.values() if r["mode"] == mode), key=lambda r: _size_of(size, r))
        along = [_size_of(size, r) for r in records]
        for side, name, style in (("theirs", peer, "o--"), ("ours", "lstmfast", "o-")):
            colour = "tab:orange" if side == "theirs" else "tab:blue"
            _band(times, along, [r[side] for r in records], colour, style, name)
        _band(ratios, along, [r["ratio"] for r in records], "tab:blue", "o-", f"{peer} / lstmfast")
        ratios.axhline(1, color="gray", linewidth=1)
        times.set(title=f"{mode}, {_fixed(size, records[0])}", yscale="log", ylabel="seconds per call")
        ratios.set(xlabel=_AXES[size], ylabel="ratio of the times", ylim=(0, None))
        times.legend()
        ratios.set_xscale("log")
        ratios.set_xticks(along)
        ratios.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ratios.xaxis.set_minor_locator(NullLocator())
        for part in (times, ratios):
            part.grid(alpha=0.3)
    figure.suptitle(f"{pivot.name}: growth with {size} (bands: quartiles)")
    _save(figure, source, path)


_AXES = {"T": "T, steps", "B": "B, sequences", "H": "H = I, hidden units and features", "threads": "threads"}


def _sweeps(records: Sequence[Record]) -> list[tuple[str, Pivot]]:
    """(what is swept, the points along it): the same shape apart from it in all points of a sweep."""
    return [
        (size, pivot)
        for size in _AXES
        for pivot in results.pivots(r for r in records if size in r["sweeps"])
        if len({_size_of(size, r) for r in pivot.cells.values()}) > 1
    ]


def _size_of(size: str, record: Record) -> int:
    shape = Shape.parse(record["shape"])
    return {"T": shape.steps, "B": shape.batch, "H": shape.hidden, "threads": record["threads"]}[size]


def _fixed(size: str, record: Record) -> str:
    """The sizes that stay the same along a sweep."""
    shape = Shape.parse(record["shape"])
    named = {"T": shape.steps, "B": shape.batch, "H": shape.hidden}
    parts = [f"{name} = {value}" for name, value in named.items() if name != size]
    shows_threads = size != "threads" and record["device"] == "cpu"
    return ", ".join(parts + [_threads(record["threads"])] * shows_threads)


def _band(axes: Any, x: Sequence[int], spreads: Sequence[dict[str, float]], colour: str, style: str, name: str) -> None:
    low, median, high = ([spread[key] for spread in spreads] for key in ("low", "median", "high"))
    axes.plot(x, median, style, color=colour, label=name, markersize=4)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _ran_on(pivot: Pivot, threads: int) -> list[str]:
    """A GPU does not care how many threads the CPU has."""
    return [_threads(threads)] if pivot.point.device == "cpu" else []


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _quantity(point: Point) -> str:
    return "peak memory" if point.metric == "bytes" else "time"


def _save(figure: Any, source: str, path: Path) -> None:
    figure.supxlabel(source, fontsize=7, color="dimgray")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
