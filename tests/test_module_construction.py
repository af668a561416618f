"""lstmfast.LSTM and RNN before any call: arguments, parameters, attributes and errors are torch.nn's."""

import functools
import inspect
import warnings

import pytest
import torch
from cases import MODULE_NAMES, Options, all_options, build, build_pair, make_hx
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, assert_same_results, outcome, randn
from torch import nn

import lstmfast


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LSTM", "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size device dtype"),
        ("RNN", "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional device dtype"),
    ],
)
def test_signature(name, expected):
    parameters = inspect.signature(getattr(lstmfast, name)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == expected.split()
    forward = inspect.signature(getattr(lstmfast, name).forward).parameters
    assert list(forward) == ["self", "input", "hx"]


@pytest.mark.parametrize(
    ("name", "args"),
    [("LSTM", (3, 4, 2, False, True, 0.5, True, 2)), ("RNN", (3, 4, 2, "relu", False, True, 0.5, True))],
)
def test_positional_arguments(name, args):
    ours, theirs = getattr(lstmfast, name)(*args), getattr(nn, name)(*args)
    attributes = [*nn.RNNBase.__constants__, *(["nonlinearity"] if name == "RNN" else [])]
    assert {a: getattr(ours, a) for a in attributes} == {a: getattr(theirs, a) for a in attributes}
    assert repr(ours) == repr(theirs)


CONSTRUCTIONS = [
    ((3,), {}),
    ((), {}),
    ((3, 4, 1), {"unknown": 1}),
    ((3, 4), {"dropout": -0.1}),
    ((3, 4), {"dropout": 1.5}),
    ((3, 4), {"dropout": True}),
    ((3, 4), {"dropout": "x"}),
    ((3, 4), {"dropout": None}),
    ((3, 4), {"dropout": torch.tensor(0.1)}),
    ((3, 4), {"dropout": 1}),
    ((3, 4, 2), {"dropout": 1}),
    ((3, 4), {"dropout": 0.5}),
    ((3, 4), {"bias": 1}),
    ((3, 4), {"bias": None}),
    ((3, 4), {"batch_first": 0}),
    ((3, 4), {"bidirectional": 1}),
    ((3.0, 4), {}),
    ((3, 4.0), {}),
    ((3, "4"), {}),
    ((0, 4), {}),
    ((-1, 4), {}),
    ((3, 0), {}),
    ((3, 4, 0), {}),
    ((3, 4, -1), {}),
    ((3, 4, 1.0), {}),
    ((3, 4), {"proj_size": -1}),
    ((3, 4), {"proj_size": 0}),
    ((3, 4), {"proj_size": 2}),
    ((3, 4), {"proj_size": 4}),
    ((3, 4), {"device": "nowhere"}),
    ((3, 4), {"dtype": torch.int64}),
    # Two mistakes at once: the order of the checks.
    ((0, 4), {"dropout": 2}),
    ((0, 4), {"bias": 1}),
    ((3.0, 4), {"batch_first": 1}),
    ((0, 0, 0), {"proj_size": -1}),
]
RNN_CONSTRUCTIONS = [
    ((3, 4, 1, "tanh"), {}),
    ((3, 4, 1, "relu"), {}),
    ((3, 4, 1, "gelu"), {}),
    ((3, 4), {"nonlinearity": "sigmoid"}),
    ((3, 4), {"nonlinearity": None}),
    ((3, 4, 1, "tanh"), {"nonlinearity": "tanh"}),
    ((3, 4), {"nonlinearity": "x", "proj_size": 1}),
    ((3, 4), {"nonlinearity": "x", "dropout": 2}),
    ((3, 4, 1, "tanh", 1), {}),
    ((3, 4, 1, True), {}),
]


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        *((name, *case) for name in MODULE_NAMES for case in CONSTRUCTIONS),
        *(("RNN", *case) for case in RNN_CONSTRUCTIONS),
    ],
    ids=str,
)
def test_constructor_errors_and_warnings(name, args, kwargs):
    def construct(package):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            error, result = outcome(lambda: getattr(package, name)(*args, **kwargs))
        return error, repr(result) if error is None else None, [w.category for w in caught]

    assert construct(lstmfast) == construct(nn)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"nonlinearity": "x"}, "Unknown nonlinearity 'x'. Select from 'tanh' or 'relu'."),
        ({"proj_size": 2}, "proj_size argument is only supported for LSTM"),
    ],
)
def test_messages_of_rnn_constructor(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lstmfast.RNN(3, 4, **kwargs)


# Parameters and attributes


@pytest.mark.parametrize("options", all_options(num_layers=(1, 3)), ids=str)
def test_same_seed_gives_the_same_parameters(options):
    torch.manual_seed(7)
    theirs = build(nn, options, INPUT_SIZE, HIDDEN_SIZE)
    torch.manual_seed(7)
    ours = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)

    for module in (theirs, ours):
        torch.manual_seed(8)
        module.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("options", all_options(), ids=str)
def test_state_dict_loads_both_ways(options):
    theirs, ours = build(nn, options, 3, 4), build(lstmfast, options, 3, 4)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def test_load_state_dict_can_assign():
    theirs, ours = build_pair(Options(), INPUT_SIZE, HIDDEN_SIZE)
    theirs.reset_parameters()
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert_same_results(ours, theirs, randn(5, 2, INPUT_SIZE))


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_attributes_of_rnnbase(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    assert ours.mode == theirs.mode == options.cell
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert ours._all_weights == theirs._all_weights
    assert all(w is getattr(ours, n) for w, n in zip(ours._flat_weights, ours._flat_weights_names, strict=True))
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [[w.shape for w in ws] for ws in theirs.all_weights]
    assert ours.flatten_parameters() is None
    assert {a: getattr(ours, a) for a in ours.__constants__} == {a: getattr(theirs, a) for a in theirs.__constants__}


def test_is_rnnbase_but_not_torch_lstm():
    assert isinstance(lstmfast.LSTM(3, 4), nn.RNNBase)
    assert not isinstance(lstmfast.LSTM(3, 4), nn.LSTM)
    assert not isinstance(lstmfast.RNN(3, 4), nn.RNN)


@pytest.mark.parametrize("options", [Options("LSTM"), Options("LSTM", projected=True), Options("RNN_RELU")], ids=str)
def test_checking_methods(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, batch_first=True)
    x, batch_sizes = randn(2, 5, INPUT_SIZE), torch.tensor([3, 1])
    for sizes in (None, batch_sizes):
        assert ours.get_expected_hidden_size(x, sizes) == theirs.get_expected_hidden_size(x, sizes)
        if options.cell == "LSTM":
            assert ours.get_expected_cell_size(x, sizes) == theirs.get_expected_cell_size(x, sizes)
    good, bad = make_hx(ours, 2), make_hx(ours, 3)
    for input, hidden in [(x, good), (x, bad), (x[0], good), (x.float(), good), (x[..., 1:], good)]:
        for method, args in [("check_forward_args", (input, hidden, None)), ("check_input", (input, None))]:
            results = [outcome(functools.partial(getattr(module, method), *args)) for module in (ours, theirs)]
            assert results[0][0] is results[1][0]
    permutation = torch.tensor([1, 0])
    torch.testing.assert_close(ours.permute_hidden(good, permutation), theirs.permute_hidden(good, permutation))
    assert ours.permute_hidden(good, None) is good
