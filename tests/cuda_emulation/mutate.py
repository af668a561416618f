"""Breaks the CUDA kernels on purpose and requires that the emulated tests notice.

Each mutation (mutations.txt) is a small edit of one source file: a barrier removed, a parity or an offset wrong, two
fragment registers swapped. The tree is copied, the edit made, the code for one element type compiled for the emulation
(mutation_target.cpp) and run on random calls. A mutation that no call notices is a hole in the tests.

    python tests/cuda_emulation/mutate.py            all mutations
    python tests/cuda_emulation/mutate.py --quick    a fixed few
    python tests/cuda_emulation/mutate.py --only TEXT  those whose name contains the text
    python tests/cuda_emulation/mutate.py --part 3/16  every sixteenth, from the third on
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FLAGS = ["-std=c++17", "-O1", "-Wno-unknown-pragmas", "-Wno-unused", "-DLSTMFAST_CUDA_EMULATION"]
FLAGS += ["-DLSTMFAST_EMULATED_CELLS=portable::LstmCell"]  # one cell is enough, and quicker to compile


class Mutation(NamedTuple):
    name: str
    # what runs: "persistent" kernels, those with weights "split", only those with "tf32", these watched for "order",
    # those of 16-bit elements ("half"), the "general" path
    test: str
    file: str  # in csrc/cuda
    quick: bool
    everywhere: bool
    old: str
    new: str


HEAD = re.compile(r"## (?P<test>\w+) (?P<file>\S+?)(?P<quick> quick)?(?P<everywhere> all)?: (?P<name>.+)")


def read_mutations() -> list[Mutation]:
    mutations = []
    for block in re.split(r"^(?=## )", (HERE / "mutations.txt").read_text(), flags=re.MULTILINE)[1:]:
        head, _, text = block.partition("\n")
        old, _, new = text.rstrip("\n").partition("\n----")
        found = HEAD.fullmatch(head)
        if not found or not old:
            raise SystemExit(f"mutations.txt: cannot read '{head}'")
        fields = found.groupdict()
        fields |= {"quick": bool(fields["quick"]), "everywhere": bool(fields["everywhere"])}
        mutations.append(Mutation(**fields, old=old, new=new.removeprefix("\n")))
    return mutations


def mutate(source: str, m: Mutation) -> str:
    if m.old not in source:
        raise SystemExit(f"mutation '{m.name}': {m.file} has no such text")
    return source.replace(m.old, m.new, -1 if m.everywhere else 1)


# ThreadSanitizer slows calls down, and looks at every access: it needs fewer. The first race is one too many.
WATCHED = ["-fsanitize=thread", "-g1"]
WATCHED_CALLS = 15  # of them one
ENVIRONMENT = os.environ | {"TSAN_OPTIONS": "halt_on_error=1 history_size=0"}


def build_and_run(work: Path, test: str, calls: int) -> tuple[bool, str]:
    """Compiles one program out of the host code and the units of one type, and runs it: (noticed, last words)."""
    program = work / "program"
    source = work / "tests" / "cuda_emulation" / "mutation_target.cpp"
    includes = [f"-I{work / folder}" for folder in ("csrc", "tests/cuda_emulation", "tests")]
    command = [
        *os.environ.get("CXX", "g++").split(),
        *FLAGS,
        *(WATCHED if test == "order" else []),
        f"-DTEST_{test.upper()}",
        *includes,
        str(source),
        "-o",
        str(program),
    ]
    compiled = subprocess.run(command, capture_output=True, text=True)
    if compiled.returncode:
        raise SystemExit(f"does not compile:\n{compiled.stderr[:2000]}")
    calls = -(-calls // WATCHED_CALLS) if test == "order" else calls
    try:
        run = subprocess.run([program, str(calls)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    except subprocess.TimeoutExpired:
        return True, "did not end"
    race = [line for line in run.stderr.splitlines() if line.startswith("SUMMARY: ThreadSanitizer")]
    words = (race or run.stdout.strip().splitlines() or [f"signal {-run.returncode}"])[0]
    return run.returncode != 0, words


def try_out(m: Mutation | None, test: str, calls: int) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for part in ("csrc/cuda", "csrc/core", "tests/cuda_emulation", "tests/cpp"):
            shutil.copytree(ROOT / part, work / part)
        if m:
            path = work / "csrc" / "cuda" / m.file
            path.write_text(mutate(path.read_text(), m))
        return build_and_run(work, test, calls)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="only the mutations of the quick suite")
    parser.add_argument("--only", default="", help="only mutations whose name contains this")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="the I-th of N parts, for runs of limited length")
    parser.add_argument("--calls", type=int, default=300, help="random calls per mutation (default 300)")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    mutations = read_mutations()
    for m in mutations:  # of all, whatever is chosen: none is to lose its place unnoticed
        mutate((ROOT / "csrc" / "cuda" / m.file).read_text(), m)
    chosen = [m for m in mutations if args.only in m.name and (m.quick or not args.quick)]
    part, parts = map(int, args.part.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"--part {args.part}: there is no such part")
    chosen = chosen[part - 1 :: parts]
    for test in sorted({m.test for m in chosen}):
        noticed, words = try_out(None, test, args.calls)
        if noticed:
            raise SystemExit(f"the test '{test}' fails without any mutation: {words}")
    missed = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for m, (noticed, words) in zip(chosen, pool.map(lambda m: try_out(m, m.test, args.calls), chosen), strict=True):
            print(f"{'caught' if noticed else 'MISSED'}  {m.name:60s} {words[:110] if noticed else ''}", flush=True)
            missed += not noticed
    print(f"{len(chosen) - missed} of {len(chosen)} mutations caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
