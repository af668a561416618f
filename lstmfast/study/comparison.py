"""The same steps with lstmfast's layers and with torch.nn's: how far the losses differ, and what a step costs each."""

import statistics
from dataclasses import replace
from typing import Any

import torch

from .experiment import Experiment, Key, Setting
from .layers import PROVIDERS
from .trainer import clock

STEPS = 20
UNTIMED = 3  # the first steps of each are slower: memory is allocated, libraries start


def compare(experiment: Experiment, key: Key, setting: Setting, steps: int = STEPS) -> dict[str, Any]:
    """Takes `steps` steps with each, from the same seed and so from the same weights and batches, in turns, so that
    whatever else the machine does slows both alike.

    Returns the losses' largest difference, absolute and relative to the largest loss, and the median time of a step."""
    takers = {}
    for name in PROVIDERS:
        torch.manual_seed(key.get("seed", 0))
        takers[name] = experiment.step(key, replace(setting, provider=name))
    losses = {name: [] for name in takers}
    seconds = {name: [] for name in takers}
    for index in range(steps):
        for name in list(takers) if index % 2 else reversed(takers):
            # A step that draws random numbers must draw the same ones for both.
            torch.manual_seed(index)
            began = clock(setting.device)
            losses[name].append(takers[name]())
            seconds[name].append(clock(setting.device) - began)
    ours, torchs = losses["lstmfast"], losses["torch"]
    difference = max(abs(a - b) for a, b in zip(ours, torchs, strict=True))
    return {
        "steps": steps,
        "difference": difference,
        "relative_difference": difference / max(map(abs, torchs)),
        **{f"{name}_seconds": statistics.median(timed[UNTIMED:] or timed) for name, timed in seconds.items()},
    }
