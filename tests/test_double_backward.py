"""Second derivatives do their work once for the whole sequence: how, and that torch.nn's results come out, is here and
in test_gradients.py; bench/derivatives.py times it beside torch.nn."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, build_pair, make_hx, make_packed, states_of, tensors_of
from torch.utils._python_dispatch import TorchDispatchMode

import lstmfast
from lstmfast import autograd, ops, reference
from lstmfast.derivatives import Walk
from lstmfast.ops import CELLS as CELL_FACTS

ROUNDING = {"rtol": 1e-9, "atol": 1e-11}
reference_recurrent = reference.recurrent


@pytest.fixture(autouse=True)
def no_reference(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(reference, "recurrent", None)


def second_derivatives(module, input, leaves, hx=None):
    outputs = tensors_of(module(input, hx))
    cotangents = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o).requires_grad_() for o in outputs]
    first = torch.autograd.grad(outputs, leaves, cotangents, create_graph=True)
    total = sum((f * torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype).view_as(f)).sum() for f in first)
    return [*first, *torch.autograd.grad(total, [*leaves, *cotangents], allow_unused=True)]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("options", all_options(num_layers=(3,)), ids=str)
def test_equal_to_torch(options, layout, dropout):
    pair = build_pair(options, 5, 7, dropout=dropout)
    results = []
    lengths = (6, 6, 4, 3, 1) if layout == "packed" else (6,) * 5
    state = torch.random.get_rng_state()
    for module in pair:
        torch.random.set_rng_state(state)
        packed, leaf = make_packed(lengths, 5, requires_grad=True)
        hx = make_hx(module, 5, requires_grad=True)
        leaves = [leaf, *states_of(hx), *module.parameters()]
        results.append(second_derivatives(module, packed if layout == "packed" else leaf, leaves, hx))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_float32_is_as_good_as_torch(cell):
    # float64 hides faults of float32's own.
    results = {}
    exact_pair = build_pair(Options(cell, 2), 33, 65)
    for name, module in zip(("torch", "ours"), exact_pair, strict=True):
        x = torch.randn(20, 6, 33, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        for dtype in (torch.float64, torch.float32):
            module.to(dtype)
            leaf = x.to(dtype).requires_grad_()
            results[name, dtype] = second_derivatives(module, leaf, [leaf, *module.parameters()])
    for exact, theirs, ours in zip(
        results["torch", torch.float64],
        results["torch", torch.float32],
        results["ours", torch.float32],
        strict=True,
    ):
        if exact is not None:
            unit = torch.finfo(torch.float32).eps * exact.abs().max()
            assert (ours - exact).abs().max() <= 3 * (theirs - exact).abs().max() + 16 * unit


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count, self.calls = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        self.calls += [func] * (func.namespace == "lstmfast")
        return func(*args, **(kwargs or {}))


def test_the_call_is_not_gone_back_through():
    # A second backward that does not reach the call's results must not run the first one again.
    module = build(lstmfast, Options("LSTM"), 3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with Count() as count:
        slope.square().sum().backward()
    assert not {ops.forward, ops.backward} & set(count.calls)


@pytest.mark.parametrize("cell", reference.CELLS)
def test_every_cell_is_what_the_derivatives_take_it_for(cell):
    # Elementwise, h only in the pre-activations, affine in its private state: else these differ.
    gates, states = CELL_FACTS[cell]["gates"], CELL_FACTS[cell]["states"]
    shapes = [(4, 2, 3)] + [(1, 2, 5)] * states + [(5 * gates, 3), (5 * gates, 5), (5 * gates,), (5 * gates,)]
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    results = []
    for function in autograd.recurrent, reference_recurrent:
        input, *others = leaves
        outputs = function(
            cell,
            input,
            None,
            tuple(others[:states]),
            others[states:],
            has_biases=True,
            num_layers=1,
            bidirectional=False,
            dropout=0.0,
        )
        total = sum(o.square().sum() for o in outputs if o is not None)
        first = torch.autograd.grad(total, leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(f.square().sum() for f in first), leaves))
    torch.testing.assert_close(*results, **ROUNDING)


def operations(module, steps):
    x = torch.randn(steps, 2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    with Count() as count:
        first.square().sum().backward()
    return count.count


@pytest.mark.parametrize(("cell", "most"), [("LSTM", 50), ("RNN_TANH", 50)])
def test_few_operations_a_step(cell, most):
    module = build(lstmfast, Options(cell), 3, 4)
    assert operations(module, 30) - operations(module, 20) <= 10 * most


def test_a_second_backward_that_needs_no_input():
    module = build(lstmfast, Options("LSTM", 2), 3, 4)
    x = torch.randn(5, 2, 3)
    first = torch.autograd.grad(module(x)[0].square().sum(), module.weight_hh_l0, create_graph=True)[0]
    first.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert x.grad is None


@pytest.mark.parametrize("lengths", [(4,), (4, 4), (4, 2, 2, 1), (3, 1)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_neighbours_of_rows(lengths, reverse):
    alive = [sum(length > t for length in lengths) for t in range(max(lengths))]
    walk = Walk(alive, reverse, torch.device("cpu"))
    names = [(t, n) for t, count in enumerate(alive) for n in range(count)]
    rows = torch.tensor([[10 * t + n] for t, n in names])
    boundary = -1 - torch.arange(len(lengths))[:, None]
    step = -1 if reverse else 1

    def name(t, n):
        return 10 * t + n if (t, n) in names else -1 - n

    previous = [name(t - step, n) for t, n in names]
    assert walk.previous(rows, boundary).squeeze(1).tolist() == previous
    assert walk.backwards().previous(rows, boundary).squeeze(1).tolist() == [name(t + step, n) for t, n in names]
    starts = [name(length - 1 if reverse else 0, n) for n, length in enumerate(lengths)]
    assert walk.first(rows).squeeze(1).tolist() == starts
    assert walk.backwards().last(rows).squeeze(1).tolist() == starts
    # Each state is the one before it, plus the row.
    (sums,) = walk.scan(lambda state, row: (state[0] + row,), (torch.zeros_like(boundary),), rows)
    torch.testing.assert_close(sums, walk.previous(sums, torch.zeros_like(boundary)) + rows)
