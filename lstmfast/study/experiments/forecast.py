"""Next year's sunspots, beside what a straight line through the last nine years says."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..claims import Finding, verdict
from ..data import sunspots
from ..data.source import Missing
from ..experiment import Band, Experiment, Key, Setting, Table
from ..layers import recurrent
from ..models.sequence_regressor import SequenceRegressor
from ..plots import Plot, label, style
from ..results import Results
from ..trainer import Recipe, Training

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]
BASELINES = ["AR(9)", "persistence"]
SCALE = 100.0
# Years are predicted one ahead. Those up to TRAINED train, the next up to VALIDATED choose when to stop, those up to
# TESTED are the test.
TRAINED, VALIDATED, TESTED = 1880, 1920, 1955


@dataclass(frozen=True)
class Budget:
    seeds: int
    recipe: Recipe
    hidden_size: int = 16


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"layer": layer, "init": init, "seed": seed}
        for seed in seeds
        for layer, init in (*LAYERS, *((name, "least squares") for name in BASELINES))
    ]


@dataclass(frozen=True)
class Series:
    years: list[int]
    values: Tensor  # [N], divided by SCALE

    @classmethod
    def load(cls, setting: Setting) -> "Series":
        years, numbers = sunspots.load(setting.data)
        return cls(years, torch.tensor(numbers, device=setting.device) / SCALE)

    def targets(self, first: int, last: int) -> slice:
        """Where the predictions for these years lie in a sequence of predictions, which begins with the second year."""
        return slice(max(0, self.years.index(first) - 1), self.years.index(last))

    @property
    def parts(self) -> dict[str, slice]:
        return {
            "train": self.targets(self.years[0] + 1, TRAINED),
            "validation": self.targets(TRAINED + 1, VALIDATED),
            "test": self.targets(VALIDATED + 1, TESTED),
        }


def training(key: Key, setting: Setting, series: Series) -> Training:
    options = {"init": key["init"], "provider": setting.provider}
    layer = recurrent(key["layer"], 1, setting.budget.hidden_size, **options)
    model = SequenceRegressor(layer).to(setting.device)

    def always() -> Iterator[tuple[Tensor, Tensor]]:
        part = series.parts["train"]
        while True:
            yield series.values[:-1][part], series.values[1:][part]

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        input, target = batch
        return (predict(model, input) - target).square().mean()

    return Training(model, always(), loss, setting.budget.recipe)


def predict(model: SequenceRegressor, values: Tensor) -> Tensor:
    """What comes after each of the values [N]. The model predicts the change: no change is where it starts from."""
    return values + model(values[:, None, None])[:, 0, 0]


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, Series.load(setting)).step


def measure(key: Key, setting: Setting) -> dict:
    series = Series.load(setting)
    if key["layer"] in BASELINES:
        predicted = baseline(key["layer"], series)
        return {"rmse": _rmse(predicted, series, "test"), "seconds": 0.0, "predicted": _test_years(predicted, series)}
    trained = training(key, setting, series)
    best = {"validation": math.inf, "weights": copy.deepcopy(trained.model.state_dict())}

    def evaluate() -> dict[str, float]:
        predicted = predict(trained.model, series.values[:-1])
        metrics = {part: _rmse(predicted, series, part) for part in series.parts}
        if metrics["validation"] < best["validation"]:
            best.update(validation=metrics["validation"], weights=copy.deepcopy(trained.model.state_dict()))
        return metrics

    curve = trained.run(evaluate, desc=f"{key['layer']} {key['init']}")
    trained.model.load_state_dict(best["weights"])
    with torch.no_grad():
        predicted = predict(trained.model, series.values[:-1])
    return {
        "rmse": _rmse(predicted, series, "test"),
        "seconds": curve.seconds[-1],
        "curve": curve.json(),
        "predicted": _test_years(predicted, series),
    }


def baseline(name: str, series: Series) -> Tensor:
    """The predictions for the second year and all after it, of a model fitted to the years up to VALIDATED."""
    try:
        import numpy as np
    except ImportError:
        raise Missing("numpy is missing: pip install 'lstmfast[study]'") from None
    if name == "persistence":
        return series.values[:-1]
    order = int(name.removeprefix("AR(").removesuffix(")"))
    values = series.values.cpu().double().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], order)
    regressors = np.hstack([windows, np.ones((len(windows), 1))])
    fitted = series.years.index(VALIDATED) - order + 1  # windows whose next year is VALIDATED or earlier
    coefficients, *_ = np.linalg.lstsq(regressors[:fitted], values[order : order + fitted], rcond=None)
    # The first years have no whole window before them; nothing is measured there.
    return torch.from_numpy(np.concatenate([np.full(order - 1, np.nan), regressors @ coefficients])).to(series.values)


def _rmse(predicted: Tensor, series: Series, part: str) -> float:
    years = series.parts[part]
    return SCALE * (predicted - series.values[1:])[years].square().mean().sqrt().item()


def _test_years(predicted: Tensor, series: Series) -> dict[str, list[float]]:
    years = series.parts["test"]
    actual = series.values[1:][years]
    return {"actual": (SCALE * actual).tolist(), "predicted": (SCALE * predicted[years]).tolist()}


def tables(results: Results) -> list[Table]:
    rows = []
    for layer in results.distinct("layer"):
        for init in results.distinct("init", layer=layer):
            key = {"layer": layer, "init": init}
            seconds = "" if layer in BASELINES else f"{results.mean('seconds', **key):.1f}"
            rows.append(
                (layer if layer in BASELINES else label(layer, init), str(results.spread("rmse", **key)), seconds)
            )
    return [Table(f"Error of one year ahead, {VALIDATED + 1} to {TESTED}", ("model", "RMSE", "seconds"), rows)]


def findings(results: Results) -> list[Finding]:
    def rmse(layer: str, init: str | None = None) -> float:
        return results.mean("rmse", layer=layer, **({"init": init} if init else {}))

    rnn, nothing, line = rmse("RNN"), rmse("persistence"), rmse("AR(9)")
    lstm = {init: rmse("LSTM", init) for layer, init in LAYERS if layer == "LSTM"}
    both = {init: max(rnn, value) < nothing for init, value in lstm.items()}
    measured = f"RNN {rnn:.1f}, LSTM {lstm['default']:.1f}, with forget bias 1 {lstm['forget1']:.1f}, "
    measured += f"AR(9) {line:.1f}, persistence {nothing:.1f}"
    return [
        Finding("C14", verdict(both["default"], both["forget1"]), "Both errors are below persistence.", measured),
        Finding(
            "C9",
            verdict(rnn <= 1.05 * min(lstm.values())),
            "The RNN's error is at most 5 % above the LSTM's.",
            measured,
        ),
    ]


def draw(results: Results, figure) -> None:
    series, bars = figure.subplots(1, 2, width_ratios=(2, 1))
    years = range(VALIDATED + 1, TESTED + 1)
    series.plot(
        years, results.records[0].figures["predicted"]["actual"], color="black", linewidth=1.5, label="sunspots"
    )
    names, heights = [], []
    for layer in results.distinct("layer"):
        for init in results.distinct("init", layer=layer):
            records = results.select(layer=layer, init=init)
            predictions = [record.figures["predicted"]["predicted"] for record in records]
            looks = style(layer, init) if layer not in BASELINES else {"color": "gray"}
            if layer != "persistence" and init != "forget1":
                mean = [sum(values) / len(values) for values in zip(*predictions, strict=True)]
                series.plot(years, mean, linewidth=1, **(looks | {"label": layer}))
            names.append(layer if layer in BASELINES else label(layer, init))
            heights.append((results.spread("rmse", layer=layer, init=init), looks["color"]))
    series.set(xlabel="year", ylabel="sunspot number, one year ahead")
    series.legend(loc="upper left")
    for position, (spread, color) in enumerate(heights):
        error = [[spread.mean - spread.low], [spread.high - spread.mean]]
        bars.barh(position, spread.mean, xerr=error, color=color)
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_xlabel("RMSE")


def _error(layer: str) -> Callable[[Results], float]:
    return lambda results: results.mean(
        "rmse", layer=layer, init="default" if layer in ("RNN", "LSTM") else "least squares"
    )


EXPERIMENT = Experiment(
    name="forecast",
    title="Forecasting sunspots",
    about="Yearly sunspot numbers, one year ahead. Eleven years are a cycle, so the range is short. Beside the layers: "
    "a linear model of the last nine years by least squares, and persistence, which says next year is like this year.",
    claims=("C9", "C14"),
    budgets={
        "quick": Budget(5, Recipe(lr=3e-3, steps=600, evaluate_every=10)),
        "full": Budget(20, Recipe(lr=1e-3, steps=3000, evaluate_every=10)),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"layer": layer, "init": "default", "seed": 0} for layer in ("RNN", "LSTM")),
    findings=findings,
    tables=tables,
    plots=(Plot("years", "Left: predictions, mean over seeds. Right: error; bars span the seeds.", draw, (7.5, 3.2)),),
    bands=(
        Band("RMSE of AR(9)", _error("AR(9)"), 12, 16),
        Band("RMSE of persistence", _error("persistence"), 24, 27),
        Band("RMSE of RNN", _error("RNN"), 10, 20),
        Band("RMSE of LSTM", _error("LSTM"), 10, 22),
    ),
    sources=(sunspots.SOURCE,),
)
