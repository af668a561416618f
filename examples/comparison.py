"""Two trainings side by side: do their losses agree, which is faster and by how much, and a picture of both."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draws into files, so that no display is needed
import matplotlib.pyplot as plt

STEPS_PER_TURN = 10
TOLERANCE = 1e-4
FIRST_STEPS = 50
SMOOTHING = 20


@dataclass
class LearningCurve:
    """The loss in bits per character and the seconds of every training step so far."""

    bits: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def append(self, bits: float, seconds: float) -> None:
        self.bits.append(bits)
        self.seconds.append(seconds)

    @property
    def seconds_per_step(self) -> float:
        """The median, which neither a slow first step nor a passing disturbance moves."""
        return statistics.median(self.seconds)

    @property
    def seconds_per_turn(self) -> np.ndarray:
        return np.add.reduceat(self.seconds, range(0, len(self.seconds), STEPS_PER_TURN))


@dataclass(frozen=True)
class Agreement:
    """How far two loss curves are the same: rounding sets them apart little by little, a mistake at once.

    first_step_apart: the first step, counted from 0, at which they differ by more than TOLERANCE bits per character;
        None if there is none.
    largest_early_difference: the largest difference in the first FIRST_STEPS steps.
    """

    first_step_apart: int | None
    largest_early_difference: float

    def __str__(self) -> str:
        until = "throughout" if self.first_step_apart is None else f"before step {self.first_step_apart}"
        return (
            f"losses within {TOLERANCE:g} bits {until}; "
            f"largest difference in the first {FIRST_STEPS} steps {self.largest_early_difference:.1e}"
        )


def agreement(one: LearningCurve, other: LearningCurve) -> Agreement:
    difference = np.abs(np.subtract(one.bits, other.bits))
    apart = np.flatnonzero(~(difference <= TOLERANCE))  # so that NaN counts as apart
    return Agreement(int(apart[0]) if apart.size else None, float(difference[:FIRST_STEPS].max()))


@dataclass(frozen=True)
class Speedup:
    """Seconds of one training over seconds of the other, turn by turn: the median and the middle eight tenths."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} (80 % of the turns between {self.low:.2f} and {self.high:.2f})"


def speedup(slow: LearningCurve, fast: LearningCurve) -> Speedup:
    """How many times as long `slow` takes; each ratio is of two turns that ran one right after the other."""
    ratios = slow.seconds_per_turn / fast.seconds_per_turn
    low, median, high = np.percentile(ratios, [10, 50, 90])
    return Speedup(float(median), float(low), float(high))


def draw(curves: dict[str, LearningCurve], held_out: dict[str, float], title: str, path: Path) -> None:
    """Draws the loss of each curve against steps and against seconds, and their difference if there are two.

    held_out: held-out bits per character by name; a dot at the end of the curve of that name, else a level line.
    """
    figure, (by_step, by_second, apart) = plt.subplots(1, 3, figsize=(16, 5), layout="constrained")
    figure.suptitle(title)
    # The second curve is drawn thin over the first, so that both show where they are one.
    styles = [{"color": "tab:orange", "linewidth": 4, "alpha": 0.6}, {"color": "tab:blue", "linewidth": 1.4}]
    for axes, label in ((by_step, "step"), (by_second, "seconds of training")):
        for (name, curve), style in zip(curves.items(), styles, strict=False):
            places = range(len(curve.bits)) if axes is by_step else list(accumulate(curve.seconds))
            axes.plot(places, _running_mean(curve.bits, SMOOTHING), label=name, **style)
            dot = {"marker": "o", "markersize": 4 + style["linewidth"], "linestyle": "none", "color": style["color"]}
            axes.plot(places[-1], held_out[name], label=f"{name}, held out: {held_out[name]:.2f}", **dot)
        for name, dashes in zip([name for name in held_out if name not in curves], ("--", ":"), strict=True):
            axes.axhline(
                held_out[name], color="gray", linestyle=dashes, label=f"{name}, held out: {held_out[name]:.2f}"
            )
        axes.set_xlabel(label)
        axes.set_ylabel(f"training loss, bits per character (mean of {SMOOTHING} steps)")
        # What lies far above the last losses is over within a few steps.
        last = max(curve.bits[-1] for curve in curves.values())
        axes.set_ylim(top=min(3 * last, axes.get_ylim()[1]))
        axes.grid(alpha=0.3)
        axes.legend()
    if len(curves) == 2:
        one, other = curves.values()
        smallest = 1e-8
        apart.semilogy(np.maximum(np.abs(np.subtract(one.bits, other.bits)), smallest), ".", markersize=3)
        apart.axhline(TOLERANCE, color="gray", linestyle="--")
        apart.set_title("Rounding grows with every update", fontsize="medium")
        apart.set_xlabel("step")
        apart.set_ylabel(f"difference of the losses, bits per character (none: {smallest:g})")
        apart.grid(alpha=0.3)
    else:
        apart.remove()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """The mean of the last `width` values at each place, or of as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
