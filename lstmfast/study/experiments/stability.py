"""Training without clipping, over a sweep of learning rates: who diverges, and where."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..claims import Finding, verdict
from ..data import topics
from ..experiment import Band, Experiment, Key, Setting, Table
from ..models.language_model import CarriedLoss, LanguageModel, batches
from ..plots import Plot, label, style
from ..results import Results
from ..trainer import Recipe, Training

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]


@dataclass(frozen=True)
class Budget:
    seeds: int
    steps: int
    rates: tuple[tuple[str, float], ...]  # (optimizer, learning rate)
    batch: int = 32
    length: int = 100
    embedding_size: int = 32
    hidden_size: int = 128


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"layer": layer, "init": init, "optimizer": optimizer, "lr": lr, "seed": seed}
        for seed in seeds
        for optimizer, lr in budget.rates
        for layer, init in LAYERS
    ]


def training(key: Key, setting: Setting) -> Training:
    budget = setting.budget
    characters, alphabet_size = topics.characters()
    layer = setting.layer(key, budget.embedding_size, budget.hidden_size)
    model = LanguageModel(alphabet_size, layer).to(setting.device)
    recipe = Recipe(key["lr"], budget.steps, optimizer=key["optimizer"], clip=None, evaluate_every=10)
    source = batches(characters.to(setting.device), budget.batch, budget.length)
    return Training(model, source, CarriedLoss(model), recipe)


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting).step


def measure(key: Key, setting: Setting) -> dict:
    trained = training(key, setting)
    curve = trained.run(
        lambda: {"gradient_norm": trained.gradient_norm},
        desc=f"{key['layer']} {key['init']} {key['optimizer']} {key['lr']}",
    )
    finite = [norm for norm in curve.metrics["gradient_norm"] if math.isfinite(norm)]
    return {
        "bits": sum(curve.loss[-2:]) / len(curve.loss[-2:]) / math.log(2),  # the last 20 steps
        "gradient_norm": max(finite, default=None),
        "curve": curve.json(),
        "alphabet": trained.model.output.out_features,
    }


def _failed(results: Results, **key) -> int:
    """Runs that ended worse than a model that knows nothing, or not at all."""
    worst = [(record.figures["bits"], math.log2(record.figures["alphabet"])) for record in results.select(**key)]
    return sum(bits is None or bits > knows_nothing for bits, knows_nothing in worst)


def tables(results: Results) -> list[Table]:
    rows = []
    for optimizer, lr in results.budget.rates:
        where = {"optimizer": optimizer, "lr": lr}
        cells = (str(results.spread("bits", layer=layer, init=init, **where)) for layer, init in LAYERS)
        rows.append((f"{optimizer} {lr:g}", *cells))
    names = tuple(label(*layer) for layer in LAYERS)
    failed = tuple(str(_failed(results, layer=layer, init=init)) for layer, init in LAYERS)
    rows.append((f"worse than uniform, of {len(results.select(layer='RNN'))}", *failed))
    return [Table("Bits per character over the last 20 steps, no clipping", ("optimizer, rate", *names), rows)]


def findings(results: Results) -> list[Finding]:
    failed = {(layer, init): _failed(results, layer=layer, init=init) for layer, init in LAYERS}
    rnn = failed["RNN", "default"]
    return [
        Finding(
            "C7",
            verdict(failed["LSTM", "default"] < rnn, failed["LSTM", "forget1"] < rnn),
            "Fewer of the LSTM's runs end worse than a model that gives every character the same probability.",
            f"of {len(results.select(layer='RNN'))} runs each ended so: "
            + ", ".join(f"{label(*layer)} {count}" for layer, count in failed.items()),
        )
    ]


def draw(results: Results, figure) -> None:
    optimizers = results.distinct("optimizer")
    panels = figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0]
    for axes, optimizer in zip(panels, optimizers, strict=True):
        rates = [lr for name, lr in results.budget.rates if name == optimizer]
        for layer, init in LAYERS:
            spreads = [results.spread("bits", layer=layer, init=init, optimizer=optimizer, lr=lr) for lr in rates]
            looks = style(layer, init)
            # A run that ended in infinity is drawn above the frame.
            axes.plot(rates, [min(spread.mean, 1e4) for spread in spreads], marker="o", markersize=4, **looks)
            bounds = [[min(getattr(spread, end), 1e4) for spread in spreads] for end in ("low", "high")]
            axes.fill_between(rates, *bounds, color=looks["color"], alpha=0.15, linewidth=0)
        axes.axhline(math.log2(results.records[0].figures["alphabet"]), color="gray", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(2, 200), xlabel=f"learning rate, {optimizer}")
    panels[0].set_ylabel("bits per character")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(LAYERS))


RATES = (("sgd", 1.0), ("sgd", 3.0), ("sgd", 10.0), ("adam", 0.01), ("adam", 0.1))

EXPERIMENT = Experiment(
    name="stability",
    title="Stability over learning rates",
    about="A character model of English prose, trained without clipping the gradient, at learning rates from sound to "
    "absurd. The dotted line is a model that gives every character the same probability.",
    claims=("C7",),
    budgets={
        "quick": Budget(3, 200, RATES),
        "full": Budget(5, 1000, (("sgd", 0.3), *RATES[:3], ("adam", 0.001), *RATES[3:])),
    },
    runs=runs,
    measure=measure,
    step=step,
    # Where training is stable: where it is not, a difference in the last bit becomes another loss within a few steps.
    compared=tuple(
        {"layer": layer, "init": "default", "optimizer": "adam", "lr": 0.01, "seed": 0} for layer in ("RNN", "LSTM")
    ),
    findings=findings,
    tables=tables,
    plots=(Plot("rates", "Bits per character over the last 20 steps; bands span the seeds.", draw),),
    bands=(
        Band(
            "runs of the RNN that ended worse than uniform",
            lambda results: float(_failed(results, layer="RNN")),
            1,
            math.inf,
        ),
    ),
    sources=(topics.SOURCE,),
)
