"""lstmfast.lstm and lstmfast.rnn: the modules' results, and errors that name the argument."""

import pytest
import torch
from cases import CELLS, Options, build, make_hx, make_packed, tensors_of

import lstmfast

INPUT_SIZE, HIDDEN_SIZE = 3, 4


def call(module, input, hx=None, **options):
    """The functional form for the module's kind, with its weights and options."""
    options = {
        "bias": module.bias,
        "num_layers": module.num_layers,
        "bidirectional": module.bidirectional,
        "batch_first": module.batch_first,
        **options,
    }
    weights = list(module.parameters())
    if module.mode == "LSTM":
        return lstmfast.lstm(input, hx, weights, **options)
    return lstmfast.rnn(input, hx, weights, nonlinearity=module.nonlinearity, **options)


@pytest.mark.parametrize("layout", ["time_first", "batch_first", "packed"])
@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("cell", CELLS)
def test_equal_to_the_module(cell, given_hx, layout):
    options = Options(cell, 2, bidirectional=True)
    module = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, batch_first=layout == "batch_first")
    hx = make_hx(module, 2) if given_hx else None
    if layout == "packed":
        input, _ = make_packed((5, 3), INPUT_SIZE, dtype=torch.float32)
        result = call(module, input.data, hx, batch_sizes=input.batch_sizes)
    else:
        input = torch.randn(2, 5, INPUT_SIZE) if layout == "batch_first" else torch.randn(5, 2, INPUT_SIZE)
        result = call(module, input, hx)
    for actual, expected in zip(tensors_of(result), tensors_of(module(input, hx)), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_for_training(cell):
    module = build(lstmfast, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE, dropout=0.5)
    x = torch.randn(5, 2, INPUT_SIZE)
    torch.manual_seed(1)
    expected, _ = module(x)
    torch.manual_seed(1)
    assert torch.equal(call(module, x, dropout=0.5, training=True)[0], expected)
    assert torch.equal(call(module, x, dropout=0.5)[0], module.eval()(x)[0])


LSTM = lstmfast.LSTM(INPUT_SIZE, HIDDEN_SIZE)
STACK = lstmfast.LSTM(INPUT_SIZE, HIDDEN_SIZE, num_layers=2)
RNN = lstmfast.RNN(INPUT_SIZE, HIDDEN_SIZE)
X, H = torch.zeros(5, 2, INPUT_SIZE), torch.zeros(1, 2, HIDDEN_SIZE)
WEIGHTS = list(LSTM.parameters())


REFUSALS = {
    "input None": (lambda: call(LSTM, None), TypeError, "input must be a tensor, got NoneType"),
    "input of numpy": (lambda: call(LSTM, X.numpy()), TypeError, "input must be a tensor, got ndarray"),
    "input 2-D": (lambda: call(LSTM, X[0]), ValueError, r"input must be 3-D \[steps, batch, features\], got 2-D"),
    "input of another width": (lambda: call(LSTM, X[..., :2]), RuntimeError, r"shape \[16, 2\], got \[16, 3\]"),
    "no step": (lambda: call(LSTM, X[:0]), RuntimeError, "input must have at least one step"),
    "hx one tensor": (lambda: call(LSTM, X, H), TypeError, "hx must be a tuple or list of two tensors"),
    "hx a string": (lambda: call(LSTM, X, "ab"), TypeError, "hx must be a tuple or list of two tensors"),
    "hx of None": (lambda: call(LSTM, X, (None, None)), TypeError, "hx must be .* of two tensors.*NoneType"),
    "hx a single": (lambda: call(LSTM, X, (H,)), RuntimeError, "lstm expects two hidden states, got 1"),
    "hx empty": (lambda: call(LSTM, X, ()), RuntimeError, "lstm expects two hidden states, got 0"),
    "hx of another dtype": (lambda: call(LSTM, X, (H, H.double())), ValueError, r"hx\[1\] must have .* got Double"),
    "hx of rnn a tuple": (lambda: call(RNN, X, (H,)), TypeError, r"hx\[0\] must be a tensor, got tuple"),
    "weights None": (lambda: lstmfast.lstm(X, None, None), TypeError, "weights must be a sequence of tensors"),
    "weights of None": (lambda: lstmfast.lstm(X, None, [None] * 4), TypeError, r"weights\[0\] must be a tensor"),
    "weights nested": (
        lambda: lstmfast.lstm(X, None, [WEIGHTS]),
        TypeError,
        r"weights\[0\] must be .* got list",
    ),
    "weights too few": (
        lambda: lstmfast.lstm(X, None, WEIGHTS[:3]),
        ValueError,
        "weights must hold 4 .* got 3",
    ),
    "weights too few for dropout": (
        lambda: lstmfast.lstm(X, None, WEIGHTS, num_layers=2, dropout=0.5, training=True),
        ValueError,
        "weights must hold 4 .* for each of 2 layers and 1 directions, got 4",
    ),
    "weights 0-D for dropout": (
        lambda: lstmfast.lstm(X, None, [H.sum()] * 8, num_layers=2, dropout=0.5, training=True),
        ValueError,
        r"weights\[0\] must be 2-D, got 0-D",
    ),
    "num_layers a float": (
        lambda: call(LSTM, X, num_layers=1.0),
        TypeError,
        "num_layers must be an integer",
    ),
    "num_layers 0": (lambda: call(LSTM, X, num_layers=0), ValueError, "num_layers must be positive, got 0"),
    "bidirectional a string": (lambda: call(LSTM, X, bidirectional="no"), TypeError, "bidirectional must be True or"),
    "bias a tensor": (lambda: call(LSTM, X, bias=H), TypeError, "bias must be True or False, got Tensor"),
    "dropout a string": (lambda: call(LSTM, X, dropout="a", training=True), TypeError, "dropout must be a number"),
    "dropout of 1.5": (lambda: call(STACK, X, dropout=1.5, training=True), ValueError, "dropout must be a probability"),
    "dropout below 0": (lambda: call(STACK, X, dropout=-1.0, training=True), ValueError, "dropout must be a prob.* -1"),
    "batch_sizes a list": (
        lambda: call(LSTM, X[0], batch_sizes=[2]),
        TypeError,
        "batch_sizes must be a tensor",
    ),
    "batch_sizes for more rows": (
        lambda: call(LSTM, X[0], batch_sizes=torch.tensor([2, 1])),
        RuntimeError,
        "batch_sizes must sum to the 2 rows of the packed input",
    ),
    "nonlinearity": (lambda: lstmfast.rnn(X, None, [], nonlinearity="gelu"), ValueError, "Unknown nonlinearity 'gelu'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_the_argument(case):
    function, error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        function()
