"""Turns result files of bench.py into the README's table: python bench/table.py RESULT.json ... [--readme README.md]

Without --readme the tables are printed. With it they replace what stands between the lines
<!-- bench:begin --> and <!-- bench:end -->. All points of the files appear, losses in bold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstmfast_bench import environment, report, results
from lstmfast_bench.peers import describe
from lstmfast_bench.results import Pivot

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


class NoMarkers(Exception):
    """The text has not exactly one pair of markers."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", nargs="+", type=Path)
    parser.add_argument("--readme", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        text = "\n\n".join(tables(results.load(path)) for path in options.result)
        if options.readme is None:
            print(text)
        else:
            old = options.readme.read_text(encoding="utf-8")
            options.readme.write_text(insert(old, text), encoding="utf-8")
    except (results.BadResult, NoMarkers, OSError) as error:
        parser.error(str(error))
    return 0


def tables(result: dict[str, Any]) -> str:
    """A table for each cell, dtype and variant, below what machine and versions they come from."""
    parts = [f"*{environment.one_line(result)}*"]
    for pivot in results.pivots(results.main_points(result["points"])):
        parts += [f"{_title(pivot)}:", _table(pivot)]
    return "\n\n".join(parts)


def insert(text: str, generated: str) -> str:
    """`text` with `generated` between the markers. Raises NoMarkers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise NoMarkers(f"expected one line {BEGIN} and, after it, one line {END}")
    return f"{before}{BEGIN}\n{generated}\n{END}{after}"


def _title(pivot: Pivot) -> str:
    point = pivot.point
    peer = describe(point.peer, point.cell)
    ours = "lstmfast." + ("LSTM" if point.cell == "LSTM" else "RNN") if point.callee == "module" else point.callee
    what = "Peak memory" if point.metric == "bytes" else "Time"
    activation = {"RNN_TANH": ", tanh", "RNN_RELU": ", relu"}.get(point.cell, "")
    parts = [point.dtype + activation, _VARIANTS[point.variant]]
    if point.flush_denormal:
        parts.append("torch.set_flush_denormal(True)")
    if point.precision != "highest":
        parts.append(f"float32 matmul precision {point.precision}")
    parts.append("above 1 lstmfast is better")
    return f"**{what} of {peer} over {what.lower()} of {ours}** ({'; '.join(filter(None, parts))})"


_VARIANTS = {
    "plain": "",
    "packed": "packed input with lengths from T to T/4",
    "proj": "proj_size = H / 2",
    "lastloss": "loss on the last step only",
}


def _table(pivot: Pivot) -> str:
    header = ["T x B x I x H x layers (+: two directions)"]
    if pivot.point.device == "cpu":
        header += [f"{mode}, {threads} thread{'s' * (threads > 1)}" for mode, threads in pivot.columns]
    else:
        header += [mode for mode, _ in pivot.columns]
    rows = [[shape, *(_cell(pivot.ratio(shape, column)) for column in pivot.columns)] for shape in pivot.shapes]
    mean = ["geometric mean", *(_cell(pivot.geometric_mean(column)) for column in pivot.columns)]
    return report.markdown(header, [*rows, mean] if len(rows) > 1 else rows)


def _cell(ratio: float | None) -> str:
    if ratio is None:
        return ""
    text = f"{ratio:.2f}"
    return f"**{text}**" if ratio < 1 else text


if __name__ == "__main__":
    sys.exit(main())
