"""Text, character by character: how well the next character is predicted, and what a model writes by itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from ..claims import Finding, verdict
from ..data import topics
from ..experiment import Band, Experiment, Key, Literature, Setting, Table
from ..models.language_model import generate
from ..models.ngram import Ngram, bz2_bits_per_character
from ..plots import Plot, curves, label, level, style
from ..results import Record, Results, Spread
from .language_modelling import Text, learning_curve, training

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]
NOISE = 0.03  # bits per character: differences below it count as none


@dataclass(frozen=True)
class Budget:
    """more_epochs: an RNN may read the text so many times as often as the others, since its steps take less time.
    characters: of the text; None for all.
    """

    seeds: int = 3
    epochs: int = 6
    more_epochs: int = 2
    batch: int = 32
    length: int = 100
    embedding_size: int = 32
    hidden_size: int = 96
    dropout: float = 0.0
    lr: float = 5e-3
    ngram_order: int = 5  # the best one for a text of this size
    sample: int = 300
    characters: int | None = None


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    settings = [(layer, init, budget.epochs) for layer, init in LAYERS]
    settings.append(("RNN", "default", budget.epochs * budget.more_epochs))
    return [
        {"layer": layer, "init": init, "epochs": epochs, "seed": seed}
        for seed in seeds
        for layer, init, epochs in settings
    ]


@lru_cache(maxsize=1)
def corpus(characters: int | None) -> Text:
    return Text.of(topics.text()[:characters])


@lru_cache(maxsize=1)
def baselines(text: Text, order: int) -> dict[str, float]:
    """Bits per held-out character of what needs no training."""
    ngram = Ngram(order, text.train, text.vocabulary)
    return {
        f"{order}-gram": ngram.bits_per_token(text.held_out, history=text.train),
        "bz2": bz2_bits_per_character(text.held_out, history=text.train),
    }


def measure(key: Key, setting: Setting) -> dict:
    budget = setting.budget
    text = corpus(budget.characters)
    trained = training(key, setting, text, key["epochs"])
    figures = learning_curve(trained, text)
    prompt = text.held_out[:60]
    trained.model.eval()
    drawn = generate(trained.model, text.numbers(prompt, setting.device), budget.sample, temperature=0.7)
    return {
        **figures,
        "prompt": prompt,
        "sample": "".join(text.vocabulary[number] for number in drawn),
        "baselines": baselines(text, budget.ngram_order),
        "text": topics.fingerprint(text.train + text.held_out),
    }


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, corpus(setting.budget.characters), key["epochs"]).step


def _final(results: Results, layer: str, init: str = "default", more: bool = False) -> Spread:
    epochs = results.budget.epochs * (results.budget.more_epochs if more else 1)
    return results.spread("bits", layer=layer, init=init, epochs=epochs)


def _variants(results: Results) -> list[tuple[str, dict]]:
    """Name and key of each line of the table and curve of the plots."""
    budget = results.budget
    variants = [(label(layer, init), {"layer": layer, "init": init, "epochs": budget.epochs}) for layer, init in LAYERS]
    longer = {"layer": "RNN", "init": "default", "epochs": budget.epochs * budget.more_epochs}
    return [*variants, (f"RNN, {longer['epochs']} epochs", longer)]


def tables(results: Results) -> list[Table]:
    rows = []
    for name, key in _variants(results):
        parameters = f"{results.select(**key)[0].figures['parameters']:,}"
        rows.append((name, str(results.spread("bits", **key)), parameters, f"{results.mean('seconds', **key):.1f}"))
    first = results.records[0].figures
    rows += [(name, f"{bits:.3f}", "", "") for name, bits in first["baselines"].items()]
    held_out = Table(
        f"Held-out text, {results.budget.epochs} epochs (text {first['text']})",
        ("model", "bits per character", "parameters", "seconds of training"),
        rows,
    )
    return [held_out, Table("What they write (temperature 0.7)", ("model", "sample"), _samples(results))]


def _samples(results: Results) -> list[tuple[str, str]]:
    first: list[tuple[str, Record]] = [(name, results.select(**key)[0]) for name, key in _variants(results)]
    prompt = first[0][1].figures["prompt"]
    # One line each: what counts here is the words.
    return [("(given)", " ".join(prompt.split()))] + [
        (name, " ".join(record.figures["sample"].split())) for name, record in first
    ]


def findings(results: Results) -> list[Finding]:
    budget = results.budget
    rnn, longer = _final(results, "RNN"), _final(results, "RNN", more=True)
    lstm, biased = _final(results, "LSTM"), _final(results, "LSTM", "forget1")
    best = min(lstm, biased, key=lambda spread: spread.mean)
    return [
        Finding(
            "C10",
            verdict(lstm.mean < rnn.mean - NOISE, biased.mean < rnn.mean - NOISE),
            f"After the same number of epochs the LSTM needs at least {NOISE} bits per held-out character less.",
            f"RNN {rnn:.3f}, LSTM {lstm:.3f}, with forget bias 1 {biased:.3f} bits per character after "
            f"{budget.epochs} epochs",
        ),
        Finding(
            "C9",
            verdict(longer.mean <= best.mean + NOISE),
            f"An RNN that reads the text {budget.more_epochs} times as often, in about the time that the LSTM takes, "
            f"comes within {NOISE} bits per character of the best LSTM.",
            f"RNN {longer:.3f} after {budget.epochs * budget.more_epochs} epochs, the best LSTM "
            f"{best:.3f} after {budget.epochs}",
        ),
    ]


def _draw(results: Results, figure) -> None:
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    for name, key in _variants(results):
        look = style(key["layer"], key["init"]) | {"label": name}
        if key["epochs"] != results.budget.epochs:
            look["linestyle"] = ":"
        curves(by_epoch, results.select(**key), "epoch", "bits", **look)
        curves(by_second, results.select(**key), "seconds", "bits", **look)
    for axes in (by_epoch, by_second):
        for (name, bits), dashes in zip(results.records[0].figures["baselines"].items(), ("--", ":"), strict=True):
            level(axes, bits, name, dashes)
    by_epoch.set(xlabel="epochs", ylabel="bits per held-out character", ylim=(None, by_epoch.get_ylim()[1]))
    by_second.set(xlabel="seconds of training")
    by_epoch.legend()


EXPERIMENT = Experiment(
    name="text",
    title="Text, character by character",
    about="A character language model of Python's help texts, each paragraph of which occurs once; the last tenth "
    "is held out. All models have the same hidden size and the same training; an LSTM of that size has more "
    "parameters and takes longer for a step, so one RNN may read the text more often. The n-gram model and bz2 need "
    "no training.",
    claims=("C9", "C10"),
    budgets={"quick": Budget(), "full": Budget(seeds=5, epochs=20, hidden_size=256)},
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple(
        {"layer": layer, "init": "default", "epochs": Budget().epochs, "seed": 0} for layer in ("RNN", "LSTM")
    ),
    findings=findings,
    tables=tables,
    plots=(Plot("bits", "Bits per held-out character; one line for each seed.", _draw, (8.4, 3.4)),),
    bands=(
        # Texts of other Python versions differ, and so do seeds, by a few hundredths.
        Band("bits per character, RNN", lambda results: _final(results, "RNN").mean, 2.3, 2.6),
        Band("bits per character, LSTM", lambda results: _final(results, "LSTM").mean, 2.3, 2.6),
    ),
    sources=(topics.SOURCE,),
    literature=(
        Literature(
            "War and Peace, test loss: best recurrent net 1.077, 20-gram 1.195; LSTM and GRU far ahead of RNN",
            "A. Karpathy, J. Johnson, L. Fei-Fei, arXiv:1506.02078",
        ),
    ),
)
