"""lstmfast.LSTM and lstmfast.RNN keep the contract of torch.nn.LSTM and torch.nn.RNN: each test makes the same call on
both and compares the results or the types of the exceptions."""

import copy
import functools
import inspect
import io
import pickle
import warnings

import pytest
import torch
from cases import (
    CELLS,
    MODULE_NAMES,
    Options,
    all_options,
    build,
    build_pair,
    gradients,
    make_hx,
    make_packed,
    states_of,
    tensors_of,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import lstmfast

INPUT_SIZE, HIDDEN_SIZE = 3, 4
ROUNDING = {"rtol": 1e-10, "atol": 1e-11}
BOTH = [Options("LSTM"), Options("RNN_TANH")]

both_modules = pytest.mark.parametrize("name", MODULE_NAMES)
both_cells = pytest.mark.parametrize("options", BOTH, ids=str)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape, **kwargs):
    return torch.randn(*shape, dtype=torch.float64, **kwargs)


def outcome(call):
    """The type of the exception that call raises, and its message; (None, result) without one."""
    try:
        return None, call()
    except Exception as error:
        return type(error), str(error)


def assert_same_results(ours, theirs, *args):
    actual, expected = tensors_of(ours(*args)), tensors_of(theirs(*args))
    torch.testing.assert_close(actual, expected, **ROUNDING)


# Construction


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


# Forward and backward


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "one_sequence", "one_sequence_batch_first"])
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_padded(options, layout, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, batch_first=layout.endswith("batch_first"))
    x = randn(*((5, INPUT_SIZE) if layout.startswith("one") else (5, 2, INPUT_SIZE)), requires_grad=True)
    hx = None
    if given_hx:
        batch = None if layout.startswith("one") else 5 if layout == "batch_first" else 2
        hx = make_hx(theirs, batch, requires_grad=True)
    expected, actual = tensors_of(theirs(x, hx)), tensors_of(ours(x, hx))
    torch.testing.assert_close(actual, expected, **ROUNDING)
    leaves = [x, *states_of(hx)]
    torch.testing.assert_close(
        gradients(actual, [*leaves, *ours.parameters()]),
        gradients(expected, [*leaves, *theirs.parameters()]),
        **ROUNDING,
    )


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("lengths", [(5,), (5, 5, 2), (1, 6, 3, 3)], ids=["one", "sorted", "unsorted"])
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_packed(options, lengths, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    packed, leaf = make_packed(lengths, INPUT_SIZE, requires_grad=True)
    hx = make_hx(theirs, len(lengths), requires_grad=True) if given_hx else None
    theirs_out, ours_out = theirs(packed, hx), ours(packed, hx)
    assert type(ours_out[0]) is PackedSequence
    for index in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(ours_out[0], index) is getattr(packed, index)
    expected, actual = tensors_of(theirs_out), tensors_of(ours_out)
    torch.testing.assert_close(actual, expected, **ROUNDING)
    # Both results share the graph that packed the input.
    leaves = [leaf, *states_of(hx)]
    expected_gradients = gradients(expected, [*leaves, *theirs.parameters()], retain_graph=True)
    torch.testing.assert_close(gradients(actual, [*leaves, *ours.parameters()]), expected_gradients, **ROUNDING)


@both_cells
def test_result_types(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    for input in (randn(2, INPUT_SIZE), randn(2, 2, INPUT_SIZE), make_packed((2, 1), INPUT_SIZE)[0]):
        result = ours(input)
        assert type(result) is tuple
        assert type(result[1]) is (tuple if options.cell == "LSTM" else torch.Tensor)


def test_hx_may_be_a_list():
    theirs, ours = build_pair(Options(), INPUT_SIZE, HIDDEN_SIZE)
    for input in (randn(5, 2, INPUT_SIZE), make_packed((3, 2), INPUT_SIZE)[0], make_packed((2, 3), INPUT_SIZE)[0]):
        assert_same_results(ours, theirs, input, list(make_hx(ours, 2)))
    assert_same_results(ours, theirs, randn(5, INPUT_SIZE), list(make_hx(ours, None)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_any_strides(cell, batch_first):
    theirs, ours = build_pair(Options(cell, num_layers=2), INPUT_SIZE, HIDDEN_SIZE, batch_first=batch_first)
    for module in (theirs, ours):
        for name, weight in list(module.named_parameters()):
            spread = torch.empty(*weight.shape, 2, dtype=torch.float64)[..., 0].copy_(weight.detach())
            setattr(module, name, nn.Parameter(spread.mT.contiguous().mT if spread.dim() == 2 else spread))
    hx = tuple(s.mT.contiguous().mT for s in states_of(make_hx(ours, 2)))
    hx = hx if cell == "LSTM" else hx[0]
    shape = (2, 5, INPUT_SIZE) if batch_first else (5, 2, INPUT_SIZE)
    inputs = [
        randn(shape[2], shape[1], shape[0]).permute(2, 1, 0),
        randn(*shape[:2], 2 * INPUT_SIZE)[..., ::2],
        randn(*shape).flip(0),
        randn(1, 1, INPUT_SIZE).expand(shape),
    ]
    for x in inputs:
        assert_same_results(ours, theirs, x, hx)


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_empty_batch(options, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 0, INPUT_SIZE, requires_grad=True)
    hx = make_hx(ours, 0) if given_hx else None
    expected, actual = tensors_of(theirs(x, hx)), tensors_of(ours(x, hx))
    assert [t.shape for t in actual] == [t.shape for t in expected]
    sum(t.sum() for t in actual).backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in ours.parameters())


@both_cells
def test_backward_in_eval_mode_and_retained_graph(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    for module in (theirs, ours):
        loss = module.eval()(x)[0].square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, theirs_p.grad, **ROUNDING)


@both_cells
def test_backward_twice_without_retained_graph_is_an_error(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    loss = ours(randn(5, 2, INPUT_SIZE))[0].sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@both_cells
def test_no_graph_without_grad_mode(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not any(t.requires_grad for t in tensors_of(ours(randn(5, 2, INPUT_SIZE))))


@both_cells
def test_gradients_of_any_subset(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    for wanted in ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]:
        for module in (theirs, ours):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name == wanted)
                parameter.grad = None
            tensors_of(module(x))[0].square().sum().backward()
        assert [n for n, p in ours.named_parameters() if p.grad is not None] == [wanted]
        torch.testing.assert_close(getattr(ours, wanted).grad, getattr(theirs, wanted).grad, **ROUNDING)
    for parameter in ours.parameters():
        parameter.requires_grad_(False)
    assert not ours(x)[0].requires_grad


@both_cells
def test_dropout_only_in_training_and_between_layers(options):
    theirs, ours = build_pair(Options(options.cell, num_layers=2), INPUT_SIZE, HIDDEN_SIZE, dropout=0.5)
    x = randn(5, 2, INPUT_SIZE)
    assert_same_results(ours.eval(), theirs.eval(), x)
    ours.train()
    assert not torch.equal(ours(x)[0], ours(x)[0])
    torch.manual_seed(3)
    first = ours(x)[0]
    torch.manual_seed(3)
    assert torch.equal(ours(x)[0], first)
    for module in (ours, theirs.train()):
        module.dropout = 1.0
    assert_same_results(ours, theirs, x)


# Errors of a call


def wrap(name, hx):
    return (hx, hx) if name == "LSTM" else hx


def packed_of(*shape, lengths=(5, 3), **kwargs):
    return pack_padded_sequence(torch.randn(*shape), torch.tensor(lengths), enforce_sorted=False, **kwargs)


def call_errors(name):
    """Arguments of a module with input_size 3 and hidden_size 4, by what is wrong with them."""
    x, h, packed = torch.randn(5, 2, 3), torch.randn(1, 2, 4), packed_of(5, 2, 3)
    cases = {
        "0-D": (torch.randn(()),),
        "1-D": (torch.randn(3),),
        "4-D": (torch.randn(5, 1, 2, 3),),
        "last dimension": (torch.randn(5, 2, 4),),
        "last dimension of one sequence": (torch.randn(5, 4),),
        "no step": (torch.randn(0, 2, 3),),
        "no step of one sequence": (torch.randn(0, 3),),
        "no step, no sequence": (torch.randn(0, 0, 3),),
        "no step, with hx": (torch.randn(0, 2, 3), wrap(name, h)),
        "dtype": (x.double(),),
        "integer": (torch.ones(5, 2, 3, dtype=torch.int64),),
        "complex": (x.to(torch.complex64),),
        "dtype and rank": (torch.randn(3).double(),),
        "dtype and last dimension": (torch.randn(5, 2, 4).double(),),
        "dtype and rank of hx": (x.double(), wrap(name, torch.randn(1, 4))),
        "device": (x.to("meta"),),
        "device of hx": (x, wrap(name, h.to("meta"))),
        "list": ([[1.0]],),
        "None": (None,),
        "numpy": (x.numpy(),),
        "plain tuple for a PackedSequence": ((packed.data, packed.batch_sizes),),
        "no argument": (),
        "three arguments": (x, None, None),
        "hx with 2 dimensions": (x, wrap(name, torch.randn(1, 4))),
        "hx with 4 dimensions": (x, wrap(name, torch.randn(1, 1, 2, 4))),
        "hx with 3 dimensions for one sequence": (x[:, 0], wrap(name, torch.randn(1, 1, 4))),
        "hx with 1 dimension for one sequence": (x[:, 0], wrap(name, torch.randn(4))),
        "layers of hx": (x, wrap(name, torch.randn(2, 2, 4))),
        "batch of hx": (x, wrap(name, torch.randn(1, 3, 4))),
        "width of hx": (x, wrap(name, torch.randn(1, 2, 5))),
        "layers of hx for one sequence": (x[:, 0], wrap(name, torch.randn(2, 4))),
        "dtype of hx": (x, wrap(name, h.double())),
        "half dtype of hx": (x, wrap(name, h.half())),
        "integer hx": (x, wrap(name, h.long())),
        "hx of the other kind": (x, h if name == "LSTM" else (h, h)),
        "hx stacked in one tensor": (x, torch.stack([h, h])),
        "hx as a single": (x, (h,)),
        "hx as a triple": (x, (h, h, h)),
        "hx as an empty tuple": (x, ()),
        "hx as an empty list": (x, []),
        "hx of None": (x, (None, None)),
        "hx half None": (x, (h, None)),
        "hx a string": (x, "ab"),
        "hx a number": (x, 3),
        "hx a dict": (x, {"h": h}),
        "hx numpy": (x, h.numpy()),
        "hx of numpy": (x, (h.numpy(), h.numpy())),
        "packed: last dimension": (packed_of(5, 2, 4),),
        "packed: three dimensions": (packed_of(5, 2, 3, 3),),
        "packed: one dimension": (packed_of(5, 2),),
        "packed: dtype": (packed.double(),),
        "packed: layers of hx": (packed, wrap(name, torch.randn(2, 2, 4))),
        "packed: too small a batch of hx": (packed, wrap(name, torch.randn(1, 1, 4))),
        "packed: width of hx": (packed, wrap(name, torch.randn(1, 2, 5))),
        "packed: dtype of hx": (packed, wrap(name, h.double())),
    }
    if name == "LSTM":
        in_order = pack_padded_sequence(x, torch.tensor([5, 3]))
        cases |= {
            "dtype of c_0": (x, (h, h.double())),
            "width of c_0": (x, (h, torch.randn(1, 2, 5))),
            "rank of c_0": (x, (h, torch.randn(1, 4))),
            "packed: batch of hx": (in_order, wrap(name, torch.randn(1, 3, 4))),
            "packed: hx a tensor": (in_order, h),
            "packed: hx stacked in one tensor": (in_order, torch.stack([h, h])),
            "packed: hx as a single": (in_order, (h,)),
            "packed: hx as a triple": (in_order, (h, h, h)),
            "packed: hx of None": (in_order, (None, None)),
            "packed: hx a string": (in_order, "ab"),
            "packed, unsorted: hx as a single": (packed, (h,)),
        }
    else:
        cases |= {"packed: hx as a pair": (packed, (h, h)), "packed: hx a list": (packed, [h])}
    return cases


CALL_ERRORS = [(name, case) for name in MODULE_NAMES for case in call_errors(name)]


@pytest.mark.parametrize(("name", "case"), CALL_ERRORS)
def test_call_errors(name, case):
    args = call_errors(name)[case]
    expected, _ = outcome(lambda: getattr(nn, name)(3, 4)(*args))
    actual, message = outcome(lambda: getattr(lstmfast, name)(3, 4)(*args))
    assert expected is not None, "torch.nn accepts this by now"
    assert actual is expected, message


@pytest.mark.parametrize("hx", ["h_0 and c_0 swapped", "c_0 projected"])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_of_projected_hx(hx, packed):
    theirs, ours = build_pair(Options(projected=True), INPUT_SIZE, HIDDEN_SIZE)
    h_0, c_0 = make_hx(ours, 2)
    hx = (c_0, h_0) if hx == "h_0 and c_0 swapped" else (h_0, h_0)
    input = make_packed((5, 3), INPUT_SIZE)[0] if packed else randn(5, 2, INPUT_SIZE)
    for module in (theirs, ours):
        with pytest.raises(RuntimeError):
            module(input, hx)


@both_modules
def test_messages_say_what_was_expected(name):
    module = getattr(lstmfast, name)(3, 4)
    x = torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=f"{name}: Expected input to be 2D or 3D, got 1D"):
        module(x[0, 0])
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 2"):
        module(x[..., :2])
    with pytest.raises(
        ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        module(x.double())
    with pytest.raises(RuntimeError, match=r"Expected hidden.* size \(1, 2, 4\), got \[1, 3, 4\]"):
        module(x, wrap(name, torch.randn(1, 3, 4)))
    with pytest.raises(RuntimeError, match=r"For batched 3-D input, hx .*should also be 3-D but got .*2-D"):
        module(x, wrap(name, torch.randn(1, 4)))
    with pytest.raises(RuntimeError, match=r"For unbatched 2-D input, hx .*should also be 2-D but got .*3-D"):
        module(x[0], wrap(name, torch.randn(1, 2, 4)))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        module(x[:0])


# Weights that are not what they were


@both_cells
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hh_l1_reverse"])
def test_reassigned_weight(options, name):
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    new = nn.Parameter(torch.randn_like(getattr(ours, name)))
    for module in (theirs, ours):
        setattr(module, name, new)
    assert getattr(ours, name) is new
    assert_same_results(ours, theirs, x)
    ours(x)[0].sum().backward()
    assert new.grad is not None


@both_cells
def test_weight_replaced_by_a_tensor_of_a_graph(options):
    """As weight dropping does: the parameter goes, and each call sets a tensor computed from another parameter."""
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x, raw = randn(5, 2, INPUT_SIZE), nn.Parameter(theirs.weight_hh_l0.detach().clone())
    results = []
    for module in (theirs, ours):
        del module.weight_hh_l0
        module.weight_hh_l0 = raw * torch.tensor([1.0, 0.0, 2.0, 0.0])
        output, *_ = tensors_of(module(x))
        results.append([output, *gradients([output], [raw])])
    torch.testing.assert_close(*results, **ROUNDING)
    assert "weight_hh_l0" not in dict(ours.named_parameters())


def test_assigning_the_flat_list_assigns_the_weights():
    theirs, ours = build_pair(Options(num_layers=2), INPUT_SIZE, HIDDEN_SIZE)
    theirs.reset_parameters()
    ours._flat_weights = theirs._flat_weights
    assert ours.weight_hh_l1 is theirs.weight_hh_l1
    assert_same_results(ours, theirs, randn(5, 2, INPUT_SIZE))


@both_cells
def test_missing_weight_is_an_error(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    del ours.weight_hh_l0
    assert ours._flat_weights[1] is None
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        ours(randn(5, 2, INPUT_SIZE))


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.evaluations = 0

    def forward(self, weight):
        self.evaluations += 1
        return 2 * weight


@both_cells
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_parametrization_of_any_weight(options, name):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    results = []
    for module in (theirs, ours):
        parametrize.register_parametrization(module, name, Doubled())
        output, *_ = tensors_of(module(x))
        results.append([output, *gradients([output], list(module.parameters()))])
    torch.testing.assert_close(results[1], results[0], **ROUNDING)

    parametrization = ours.parametrizations[name][0]
    before = parametrization.evaluations
    ours(x)
    assert parametrization.evaluations == before + 1
    other = "weight_hh_l0" if name == "weight_ih_l0" else "weight_ih_l0"
    setattr(ours, other, getattr(ours, other))
    assert parametrization.evaluations == before + 1

    assert_same_results(copy.deepcopy(ours), theirs, x)
    for module in (theirs, ours):
        parametrize.remove_parametrizations(module, name)
    assert type(ours) in (lstmfast.LSTM, lstmfast.RNN)
    assert_same_results(ours, theirs, x)


@both_cells
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_norm(options):
    for normalise in (nn.utils.weight_norm, parametrizations.weight_norm):
        theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
        x = randn(5, 2, INPUT_SIZE)
        results = []
        for module in (theirs, ours):
            normalise(module, "weight_hh_l0")
            normalise(module, "weight_ih_l0")
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(1.5)
            output, *_ = tensors_of(module(x))
            results.append([output, *gradients([output], list(module.parameters()))])
        torch.testing.assert_close(results[1], results[0], **ROUNDING)


@both_cells
def test_spectral_norm(options):
    for normalise in (nn.utils.spectral_norm, parametrizations.spectral_norm):
        theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
        for module in (theirs, ours):
            normalise(module, "weight_hh_l0")
        # In training each evaluation is a step of the power iteration, and torch.nn makes more of them per call.
        ours(randn(5, 2, INPUT_SIZE))[0].sum().backward()
        ours.load_state_dict(theirs.state_dict())
        assert_same_results(ours.eval(), theirs.eval(), randn(5, 2, INPUT_SIZE))


@both_cells
def test_functional_call(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    weights = {name: torch.randn_like(p, requires_grad=True) for name, p in ours.named_parameters()}
    results = []
    for module in (theirs, ours):
        output, *_ = tensors_of(torch.func.functional_call(module, weights, (x,)))
        results.append([output, *gradients([output], list(weights.values()))])
    torch.testing.assert_close(results[1], results[0], **ROUNDING)
    theirs.zero_grad()
    assert_same_results(ours, theirs, x)


@both_cells
def test_replica_of_data_parallel(options):
    """nn.DataParallel runs copies of the module that hold tensors of a graph in the place of Parameters."""
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    replica = ours._replicate_for_data_parallel()
    for name, parameter in ours.named_parameters():
        setattr(replica, name, parameter * 1)
    assert_same_results(replica, theirs, randn(5, 2, INPUT_SIZE))


# Copies, devices, dtypes


@both_cells
def test_copies(options, tmp_path):
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    torch.save(ours, tmp_path / "module.pt")
    copies = [
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(tmp_path / "module.pt", weights_only=False),
    ]
    for other in copies:
        assert type(other) is type(ours)
        assert repr(other) == repr(ours)
        assert all(a is not b for a, b in zip(other.parameters(), ours.parameters(), strict=True))
        assert_same_results(other, theirs, x)
    shallow = copy.copy(ours)
    assert all(a is b for a, b in zip(shallow.parameters(), ours.parameters(), strict=True))
    assert_same_results(shallow, theirs, x)


@both_cells
def test_pickle_holds_each_weight_once(options):
    _, ours = build_pair(options, 64, 64)
    assert "_flat_weights" not in ours.__getstate__()
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    size = sum(p.numel() * p.element_size() for p in ours.parameters())
    assert len(buffer.getvalue()) < 1.2 * size + 8192


@both_cells
@pytest.mark.parametrize("age", ["1.7", "0.4"])
def test_states_of_old_pickles(options, age):
    """Before 1.8 there was no proj_size; early pickles hold tensors in _all_weights, and no flat list."""
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    state = theirs.__getstate__()
    del state["proj_size"]
    if age == "0.4":
        del state["_flat_weights"], state["_flat_weights_names"]
        state["_all_weights"] = [[getattr(theirs, name) for name in names] for names in theirs._all_weights]
    revived = type(ours).__new__(type(ours))
    revived.__setstate__(state)
    assert revived.proj_size == 0
    assert "_flat_weights" not in vars(revived)
    assert revived._all_weights == theirs._all_weights
    assert_same_results(revived, theirs, randn(5, 2, INPUT_SIZE))
    revived.weight_hh_l0 = nn.Parameter(torch.zeros_like(revived.weight_hh_l0))
    assert_same_results(copy.deepcopy(revived), revived, randn(5, 2, INPUT_SIZE))


@both_cells
def test_share_memory(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    assert ours.share_memory() is ours
    assert all(p.is_shared() for p in ours.parameters())
    assert_same_results(ours, theirs, randn(5, 2, INPUT_SIZE))


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_meta_device(options):
    theirs = build(nn, options, INPUT_SIZE, HIDDEN_SIZE)
    ours = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, device="meta")
    assert all(p.is_meta for p in ours.parameters())
    x = torch.randn(5, 2, INPUT_SIZE)
    actual = tensors_of(ours(x.to("meta")))
    assert all(t.is_meta for t in actual)
    assert [t.shape for t in actual] == [t.shape for t in tensors_of(theirs(x))]
    ours.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    torch.testing.assert_close(tensors_of(ours(x)), tensors_of(theirs(x)))


@both_cells
def test_to_another_dtype(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float32)
    ours.double()
    assert ours.weight_hh_l0.dtype == ours._flat_weights[1].dtype == torch.float64
    assert_same_results(ours, theirs.double(), randn(5, 2, INPUT_SIZE))


# Transforms of the whole module


@both_cells
def test_checkpoint(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE, requires_grad=True)
    results = []
    for module in (theirs, ours):
        outputs = tensors_of(checkpoint(module, x, use_reentrant=False))
        results.append([*outputs, *gradients(outputs, [x, *module.parameters()])])
    torch.testing.assert_close(results[1], results[0], **ROUNDING)


class Tagger(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(HIDDEN_SIZE, 2).double()

    def forward(self, x, hx=None):
        output, _ = self.recurrent(x, hx)
        return self.head(output)


class TaggerWithConstantInput(Tagger):
    def forward(self, h, c):
        output, _ = self.recurrent(torch.ones(5, 2, INPUT_SIZE, dtype=torch.float64), (h, c))
        return self.head(output)


@both_cells
def test_fx_symbolic_trace_makes_a_leaf(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x, hx = randn(5, 2, INPUT_SIZE), make_hx(ours, 2)
    model = Tagger(ours)
    traced = torch.fx.symbolic_trace(model)
    nodes = [(node.op, node.target) for node in traced.graph.nodes]
    assert nodes == [(n.op, n.target) for n in torch.fx.symbolic_trace(Tagger(theirs)).graph.nodes]
    assert traced.recurrent is ours
    for args in ((x,), (x, hx)):
        assert torch.equal(traced(*args), model(*args))


def test_fx_symbolic_trace_of_hx_alone():
    _, ours = build_pair(Options(), INPUT_SIZE, HIDDEN_SIZE)
    model = TaggerWithConstantInput(ours)
    traced = torch.fx.symbolic_trace(model)
    assert ("call_module", "recurrent") in [(node.op, node.target) for node in traced.graph.nodes]
    hx = make_hx(ours, 2)
    assert torch.equal(traced(*hx), model(*hx))


@both_modules
def test_fx_symbolic_trace_of_the_module_itself_is_an_error(name):
    for package in (nn, lstmfast):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(getattr(package, name)(3, 4))


@both_cells
def test_compiles_without_graph_break(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, hx = randn(5, 2, INPUT_SIZE, requires_grad=True), make_hx(ours, 2)
    for args in ((x,), (x, hx), (x[:, 0],)):
        expected, actual = tensors_of(theirs(*args)), tensors_of(compiled(*args))
        torch.testing.assert_close(actual, expected, **ROUNDING)
    torch.testing.assert_close(
        gradients(actual, list(ours.parameters())), gradients(expected, list(theirs.parameters())), **ROUNDING
    )


def test_compiles_with_one_tensor_for_both_states_and_with_tied_weights():
    """The compiler front end refuses one tensor in two arguments of an autograd.Function."""
    theirs, ours = build_pair(Options(num_layers=2), HIDDEN_SIZE, HIDDEN_SIZE)
    for module in (theirs, ours):
        module.weight_ih_l1 = module.weight_ih_l0
    torch.compiler.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, h = randn(5, 2, HIDDEN_SIZE), randn(2, 2, HIDDEN_SIZE)
    expected, actual = tensors_of(theirs(x, (h, h))), tensors_of(compiled(x, (h, h)))
    torch.testing.assert_close(actual, expected, **ROUNDING)
    torch.testing.assert_close(
        gradients(actual, list(ours.parameters())), gradients(expected, list(theirs.parameters())), **ROUNDING
    )


@both_cells
def test_hooks_run(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    calls = []
    ours.register_forward_pre_hook(lambda module, args: calls.append("before"))
    ours.register_forward_hook(lambda module, args, result: calls.append("after"))
    ours.register_full_backward_hook(lambda module, grad_input, grad_output: calls.append("backward"))
    ours(randn(5, 2, INPUT_SIZE, requires_grad=True))[0].sum().backward()
    assert calls == ["before", "after", "backward"]


@both_cells
def test_subclass_keeps_working(options):
    base = getattr(lstmfast, "LSTM" if options.cell == "LSTM" else "RNN")

    class OutputOnly(base):
        def forward(self, input, hx=None):
            return super().forward(input, hx)[0]

    module = OutputOnly(INPUT_SIZE, HIDDEN_SIZE)
    x = torch.randn(5, 2, INPUT_SIZE)
    assert torch.equal(module(x), base.forward(module, x)[0])


# Autocast


@both_cells
@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
def test_autocast_to_bfloat16(options, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float32)
    x = torch.randn(5, 2, INPUT_SIZE, requires_grad=True)
    hx = make_hx(ours, 2) if given_hx else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = tensors_of(theirs(x, hx)), tensors_of(ours(x, hx))
    assert [t.dtype for t in actual] == [t.dtype for t in expected]
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)
    sum(t.float().square().sum() for t in actual).backward()
    assert x.grad.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in ours.parameters())


@both_cells
def test_autocast_lets_dtypes_differ(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float32)
    x = torch.randn(5, 2, INPUT_SIZE, dtype=torch.bfloat16)
    for module in (theirs, ours):
        with pytest.raises(ValueError, match="does not match weight dtype"):
            module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, actual = tensors_of(theirs(x)), tensors_of(ours(x))
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


@both_cells
def test_autocast_to_float16_works_on_any_cpu(options):
    """torch.nn.LSTM raises here where oneDNN has no float16 kernel for the processor."""
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float32)
    x = torch.randn(5, 2, INPUT_SIZE)
    with torch.autocast("cpu", dtype=torch.float16):
        actual = tensors_of(ours(x))
    assert all(t.dtype == torch.float16 for t in actual)
    torch.testing.assert_close([t.float() for t in actual], tensors_of(ours(x)), rtol=0.01, atol=0.01)
