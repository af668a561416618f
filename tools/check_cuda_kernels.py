"""Compiles the CUDA kernels for every architecture with nvcc alone, and keeps an eye on registers and spills.

Warnings are errors. No persistent kernel may spill or have a stack, since it would touch local memory in every step;
none may need more registers than the committed table (tools/cuda_registers.txt) says for its architecture; and none may
read global memory in a way that need not see what other multiprocessors have written.

    python tools/check_cuda_kernels.py             all units for sm_90, a few of them for the other architectures
    python tools/check_cuda_kernels.py --all       all units for all architectures
    python tools/check_cuda_kernels.py --update    also writes what it has seen into the table

Without nvcc (in PATH, or in CUDA_HOME/bin) it says so and exits with status 2.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "csrc" / "cuda" / "units"
TABLE = ROOT / "tools" / "cuda_registers.txt"
ARCHITECTURES = ["80", "86", "89", "90", "90a", "100", "120"]
FULL = "90"
# What the other architectures are tried with: 16-bit and 32-bit elements, both directions of time, the general path.
REPRESENTATIVE = ["shared", "steps_bf16", "forward_bf16", "backward_tf32"]
FLAGS = ["-std=c++17", "-O3", "--Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror", "-Xptxas", "-v"]

# Of what blocks exchange: loads that may come from a cache that nobody tells of writes.
STALE = ("ld.global.nc", "cp.async.ca")

PROPERTIES = re.compile(
    r"Function properties for (\S+)\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info\s+: Used (\d+) registers"
)


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")


def short_name(mangled: str) -> str | None:
    """forward LSTM 128 L2, for a persistent kernel; None for others, whose registers are not watched."""
    direction = re.search(r"Persistent(Forward|Backward)Kernel", mangled)
    if not direction:
        return None
    cell = "LSTM" if "LstmCell" in mangled else "RNN_TANH" if "4Tanh" in mangled else "RNN_RELU"
    rows, depth = map(int, re.search(r"WarpShapeILi(\d+)ELi(\d+)E", mangled).groups())
    policies = r"7InBlock|9InCluster|9ThroughL2|14ThroughMailbox|17ThroughL2InPieces|12ThroughStack"
    exchange = re.search(policies, mangled).group().lstrip("0123456789")
    return f"{direction[1].lower()} {cell} {rows * depth * 4} {exchange}"


def compile_unit(nvcc: str, unit: str, arch: str, folder: Path) -> tuple[str, list[str], float]:
    """ptxas's report, which of STALE the kernels have, and seconds."""
    began = time.monotonic()
    # The last architecture also as PTX, for GPUs to come.
    code = f"arch=compute_{arch},code=[sm_{arch},compute_{arch}]" if arch == ARCHITECTURES[-1] else None
    target = ["-gencode", code] if code else ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    kept = folder / f"{unit}.{arch}"
    kept.mkdir()
    command = [nvcc, *FLAGS, *target, "--keep", "--keep-dir", str(kept)]
    command += ["-c", str(UNITS / f"{unit}.cu"), "-o", str(folder / f"{unit}.{arch}.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{unit}.cu does not compile for sm_{arch}:\n{done.stdout}{done.stderr}")
    texts = [path.read_text() for path in kept.glob("*.ptx")]
    if not texts:
        raise SystemExit(f"{nvcc} has kept no PTX of {unit}.cu")
    stale = [word for word in STALE if any(word in text for text in texts)]
    shutil.rmtree(kept)
    return done.stderr + done.stdout, stale, time.monotonic() - began


def read_table() -> dict[str, int]:
    lines = TABLE.read_text().splitlines() if TABLE.exists() else []
    return {line.rsplit(None, 1)[0]: int(line.rsplit(None, 1)[1]) for line in lines if line and line[0] != "#"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="all units for all architectures")
    parser.add_argument("--update", action="store_true", help="write what is seen into the table")
    parser.add_argument("--arch", action="append", help="only this one (may be repeated)")
    parser.add_argument("--unit", action="append", help="only this one, for all of the architectures (may be repeated)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc in PATH or CUDA_HOME: the CUDA kernels were not compiled")
        return 2
    units = sorted(path.stem for path in UNITS.glob("*.cu"))
    todo = [(unit, arch) for arch in args.arch or ARCHITECTURES for unit in units
            if (unit in args.unit if args.unit else args.all or arch == FULL or unit in REPRESENTATIVE)]  # fmt: skip
    table, seen, problems = read_table(), {}, []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        reports = pool.map(lambda job: compile_unit(nvcc, *job, Path(folder)), todo)
        for (unit, arch), (report, stale, seconds) in zip(todo, reports, strict=True):
            print(f"sm_{arch:4} {unit:14} {seconds:5.1f} s", flush=True)
            if unit.startswith(("forward", "backward")):
                problems += [f"sm_{arch} {unit} has {word}" for word in stale]
            for mangled, stack, stores, loads, registers in PROPERTIES.findall(report):
                name = short_name(mangled)
                if name is None:
                    continue
                key = f"sm_{arch} {unit.split('_')[-1]} {name}"
                seen[key] = int(registers)
                if int(stores) or int(loads):
                    problems.append(f"{key} spills {stores} bytes")
                elif int(stack):
                    problems.append(f"{key} has a stack of {stack} bytes")
                if not args.update and key not in table:
                    problems.append(f"{key} is not in the table")
                elif not args.update and int(registers) > table[key]:
                    problems.append(f"{key} needs {registers} registers, the table says {table[key]}")
    if args.update:
        table = {**table, **seen} if args.arch or args.unit or not args.all else seen
        head = "# Registers per thread of the persistent kernels, by ptxas: architecture, type, direction, cell,\n"
        head += "# registers of weights, exchange, registers. Written by tools/check_cuda_kernels.py --update.\n"
        TABLE.write_text(head + "".join(f"{key} {value}\n" for key, value in sorted(table.items())))
    print("\n".join(problems) or f"{len(todo)} objects, {len(seen)} persistent kernels, none spills")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
