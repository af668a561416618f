"""Text, word by word: the language model of many recognisers and translators before the transformer."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..claims import Finding, verdict
from ..data import topics, verses
from ..data.words import words
from ..experiment import Band, Experiment, Key, Literature, Setting, Table
from ..models.ngram import Ngram
from ..plots import Plot, curves, label, level, style
from ..results import Results
from .language_modelling import Text, learning_curve, training

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]
UNKNOWN = "<unk>"
NOISE = 1.03  # perplexities that differ by less than 3 % count as the same


@dataclass(frozen=True)
class Budget:
    """corpus: "topics", Python's help texts, or "verses", the King James Version.
    characters: of it; None for all.
    least: a word that occurs less often is UNKNOWN.
    """

    seeds: int = 3
    corpus: str = "topics"
    characters: int | None = None
    least: int = 3
    epochs: int = 4
    batch: int = 20
    length: int = 35
    embedding_size: int = 96
    hidden_size: int = 96
    dropout: float = 0.3
    lr: float = 4e-3
    ngram_order: int = 3  # the best one for a text of this size


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [{"layer": layer, "init": init, "seed": seed} for seed in seeds for layer, init in LAYERS]


def with_unknown(tokens: list[str], least: int) -> tuple[str, ...]:
    """Words that occur less than `least` times become UNKNOWN."""
    counts = Counter(tokens)
    return tuple(token if counts[token] >= least else UNKNOWN for token in tokens)


@lru_cache(maxsize=1)
def corpus(budget: Budget, data: Path | None = None) -> Text:
    content = topics.text() if budget.corpus == "topics" else "\n".join(verses.load("en", data).values())
    return Text.of(with_unknown(words(content[: budget.characters]), budget.least))


@lru_cache(maxsize=1)
def ngram_bits(text: Text, order: int) -> float:
    return Ngram(order, text.train, text.vocabulary).bits_per_token(text.held_out, history=text.train)


def measure(key: Key, setting: Setting) -> dict:
    budget = setting.budget
    text = corpus(budget, setting.data)
    figures = learning_curve(training(key, setting, text, budget.epochs), text)
    return {
        **figures,
        "perplexity": None if figures["bits"] is None else 2 ** figures["bits"],
        "ngram_perplexity": 2 ** ngram_bits(text, budget.ngram_order),
        "vocabulary": len(text.vocabulary),
        "words": len(text.train),
    }


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, corpus(setting.budget, setting.data), setting.budget.epochs).step


def tables(results: Results) -> list[Table]:
    rows = []
    for layer, init in LAYERS:
        key = {"layer": layer, "init": init}
        parameters = f"{results.select(**key)[0].figures['parameters']:,}"
        perplexity, seconds = str(results.spread("perplexity", **key)), f"{results.mean('seconds', **key):.1f}"
        rows.append((label(layer, init), perplexity, parameters, seconds))
    first = results.records[0].figures
    rows.append((f"{results.budget.ngram_order}-gram", f"{first['ngram_perplexity']:.1f}", "", ""))
    title = (
        f"Held-out text, {results.budget.epochs} epochs of {first['words']:,} words, {first['vocabulary']:,} of them "
        "different"
    )
    return [Table(title, ("model", "perplexity", "parameters", "seconds of training"), rows)]


def findings(results: Results) -> list[Finding]:
    rnn, lstm, biased = (results.spread("perplexity", layer=layer, init=init) for layer, init in LAYERS)
    ngram = results.records[0].figures["ngram_perplexity"]
    return [
        Finding(
            "C10",
            verdict(lstm.mean * NOISE < rnn.mean, biased.mean * NOISE < rnn.mean),
            "After the same number of epochs the LSTM's perplexity is at least 3 % lower.",
            f"perplexity of RNN {rnn:.1f}, LSTM {lstm:.1f}, with forget bias 1 {biased:.1f}, "
            f"{results.budget.ngram_order}-gram {ngram:.1f}",
        )
    ]


def _draw(results: Results, figure) -> None:
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    for layer, init in LAYERS:
        for axes, abscissa in ((by_epoch, "epoch"), (by_second, "seconds")):
            curves(axes, results.select(layer=layer, init=init), abscissa, "bits", lambda b: 2**b, **style(layer, init))
    for axes in (by_epoch, by_second):
        level(axes, results.records[0].figures["ngram_perplexity"], f"{results.budget.ngram_order}-gram")
    by_epoch.set(xlabel="epochs", ylabel="perplexity, held out")
    by_epoch.locator_params(axis="x", integer=True)
    by_second.set(xlabel="seconds of training")
    by_epoch.legend()


EXPERIMENT = Experiment(
    name="words",
    title="Text, word by word",
    about="A word language model of Python's help texts (full budget: of the King James Version), its last tenth held "
    "out. Words that occur less than three times are taken for one. So small a text is counted as well as it is "
    "learnt: hence the n-gram model beside.",
    claims=("C10",),
    budgets={
        "quick": Budget(),
        "full": Budget(seeds=5, corpus="verses", hidden_size=256, embedding_size=256, ngram_order=4),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"layer": layer, "init": "default", "seed": 0} for layer in ("RNN", "LSTM")),
    findings=findings,
    tables=tables,
    plots=(Plot("perplexity", "Perplexity of the held-out text; one line for each seed.", _draw, (8.4, 3.4)),),
    bands=(
        # It counts; the text alone, which differs between Python versions, changes it.
        Band("perplexity of the 3-gram", lambda results: results.records[0].figures["ngram_perplexity"], 20, 28),
        Band(
            "perplexity of the LSTM", lambda results: results.mean("perplexity", layer="LSTM", init="default"), 22, 30
        ),
    ),
    sources=(topics.SOURCE, verses.SOURCE),
    literature=(
        Literature("Penn Treebank, word perplexity: LSTM 78.93, GRU 92.48", "S. Bai et al., arXiv:1803.01271"),
    ),
)
