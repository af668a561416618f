"""What the build promises: one OpenMP runtime, torch-free kernels, no instruction above a unit's level, clear words."""

import collections
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lstmfast

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "python"
OBJECTS = BUILD / "CMakeFiles" / "lstmfast_cpu.dir" / "csrc" / "cpu"
needs_build_tree = pytest.mark.skipif(
    not OBJECTS.exists(), reason="needs the objects of `make build`; an installed wheel has none"
)


def test_build_info():
    info = lstmfast.build_info()
    assert info["version"] == (ROOT / "VERSION").read_text().strip() == lstmfast.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_isa"] in info["cpu_isa_supported"]
    assert set(info["cpu_isa_supported"]) <= set(info["cpu_isa_compiled"])
    assert info["cpu_isa_compiled"][0] == "baseline"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_one_openmp_runtime():
    lstmfast.lstm(torch.randn(4, 3, 2), None, [torch.randn(s) for s in ((64, 2), (64, 16), (64,), (64,))])
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    runtimes = {Path(p).resolve() for p in mapped if re.search(r"lib(g|i)?omp", Path(p).name)}
    assert len(runtimes) == 1, runtimes


@pytest.mark.parametrize("name", lstmfast._C.isa_levels())
def test_environment_lowers_the_isa_level(name):
    code = "import lstmfast; print(lstmfast.build_info()['cpu_isa'])"
    env = {**os.environ, "LSTMFAST_CPU_ISA": name}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip() == name


def test_unknown_isa_level_is_refused():
    with pytest.raises(ValueError, match="no ISA level 'avx1024'"):
        lstmfast._C.set_isa("avx1024")


@needs_build_tree
def test_kernels_are_compiled_without_torch():
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        if "/csrc/cpu/" in entry["file"]:
            assert "torch" not in entry["command"].replace(str(ROOT), "")


def _run(tool, *arguments):
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool} (binutils)")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


@needs_build_tree
def test_isa_units_share_no_weak_symbol():
    """The linker keeps one copy of a weak symbol, whichever unit's: AVX-512 code could answer the baseline's call."""
    units = collections.defaultdict(set)
    for unit in OBJECTS.glob("isa_*.o"):
        for line in _run("nm", unit).splitlines():
            kind, symbol = line.split()[-2:]
            if kind in "VWu":
                units[symbol].add(unit.name)
    assert len(units) > 100
    assert not {s: u for s, u in units.items() if len(u) > 1}


# Mnemonics with a VEX or EVEX prefix begin with v (verr and verw are older), or are BMI's or of opmask registers.
VEX = r"\tv(?!er[rw]\b)\w+|%k[0-7]\b|\t(andn|bextr|bls\w+|bzhi|mulx|pdep|pext|rorx|sarx|sh[lr]x)\b"
AMX = r"\bldtilecfg\b|\bsttilecfg\b|\btilerelease\b|\btileload\w+|\btilestored\b|\btilezero\b|\btdp\w+|%tmm"


@needs_build_tree
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="looks for x86 registers")
@pytest.mark.parametrize(
    ("unit", "forbidden"),
    [
        ("isa_baseline", rf"%[yz]mm|{VEX}|{AMX}"),
        ("isa_avx2", rf"%zmm|%k[1-7]\b|{AMX}"),
        ("isa_avx512", AMX),
        ("dispatch", rf"%[yz]mm|{VEX}|{AMX}"),
        ("amx", rf"%[yz]mm|{VEX}|{AMX}"),
    ],
)
def test_no_instruction_above_the_units_level(unit, forbidden):
    code = _run("objdump", "-d", "--no-show-raw-insn", OBJECTS / f"{unit}.cpp.o")
    assert "%xmm" in code or unit in ("dispatch", "amx")
    assert not re.search(forbidden, code)


@needs_build_tree
@pytest.mark.skipif(not (OBJECTS / "isa_avx512_amx.cpp.o").exists(), reason="the compiler has no AMX")
def test_tile_instructions_are_in_the_amx_unit():
    found = set(re.findall(AMX, _run("objdump", "-d", "--no-show-raw-insn", OBJECTS / "isa_avx512_amx.cpp.o")))
    # None where LSTMFAST_EMULATE_AMX stands in for them.
    assert found in ({"ldtilecfg", "tilerelease", "tileloadd", "tilestored", "tdpbf16ps", "%tmm"}, set())


FAKE_TORCH = {
    "missing": ("torch.py", "raise ImportError", "install torch first"),
    "too old": ("torch/__init__.py", "__version__ = '2.1.0+cpu'", "needs torch 2.11 or newer, found 2.1.0"),
}


@pytest.mark.parametrize("what", FAKE_TORCH)
def test_build_says_what_is_wrong_with_torch(what, tmp_path):
    path, text, message = FAKE_TORCH[what]
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    if what == "too old":
        (file.parent / "utils").mkdir()
        (file.parent / "utils" / "__init__.py").write_text("cpp_extension = None")
    assert message in _failing_build({"PYTHONPATH": str(tmp_path)})


def test_build_without_ninja_says_so(tmp_path):
    # A PATH, and an interpreter's folder, without ninja: a link to this interpreter in an empty folder.
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    site = Path(torch.__file__).parent.parent
    message = _failing_build({"PATH": str(tmp_path), "PYTHONPATH": str(site)}, python)
    assert "needs ninja to build" in message


def _failing_build(environment, python=sys.executable):
    result = subprocess.run(
        [python, "setup.py", "build_ext"], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr
