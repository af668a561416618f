"""What RNN and LSTM cost: time and parameters by size, and accuracy for the same parameters and for the same time."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..claims import Finding, verdict
from ..data import topics
from ..experiment import Band, Experiment, Key, Setting, Table
from ..layers import PROVIDERS, recurrent
from ..models.language_model import CarriedLoss, LanguageModel, batches, bits_per_token
from ..plots import Plot, curves, style
from ..results import Results
from ..trainer import Recipe, Training, clock, parameters

MODELS = {"LSTM": "LSTM", "RNN, same H": "RNN", "RNN, same parameters": "RNN"}
BATCH, LENGTH = 32, 100


@dataclass(frozen=True)
class Budget:
    seeds: int
    sizes: tuple[int, ...]
    timed: int  # calls of each that are timed
    recipe: Recipe
    hidden_size: int = 128
    embedding_size: int = 32
    test_characters: int = 20_000


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    keys = []
    for seed in seeds:
        sizes = [(layer, hidden) for layer in ("RNN", "LSTM") for hidden in budget.sizes]
        keys += [{"part": "time", "layer": layer, "hidden": hidden, "seed": seed} for layer, hidden in sizes]
        keys += [{"part": "accuracy", "model": model, "seed": seed} for model in MODELS]
    return keys


def measure(key: Key, setting: Setting) -> dict:
    return time_of_layer(key, setting) if key["part"] == "time" else accuracy(key, setting)


def time_of_layer(key: Key, setting: Setting) -> dict:
    """Milliseconds of forward and backward, of lstmfast's layer and torch.nn's in turns; the median."""
    hidden = key["hidden"]
    input = torch.randn(LENGTH, BATCH, hidden, device=setting.device)
    layers = {name: recurrent(key["layer"], hidden, hidden, provider=name).to(setting.device) for name in PROVIDERS}
    times = {name: [] for name in layers}
    for index in range(setting.budget.timed + 1):
        for name in list(layers) if index % 2 else reversed(layers):
            began = clock(setting.device)
            output, _ = layers[name](input)
            output.sum().item()  # waits for a GPU
            output.backward(torch.ones_like(output))
            layers[name].weight_hh_l0.grad.sum().item()
            times[name].append(1000 * (clock(setting.device) - began))
    return {
        "parameters": parameters(layers["lstmfast"]),
        # The first call of each allocates.
        **{name: statistics.median(timed[1:]) for name, timed in times.items()},
    }


def model(key: Key, setting: Setting, alphabet_size: int) -> LanguageModel:
    budget = setting.budget

    def build(layer: str, hidden: int) -> LanguageModel:
        recurrent_layer = recurrent(layer, budget.embedding_size, hidden, provider=setting.provider)
        return LanguageModel(alphabet_size, recurrent_layer)

    hidden = budget.hidden_size
    if key["model"] == "RNN, same parameters":
        wanted = parameters(build("LSTM", hidden))
        # The parameters grow with the size: halve the interval that has the answer.
        low, high = hidden, 4 * hidden
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(build("RNN", middle)) <= wanted else (low, middle)
        hidden = low
    # The search above has drawn from the generator; the size alone must not depend on it.
    torch.manual_seed(key["seed"])
    return build(MODELS[key["model"]], hidden).to(setting.device)


def training(key: Key, setting: Setting) -> tuple[Training, Tensor]:
    """The training, and the text that was held out of it."""
    characters, alphabet_size = topics.characters()
    train, test = characters.to(setting.device).tensor_split([-setting.budget.test_characters])
    untrained = model(key, setting, alphabet_size)
    source = batches(train, BATCH, LENGTH)
    return Training(untrained, source, CarriedLoss(untrained), setting.budget.recipe), test


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting)[0].step


def accuracy(key: Key, setting: Setting) -> dict:
    trained, test = training(key, setting)

    def evaluate() -> dict[str, float]:
        return {"bits": bits_per_token(trained.model, test)}

    curve = trained.run(evaluate, desc=key["model"])
    return {
        "parameters": parameters(trained.model),
        "hidden": trained.model.recurrent.hidden_size,
        "bits": curve.metrics["bits"][-1],
        "curve": curve.json(),
    }


def _bits_at(results: Results, model: str, seconds: float) -> float:
    """Bits per character after so many seconds of training, mean over the seeds: on a line between two evaluations."""
    values = []
    for record in results.select(model=model):
        curve = record.figures["curve"]
        points = list(zip(curve["seconds"], curve["bits"], strict=True))
        after = next((index for index, (at, _) in enumerate(points) if at >= seconds), len(points) - 1)
        (t0, b0), (t1, b1) = points[max(0, after - 1)], points[after]
        values.append(b1 if t1 == t0 else b0 + (b1 - b0) * (seconds - t0) / (t1 - t0))
    return sum(values) / len(values)


def _common_time(results: Results) -> float:
    """The longest time that every run has trained for."""
    return min(record.figures["curve"]["seconds"][-1] for record in results.select(part="accuracy"))


def tables(results: Results) -> list[Table]:
    rows = []
    for hidden in results.budget.sizes:
        key = {"part": "time", "hidden": hidden}
        times = {(layer, who): results.mean(who, layer=layer, **key) for layer in ("RNN", "LSTM") for who in PROVIDERS}
        rows.append(
            (
                str(hidden),
                *(f"{results.mean('parameters', layer=layer, **key):.0f}" for layer in ("RNN", "LSTM")),
                *(f"{times[layer, who]:.1f}" for layer in ("RNN", "LSTM") for who in PROVIDERS),
                *(f"{times['LSTM', who] / times['RNN', who]:.1f}" for who in PROVIDERS),
                *(f"{times[layer, 'torch'] / times[layer, 'lstmfast']:.2f}" for layer in ("RNN", "LSTM")),
            )
        )
    header = (
        "H",
        "RNN parameters",
        "LSTM parameters",
        "RNN lstmfast",
        "RNN torch",
        "LSTM lstmfast",
        "LSTM torch",
        "LSTM/RNN lstmfast",
        "LSTM/RNN torch",
        "torch/lstmfast RNN",
        "torch/lstmfast LSTM",
    )
    common = _common_time(results)
    trained = [
        (
            model,
            f"{results.mean('hidden', model=model):.0f}",
            f"{results.mean('parameters', model=model):.0f}",
            str(results.spread("bits", model=model)),
            f"{_bits_at(results, model, common):.3f}",
        )
        for model in MODELS
    ]
    steps = results.budget.recipe.steps
    return [
        Table(f"Forward and backward of a layer, ms (T = {LENGTH}, B = {BATCH}, I = H)", header, rows),
        Table(
            "Bits per character of held-out text",
            ("model", "H", "parameters", f"after {steps} steps", f"after {common:.1f} s"),
            trained,
        ),
    ]


def findings(results: Results) -> list[Finding]:
    ratios = [
        results.mean("lstmfast", layer="LSTM", hidden=hidden) / results.mean("lstmfast", layer="RNN", hidden=hidden)
        for hidden in results.budget.sizes
    ]
    common = _common_time(results)
    at_time = {model: _bits_at(results, model, common) for model in MODELS}
    at_end = {model: results.spread("bits", model=model) for model in MODELS}
    rnn_at_time = min(bits for model, bits in at_time.items() if model != "LSTM")
    by_time = ", ".join(f"{model} {bits:.3f}" for model, bits in at_time.items())
    return [
        Finding(
            "C8",
            verdict(min(ratios) > 1),
            "At every size the LSTM's forward and backward take longer than the RNN's.",
            f"{min(ratios):.1f} to {max(ratios):.1f} times as long",
        ),
        Finding(
            "C15",
            verdict(at_time["LSTM"] < rnn_at_time and max(ratios) <= 1),
            "More accurate and faster: fewer bits than both RNNs after the same time, and no more time per step.",
            f"bits per character after {common:.1f} s: {by_time}; a step takes {min(ratios):.1f} to {max(ratios):.1f} "
            "times the RNN's",
        ),
        Finding(
            "C9",
            verdict(rnn_at_time < at_time["LSTM"] + 0.03),
            "After the same time the better RNN is at most 0.03 bits above the LSTM.",
            f"bits per character after {common:.1f} s: {by_time}",
        ),
        Finding(
            "C16",
            verdict(at_end["LSTM"].mean < at_end["RNN, same parameters"].mean - 0.03),
            "With as many parameters, after as many steps, the LSTM is more than 0.03 bits below the RNN.",
            ", ".join(f"{model} {bits:.3f}" for model, bits in at_end.items()),
        ),
    ]


def draw(results: Results, figure) -> None:
    time, bits = figure.subplots(1, 2)
    sizes = results.budget.sizes
    for layer in ("RNN", "LSTM"):
        for who, line in (("lstmfast", "-"), ("torch", "--")):
            values = [results.mean(who, layer=layer, hidden=hidden) for hidden in sizes]
            looks = style(layer, "default") | {"label": f"{layer}, {who}", "linestyle": line}
            time.plot(sizes, values, marker="o", markersize=3, **looks)
    time.set(xscale="log", yscale="log", xlabel="hidden size", ylabel="forward and backward, ms")
    time.set_xticks(sizes, [str(size) for size in sizes])
    time.minorticks_off()
    time.legend()
    colors = {"LSTM": "#0072B2", "RNN, same H": "#D55E00", "RNN, same parameters": "#E69F00"}
    for model in MODELS:
        curves(bits, results.select(model=model), "seconds", "bits", color=colors[model], label=model)
    lowest = min(min(record.figures["curve"]["bits"]) for record in results.select(part="accuracy"))
    bits.set(xlabel="seconds of training", ylabel="bits per character", ylim=(math.floor(10 * lowest) / 10, 4))
    bits.legend()


def _ratio(results: Results, hidden: int) -> float:
    return results.mean("lstmfast", layer="LSTM", hidden=hidden) / results.mean("lstmfast", layer="RNN", hidden=hidden)


EXPERIMENT = Experiment(
    name="cost",
    title="Cost and what it buys",
    about="Forward and backward of one layer, RNN and LSTM, lstmfast's and torch.nn's in turns. Then a character model "
    "of English prose three times: an LSTM, an RNN of the same hidden size, and one of the same number of parameters.",
    claims=("C8", "C9", "C15", "C16"),
    budgets={
        "quick": Budget(3, (32, 64, 128, 256), 10, Recipe(lr=3e-3, steps=600, evaluate_every=50)),
        "full": Budget(5, (32, 64, 128, 256, 512, 1024), 20, Recipe(lr=3e-3, steps=5000, evaluate_every=250)),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"part": "accuracy", "model": model, "seed": 0} for model in ("LSTM", "RNN, same H")),
    findings=findings,
    tables=tables,
    plots=(Plot("curves", "Left: time of a layer. Right: held-out text, one line per seed.", draw, (7.5, 3.4)),),
    bands=(
        Band("LSTM's time over RNN's, largest size", lambda results: _ratio(results, max(results.budget.sizes)), 1, 5),
        Band("bits per character, LSTM", lambda results: results.mean("bits", model="LSTM"), 1.7, 2.7),
    ),
    sources=(topics.SOURCE,),
)
