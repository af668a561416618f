"""What an experiment consists of. lstmfast/study/experiments/gradient_flow.py is a short one to begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .claims import Finding
from .data.source import Source
from .layers import Provider, recurrent

if TYPE_CHECKING:
    from .plots import Plot
    from .results import Results

Key = dict[str, Any]
"""What distinguishes a run from the others of its experiment: layer, init, seed, and whatever the experiment varies."""


@dataclass(frozen=True)
class Setting:
    """What a run is given besides its key."""

    budget: Any
    provider: Provider = "lstmfast"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data: Path | None = None

    def layer(self, key: Key, input_size: int, hidden_size: int, span: int | None = None) -> torch.nn.RNNBase:
        """The recurrent layer of a run: its kind is key["layer"], its initial weights key["init"]."""
        return recurrent(key["layer"], input_size, hidden_size, init=key["init"], provider=self.provider, span=span)


@dataclass(frozen=True)
class Table:
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Literature:
    """A published figure to hold ours against; `source` is where it can be looked up."""

    figure: str
    source: str


@dataclass(frozen=True)
class Band:
    """Where a figure is expected to lie. `lstmfast study run --check` fails if it lies elsewhere."""

    what: str
    value: Callable[[Results], float | None]
    low: float
    high: float


@dataclass(frozen=True)
class Experiment:
    """An experiment: what to run, what to measure in each run, and what follows from the measurements.

    Everything that follows (tables, findings, bands, plots) is computed from the saved results alone, so that a report
    needs no run. These functions get the results that there are, and leave out what they have no results for.

    budgets: "quick" and "full", each a frozen dataclass of the experiment's own (sizes, steps, number of seeds in
        `seeds`). It is saved with every result; results of another budget are not mixed in.
    runs: the keys of all runs of a budget with these seeds, in the order in which they should run.
    measure: carries out one run and returns what it measured: numbers, strings, lists and dicts of them.
    step: a step of that run, for the comparison with torch.nn: each call takes one and returns its loss. `compared` are
        the keys that are compared, once each.
    """

    name: str
    title: str
    about: str
    claims: tuple[str, ...]
    budgets: dict[str, Any]
    runs: Callable[[Any, Iterable[int]], list[Key]]
    measure: Callable[[Key, Setting], dict[str, Any]]
    findings: Callable[[Results], list[Finding]]
    tables: Callable[[Results], list[Table]]
    plots: tuple[Plot, ...] = ()
    bands: tuple[Band, ...] = ()
    sources: tuple[Source, ...] = ()
    literature: tuple[Literature, ...] = ()
    compared: tuple[Key, ...] = ()
    step: Callable[[Key, Setting], Callable[[], float]] | None = None
