"""Compares two result files of bench.py: python bench/compare.py BEFORE.json AFTER.json [--threshold 0.95]

What is compared is the ratio to the peer, not the time: two runs of the same code differ in times by whatever else the
machine did. A point has regressed if its ratio fell below threshold times what it was, and the quartiles of the two
runs do not overlap. Exits with 1 if a point has regressed or failed, with 2 if the files have no point in common.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstmfast_bench import environment, report, results
from lstmfast_bench.results import Record


@dataclass(frozen=True)
class Change:
    """The same point in two runs."""

    before: Record
    after: Record

    @property
    def factor(self) -> float:
        """Above 1: better than before."""
        return self.after["ratio"]["median"] / self.before["ratio"]["median"]

    def is_regression(self, threshold: float) -> bool:
        return self.factor < threshold and self.after["ratio"]["high"] < self.before["ratio"]["low"]

    def is_improvement(self, threshold: float) -> bool:
        return self.factor > 1 / threshold and self.after["ratio"]["low"] > self.before["ratio"]["high"]

    def line(self, threshold: float) -> str:
        mark = "worse" if self.is_regression(threshold) else "better" if self.is_improvement(threshold) else ""
        after = self.after
        return (
            f"{after['shape']:22} {after['cell']:8} {after['mode']:10} {after['threads']:3}  "
            f"{_spread(self.before):20} {_spread(after):20} {self.factor:6.2f} {mark:6}{report.label(after)}"
        ).rstrip()


HEADER = f"{'shape':22} {'cell':8} {'mode':10} {'thr':>3}  {'before':>20} {'after':>20} {'change':>6}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=0.95, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not 0 < options.threshold <= 1:
        parser.error(f"--threshold must be above 0 and at most 1, got {options.threshold}")
    try:
        before, after = results.load(options.before), results.load(options.after)
    except results.BadResult as error:
        parser.error(str(error))

    changes, only_before, only_after = match(before["points"], after["points"])
    for side, result in (("before", before), ("after", after)):
        print(f"{side}: {environment.one_line(result)}")
    for note in _differences(before, after):
        print(f"note: {note}")
    print(HEADER)
    for change in sorted(changes, key=lambda c: c.factor):
        print(change.line(options.threshold))
    for where, records in (("before", only_before), ("after", only_after)):
        if records:
            print(f"{len(records)} only {where}: {', '.join(str(results.point_of(r)) for r in records)}")
    for failure in after["failures"]:
        print(f"failed: {failure['point']}: {failure['reason']}")
    if not changes:
        print("the files have no point in common", file=sys.stderr)
        return 2
    regressions = sum(change.is_regression(options.threshold) for change in changes)
    print(f"{len(changes)} points, {regressions} regressed, {len(after['failures'])} failed")
    return 1 if regressions or after["failures"] else 0


def match(before: list[Record], after: list[Record]) -> tuple[list[Change], list[Record], list[Record]]:
    """(points of both runs, those of the first alone, those of the second alone)."""
    earlier = {results.point_key(record): record for record in before}
    later = {results.point_key(record): record for record in after}
    changes = [Change(earlier[key], record) for key, record in later.items() if key in earlier]
    return (
        changes,
        [record for key, record in earlier.items() if key not in later],
        [record for key, record in later.items() if key not in earlier],
    )


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What makes even ratios hard to compare."""
    named = {
        "CPU": lambda r: r["machine"]["cpu"],
        "GPU": lambda r: r["machine"]["gpu"],
        "ISA level": lambda r: r["machine"]["isa"],
        "torch": lambda r: r["versions"]["torch"],
    }
    return [
        f"{name} differs: {read(before)}, then {read(after)}"
        for name, read in named.items()
        if read(before) != read(after)
    ]


def _spread(record: Record) -> str:
    ratio = record["ratio"]
    return f"{ratio['median']:6.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
