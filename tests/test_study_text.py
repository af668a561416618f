"""The study's text experiments: loaders on small files in the formats of the real ones, and the models."""

import math
import sys
from types import SimpleNamespace

import pytest
import study_samples
import torch
from torch import nn

from lstmfast.study.data import movie_reviews, number_words, verses
from lstmfast.study.data.source import Missing
from lstmfast.study.data.words import words
from lstmfast.study.experiments import sentiment, translate
from lstmfast.study.experiments import words as by_words
from lstmfast.study.experiments.language_modelling import Text
from lstmfast.study.layers import recurrent
from lstmfast.study.models import language_model, sentence_classifier, translator
from lstmfast.study.models.language_model import CarriedLoss, LanguageModel
from lstmfast.study.models.naive_bayes import NaiveBayes
from lstmfast.study.models.ngram import Ngram
from lstmfast.study.models.sentence_classifier import SentenceClassifier, Vocabulary
from lstmfast.study.models.translator import BEGIN, END, PAD, Alphabet, Translator
from lstmfast.study.trainer import Recipe, Training

LAYERS = ["RNN", "LSTM"]
# Rows of another batch, and products of another length, may be summed in another order: a few roundings of 6e-8 in
# values of size 1.
ROUNDING = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Data


def test_number_words_of_the_package(monkeypatch):
    def named(number, lang):
        return f"{lang}-{number}"

    monkeypatch.setitem(sys.modules, "num2words", SimpleNamespace(num2words=named))
    assert number_words.load(2) == [("de-0", "en-0"), ("de-1", "en-1")]
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(Missing, match="pip install num2words"):
        number_words.load(2)


def test_pairs_of_ones_own(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("eins\tone\nzwei \ttwo\ndrei\tthree\n", encoding="utf-8")
    assert number_words.SOURCE.present(tmp_path)
    assert number_words.load(2, tmp_path) == [("eins", "one"), ("zwei", "two")]
    path.write_text("eins\tone\nzwei two\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected two texts"):
        number_words.load(2, tmp_path)


@pytest.mark.parametrize("name", ["vaderSentiment-3.3.2.tar.gz", "vadersentiment-3.3.2.tar.gz"])
def test_reviews_from_the_source_distribution(tmp_path, name):
    table = study_samples.reviews().encode()
    inner = study_samples.archive({"hutto/other.txt": b"no", "hutto/movieReviewSnippets_GroundTruth.txt": table})
    package = {"vader/setup.py": b"", "vader/additional_resources/hutto_ICWSM_2014.tar.gz": inner}
    (tmp_path / name).write_bytes(study_samples.archive(package))
    assert movie_reviews.SOURCE.present(tmp_path)
    rated = movie_reviews.load(tmp_path)
    assert rated[:2] == [("A good film, number 0.", 2.5), ("A bad film, number 1.", -1.5)]
    assert rated[-2:] == [("Twice, once", 1.0), ("So so", 0.0)], "each sentence once, white space aside"

    (tmp_path / name).write_bytes(study_samples.archive({"vader/setup.py": b""}))
    with pytest.raises(ValueError, match=r"does not hold hutto_ICWSM_2014\.tar\.gz"):
        movie_reviews.load(tmp_path)


def test_missing_reviews(tmp_path):
    for data in (None, tmp_path):
        assert not movie_reviews.SOURCE.present(data)
        with pytest.raises(Missing, match="pip download --no-deps --no-binary :all: -d DATA vaderSentiment"):
            movie_reviews.load(data)


def test_verses(tmp_path):
    spanish = {
        "ot": [["", "<w>Uno</w> ."], ["Dos &amp; <lb/>tres"]],
        "nt": [["Amén<note n='1'>una <i>nota</i></note>"]],
    }
    english = {"ot": [["", "<title>Head</title>One"], [""]], "nt": [["¶ Amen <i>!</i>"]]}
    study_samples.bible_text(tmp_path / verses.INSTALLED / verses.MODULES["es"], spanish)
    assert not verses.SOURCE.present(tmp_path)
    with pytest.raises(Missing, match="apt install sword-text-kjv sword-text-sparv"):
        verses.load("en", tmp_path)
    study_samples.bible_text(tmp_path / verses.MODULES["en"], english)
    assert verses.SOURCE.present(tmp_path)
    assert verses.load("es", tmp_path) == {("ot", 1): "Uno.", ("ot", 2): "Dos & tres", ("nt", 0): "Amén"}
    assert verses.pairs("es", "en", tmp_path) == [("Uno.", "One"), ("Amén", "Amen!")]

    # What the full budgets read.
    shortest = translate.corpus(translate.Budget(corpus="verses", pairs=1, tested=0.0), tmp_path)
    ((source, target),) = shortest.train
    assert shortest.source_alphabet.decode(source.tolist()) == "Uno."
    assert shortest.target_alphabet.decode(target.tolist()) == "One"
    text = by_words.corpus(by_words.Budget(corpus="verses", least=1), tmp_path)
    assert text.train + text.held_out == ("one", "amen", "!")


def test_words():
    assert words("It's 42 __init__ calls, isn't it?") == ["it's", "42", "__init__", "calls", ",", "isn't", "it", "?"]
    assert by_words.with_unknown(["a", "b", "a"], 2) == ("a", by_words.UNKNOWN, "a")


# Language models


def test_ngrams_of_words_are_those_of_characters():
    text, more = "abracadabra", "cadabrab"
    of_characters = Ngram(3, text, set(text))
    of_words = Ngram(3, tuple(text), set(text))
    assert of_words.bits_per_token(tuple(more), tuple(text)) == of_characters.bits_per_token(more, text)


def test_text_in_numbers():
    text = Text.of(("the", "cat", "the", "dog", "a", "cat", "a", "dog", "the", "a"))
    assert text.vocabulary == ("a", "cat", "dog", "the")
    assert text.held_out == ("a",)
    assert [text.vocabulary[number] for number in text.numbers(text.train)] == list(text.train)
    with pytest.raises(KeyError):
        text.numbers(("bird",))


def test_a_text_is_read_once_from_end_to_end():
    read = list(language_model.pieces(torch.arange(24), batch_size=2, length=4))
    assert torch.equal(torch.cat([batch.inputs for batch in read]), torch.arange(22).view(2, 11).t())
    assert torch.equal(torch.cat([batch.targets for batch in read]), torch.arange(1, 23).view(2, 11).t())
    assert [batch.begins for batch in read] == [True, False, False]
    endless = language_model.batches(torch.arange(24), 2, 4)
    assert [next(endless).begins for _ in range(7)] == [True, False, False, True, False, False, True]
    with pytest.raises(ValueError, match="too short"):
        list(language_model.pieces(torch.arange(2), batch_size=2, length=4))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_state_is_carried_from_batch_to_batch(layer):
    model = LanguageModel(5, recurrent(layer, 4, 6)).eval()
    text = torch.randint(5, (41,))
    in_pieces = language_model.bits_per_token(model, text, batch_size=1, length=7)
    logits, _ = model(text[:-1, None])
    at_once = nn.functional.cross_entropy(logits[:, 0], text[1:]).item() / math.log(2)
    assert in_pieces == pytest.approx(at_once, rel=1e-5)  # float32 sums of forty terms


@pytest.mark.parametrize("layer", LAYERS)
def test_language_model_learns_a_refrain(layer):
    refrain = torch.tensor([0, 1, 0, 2, 0, 3]).repeat(30)
    model = LanguageModel(4, recurrent(layer, 8, 16))
    source = language_model.batches(refrain, 4, 10)
    training = Training(model, source, CarriedLoss(model), Recipe(lr=2e-2, steps=80, evaluate_every=10))
    first = training.step()
    assert training.run().loss[-1] < first / 2
    model.eval()
    # One character in two is told by the one before, the other only by the one before that.
    assert language_model.bits_per_token(model, refrain) < 0.2
    assert language_model.generate(model, refrain[:12], 12, temperature=0.01) == refrain[:12].tolist()


@pytest.mark.parametrize("layer", LAYERS)
def test_generating_carries_the_state(layer):
    model = LanguageModel(11, recurrent(layer, 8, 16)).eval()
    prompt = torch.randint(11, (7,))
    drawn = language_model.generate(model, prompt, 20, temperature=1e-6)  # as good as always the likeliest
    text = prompt.tolist()
    for _ in range(20):
        logits, _ = model(torch.tensor(text)[:, None])
        text.append(int(logits[-1, 0].argmax()))
    assert drawn == text[7:]


def test_generating_repeats_itself_from_the_same_seed():
    model = LanguageModel(11, recurrent("LSTM", 8, 16)).eval()
    one, same, other = (language_model.generate(model, torch.tensor([1, 2]), 40, 1.0, seed) for seed in (1, 1, 2))
    assert one == same != other


# Translation


def translator_of(layer, attention, hidden=8):
    encoder, decoder = recurrent(layer, 5, hidden), recurrent(layer, 5, hidden)
    return Translator(9, 8, encoder, decoder, attention)


def test_alphabet():
    alphabet = Alphabet(["cab", "ad"])
    assert len(alphabet) == 3 + 4
    encoded = alphabet.encode("bad")
    assert encoded.tolist()[-1] == END
    assert not {PAD, BEGIN, END} & set(encoded.tolist()[:-1])
    assert alphabet.decode([*encoded.tolist(), PAD, 5]) == "bad", "what comes after the end is not part of it"
    with pytest.raises(KeyError):
        alphabet.encode("e")


def random_pairs(lengths):
    return [(torch.randint(END + 1, 8, (s,)), torch.randint(END + 1, 8, (t,))) for s, t in lengths]


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_padding_changes_no_translation(layer, attention):
    model = translator_of(layer, attention)
    pairs = random_pairs([(3, 4), (7, 2), (1, 6)])
    together = model(translator.collate(*zip(*pairs, strict=True)))
    for column, (source, target) in enumerate(pairs):
        alone = model(translator.collate([source], [target]))
        torch.testing.assert_close(together[: len(target), column], alone[:, 0], **ROUNDING)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_padding_counts_in_no_loss(layer, attention):
    model = translator_of(layer, attention)
    pairs = random_pairs([(3, 4), (7, 2)])
    together = model.loss(translator.collate(*zip(*pairs, strict=True)))
    four, two = (model.loss(translator.collate([source], [target])) for source, target in pairs)
    torch.testing.assert_close(together, (4 * four + 2 * two) / 6, **ROUNDING)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_decoding_feeds_on_what_it_wrote_and_stops_at_the_end(layer, attention):
    model = translator_of(layer, attention)
    with torch.no_grad():
        model.output.bias[[PAD, BEGIN]] = -100.0
    pairs = translator.collate(*zip(*random_pairs([(2, 1), (9, 1), (4, 1), (6, 1)]), strict=True))
    endless = model.output.bias.detach().clone()
    endless[END] = -100.0
    with torch.no_grad():
        model.output.bias.copy_(endless)
    assert [len(column) for column in model.translate(pairs, 12)] == [12] * 4, "without an end, up to the longest"
    # The end becomes likely enough to come at some time, at different times.
    with torch.no_grad():
        model.output.bias[END] = model.output.bias[END + 1 :].max() + 0.05
        model.output.weight[END] *= 4
    written = model.translate(pairs, 12)
    for column, numbers in enumerate(written):
        assert END not in numbers
        # Teacher forcing on what was written gives it back, each character being the likeliest.
        forced = torch.tensor([*numbers, END])
        one = translator.Pairs(pairs.sources[:, column : column + 1], pairs.lengths[column, None], forced[:, None])
        predicted = model(one)[:, 0].argmax(-1).tolist()
        assert predicted[: len(numbers)] == numbers
        assert predicted[-1] == END or len(numbers) == 12


def test_decoding_ends_with_the_last_sentence():
    model = translator_of("LSTM", False)
    with torch.no_grad():
        model.output.bias[END] = 100.0
    steps = []
    model.decoder.register_forward_hook(lambda *_: steps.append(1))
    pairs = translator.collate(*zip(*random_pairs([(2, 1), (5, 1)]), strict=True))
    assert model.translate(pairs, 50) == [[], []]
    assert len(steps) == 1


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_translator_learns(layer, attention):
    corpus = translate.Corpus([(f"{a}{b}", f"{b}{a}") for a in "abcd" for b in "efgh"], tested=0.0)
    model = Translator(
        len(corpus.source_alphabet),
        len(corpus.target_alphabet),
        recurrent(layer, 8, 24),
        recurrent(layer, 8, 24),
        attention,
    )
    training = Training(
        model, corpus.batches(16, torch.device("cpu")), model.loss, Recipe(lr=2e-2, steps=100, evaluate_every=10)
    )
    first = training.step()
    assert training.run().loss[-1] < first / 2
    model.eval()
    corpus.test = corpus.train
    assert all(translate.right(model, corpus, torch.device("cpu")))
    assert translate.bits_per_character(model, corpus, torch.device("cpu"), size=5) < 0.3


def test_pairs_of_the_test_are_not_trained_on():
    pairs = [(f"{n:b}", f"{n:o}") for n in range(50)]
    corpus, again = translate.Corpus(pairs, 0.2), translate.Corpus(pairs, 0.2)
    train, test = ({corpus.source_alphabet.decode(s.tolist()) for s, _ in part} for part in (corpus.train, corpus.test))
    assert len(train) == 40
    assert len(test) == 10
    assert not train & test
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(corpus.test, again.test, strict=True))


# Sentiment


def test_pooling_by_hand_whatever_the_padding_holds():
    outputs = torch.tensor([[1.0, -4.0], [5.0, -2.0], [3.0, -3.0]])[:, None, :].repeat(1, 3, 1)
    outputs[2, 0], outputs[1:, 1] = math.nan, math.inf
    lengths = torch.tensor([2, 1, 3])
    expected = {
        "last": [[5.0, -2.0], [1.0, -4.0], [3.0, -3.0]],
        "mean": [[3.0, -3.0], [1.0, -4.0], [3.0, -3.0]],
        "max": [[5.0, -2.0], [1.0, -4.0], [5.0, -2.0]],
    }
    for how, values in expected.items():
        leaf = outputs.clone().requires_grad_()
        pooled = sentence_classifier.pool(leaf, lengths, how)
        assert pooled.tolist() == values
        pooled.sum().backward()
        assert leaf.grad[2, 0].eq(0).all()
        assert leaf.grad[1:, 1].eq(0).all()


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_sentences_do_not_depend_on_their_neighbours(layer, bidirectional, pooling):
    model = SentenceClassifier(20, 3, recurrent(layer, 5, 6, bidirectional=bidirectional), pooling).eval()
    sentences = [torch.randint(1, 20, (length,)) for length in (4, 9, 1)]
    together = model(sentence_classifier.collate(sentences))
    alone = torch.cat([model(sentence_classifier.collate([sentence])) for sentence in sentences])
    torch.testing.assert_close(together, alone, **ROUNDING)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("layer", LAYERS)
def test_classifier_learns(layer, pooling, tmp_path):
    rated = movie_reviews.load(study_samples.write(tmp_path))
    corpus = sentiment.Corpus([one for one in rated if "film" in one[0]], tested=20, least=3)
    model = SentenceClassifier(len(corpus.vocabulary), 2, recurrent(layer, 8, 16), pooling)

    def loss(batch):
        sentences, labels = batch
        return nn.functional.cross_entropy(model(sentences), labels)

    training = Training(
        model, corpus.batches(16, torch.device("cpu")), loss, Recipe(lr=2e-2, steps=40, evaluate_every=10)
    )
    first = training.step()
    assert training.run().loss[-1] < first / 2
    model.eval()
    assert sentiment.right(model, corpus, torch.device("cpu")).all(), "the sentences differ in one word that decides"


def test_vocabulary():
    vocabulary = Vocabulary([["a", "b"], ["a", "c", "c"]], least=2)
    assert vocabulary.words == ["a", "c"]
    a, b, c = vocabulary.encode(["a", "b", "c"]).tolist()
    assert (b, len({a, b, c, sentence_classifier.PAD})) == (sentence_classifier.UNKNOWN, 4)
    assert vocabulary.encode([]).tolist() == [sentence_classifier.UNKNOWN]


def test_sentences_rated_zero_are_left_out():
    corpus = sentiment.Corpus([("good one", 1.0), ("so so", 0.0), ("bad", -0.5), ("bad two", -2.0)], tested=1, least=1)
    assert sorted([*corpus.train_labels, *corpus.test_labels]) == [0, 0, 1]
    assert ("so", "so") not in [tuple(sentence) for sentence in (*corpus.train_words, *corpus.test_words)]


def test_naive_bayes_by_hand():
    model = NaiveBayes([["good", "film"], ["bad"], ["bad", "film"]], [1, 0, 0])
    # Features: good, film, bad and two pairs. P(1) = 1/3, P(good | 1) = (1 + 1) / (3 + 5); P(0) = 2/3,
    # P(good | 0) = (0 + 1) / (4 + 5): 1/12 against 2/27, which bad reverses: 1/96 against 2/81.
    assert model.predict(["good"]) == 1
    assert model.predict(["good", "bad"]) == 0
    assert model.predict(["never", "seen"]) == 0, "the likelier one beforehand"
    assert model.accuracy([["good"], ["bad"]], [1, 1]) == 0.5


def test_accuracy_by_length():
    lengths = torch.tensor([9, 1, 8, 2, 7, 3, 6, 4])
    correct = lengths < 5
    assert sentiment.by_length(correct, lengths, groups=2) == [(2.5, 1.0), (7.5, 0.0)]
