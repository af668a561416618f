"""The study's layers, models and data loaders."""

import hashlib
import math

import pytest
import study_samples
import torch
from torch import nn

import lstmfast
from lstmfast.study.data import airline, co2, sunspots, topics, vowels
from lstmfast.study.layers import INITS, PROVIDERS, gate_activations, hold_gates, recurrent
from lstmfast.study.models.sequence_classifier import SequenceClassifier
from lstmfast.study.models.sequence_regressor import SequenceRegressor

HIDDEN = 6


def build(layer, init="default", provider="lstmfast", **options):
    torch.manual_seed(1)
    return recurrent(layer, 3, HIDDEN, init=init, provider=provider, span=50, **options)


@pytest.mark.parametrize(("layer", "init"), [(layer, init) for layer in INITS for init in INITS[layer]])
def test_both_providers_begin_with_the_same_weights(layer, init):
    options = {"num_layers": 2, "bidirectional": True}
    ours, torchs = (build(layer, init, provider, **options) for provider in PROVIDERS)
    assert isinstance(torchs, nn.LSTM | nn.RNN)
    assert isinstance(ours, lstmfast.LSTM | lstmfast.RNN)
    for name, weight in torchs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name


def forget_and_input(module, suffix):
    summed = getattr(module, f"bias_ih{suffix}") + getattr(module, f"bias_hh{suffix}")
    i, f, *_ = summed.detach().chunk(4)
    return f, i


@pytest.mark.parametrize("suffix", ["_l0", "_l0_reverse", "_l1", "_l1_reverse"])
def test_biases_of_gates(suffix):
    options = {"num_layers": 2, "bidirectional": True}
    default = build("LSTM", **options)
    for value in (1, 3):
        biased = build("LSTM", f"forget{value}", **options)
        f, i = forget_and_input(biased, suffix)
        assert f.eq(value).all()
        assert torch.equal(i, forget_and_input(default, suffix)[1]), "nothing else changes"
    f, i = forget_and_input(build("LSTM", "chrono", **options), suffix)
    assert torch.equal(i, -f)
    assert ((f >= 0) & (f <= math.log(49))).all()
    assert f.unique().numel() == HIDDEN


@pytest.mark.parametrize(
    ("layer", "init", "gain"), [("RNN", "orthogonal", 1), ("RNN", "gain1.5", 1.5), ("LSTM", "orthogonal", 1)]
)
def test_recurrent_matrices_are_orthogonal(layer, init, gain):
    for gate in build(layer, init).weight_hh_l0.detach().split(HIDDEN):
        # Products of unit vectors of six elements: a few roundings of 6e-8, times the squared gain.
        torch.testing.assert_close(gate @ gate.t(), gain**2 * torch.eye(HIDDEN), rtol=0, atol=2e-6)


def test_unknown_initialisations_are_refused():
    with pytest.raises(ValueError, match="RNN has no initialisation 'forget1'"):
        recurrent("RNN", 3, 4, init="forget1")
    with pytest.raises(ValueError, match="span"):
        recurrent("LSTM", 3, 4, init="chrono")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("gate", ["input", "forget", "output"])
def test_a_gate_that_is_held_open_stays_so(provider, gate):
    """Its gradients are exactly 0, so that an optimizer leaves it alone; those of the others are not."""
    module = hold_gates(build("LSTM", provider=provider), **{gate: 50.0})
    output, _ = module(torch.randn(7, 2, 3))
    output.square().sum().backward()
    index = ("input", "forget", "cell", "output").index(gate)
    for name, parameter in module.named_parameters():
        gradients = parameter.grad.chunk(4)
        assert gradients[index].eq(0).all(), name
        assert all(other.ne(0).any() for position, other in enumerate(gradients) if position != index), name


# Models


@pytest.mark.parametrize("provider", PROVIDERS)
def test_gates_that_were_looked_into_make_the_output(provider):
    layer = build("LSTM", provider=provider)
    input = torch.randn(7, 2, 3)
    gates = gate_activations(layer, input)
    cell, outputs = torch.zeros(2, HIDDEN), []
    for i, f, g, o in zip(*gates.values(), strict=True):
        cell = f * cell + i * g
        outputs.append(o * torch.tanh(cell))
    # Seven steps of some roundings of 6e-8 each.
    torch.testing.assert_close(torch.stack(outputs), layer(input)[0].detach(), rtol=0, atol=1e-6)


def test_classifier_reads_each_sequence_to_its_own_end():
    model = SequenceClassifier(build("LSTM"), 4)
    sequences = [torch.randn(length, 3) for length in (3, 8, 5)]
    together = model(sequences)
    # Rows of another batch size may be summed in another order: a few roundings.
    torch.testing.assert_close(together, torch.cat([model([sequence]) for sequence in sequences]), rtol=0, atol=1e-6)


def test_regressor_gives_a_value_for_each_step():
    assert SequenceRegressor(build("RNN"), outputs=2)(torch.randn(7, 5, 3)).shape == (7, 5, 2)


# Data


def test_speech_files():
    utterances, speakers = vowels.parse(study_samples.japanese_vowels(2))
    assert speakers.tolist() == [*range(9), *range(9)]
    assert [tuple(utterance.shape) for utterance in utterances[:3]] == [(7, 12), (8, 12), (9, 12)]
    assert utterances[1][2, 3].item() == pytest.approx(math.sin(1 + 3) + 0.02, abs=1e-6)
    with pytest.raises(ValueError, match="@data"):
        vowels.parse("nothing")


def test_files_of_series(tmp_path):
    study_samples.write(tmp_path)
    years, numbers = sunspots.load(tmp_path)
    assert years == list(range(1700, 2009))
    assert numbers[:2] == [110.0, pytest.approx(60 + 50 * math.cos(2 * math.pi / 11), abs=1e-6)]
    months, passengers = airline.load(tmp_path)
    assert months[:13] == [1949 + month / 12 for month in range(13)]
    assert passengers[:2] == [100.0, 101.0]


def test_months_of_weeks(tmp_path):
    times, means = co2.monthly([("19991127", 4.0), ("20000101", 1.0), ("20000108", 2.0), ("20000401", 3.0)])
    assert times == [1999 + 10 / 12, 1999 + 11 / 12, 2000, 2000 + 1 / 12, 2000 + 2 / 12, 2000 + 3 / 12]
    # December lies between 4 and 1.5, the mean of January; February and March on the line from 1.5 to 3.
    assert means == [4.0, 2.75, 1.5, 2.0, 2.5, 3.0]
    times, means = co2.load(study_samples.write(tmp_path))
    assert len(times) == 13 * 12, "a row without a value is no value"
    assert means[27] == pytest.approx(302 + 4 / 12, abs=1e-6), "on the line between March and May 1982"


def test_topics_have_each_paragraph_once():
    assert topics.deduplicated(["a\n\nb\n", "\n\nb\n\nc d\n", " \n\na"]) == "a\n\nb\n\nc d\n"
    text = topics.text()
    paragraphs = text.strip("\n").split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 1000
    numbers, size = topics.characters()
    assert numbers.shape == (len(text),)
    assert numbers.unique().tolist() == list(range(size)) == list(range(len(set(text))))
    assert topics.fingerprint(text) == hashlib.sha256(text.encode()).hexdigest()[:8]
