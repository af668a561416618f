"""The emulated tests of the CUDA kernels notice what is broken on purpose: a few mutations here, all on demand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent / "cuda_emulation" / "mutate.py"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="compiles the kernels with g++")


def mutate(*args):
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSED" not in done.stdout
    return done.stdout.count("caught  ")


def test_a_few_mutations_are_noticed():
    assert mutate("--quick") == 9


@pytest.mark.slow
def test_all_mutations_are_noticed():
    assert mutate() >= 80
