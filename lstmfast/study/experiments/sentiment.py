"""Sentiment: whether a sentence of a film review praises or pans."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..claims import Finding, verdict
from ..data import movie_reviews
from ..data.words import words
from ..experiment import Band, Experiment, Key, Setting, Table
from ..models.naive_bayes import NaiveBayes
from ..models.sentence_classifier import SentenceClassifier, Vocabulary, collate
from ..plots import Plot, label, level, style
from ..results import Results, Spread, mean_list
from ..trainer import Recipe, Training, parameters, shuffled

LAYERS = [("RNN", "default"), ("LSTM", "default"), ("LSTM", "forget1")]
POOLINGS = {"last": "the last output", "mean": "the mean of all outputs"}
NOISE = 0.02  # of the accuracy: two standard errors for the 2000 sentences of the test


@dataclass(frozen=True)
class Budget:
    """least: a word that occurs less often in the training is unknown."""

    seeds: int = 3
    tested: int = 2000
    epochs: int = 4
    batch: int = 64
    embedding_size: int = 32
    hidden_size: int = 64
    least: int = 3
    dropout: float = 0.3
    lr: float = 3e-3


def runs(budget: Budget, seeds: Iterable[int]) -> list[Key]:
    return [
        {"layer": layer, "init": init, "pooling": pooling, "seed": seed}
        for seed in seeds
        for pooling in POOLINGS
        for layer, init in LAYERS
    ]


class Corpus:
    """Sentences in words, and 1 for praise, 0 for blame; those rated 0 are left out. The split is the same for every
    run."""

    def __init__(self, rated: list[tuple[str, float]], tested: int, least: int):
        labelled = [(words(sentence), int(rating > 0)) for sentence, rating in rated if rating != 0]
        order = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0)).tolist()
        test, train = order[:tested], order[tested:]
        self.train_words, self.train_labels = zip(*(labelled[i] for i in train), strict=True)
        self.test_words, self.test_labels = zip(*(labelled[i] for i in test), strict=True)
        self.vocabulary = Vocabulary(self.train_words, least)
        self.train = [self.vocabulary.encode(sentence) for sentence in self.train_words]
        self.test = [self.vocabulary.encode(sentence) for sentence in self.test_words]

    def batches(self, size: int, device: torch.device) -> Iterator[tuple]:
        """Sentences and labels in a new order in every epoch, drawn from torch's generator, without end."""
        labels = torch.tensor(self.train_labels)
        for chosen in shuffled(len(self.train), size):
            yield collate([self.train[i] for i in chosen.tolist()], device), labels[chosen].to(device)


@lru_cache(maxsize=1)
def corpus(tested: int, least: int, data: Path | None) -> Corpus:
    return Corpus(movie_reviews.load(data), tested, least)


@lru_cache(maxsize=1)
def baselines(corpus: Corpus) -> dict[str, float]:
    """Accuracies of what needs no training."""
    praise = sum(corpus.test_labels) / len(corpus.test_labels)
    counted = NaiveBayes(corpus.train_words, corpus.train_labels)
    return {
        "Naive Bayes": counted.accuracy(corpus.test_words, corpus.test_labels),
        "majority": max(praise, 1 - praise),
    }


def training(key: Key, setting: Setting, texts: Corpus) -> Training:
    budget = setting.budget
    layer = setting.layer(key, budget.embedding_size, budget.hidden_size)
    model = SentenceClassifier(len(texts.vocabulary), 2, layer, key["pooling"], budget.dropout).to(setting.device)

    def loss(batch) -> Tensor:
        sentences, labels = batch
        return nn.functional.cross_entropy(model(sentences), labels)

    recipe = Recipe.of_epochs(budget.epochs, -(-len(texts.train) // budget.batch), budget.lr)
    return Training(model, texts.batches(budget.batch, setting.device), loss, recipe)


def right(model: SentenceClassifier, corpus: Corpus, device: torch.device) -> Tensor:
    """bool [tested]: which sentences of the test are told right."""
    return model(collate(corpus.test, device)).argmax(-1).cpu() == torch.tensor(corpus.test_labels)


def measure(key: Key, setting: Setting) -> dict:
    texts = corpus(setting.budget.tested, setting.budget.least, setting.data)
    trained = training(key, setting, texts)
    curve = trained.run(lambda: {"accuracy": right(trained.model, texts, setting.device).float().mean().item()})
    trained.model.eval()
    with torch.no_grad():
        correct = right(trained.model, texts, setting.device)
    return {
        "accuracy": correct.float().mean().item(),
        "by_length": by_length(correct, torch.tensor([len(sentence) for sentence in texts.test])),
        "seconds": curve.seconds[-1],
        "parameters": parameters(trained.model),
        "curve": {**curve.json(), "epoch": [step / trained.recipe.evaluate_every for step in curve.step]},
        "baselines": baselines(texts),
    }


def by_length(correct: Tensor, lengths: Tensor, groups: int = 4) -> list[tuple[float, float]]:
    """(mean length, accuracy) of `groups` groups of the same size, from short sentences to long ones."""
    chosen = lengths.sort(stable=True).indices.chunk(groups)
    return [(lengths[group].float().mean().item(), correct[group].float().mean().item()) for group in chosen]


def step(key: Key, setting: Setting) -> Callable[[], float]:
    return training(key, setting, corpus(setting.budget.tested, setting.budget.least, setting.data)).step


def tables(results: Results) -> list[Table]:
    rows = []
    for layer, init in LAYERS:
        accuracies = (str(results.spread("accuracy", layer=layer, init=init, pooling=pooling)) for pooling in POOLINGS)
        rows.append((label(layer, init), *accuracies, f"{results.mean('seconds', layer=layer, init=init):.1f}"))
    for name, accuracy in results.records[0].figures["baselines"].items():
        rows.append((name, f"{accuracy:.3f}", "", ""))
    header = ("model", *POOLINGS.values(), "seconds of training")
    return [Table(f"Accuracy on {results.budget.tested} unseen sentences, by what is read out", header, rows)]


def _accuracy(results: Results, layer: str, pooling: str, init: str = "default") -> Spread:
    return results.spread("accuracy", layer=layer, init=init, pooling=pooling)


def _baseline(results: Results, name: str) -> float:
    return results.records[0].figures["baselines"][name]


def findings(results: Results) -> list[Finding]:
    naive_bayes = _baseline(results, "Naive Bayes")
    found = []
    for pooling, read in POOLINGS.items():
        rnn, lstm, biased = (_accuracy(results, layer, pooling, init) for layer, init in LAYERS)
        found.append(
            Finding(
                "C13",
                verdict(lstm.mean > rnn.mean + NOISE, biased.mean > rnn.mean + NOISE),
                f"The LSTM's accuracy is higher by more than {NOISE} where {read} is read.",
                f"from {read}: RNN {rnn:.3f}, LSTM {lstm:.3f}, with forget bias 1 {biased:.3f}; Naive Bayes, counting "
                f"words and pairs of words, {naive_bayes:.3f}",
            )
        )
    return found


def _draw(results: Results, figure) -> None:
    by_epoch, by_words = figure.subplots(1, 2, sharey=True)
    for pooling, line in zip(POOLINGS, ("-", ":"), strict=True):
        for layer, init in LAYERS:
            records = results.select(layer=layer, init=init, pooling=pooling)
            look = style(layer, init) | {"label": f"{label(layer, init)}, {pooling}", "linestyle": line}
            curves = [record.figures["curve"] for record in records]
            by_epoch.plot(curves[0]["epoch"], mean_list(curve["accuracy"] for curve in curves), **look)
            groups = zip(*(record.figures["by_length"] for record in records), strict=True)
            points = [mean_list(group) for group in groups]
            by_words.plot(*zip(*points, strict=True), marker="o", markersize=3, **look)
    for axes in (by_epoch, by_words):
        level(axes, _baseline(results, "Naive Bayes"), "Naive Bayes")
    by_epoch.set(xlabel="epochs", ylabel="accuracy, unseen sentences")
    by_epoch.locator_params(axis="x", integer=True)
    by_words.set(xlabel="words of the sentence (after training)")
    figure.legend(*by_epoch.get_legend_handles_labels(), loc="outside right upper")


EXPERIMENT = Experiment(
    name="sentiment",
    title="Sentiment of sentences",
    about="Sentences of film reviews, rated by people; praise or blame is to be told. The recurrent layer gets them "
    "packed, without padding. Either its last output is read, which must then hold the sentence, or the mean of all "
    "outputs.",
    claims=("C13",),
    budgets={"quick": Budget(), "full": Budget(seeds=10, epochs=6, hidden_size=128)},
    runs=runs,
    measure=measure,
    step=step,
    compared=tuple({"layer": layer, "init": "default", "pooling": "mean", "seed": 0} for layer in ("RNN", "LSTM")),
    findings=findings,
    tables=tables,
    plots=(Plot("accuracy", "Accuracy on unseen sentences; mean of all seeds.", _draw, (8.4, 3.2)),),
    bands=(
        # It counts, so that it varies with the split alone, which is fixed.
        Band("accuracy of Naive Bayes", lambda results: _baseline(results, "Naive Bayes"), 0.78, 0.82),
        Band("accuracy of the LSTM, last output", lambda results: _accuracy(results, "LSTM", "last").mean, 0.63, 0.76),
    ),
    sources=(movie_reviews.SOURCE,),
)
