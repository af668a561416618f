"""Translation, character by character, by an encoder and a decoder: numbers in words, or verses of the Bible."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..claims import Finding, verdict
from ..data import number_words, verses
from ..experiment import Band, Experiment, Key, Setting, Table
from ..models.translator import PAD, Alphabet, Pairs, Translator, collate
from ..plots import Plot, label, style
from ..results import Results, Spread, mean_list
from ..trainer import Recipe, Training, parameters, shuffled

# With attention the decoder sees all of the encoder's outputs, and no state has to hold the source.
VARIANTS = [
    ("RNN", "default", False),
    ("LSTM", "default", False),
    ("LSTM", "forget1", False),
    ("RNN", "default", True),
]
NO, YES = 0.05, 0.5  # exact matches below which a model cannot translate, and above which it can
NOISE = 0.03  # bits per character: differences below it count as none


@dataclass(frozen=True)
class Budget:
    """corpus: "numbers", German to English, or "verses" of the Bible, Spanish to English.
    pairs: how many of them: the first numbers, or the shortest verses.
    """

    seeds: int = 3
    corpus: str = "numbers"
    pairs: int = 1000
    tested: float = 0.2
    steps: int = 900
    batch: int = 32
    embedding_size: int = 32
    hidden_size: int = 96
    lr: float = 3e-3


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"layer": layer, "init": init, "attention": attention, "seed": seed}
        for seed in seeds
        for layer, init, attention in VARIANTS
    ]


class Corpus:
    """Pairs of texts in numbers, some of them kept for testing. The split is the same for every run."""

    def __init__(self, pairs: list[tuple[str, str]], tested: float):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0)).tolist()
        self.source_alphabet = Alphabet(source for source, _ in pairs)
        self.target_alphabet = Alphabet(target for _, target in pairs)
        encoded = [(self.source_alphabet.encode(pairs[i][0]), self.target_alphabet.encode(pairs[i][1])) for i in order]
        split = round(len(pairs) * (1 - tested))
        self.train, self.test = encoded[:split], encoded[split:]
        self.longest = max(len(target) for _, target in encoded)

    def batches(self, size: int, device: torch.device) -> Iterator[Pairs]:
        """Training pairs in a new order in every epoch, drawn from torch's generator, without end."""
        for chosen in shuffled(len(self.train), size):
            yield collate(*zip(*(self.train[i] for i in chosen.tolist()), strict=True), device)


def corpus(budget: Budget, data: Path | None) -> Corpus:
    if budget.corpus == "numbers":
        pairs = number_words.load(budget.pairs, data)
    else:
        pairs = sorted(verses.pairs(data=data), key=lambda pair: max(map(len, pair)))[: budget.pairs]
    return Corpus(pairs, budget.tested)


def training(key: Key, setting: Setting, corpus: Corpus, evaluations: int = 7) -> Training:
    budget = setting.budget
    encoder, decoder = (setting.layer(key, budget.embedding_size, budget.hidden_size) for _ in range(2))
    sizes = len(corpus.source_alphabet), len(corpus.target_alphabet)
    model = Translator(*sizes, encoder, decoder, key["attention"]).to(setting.device)
    every = max(1, budget.steps // evaluations)
    recipe = Recipe(lr=budget.lr, steps=budget.steps, anneal=True, evaluate_every=every)
    return Training(model, corpus.batches(budget.batch, setting.device), model.loss, recipe)


def right(model: Translator, corpus: Corpus, device: torch.device) -> list[bool]:
    """For each pair of the test, whether every character of the translation is right."""
    pairs = collate(*zip(*corpus.test, strict=True), device)
    written = model.translate(pairs, corpus.longest)
    return [numbers == target[:-1].tolist() for numbers, (_, target) in zip(written, corpus.test, strict=True)]


def measure(key: Key, setting: Setting) -> dict:
    texts = corpus(setting.budget, setting.data)
    trained = training(key, setting, texts)
    model = trained.model
    curve = trained.run(lambda: {"exact": _mean(right(model, texts, setting.device))})
    model.eval()
    correct = right(model, texts, setting.device)
    pairs = collate(*zip(*texts.test[:5], strict=True), setting.device)
    written = model.translate(pairs, texts.longest)
    return {
        "exact": _mean(correct),
        "right": correct,
        "lengths": [len(source) - 1 for source, _ in texts.test],
        "loss": curve.loss[-1],
        "bits": bits_per_character(model, texts, setting.device),
        "seconds": curve.seconds[-1],
        "parameters": parameters(model),
        "curve": curve.json(),
        "examples": [
            [texts.source_alphabet.decode(source.tolist()), texts.target_alphabet.decode(numbers)]
            for (source, _), numbers in zip(texts.test[:5], written, strict=True)
        ],
    }


@torch.no_grad()
def bits_per_character(model: Translator, corpus: Corpus, device: torch.device, size: int = 200) -> float:
    """Mean of -log2 P of the test's characters, given the source and the right characters before."""
    bits, count = 0.0, 0
    for start in range(0, len(corpus.test), size):
        pairs = collate(*zip(*corpus.test[start : start + size], strict=True), device)
        characters = int((pairs.targets != PAD).sum())
        bits += model.loss(pairs).item() / math.log(2) * characters
        count += characters
    return bits / count


def _mean(values: list) -> float:
    return sum(values) / len(values)


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, corpus(setting.budget, setting.data)).step


def _name(layer: str, init: str, attention: bool) -> str:
    return label(layer, init) + (" + attention" if attention else "")


def _exact(results: Results, layer: str, init: str = "default", attention: bool = False) -> Spread:
    return results.spread("exact", layer=layer, init=init, attention=attention)


def tables(results: Results) -> list[Table]:
    rows = []
    for layer, init, attention in VARIANTS:
        key = {"layer": layer, "init": init, "attention": attention}
        figures = (str(results.spread(figure, **key)) for figure in ("exact", "bits", "loss"))
        parameters = f"{results.select(**key)[0].figures['parameters']:,}"
        seconds = f"{results.mean('seconds', **key):.1f}"
        rows.append((_name(layer, init, attention), *figures, parameters, seconds))
    header = ("model", "without a mistake", "bits per character", "training loss, nats", "parameters", "seconds")
    examples = []
    for index, (source, _) in enumerate(results.records[0].figures["examples"]):
        written = (
            results.select(layer=layer, init=init, attention=attention)[0].figures["examples"][index][1]
            for layer, init, attention in VARIANTS[:3]
        )
        examples.append((source, *written))
    return [
        Table(f"Unseen {results.budget.corpus}, {results.budget.steps} steps", header, rows),
        Table("The first of them", ("source", *(_name(*variant) for variant in VARIANTS[:3])), examples),
    ]


def findings(results: Results) -> list[Finding]:
    return _findings_by_exact_match(results) if results.budget.corpus == "numbers" else _findings_by_bits(results)


def _findings_by_bits(results: Results) -> list[Finding]:
    """For texts that nobody translates the same way twice: no translation is expected to be the one given."""
    rnn, lstm, biased = (
        results.spread("bits", layer=layer, init=init, attention=attention) for layer, init, attention in VARIANTS[:3]
    )
    return [
        Finding(
            "C11",
            verdict(lstm.mean < rnn.mean - NOISE, biased.mean < rnn.mean - NOISE),
            f"For unseen translations, given their sources, the LSTM needs at least {NOISE} bits per character less.",
            f"RNN {rnn:.3f}, LSTM {lstm:.3f}, with forget bias 1 {biased:.3f} bits per character",
        )
    ]


def _findings_by_exact_match(results: Results) -> list[Finding]:
    rnn, lstm, biased = (_exact(results, *variant) for variant in VARIANTS[:3])
    attending = _exact(results, "RNN", attention=True)
    burdened = rnn.mean < NO and attending.mean > YES
    return [
        Finding(
            "C11",
            verdict(lstm.mean > rnn.mean + YES, biased.mean > rnn.mean + YES),
            f"The LSTM's share of unseen numbers without a mistake is at least {100 * YES:.0f} points above the RNN's.",
            f"RNN {rnn:.1%}, LSTM {lstm:.1%}, with forget bias 1 {biased:.1%}",
        ),
        Finding(
            "C3",
            verdict(burdened and lstm.mean > YES, burdened and biased.mean > YES),
            f"Where the source must be held in a state, the RNN translates less than {NO:.0%}; with attention, which "
            f"takes this burden away, more than {YES:.0%}. The LSTM does so without.",
            f"RNN {rnn:.1%}, RNN with attention {attending:.1%}, LSTM {lstm:.1%}, with forget bias 1 {biased:.1%}",
        ),
    ]


def _draw(results: Results, figure) -> None:
    by_length, by_step = figure.subplots(1, 2, sharey=True)
    width = 5
    for layer, init, attention in VARIANTS:
        look = style(layer, init) | {"label": _name(layer, init, attention)}
        if attention:
            look |= {"linestyle": ":", "alpha": 0.7}
        records = results.select(layer=layer, init=init, attention=attention)
        buckets: dict[int, list[bool]] = {}
        for record in records:
            for correct, length in zip(record.figures["right"], record.figures["lengths"], strict=True):
                buckets.setdefault(length // width, []).append(correct)
        places = sorted(bucket for bucket, values in buckets.items() if len(values) >= 5)
        middles = [width * (bucket + 0.5) for bucket in places]
        by_length.plot(middles, [_mean(buckets[bucket]) for bucket in places], marker="o", markersize=3, **look)
        curves = [record.figures["curve"] for record in records]
        exact = mean_list(curve["exact"] for curve in curves)
        by_step.plot(curves[0]["step"], exact, marker="o", markersize=3, **look)
    by_length.set(xlabel="characters of the source", ylabel="translated without a mistake", ylim=(-0.03, 1.03))
    by_step.set(xlabel="steps")
    figure.legend(*by_length.get_legend_handles_labels(), loc="outside right upper")


EXPERIMENT = Experiment(
    name="translate",
    title="Translation",
    about="An encoder reads a number in German, character by character; a decoder writes it in English. All that it is "
    "given is the encoder's last state, unless there is attention. German says 21 as one-and-twenty, so the order "
    "changes. Trained by teacher forcing, tested on numbers that were not trained on, the likeliest character "
    "being written at each step. The task is made to need memory. The full budget translates verses of the Bible, "
    "Spanish to English.",
    claims=("C3", "C11"),
    budgets={
        "quick": Budget(),
        "full": Budget(3, "verses", pairs=9000, tested=0.1, steps=6000, batch=64, hidden_size=256, lr=2e-3),
    },
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"layer": layer, "init": "default", "attention": False, "seed": 0} for layer in ("RNN", "LSTM")),
    findings=findings,
    tables=tables,
    plots=(Plot("exact", "Unseen numbers without a mistake; mean of all seeds.", _draw, (8.4, 3.2)),),
    bands=(
        Band("exact match, LSTM forget1", lambda results: _exact(results, "LSTM", "forget1").mean, 0.9, 1.0),
        Band("exact match, RNN", lambda results: _exact(results, "RNN").mean, 0.0, NO),
    ),
    sources=(number_words.SOURCE, verses.SOURCE),
)
