"""First contact with a GPU: which kernels start, end, and compute what torch.nn computes?

    python tools/gpu_first.py --out build/first.json

One layer, or two as a stack, forward and then with backward, in every regime of the planner and every kind of product,
beside torch.nn.LSTM on the same device. The cases run in a process of their own, and one that hangs or crashes costs
itself only: the process is ended and another goes on behind it. Prints a line for each case as it ends, and exits with
1 if any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

START, CASE = 60.0, 15.0  # seconds that a process may take to begin, and a case

KINDS = (("bfloat16", "highest"), ("float16", "highest"), ("float32", "high"), ("float32", "highest"))
# Hidden sizes to look for a regime at: where one would use it first.
SIZES = {
    "general": (100,),
    "one SM": (64, 32),
    "cluster": (256, 128, 64, 32),
    "whole GPU": (512, 256, 128, 64),
    "stack": (256, 128),  # and where the planner prefers it: else layers go one by one
    "fused steps": (100,),
}
STEPS, INPUT = 12, 40
PLANNERS, GENERAL = -1, -2  # see choose_cuda_plans() in lstmfast/_C.pyi


@dataclass(frozen=True)
class Case:
    regime: str
    dtype: str
    precision: str

    @property
    def layers(self) -> int:
        return 2 if self.regime == "stack" else 1

    @property
    def batch(self) -> int:
        return 5 if self.regime == "fused steps" else 20

    def __str__(self) -> str:
        kind = self.dtype if self.precision == "highest" else "TF32"
        return f"{self.regime}, {kind}"


CASES = [Case(regime, *kind) for regime in SIZES for kind in KINDS]
CASES += [Case(regime, "float64", "highest") for regime in ("general", "fused steps")]


def watch(command: Sequence[str], count: int, *, start: float, case: float, end: float, on_result=print) -> list[dict]:
    """Runs `command`, with the numbers of cases behind it, again and again until each of `count` has a result.

    The process prints {"begin": number} and {"end": number, "result": "ok" or what is wrong, ...}, and may stop after
    any case. `start`, `case`: seconds that it has to begin, and for a case; `end`: when all must end, by the monotonic
    clock."""
    records: dict[int, dict] = {}

    def conclude(number: int, record: dict) -> None:
        records[number] = record
        on_result(number, record)

    while pending := [number for number in range(count) if number not in records]:
        if time.monotonic() > end:
            for number in pending:
                conclude(number, {"result": "not run: no time left"})
            break
        current, began, outcome = None, False, ""
        with tempfile.TemporaryFile("w+") as errors, _process([*command, *map(str, pending)], errors) as lines:
            while True:
                limit = case if began else start
                try:
                    line = lines.get(timeout=max(0.0, min(limit, end - time.monotonic())))
                except queue.Empty:
                    outcome = f"did not end within {limit:.0f} s" if time.monotonic() <= end else "no time left"
                    break
                if line is None:  # it has ended
                    break
                began = True
                if "begin" in line:
                    current = line["begin"]
                else:
                    conclude(line.pop("end"), line)
                    current = None
            if not outcome:
                errors.seek(0)
                outcome = "crashed: " + (errors.read().strip().splitlines() or ["without a word"])[-1]
        if current is not None:
            conclude(current, {"result": outcome})
        elif not began:  # the next one would not begin either
            for number in pending:
                conclude(number, {"result": f"not run: {outcome}"})
    return [records[number] for number in range(count)]


@contextlib.contextmanager
def _process(command: Sequence[str], errors):
    """A queue of the objects that it prints, and None behind the last. Killed on the way out."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    lines: queue.Queue = queue.Queue()

    def read() -> None:
        for text in process.stdout:
            if text.startswith("{"):
                lines.put(json.loads(text))
        process.wait()
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        yield lines
    finally:
        process.kill()


def plans(case: Case, gpu: int | str) -> tuple[int, int, int] | None:
    """(hidden size, choice forward, choice backward), for _C.choose_cuda_plans(); None if the GPU cannot."""
    from lstmfast import _C

    def find(hidden: int, backward: bool) -> int | None:
        def plan(choice: int) -> dict[str, Any]:
            sizes = (STEPS, case.batch, INPUT, hidden, 0)
            tf32 = case.precision != "highest"
            return _C.cuda_plan("LSTM", case.dtype, *sizes, 1, case.layers, backward, tf32, gpu, choice)

        if case.regime == "stack" and plan(PLANNERS)["regime"] != "stack":
            return None
        fitting = [i for i in range(plan(PLANNERS)["candidates"]) if plan(i)["regime"] == case.regime]
        return min(fitting, key=lambda i: plan(i)["microseconds"], default=None)

    for hidden in SIZES[case.regime]:
        if case.regime == "general":
            return hidden, GENERAL, GENERAL
        forward = find(hidden, False)
        backward = GENERAL if case.regime == "fused steps" else find(hidden, True)
        if forward is not None and backward is not None:
            return hidden, forward, backward
    return None


def work(numbers: Sequence[int], device: str, gpu: int | str) -> None:
    """The process that runs the cases."""
    sys.path.insert(0, str(ROOT / "bench"))
    import torch
    from lstmfast_bench import cuda, sides
    from lstmfast_bench.points import Point, Shape

    from lstmfast import _C

    def say(**what) -> None:
        print(json.dumps(what), flush=True)

    # The libraries are loaded at their first call, from a disk that may be slow: no case is to wait for that.
    torch.nn.LSTM(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))
    for number in numbers:
        case = CASES[number]
        say(begin=number)
        found = plans(case, gpu)
        if found is None:
            say(end=number, result="not possible on this GPU")
            continue
        hidden, *choices = found
        passed: dict[str, float] = {}
        result = "ok"
        for mode in ("inference", "training"):
            shape = Shape(STEPS, case.batch, INPUT, hidden, case.layers)
            point = Point(shape, mode=mode, dtype=case.dtype, precision=case.precision, device=device)
            try:
                _C.choose_cuda_plans(*choices)
                with sides.conditions(point):
                    agreement = sides.compare(*sides.build(point))
                if device == "cuda":
                    cuda.check_regime()
            except (RuntimeError, sides.Mismatch) as error:
                result = f"{mode}: {type(error).__name__}: {error}".splitlines()[0]
                break
            passed[mode] = max(agreement.outputs, agreement.gradients or 0.0)
        say(end=number, result=result, hidden=hidden, differences=passed)
        if result != "ok":
            break  # an error of a kernel stays with its process


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--budget", type=float, default=110.0, metavar="S", help="for all cases; default: %(default)s")
    parser.add_argument("--device", default="cuda", help="cpu: where the build emulates the GPU")
    parser.add_argument("--gpu", help="what the planner takes the device for; default: for what it is")
    parser.add_argument("--work", nargs="*", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work is not None:
        work(options.work, options.device, options.gpu or 0)
        return 0
    command = [sys.executable, str(Path(__file__).resolve()), "--device", options.device]
    command += ["--gpu", options.gpu] if options.gpu else []
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))

    def tell(number: int, record: dict) -> None:
        differences = ", ".join(f"{mode} {value:.1e}" for mode, value in record.get("differences", {}).items())
        print(f"{CASES[number]!s:22} {record['result']}{f'  ({differences})' if differences else ''}", flush=True)

    end = time.monotonic() + options.budget
    records = watch([*command, "--work"], len(CASES), start=START, case=CASE, end=end, on_result=tell)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        results = [asdict(case) | record for case, record in zip(CASES, records, strict=True)]
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    working = sum(record["result"] == "ok" for record in records)
    impossible = sum(record["result"].startswith("not possible") for record in records)
    print(f"{working} of {len(records)} cases work, {impossible} are not possible on this GPU")
    return 0 if working + impossible == len(records) else 1


if __name__ == "__main__":
    sys.exit(main())
