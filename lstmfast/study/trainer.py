"""The training loop that all experiments share."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .progress import Progress


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Training ends after `steps`, after `seconds` (of clock() below), or when it is solved.

    clip: the gradient's norm is limited to it; None leaves it alone.
    anneal: the learning rate falls to 0 along a cosine, over whichever of steps and seconds ends first.
    evaluate_every: steps between two points of the learning curve.
    """

    lr: float
    steps: int | None = None
    seconds: float | None = None
    optimizer: Literal["adam", "sgd"] = "adam"
    clip: float | None = 1.0
    anneal: bool = False
    evaluate_every: int = 100

    @classmethod
    def of_epochs(cls, epochs: int, steps_per_epoch: int, lr: float) -> "Recipe":
        """Annealed, with an evaluation after each epoch."""
        return cls(lr=lr, steps=epochs * steps_per_epoch, anneal=True, evaluate_every=steps_per_epoch)


@dataclass
class Curve:
    """A learning curve: one entry in each list per evaluation. `seconds` are those of training, without evaluations."""

    step: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)  # mean of the training losses since the entry before
    metrics: dict[str, list[float]] = field(default_factory=dict)
    diverged: bool = False

    def json(self) -> dict[str, Any]:
        lists = {"step": self.step, "seconds": self.seconds, "loss": self.loss, **self.metrics}
        return {**lists, "diverged": self.diverged}


def clock(device: torch.device) -> float:
    """Seconds: of the processor where the work is done by one thread of it, which other programs hardly disturb; of
    the clock on the wall otherwise."""
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def shuffled(count: int, batch: int) -> Iterator[Tensor]:
    """Batches of the numbers below `count`, all of them in each epoch, in an order from torch's generator; no end."""
    while True:
        yield from torch.randperm(count).split(batch)


class Training:
    """A model in training.

    batches: yields batches without end, each whatever `loss` takes.
    loss: the loss of a batch, a scalar. It may carry state from batch to batch.
    """

    def __init__(self, model: nn.Module, batches: Iterator[Any], loss: Callable[[Any], Tensor], recipe: Recipe):
        self.model = model
        self.batches = batches
        self.loss = loss
        self.recipe = recipe
        optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self.optimizer = optimizers[recipe.optimizer](model.parameters(), lr=recipe.lr)
        self.gradient_norm = 0.0  # of the last step, before clipping

    def step(self) -> float:
        """Takes one step and returns its loss."""
        loss = self.loss(next(self.batches))
        self.optimizer.zero_grad()
        loss.backward()
        limit = math.inf if self.recipe.clip is None else self.recipe.clip
        self.gradient_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        self.optimizer.step()
        return loss.item()

    def run(
        self,
        evaluate: Callable[[], dict[str, float]] = dict,
        solved: Callable[[dict[str, float]], bool] = lambda metrics: False,
        desc: str = "",
    ) -> Curve:
        """Trains until the recipe's end, or until `solved` says of what `evaluate` returned that it is enough.

        `evaluate` runs in eval mode without gradients. A loss that is not finite ends the training: Curve.diverged."""
        recipe, curve, device = self.recipe, Curve(), next(self.model.parameters()).device
        if recipe.steps is None and recipe.seconds is None:
            raise ValueError("a recipe needs steps, seconds, or both")
        step, seconds, losses = 0, 0.0, []
        with Progress(1000, desc) as progress:
            while not curve.diverged and (done := self._done(step, seconds)) < 1:
                if recipe.anneal:
                    for group in self.optimizer.param_groups:
                        group["lr"] = recipe.lr * (1 + math.cos(math.pi * done)) / 2
                self.model.train()
                began = clock(device)
                losses.append(self.step())
                seconds += clock(device) - began
                step += 1
                curve.diverged = not math.isfinite(losses[-1])
                progress.to(int(1000 * min(1, self._done(step, seconds))), f"loss {losses[-1]:.3g}")
                if step % recipe.evaluate_every and self._done(step, seconds) < 1 and not curve.diverged:
                    continue
                self.model.eval()
                with torch.no_grad():
                    metrics = evaluate()
                curve.step.append(step)
                curve.seconds.append(seconds)
                curve.loss.append(sum(losses) / len(losses))
                for name, value in metrics.items():
                    curve.metrics.setdefault(name, []).append(value)
                losses = []
                if solved(metrics):
                    break
        return curve

    def _done(self, step: int, seconds: float) -> float:
        """The part of the training that is over; 1 or more at its end."""
        recipe = self.recipe
        return max(
            step / recipe.steps if recipe.steps is not None else 0.0,
            seconds / recipe.seconds if recipe.seconds is not None else 0.0,
        )
