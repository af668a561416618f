"""Measures what the planner's model of time counts with: python bench/costs.py --out build/costs.json

Compiles bench/costs for the GPU that is there (with the nvcc that builds the extension), runs it, and prints the
constants of csrc/cuda/costs.h that follow. docs/cuda.md says what to do with them. With --from FILE.json it computes
them anew from what an earlier run has written. Exits with 2 if there is no nvcc or no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from cuda_build import Unavailable, find_nvcc, present_capabilities  # noqa: E402

SOURCE = ROOT / "bench" / "costs" / "main.cu"

Round = dict[str, Any]

THREADS = 256  # of the kernels that exchange
BARRIERS_THROUGH_L2, BARRIERS_THROUGH_CLUSTER = 4, 1  # of the block, a round: rounds.cuh


def measure() -> dict[str, Any]:
    """What the program prints. Raises Unavailable."""
    nvcc = find_nvcc(os.environ)
    # Asked first: without one nvcc takes `native` for its oldest architecture, for which the kernels do not compile.
    if present_capabilities(torch) is None:
        raise Unavailable("torch sees no GPU of compute capability 8.0 or newer: there is nothing to measure")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "costs"
        flags = ["-std=c++17", "-O3", "-arch=native", f"-I{ROOT / 'csrc'}"]
        for arguments in ([str(nvcc), *flags, str(SOURCE), "-o", str(program)], [str(program)]):
            done = subprocess.run(arguments, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"{Path(arguments[0]).name}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return json.loads(done.stdout)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, intercept) of the straight line nearest to the points."""
    fit = statistics.linear_regression(*zip(*points, strict=True))
    return fit.slope, fit.intercept


def constants(measured: dict[str, Any]) -> dict[str, float]:
    """The fields of Costs, in cycles and bytes per cycle; without those for which nothing was measured.

    An exchange takes a time that grows with its bytes: the slope of a straight line is a rate, and where it begins,
    less the barriers of the block that the model counts by themselves, is the latency. Of the sizes of a group the
    median, since the model has one figure for all."""
    megahertz = measured["megahertz"]

    def cycles(what: str, **where: int) -> list[tuple[Round, float]]:
        chosen = [r for r in measured["rounds"] if r["what"] == what and all(r[k] == v for k, v in where.items())]
        return [(r, r["median"] * megahertz / 1000) for r in chosen]

    barrier = cycles("block barrier", threads=THREADS)[0][1]
    found = {"megahertz": megahertz, "block_barrier": barrier}
    # Sixteen warps are four for each scheduler, which then has no time to wait.
    found["mma"] = cycles("mma, 8 chains", threads=512)[0][1] / 4
    found["mma_latency"] = cycles("mma, 1 chain", threads=128)[0][1]
    for what, barriers, latency, rate in (
        ("through L2", BARRIERS_THROUGH_L2, "flag", "exchange_bytes"),
        ("through cluster", BARRIERS_THROUGH_CLUSTER, "cluster_barrier", "cluster_bytes"),
    ):
        groups = sorted({r["group"] for r, _ in cycles(what)})
        lines = [line([(r["bytes"], c) for r, c in cycles(what, group=group)]) for group in groups]
        if lines:
            found[latency] = statistics.median(intercept for _, intercept in lines) - barriers * barrier
            found[rate] = 1 / statistics.median(slope for slope, _ in lines)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="what was measured, and the constants")
    parser.add_argument("--from", dest="earlier", type=Path, metavar="FILE.json", help="measure nothing")
    options = parser.parse_args(arguments)
    try:
        measured = json.loads(options.earlier.read_text()) if options.earlier else measure()
    except Unavailable as reason:
        print(reason, file=sys.stderr)
        return 2
    measured["constants"] = constants(measured)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(measured, indent=1) + "\n")
    capability = "".join(map(str, measured["capability"]))
    print(f"{measured['gpu']}, {measured['multiprocessors']} multiprocessors; for case {capability} of costs.cpp:")
    for name, value in measured["constants"].items():
        print(f"  {name:16} {value:10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
