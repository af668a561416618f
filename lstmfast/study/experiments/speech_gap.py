"""Who spoke, when a silence lies between the voice and the answer."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from ..claims import Finding, verdict
from ..data import vowels
from ..experiment import Band, Experiment, Key, Setting, Table
from ..models.sequence_classifier import SequenceClassifier
from ..plots import Plot, label, style
from ..results import Results
from ..trainer import Recipe, Training, shuffled

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1"), ("LSTM", "chrono")]


@dataclass(frozen=True)
class Budget:
    seeds: int
    gaps: tuple[int, ...]
    recipe: Recipe  # 270 utterances in batches of 27: ten steps are an epoch
    batch: int = 27
    hidden_size: int = 64


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"layer": layer, "init": init, "gap": gap, "seed": seed}
        for seed in seeds
        for gap in budget.gaps
        for layer, init in LAYERS
    ]


def with_gap(utterances: list[Tensor], gap: int) -> list[Tensor]:
    """Adds a channel that is 1 while somebody speaks, and `gap` silent frames: [frames, 12] -> [frames + gap, 13]."""
    spoken = (nn.functional.pad(utterance, (0, 1), value=1.0) for utterance in utterances)
    return [nn.functional.pad(frames, (0, 0, 0, gap)) for frames in spoken]


def batches(sequences: list[Tensor], classes: Tensor, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
    """All of them in random order, again and again."""
    for chosen in shuffled(len(sequences), batch):
        yield [sequences[index] for index in chosen], classes[chosen]


@dataclass(frozen=True)
class Speech:
    train: tuple[list[Tensor], Tensor]
    test: tuple[list[Tensor], Tensor]

    @classmethod
    def load(cls, gap: int, setting: Setting) -> "Speech":
        train, test = vowels.load(setting.data)
        return cls(
            *(
                ([sequence.to(setting.device) for sequence in with_gap(utterances, gap)], speakers.to(setting.device))
                for utterances, speakers in (train, test)
            )
        )


def training(key: Key, setting: Setting, speech: Speech) -> Training:
    budget = setting.budget
    # The longest memory that the task needs: an utterance has up to 29 frames.
    layer = setting.layer(key, vowels.COEFFICIENTS + 1, budget.hidden_size, span=key["gap"] + 29)
    model = SequenceClassifier(layer, vowels.SPEAKERS).to(setting.device)

    def loss(batch: tuple[list[Tensor], Tensor]) -> Tensor:
        sequences, speakers = batch
        return nn.functional.cross_entropy(model(sequences), speakers)

    return Training(model, batches(*speech.train, budget.batch), loss, budget.recipe)


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, Speech.load(key["gap"], setting)).step


def measure(key: Key, setting: Setting) -> dict:
    speech = Speech.load(key["gap"], setting)
    trained = training(key, setting, speech)
    sequences, speakers = speech.test

    def evaluate() -> dict[str, float]:
        return {"accuracy": (trained.model(sequences).argmax(-1) == speakers).float().mean().item()}

    curve = trained.run(evaluate, desc=f"{key['layer']} {key['init']} gap {key['gap']}")
    # The last value, not the best: the test set must not choose.
    return {"accuracy": curve.metrics["accuracy"][-1], "seconds": curve.seconds[-1], "curve": curve.json()}


def tables(results: Results) -> list[Table]:
    gaps = results.distinct("gap")
    rows = [
        (label(layer, init), *(str(results.spread("accuracy", layer=layer, init=init, gap=gap)) for gap in gaps))
        for layer, init in LAYERS
    ]
    seconds = [
        (label(layer, init), *(f"{results.mean('seconds', layer=layer, init=init, gap=gap):.1f}" for gap in gaps))
        for layer, init in LAYERS
    ]
    header = ("layer", *(f"gap {gap}" for gap in gaps))
    return [
        Table("Accuracy on the test set (chance 0.11)", header, rows),
        Table("Seconds of training", header, seconds),
    ]


def findings(results: Results) -> list[Finding]:
    gaps = results.distinct("gap")
    none, longest = min(gaps), max(gaps)

    def accuracy(gap: int, layer: str, init: str = "default") -> float:
        return results.mean("accuracy", layer=layer, init=init, gap=gap)

    def opened(gap: int) -> float:
        return max(accuracy(gap, "LSTM", init) for init in ("forget1", "chrono"))

    def drop(init: str) -> float:
        return max(accuracy(none, "LSTM", init) - accuracy(gap, "LSTM", init) for gap in gaps)

    def each(gap: int) -> str:
        spreads = (results.spread("accuracy", layer=layer, init=init, gap=gap) for layer, init in LAYERS)
        return ", ".join(f"{label(*layer)} {spread:.3f}" for layer, spread in zip(LAYERS, spreads, strict=True))

    rnn = {gap: accuracy(gap, "RNN") for gap in (none, longest)}
    rnn_loses = rnn[longest] < rnn[none] - 0.3
    return [
        Finding(
            "C12",
            verdict(accuracy(none, "LSTM") > rnn[none] + 0.02, opened(none) > rnn[none] + 0.02),
            "Without a gap an LSTM's accuracy is more than 0.02 above the RNN's.",
            f"without a gap {each(none)}",
        ),
        Finding(
            "C9",
            verdict(rnn[none] > max(accuracy(none, *layer) for layer in LAYERS) - 0.02),
            "Without a gap the RNN's accuracy is at most 0.02 below the best layer's.",
            f"without a gap RNN {rnn[none]:.3f}, best {max(accuracy(none, *layer) for layer in LAYERS):.3f}",
        ),
        Finding(
            "C3",
            verdict(
                rnn_loses and accuracy(longest, "LSTM") > rnn[longest] + 0.3,
                rnn_loses and opened(longest) > rnn[longest] + 0.3,
            ),
            "At the longest gap the RNN has lost more than 0.3 of its accuracy, and an LSTM is more than 0.3 above it.",
            f"after {longest} silent frames: {each(longest)}",
        ),
        Finding(
            "C4",
            verdict(drop("default") < 0.05, min(drop(init) for init in ("forget1", "chrono")) < 0.05),
            "No gap takes more than 0.05 of the LSTM's accuracy.",
            "largest loss of accuracy: "
            + ", ".join(f"{label('LSTM', init)} {drop(init):.2f}" for _, init in LAYERS[1:])
            + f", RNN {max(rnn[none] - accuracy(gap, 'RNN') for gap in gaps):.2f}",
        ),
    ]


def draw(results: Results, figure) -> None:
    axes = figure.subplots()
    gaps = results.distinct("gap")
    for layer, init in LAYERS:
        spreads = [results.spread("accuracy", layer=layer, init=init, gap=gap) for gap in gaps]
        looks = style(layer, init)
        axes.plot(gaps, [spread.mean for spread in spreads], marker="o", markersize=4, **looks)
        low, high = [spread.low for spread in spreads], [spread.high for spread in spreads]
        axes.fill_between(gaps, low, high, color=looks["color"], alpha=0.15, linewidth=0)
    axes.axhline(1 / vowels.SPEAKERS, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="silent frames between voice and answer", ylabel="accuracy", ylim=(0, 1))
    figure.legend(loc="outside right upper")


def _accuracy(layer: str, init: str, which: Callable[[tuple[int, ...]], int]) -> Callable[[Results], float]:
    """The accuracy at the shortest (min) or longest (max) gap."""
    return lambda results: results.mean("accuracy", layer=layer, init=init, gap=which(results.budget.gaps))


EXPERIMENT = Experiment(
    name="speech-gap",
    title="Speech with a gap",
    about="Which of nine men spoke, from real utterances of 7 to 29 frames; then follow silent frames, and only the "
    "last state decides. One channel more says whether somebody speaks. Without a gap this is ordinary speaker "
    "recognition; with one it needs memory. Chrono is told the gap.",
    claims=("C3", "C4", "C9", "C12"),
    budgets={
        "quick": Budget(3, (0, 25, 50, 100), Recipe(lr=3e-3, steps=600, evaluate_every=100)),
        "full": Budget(5, (0, 25, 50, 100, 200), Recipe(lr=3e-3, steps=1200, evaluate_every=100)),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=(
        {"layer": "RNN", "init": "default", "gap": 25, "seed": 0},
        {"layer": "LSTM", "init": "default", "gap": 25, "seed": 0},
    ),
    findings=findings,
    tables=tables,
    plots=(Plot("accuracy", "Accuracy against the gap; bands span the seeds.", draw),),
    bands=(
        *(Band(f"accuracy without a gap, {label(*layer)}", _accuracy(*layer, min), 0.9, 1) for layer in LAYERS),
        Band("accuracy at the longest gap, LSTM chrono", _accuracy("LSTM", "chrono", max), 0.9, 1),
        Band("accuracy at the longest gap, RNN", _accuracy("RNN", "default", max), 0, 0.4),
    ),
    sources=(vowels.SOURCE,),
)
