"""The next value of a series: sunspots by the year, carbon dioxide and airline passengers by the month; beside what
a straight line through the last values says."""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..claims import Finding, verdict
from ..data import airline, co2, sunspots
from ..data.source import Missing
from ..experiment import Band, Experiment, Key, Setting, Table
from ..models.sequence_regressor import SequenceRegressor
from ..plots import Plot, label, style
from ..results import Results, mean_list
from ..trainer import Recipe, Training

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]
BASELINES = ["linear", "naive"]
LAST = 36  # values of the test are drawn


@dataclass(frozen=True)
class Kind:
    """A series and how it is predicted.

    unit: of what the model sees, so that its numbers have size 1.
    season: steps in a year, where there are seasons. Such a series also grows: the model reads its changes, since its
        values leave the range that was trained on.
    logarithm: whether the seasons grow with it: then the model sees logarithms.
    order: of the linear model.
    trained, validated, tested: values before these times train, choose when to stop, and test.
    """

    load: Callable[[Path | None], tuple[list[float], list[float]]]
    unit: float
    trained: int
    validated: int
    tested: int
    order: int
    season: int = 1
    logarithm: bool = False

    @property
    def baselines(self) -> dict[str, str]:
        return {"linear": f"AR({self.order})", "naive": "persistence" if self.season == 1 else "as a year ago"}


KINDS = {
    "sunspots": Kind(sunspots.load, 100.0, 1881, 1921, 1956, order=9),
    "carbon dioxide": Kind(co2.load, 1.0, 1984, 1990, 2002, order=13, season=12),
    "passengers": Kind(airline.load, 0.1, 1957, 1959, 1961, order=13, season=12, logarithm=True),
}


@dataclass(frozen=True)
class Budget:
    seeds: int
    recipe: Recipe
    hidden_size: int = 16


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"series": series, "layer": layer, "init": init, "seed": seed}
        for seed in seeds
        for series in KINDS
        for layer, init in (*LAYERS, *((name, "least squares") for name in BASELINES))
    ]


@dataclass(frozen=True)
class Series:
    """A series [N]. What is predicted of it are its second value and all after it: N - 1 levels."""

    kind: Kind
    times: list[float]
    values: Tensor

    @classmethod
    def load(cls, key: Key, setting: Setting) -> "Series":
        kind = KINDS[key["series"]]
        times, values = kind.load(setting.data)
        return cls(kind, times, torch.tensor(values, device=setting.device))

    @cached_property
    def levels(self) -> Tensor:
        """The values as models see them."""
        return (self.values.log() if self.kind.logarithm else self.values) / self.kind.unit

    def in_values(self, levels: Tensor) -> Tensor:
        scaled = levels * self.kind.unit
        return scaled.exp() if self.kind.logarithm else scaled

    @cached_property
    def inputs(self) -> Tensor:
        return self.levels if self.kind.season == 1 else self.levels.diff(prepend=self.levels[:1])

    @cached_property
    def parts(self) -> dict[str, slice]:
        """Where the predictions of each part lie among all predictions."""
        kind = self.kind
        ends = [bisect_left(self.times, end) - 1 for end in (kind.trained, kind.validated, kind.tested)]
        return {
            "train": slice(0, ends[0]),
            "validation": slice(ends[0], ends[1]),
            "test": slice(ends[1], ends[2]),
        }

    def rmse(self, predicted: Tensor, part: str) -> float:
        where = self.parts[part]
        return (self.in_values(predicted) - self.values[1:])[where].square().mean().sqrt().item()

    def test(self, predicted: Tensor) -> dict[str, list[float]]:
        where = self.parts["test"]
        return {
            "times": self.times[1:][where],
            "actual": self.values[1:][where].tolist(),
            "predicted": self.in_values(predicted)[where].tolist(),
        }


def training(key: Key, setting: Setting, series: Series) -> Training:
    model = SequenceRegressor(setting.layer(key, 1, setting.budget.hidden_size)).to(setting.device)
    part = series.parts["train"]

    def always() -> Iterator[None]:
        while True:
            yield None

    def loss(_: None) -> Tensor:
        return (predict(model, series, part) - series.levels[1:][part]).square().mean()

    return Training(model, always(), loss, setting.budget.recipe)


def predict(model: SequenceRegressor, series: Series, part: slice = slice(None)) -> Tensor:
    """The predictions of a part that begins with the first. The model predicts the change: no change is where it starts
    from."""
    return series.levels[:-1][part] + model(series.inputs[:-1][part][:, None, None])[:, 0, 0]


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, Series.load(key, setting)).step


def measure(key: Key, setting: Setting) -> dict:
    series = Series.load(key, setting)
    if key["layer"] in BASELINES:
        predicted = baseline(key["layer"], series)
        return {"rmse": series.rmse(predicted, "test"), "seconds": 0.0, "test": series.test(predicted)}
    trained = training(key, setting, series)
    best = {"validation": math.inf, "weights": copy.deepcopy(trained.model.state_dict())}

    def evaluate() -> dict[str, float]:
        predicted = predict(trained.model, series)
        metrics = {part: series.rmse(predicted, part) for part in series.parts}
        if metrics["validation"] < best["validation"]:
            best.update(validation=metrics["validation"], weights=copy.deepcopy(trained.model.state_dict()))
        return metrics

    curve = trained.run(evaluate, desc=f"{key['series']} {label(key['layer'], key['init'])}")
    trained.model.load_state_dict(best["weights"])
    with torch.no_grad():
        predicted = predict(trained.model, series)
    return {
        "rmse": series.rmse(predicted, "test"),
        "seconds": curve.seconds[-1],
        "curve": curve.json(),
        "test": series.test(predicted),
    }


def baseline(name: str, series: Series) -> Tensor:
    """The predictions without a recurrent layer: by a linear model, fitted to all values that do not test, or a naive
    one: no change, or the change of a year ago. NaN where there are not enough values before, far from the test."""
    levels, season, order = series.levels, series.kind.season, series.kind.order
    if name == "naive" and season == 1:
        return levels[:-1]
    if name == "naive":
        changes = levels.diff()
        unknown = torch.full_like(levels[:season], torch.nan)
        return torch.cat([unknown, levels[season:-1] + changes[:-season]])
    try:
        import numpy as np
    except ImportError:
        raise Missing("numpy is missing: pip install 'lstmfast[study]'") from None
    values = levels.cpu().double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], order)
    regressors = np.hstack([windows, np.ones((len(windows), 1))])
    fitted = series.parts["validation"].stop - order + 1  # windows whose next value does not test
    coefficients, *_ = np.linalg.lstsq(regressors[:fitted], values[order : order + fitted], rcond=None)
    return torch.from_numpy(np.concatenate([np.full(order - 1, np.nan), regressors @ coefficients])).to(levels)


def _models(series: str) -> list[tuple[str, Key]]:
    """Name and key of everything that predicts a series."""
    keys = [(label(*layer), *layer) for layer in LAYERS]
    keys += [(KINDS[series].baselines[name], name, "least squares") for name in BASELINES]
    return [(name, {"series": series, "layer": layer, "init": init}) for name, layer, init in keys]


def tables(results: Results) -> list[Table]:
    return [_table(results, series, kind) for series, kind in KINDS.items()]


def _table(results: Results, series: str, kind: Kind) -> Table:
    rows = []
    for name, key in _models(series):
        seconds = "" if key["layer"] in BASELINES else f"{results.mean('seconds', **key):.1f}"
        rows.append((name, str(results.spread("rmse", **key)), seconds))
    title = f"Error of the next value, {series}, {kind.validated} to {kind.tested - 1}"
    return Table(title, ("model", "RMSE", "seconds"), rows)


def findings(results: Results) -> list[Finding]:
    return [finding for series in KINDS for finding in _findings(results, series)]


def _findings(results: Results, series: str) -> list[Finding]:
    spreads = {name: results.spread("rmse", **key) for name, key in _models(series)}
    rnn, lstm, biased, _, nothing = (spread.mean for spread in spreads.values())
    naive = KINDS[series].baselines["naive"]
    measured = f"{series}: " + ", ".join(f"{name} {spread}" for name, spread in spreads.items())
    return [
        Finding(
            "C14",
            verdict(max(rnn, lstm) < nothing, max(rnn, biased) < nothing),
            f"The errors of both are below that of the naive prediction ({naive}).",
            measured,
        ),
        Finding(
            "C9",
            verdict(rnn <= 1.05 * min(lstm, biased)),
            "The RNN's error is at most 5 % above the LSTM's.",
            measured,
        ),
    ]


def draw(results: Results, figure) -> None:
    rows = figure.subplots(len(KINDS), 2, width_ratios=(2, 1))
    for (lines, bars), series in zip(rows, KINDS, strict=True):
        first = results.select(series=series)[0].figures["test"]
        lines.plot(first["times"][-LAST:], first["actual"][-LAST:], color="black", linewidth=1.5, label="measured")
        names, keys = zip(*_models(series), strict=True)
        for position, key in enumerate(keys):
            baseline = key["layer"] in BASELINES
            looks = {"color": "gray", "label": "linear model"} if baseline else style(key["layer"], key["init"])
            if key["layer"] != "naive" and key["init"] != "forget1":
                predictions = [record.figures["test"]["predicted"][-LAST:] for record in results.select(**key)]
                lines.plot(first["times"][-LAST:], mean_list(predictions), linewidth=1, **looks)
            spread = results.spread("rmse", **key)
            error = [[spread.mean - spread.low], [spread.high - spread.mean]]
            bars.barh(position, spread.mean, xerr=error, color=looks["color"])
        bars.set_yticks(range(len(names)), names)
        bars.invert_yaxis()
        lines.set(ylabel=series)
        lines.locator_params(axis="x", integer=True)
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    rows[-1][0].set_xlabel(f"year (the last {LAST} values)")
    rows[-1][1].set_xlabel("error (RMSE)")


def _error(series: str, layer: str) -> Callable[[Results], float]:
    init = "least squares" if layer in BASELINES else "default"
    return lambda results: results.mean("rmse", series=series, layer=layer, init=init)


EXPERIMENT = Experiment(
    name="forecast",
    title="Forecasting",
    about="The next value of three series: yearly sunspots, whose cycle of eleven years is short; and by the month, "
    "the carbon dioxide of the air and the passengers of airlines, which grow and have seasons. Beside the layers: a "
    "linear model of the last values by least squares, and a naive prediction: no change, or the change of a year ago.",
    claims=("C9", "C14"),
    budgets={
        "quick": Budget(5, Recipe(lr=3e-3, steps=600, evaluate_every=10)),
        "full": Budget(20, Recipe(lr=1e-3, steps=3000, evaluate_every=10)),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"series": "sunspots", "layer": layer, "init": "default", "seed": 0} for layer in ("RNN", "LSTM")),
    findings=findings,
    tables=tables,
    plots=(Plot("series", "Left: predictions, mean over seeds. Right: error; bars span the seeds.", draw, (7.5, 7.0)),),
    bands=(
        Band("RMSE of AR(9), sunspots", _error("sunspots", "linear"), 12, 16),
        Band("RMSE of persistence, sunspots", _error("sunspots", "naive"), 24, 27),
        Band("RMSE of RNN, sunspots", _error("sunspots", "RNN"), 10, 20),
        Band("RMSE of LSTM, sunspots", _error("sunspots", "LSTM"), 10, 22),
    ),
    sources=(sunspots.SOURCE, co2.SOURCE, airline.SOURCE),
)
