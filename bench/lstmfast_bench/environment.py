"""Where a result comes from: machine, versions, state of the sources. Figures do not travel without it."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import lstmfast

from . import cuda

ROOT = Path(__file__).resolve().parents[2]


def describe(device: str) -> dict[str, Any]:
    """For a result file. build_info, read as the run begins, holds the ISA level of lstmfast's kernels."""
    info = lstmfast.build_info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git": _git(),
        "build_info": info,
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "platform": platform.platform()},
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "isa": info["cpu_isa"],
            "torch_isa": torch.backends.cpu.get_cpu_capability(),
            "l2_bytes": _l2_bytes(),
            "load_average": os.getloadavg()[0],  # before the run: what others do there
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "gpu_details": cuda.describe() if device == "cuda" else None,
        },
    }


def one_line(result: dict[str, Any]) -> str:
    """What must stand beside every table and figure made from a result."""
    machine = result["machine"]
    if machine["gpu"] is not None:
        where = machine["gpu"]
    else:
        cache = f", L2 {machine['l2_bytes'] / 2**20:g} MiB" if machine["l2_bytes"] else ""
        where = f"{machine['cpu']}, {machine['cores']} cores, {machine['isa']}{cache}"
    commit = result["git"]["commit"]
    version = f"lstmfast {result['build_info']['version']}" + (f" ({commit[:9]})" if commit else "")
    return f"{where}; torch {result['versions']['torch']}, {version}, {result['date'][:10]}"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _l2_bytes() -> int | None:
    """Of one core's second level of cache, where Linux tells."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "level").read_text().strip() == "2":
            return int((index / "size").read_text().strip().removesuffix("K")) * 1024
    return None


def _git() -> dict[str, Any]:
    """The commit, and whether tracked files differ from it; None where there is no repository."""

    def git(*arguments: str) -> str | None:
        try:
            finished = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
        except OSError:  # no git here
            return None
        return finished.stdout.strip() if finished.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "is_modified": None if changes is None else bool(changes)}
