"""The reference equals torch.nn in float64, and, where torch.nn has no word, its own definition."""

import pytest
import torch
from cases import (
    CELLS,
    Options,
    all_options,
    build,
    gradients,
    make_hx,
    make_packed,
    run_reference,
    states_of,
    tensors_of,
)
from torch import nn
from torch.nn.utils.rnn import pad_packed_sequence

from lstmfast import reference

INPUT_SIZE, HIDDEN_SIZE = 3, 4
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}


def weights_for(cell, *, num_layers=1, num_directions=1, input_size=2, hidden_size=2, draw):
    gates = 4 if cell.startswith("LSTM") else 1
    weights = []
    for layer in range(num_layers):
        for _ in range(num_directions):
            width = input_size if layer == 0 else num_directions * hidden_size
            shapes = [(width,), (hidden_size,), (), ()]
            weights += [draw((gates * hidden_size, *shape)) for shape in shapes]
    return weights


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("lengths", [None, (5, 5, 2), (1, 6, 3, 3)], ids=["padded", "sorted", "unsorted"])
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_equals_torch(options, lengths, given_hx):
    module = build(nn, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    if lengths is None:
        leaf = torch.randn(4, 3, INPUT_SIZE, dtype=torch.float64, requires_grad=True)
        input, rows, batch_sizes = leaf, leaf, None
    else:
        input, leaf = make_packed(lengths, INPUT_SIZE, requires_grad=True)
        rows, batch_sizes = input.data, input.batch_sizes
    hx = make_hx(module, 3 if lengths is None else len(lengths), requires_grad=True) if given_hx else None
    leaves = [leaf, *states_of(hx), *module.parameters()]

    expected = tensors_of(module(input, hx))
    unsorted = None if lengths is None else input.unsorted_indices
    if given_hx and unsorted is not None:
        hx = module.permute_hidden(hx, input.sorted_indices)
    output, *hidden = run_reference(module, rows, batch_sizes, hx)
    actual = [output, *(h if unsorted is None else h.index_select(1, unsorted) for h in hidden)]

    torch.testing.assert_close(actual, expected, **ROUNDING)
    # Both results share the graph that packed the input.
    expected_gradients = gradients(expected, leaves, retain_graph=True)
    torch.testing.assert_close(gradients(actual, leaves), expected_gradients, **ROUNDING)


@pytest.mark.parametrize("cell", reference.CELLS)
def test_packed_equals_each_sequence_alone(cell):
    lengths = [6, 4, 4, 1]
    weights = weights_for(cell, num_layers=2, num_directions=2, draw=lambda s: torch.randn(s, dtype=torch.float64) / 5)
    packed, padded = make_packed(lengths, 2)
    hx = tuple(torch.randn(4, len(lengths), 2, dtype=torch.float64) for _ in range(reference.CELLS[cell].states))
    settings = {"has_biases": True, "num_layers": 2, "bidirectional": True}
    output, *hidden = reference.recurrent(cell, packed.data, packed.batch_sizes, hx, weights, **settings)
    output, _ = pad_packed_sequence(packed._replace(data=output))
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        alone = reference.recurrent(cell, padded[:length, one], None, tuple(s[:, one] for s in hx), weights, **settings)
        torch.testing.assert_close(output[:length, one], alone[0])
        for state, expected in zip(hidden, alone[1:], strict=True):
            torch.testing.assert_close(None if state is None else state[:, one], expected)


def test_linear_cells_are_integer_arithmetic():
    def draw(shape):
        return torch.randint(-2, 3, shape, dtype=torch.float64)

    x = draw((3, 2, 2))
    h0, c0 = draw((1, 2, 2)), draw((1, 2, 2))
    settings = {"has_biases": True, "num_layers": 1, "bidirectional": False}

    w_ih, w_hh, b_ih, b_hh = weights = weights_for("RNN_LINEAR", draw=draw)
    h = h0[0]
    expected = [h := x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh for t in range(3)]
    output, h_n, c_n = reference.recurrent("RNN_LINEAR", x, None, (h0,), weights, **settings)
    assert output.tolist() == torch.stack(expected).tolist()
    assert h_n[0].tolist() == h.tolist()
    assert c_n is None

    w_ih, w_hh, b_ih, b_hh = weights = weights_for("LSTM_LINEAR", draw=draw)
    h, c = h0[0], c0[0]
    expected = []
    for t in range(3):
        pre = x[t] @ w_ih.T + b_ih + h @ w_hh.T + b_hh
        i, f, g, o = pre[:, 0:2], pre[:, 2:4], pre[:, 4:6], pre[:, 6:8]
        c = f * c + i * g
        h = o * c
        expected.append(h)
    output, h_n, c_n = reference.recurrent("LSTM_LINEAR", x, None, (h0, c0), weights, **settings)
    assert output.tolist() == torch.stack(expected).tolist()
    assert h_n[0].tolist() == h.tolist()
    assert c_n[0].tolist() == c.tolist()


@pytest.mark.parametrize("lengths", [None, (5, 3)], ids=["padded", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_drawn_dropout_equals_torch(cell, lengths):
    module = build(nn, Options(cell, num_layers=3, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE, dropout=0.4).double()
    packed, padded = make_packed(lengths or (5, 5), INPUT_SIZE)
    input, rows, batch_sizes = (padded, padded, None) if lengths is None else (packed, packed.data, packed.batch_sizes)
    torch.manual_seed(1)
    expected = tensors_of(module(input))
    torch.manual_seed(1)
    actual = run_reference(module, rows, batch_sizes, dropout=0.4)
    torch.testing.assert_close(actual, expected, **ROUNDING)


@pytest.mark.parametrize("probability", [0.25, 1.0])
@pytest.mark.parametrize("cell", CELLS)
def test_given_dropout_mask_scales_what_it_keeps(cell, probability):
    module = build(nn, Options(cell, num_layers=2), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    below, above = (build(nn, Options(cell), n, HIDDEN_SIZE).double() for n in (INPUT_SIZE, HIDDEN_SIZE))
    below.load_state_dict({k: v for k, v in module.state_dict().items() if k.endswith("l0")})
    above.load_state_dict({k.replace("l1", "l0"): v for k, v in module.state_dict().items() if k.endswith("l1")})
    x = torch.randn(5, 2, INPUT_SIZE, dtype=torch.float64)
    mask = torch.rand(1, 5, 2, HIDDEN_SIZE) < 0.5

    scale = 1 / (1 - probability) if probability < 1 else 0
    between, *_ = run_reference(below, x)
    expected, *_ = run_reference(above, torch.where(mask[0], between * scale, 0))
    actual, *_ = run_reference(module, x, dropout=probability, dropout_mask=mask)
    torch.testing.assert_close(actual, expected, **ROUNDING)


@pytest.mark.parametrize("options", all_options(num_layers=(1,)), ids=str)
def test_differentiates_twice_and_under_transforms(options):
    module = build(nn, options, 2, 2, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = tuple(module.parameters())
    settings = {"has_biases": module.bias, "num_layers": 1, "bidirectional": module.bidirectional}

    def outputs(x, *weights):
        results = reference.recurrent(module.mode, x, None, (), weights, **settings)
        return tuple(t for t in results if t is not None)

    assert torch.autograd.gradcheck(outputs, (x, *weights), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, (x, *weights), fast_mode=True)
    batch = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mapped = torch.vmap(lambda x: outputs(x, *weights)[0])(batch)
    torch.testing.assert_close(mapped, torch.stack([outputs(x, *weights)[0] for x in batch]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", CELLS)
def test_computes_in_the_dtype_given(cell, dtype):
    module = build(nn, Options(cell, num_layers=2), 3, 4, dtype=dtype)
    assert all(t.dtype == dtype for t in run_reference(module, torch.randn(2, 3, 3, dtype=dtype)))


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch(cell):
    module = build(nn, Options(cell, num_layers=2, bidirectional=True), 3, 4)
    output, *hidden = run_reference(module, torch.randn(5, 0, 3))
    assert output.shape == (5, 0, 8)
    assert all(h.shape == (4, 0, 4) for h in hidden)


def test_errors():
    module = build(nn, Options("LSTM"), 3, 4)
    x, h = torch.randn(2, 1, 3), torch.randn(1, 1, 4)
    settings = {"has_biases": True, "num_layers": 1, "bidirectional": False}
    weights = list(module.parameters())
    with pytest.raises(ValueError, match="unknown cell 'GRU'"):
        reference.recurrent("GRU", x, None, (), weights, **settings)
    with pytest.raises(ValueError, match="3 weights do not fit"):
        reference.recurrent("LSTM", x, None, (), weights[:3], **settings)
    with pytest.raises(ValueError, match="4 weights do not fit 3 layers"):
        reference.recurrent("LSTM", x, None, (), weights, **{**settings, "num_layers": 3})
    with pytest.raises(ValueError, match="2 states, got 1"):
        reference.recurrent("LSTM", x, None, (h,), weights, **settings)
    with pytest.raises(RuntimeError, match="sequence length"):
        reference.recurrent("LSTM", x[:0], None, (), weights, **settings)
