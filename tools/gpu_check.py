"""Everything that needs a GPU, in one command: build, tests, compute-sanitizer, measurements. See docs/gpu-check.md.

    python tools/gpu_check.py                   all stages, in less than nine minutes
    python tools/gpu_check.py build first       some of them, in this order: these two on a GPU that nobody has tried

Uses the Python that runs it and what is installed there; fetches nothing. Each stage has a time limit of its own. The
folder $OUT, or build/gpu-check, gets at most eight files: gpu-check.log with all output, summary.json, and a result
file of each stage that measures. Exits with 1 if a stage failed, or 2 if the machine lacks what a stage needs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LARGEST_LOG = 12 * 2**20  # bytes; what is over it is cut out of the middle
WHOLE_LIMIT = 535.0
GRACE = 3.0  # seconds between the request to end and the end

ENDING = 8.0  # seconds that a stage with a budget of its own has to finish what it has begun


@dataclass(frozen=True)
class Command:
    """Arguments, additions to the environment, and the seconds after which it is ended."""

    arguments: Sequence[str]
    environment: dict[str, str]
    limit: float


@dataclass(frozen=True)
class Stage:
    """needs: modules that must be importable; if stops is true nothing after a failure makes sense."""

    name: str
    limit: float
    needs: tuple[str, ...]
    commands: Callable[[Path, float], list[Command]]
    stops: bool = False


def build_commands(out: Path, limit: float) -> list[Command]:
    # In place, without pip: nothing is installed, and the second build compiles what has changed.
    arguments = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {
        "LSTMFAST_CUDA": "1",
        "LSTMFAST_BUILD_DIR": str(ROOT / "build" / "gpu"),
        # A compiler that nobody has tried yet may know new warnings.
        "LSTMFAST_CMAKE_ARGS": f"-DLSTMFAST_WERROR=OFF {os.environ.get('LSTMFAST_CMAKE_ARGS', '')}",
    }
    return [Command(arguments, environment, limit)]


def first_commands(out: Path, limit: float) -> list[Command]:
    budget = ["--budget", f"{max(1.0, limit - ENDING):.0f}"]
    arguments = [sys.executable, "tools/gpu_first.py", *budget, "--out", str(out / "first.json")]
    return [Command(arguments, {}, limit)]


def test_commands(out: Path, limit: float) -> list[Command]:
    pytest = [sys.executable, "-m", "pytest", "tests/cuda", "--durations=10", "-p", "no:cacheprovider"]
    required = {"LSTMFAST_REQUIRE_CUDA": "1"}
    if importlib.util.find_spec("xdist") is None:
        return [Command(pytest, required, limit)]
    workers = ["-n", str(min(6, os.cpu_count() or 1))]
    return [
        Command([*pytest, "-m", "alone"], required, limit / 3),
        Command([*pytest, "-m", "not alone", *workers], required, limit * 2 / 3),
    ]


def sanitizer_commands(out: Path, limit: float) -> list[Command]:
    tool = find_sanitizer()
    script = [sys.executable, "tests/cuda/sanitize.py"]
    # torch and its libraries ask the driver for what it may not have; what our own calls return raises.
    base = [tool, "--error-exitcode", "9", "--print-limit", "20", "--report-api-errors", "no"]
    # Without the caching allocator every tensor is an allocation of its own, with an end that can be crossed.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    ours = ["--kernel-name", "kns=lstmfast"]  # not cuBLAS's: they are checked by nobody here, and take long
    return [
        Command([*base, "--tool", "memcheck", *script], uncached, limit / 3),
        Command([*base, "--tool", "racecheck", *ours, *script], {}, limit / 3),
        Command([*base, "--tool", "synccheck", *ours, *script], {}, limit / 3),
    ]


def costs_commands(out: Path, limit: float) -> list[Command]:
    return [Command([sys.executable, "bench/costs.py", "--out", str(out / "costs.json")], {}, limit)]


def candidates_commands(out: Path, limit: float) -> list[Command]:
    budget = ["--budget", f"{max(1.0, limit - ENDING):.0f}"]
    arguments = [sys.executable, "bench/candidates.py", *budget, "--out", str(out / "candidates.json")]
    return [Command(arguments, {}, limit)]


def bench_commands(out: Path, limit: float) -> list[Command]:
    budget = ["--budget", f"{max(1.0, limit - ENDING):.0f}"]
    arguments = [sys.executable, "bench/bench.py", "gpu", *budget, "--out", str(out / "bench-gpu.json")]
    return [Command(arguments, {}, limit)]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("build", 120, ("torch", "setuptools", "pybind11"), build_commands, stops=True),
        Stage("first", 45, ("torch",), first_commands),
        Stage("tests", 130, ("pytest", "numpy"), test_commands),
        Stage("sanitizer", 80, (), sanitizer_commands),
        Stage("costs", 20, (), costs_commands),
        Stage("candidates", 25, ("torch", "tqdm"), candidates_commands),
        Stage("bench", 115, ("tqdm",), bench_commands),
    )
}


class Missing(Exception):
    """The machine lacks something."""


def find_sanitizer() -> str:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    folders = [os.environ.get("PATH", "")]
    for home in filter(None, homes):
        folders += [f"{home}/bin", f"{home}/compute-sanitizer", f"{home}/extras/compute-sanitizer"]
    found = shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    if found is None:
        raise Missing("compute-sanitizer is neither in PATH nor in the CUDA toolkit")
    return found


def run(command: Command, log: IO[bytes]) -> str:
    """Runs it with its output going to `log` and to stdout; "" or what went wrong."""
    environment = {
        **os.environ,
        **command.environment,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
    }
    began = time.monotonic()
    # A session of its own, so that whatever it has started can be ended with it.
    process = subprocess.Popen(
        command.arguments,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # First as a request: what has been built or measured is then left in order.
    timers = [
        _signal_later(process, signal.SIGTERM, command.limit),
        _signal_later(process, signal.SIGKILL, command.limit + GRACE),
    ]
    for line in process.stdout:
        log.write(line)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    status = process.wait()
    for timer in timers:
        timer.cancel()
    if time.monotonic() - began >= command.limit:
        return f"ended after its {command.limit:.0f} s"
    return "" if status == 0 else f"exit status {status}"


def _signal_later(process: subprocess.Popen, number: int, seconds: float) -> threading.Timer:
    def send() -> None:
        # The group may be there still when its leader is not, and would keep the output open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
    return timer


def check(names: Sequence[str], out: Path, stages: dict[str, Stage]) -> list[dict]:
    """Runs the stages; a record for each: name, seconds, problems."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    records: list[dict] = []
    log_path = out / "gpu-check.log"
    with log_path.open("wb") as log:
        for name in names:
            stage = stages[name]
            stage_began = time.monotonic()
            print(f"\n=== {name}", flush=True)
            log.write(f"\n=== {name}\n".encode())
            problems = _problems_of(stage, out, min(stage.limit, WHOLE_LIMIT - (stage_began - began)), log)
            records.append({"stage": name, "seconds": round(time.monotonic() - stage_began, 1), "problems": problems})
            (out / "summary.json").write_text(json.dumps({"stages": records, "machine": machine()}, indent=1) + "\n")
            if problems and stage.stops:
                break
    shorten(log_path)
    return records


def _problems_of(stage: Stage, out: Path, limit: float, log: IO[bytes]) -> list[str]:
    missing = [module for module in stage.needs if importlib.util.find_spec(module) is None]
    if missing:
        return [f"missing: Python packages {', '.join(missing)}"]
    if limit <= 0:
        return [f"not begun: the {WHOLE_LIMIT:.0f} s of the whole run are over"]
    try:
        commands = stage.commands(out, limit)
    except Missing as reason:
        return [f"missing: {reason}"]
    problems = []
    for command in commands:
        log.write(f"$ {' '.join(command.arguments)}\n".encode())
        problem = run(command, log)
        if problem:
            problems.append(f"{problem}: {' '.join(command.arguments)}")
    return problems


def machine() -> dict[str, str | None]:
    """What the figures belong to. Asks a process, so that this one holds nothing of the GPU."""
    tools = {"gpu": ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]}
    tools["torch"] = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name, arguments in tools.items():
        path = shutil.which(arguments[0])
        result = subprocess.run(arguments, capture_output=True, text=True) if path else None
        found[name] = result.stdout.strip() if result is not None and result.returncode == 0 else None
    return found


def shorten(path: Path) -> None:
    text = path.read_bytes()
    if len(text) > LARGEST_LOG:
        half = LARGEST_LOG // 2
        path.write_bytes(text[:half] + b"\n... cut ...\n" + text[-half:])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all")
    options = parser.parse_args(arguments)
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no stage is called {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    names = options.stages or list(STAGES)
    out = Path(os.environ.get("OUT") or ROOT / "build" / "gpu-check").resolve()
    records = check(names, out, STAGES)
    print()
    for record in records:
        print(f"{record['stage']:10} {record['seconds']:6.1f} s  {'; '.join(record['problems']) or 'passed'}")
    print(f"logs and results: {out}")
    problems = [problem for record in records for problem in record["problems"]]
    if any(problem.startswith("missing: ") for problem in problems):
        return 2
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
