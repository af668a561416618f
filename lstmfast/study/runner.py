"""Carries out the runs of an experiment that have not been carried out yet."""

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import lstmfast

from .comparison import compare
from .experiment import Experiment, Setting
from .progress import Progress
from .results import Store, name


def run(experiment: Experiment, setting: Setting, store: Store, seeds: Iterable[int]) -> None:
    """Runs and saves; what is in the store with the same budget is left as it is.

    Every run seeds torch's generator, so that it does not depend on the runs before it.
    Raises data.source.Missing if the data is not there."""
    keys = experiment.runs(setting.budget, seeds)
    wanted = [key for key in keys if store.load(key) is None]
    with Progress(len(wanted), experiment.name) as progress:
        for done, key in enumerate(wanted):
            progress.to(done, name(key))
            torch.manual_seed(key.get("seed", 0))
            before = circumstances(setting)
            began = time.perf_counter()
            figures = experiment.measure(key, setting)
            store.save(key, figures, {**before, "seconds": time.perf_counter() - began})
    if setting.provider == "lstmfast" and experiment.step is not None:
        for key in experiment.compared:
            if store.load(key, "torch") is None:
                torch.manual_seed(0)
                store.save(key, compare(experiment, key, setting), circumstances(setting), "torch")


def circumstances(setting: Setting) -> dict[str, Any]:
    """What figures in seconds depend on."""
    device = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else _processor()
    return {
        "lstmfast": lstmfast.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "isa": lstmfast.build_info()["cpu_isa"],
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The processor's name where Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
