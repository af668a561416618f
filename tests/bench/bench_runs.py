"""Runs of bench.py that take a moment: tiny shapes, two pairs. No figure of theirs says what is fast."""

from lstmfast_bench import results

import bench

FAST = ("--threads", "1", "--pairs", "2", "--min-time", "1e-4")


def run(out, *arguments):
    """(exit code, result) of bench.py."""
    code = bench.main([*FAST, "--out", str(out), *map(str, arguments)])
    return code, results.load(out)
