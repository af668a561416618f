"""Runs of Python beside the one of the tests: with a time limit, so that a hang is a failure and not the end."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str | Path, *arguments: object, timeout: float = 60, **environment: str) -> str:
    """What a program, its text or its file, prints; its process must end in time, and without error."""
    return _run([str(code)] if isinstance(code, Path) else ["-c", code], arguments, timeout, environment)


def run_module(name: str, *arguments: object, timeout: float = 60, **environment: str) -> str:
    """The same for `python -m name`."""
    return _run(["-m", name], arguments, timeout, environment)


def _run(program: list[str], arguments: tuple[object, ...], timeout: float, environment: dict[str, str]) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
