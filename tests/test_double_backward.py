"""Second derivatives do their work once for the whole sequence: how, and that torch.nn's results come out, is here and
in test_higher_orders.py; `bench.py derivatives` times it beside torch.nn."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, build_pair, make_hx, make_packed, states_of, tensors_of
from torch.utils._python_dispatch import TorchDispatchMode

import lstmfast
from lstmfast import autograd, ops, reference
from lstmfast.autograd import second_order
from lstmfast.autograd.derivatives import Walk
from lstmfast.ops import CELLS as CELL_FACTS

ROUNDING = {"rtol": 1e-9, "atol": 1e-11}
reference_recurrent = reference.recurrent


@pytest.fixture(autouse=True)
def no_reference(monkeypatch):
    monkeypatch.setattr(reference, "recurrent", None)


@pytest.fixture(params=["compiled walks", "torch operations"])
def way(request, monkeypatch):
    """The CPU's way, and that of every other device."""
    if request.param == "torch operations":
        monkeypatch.setattr(second_order, "CPU_HAS_WALKS", False)
    elif not second_order.CPU_HAS_WALKS:
        pytest.skip("a build whose CPU tensors go through the CUDA kernels")
    return request.param


def second_derivatives(module, input, leaves, hx=None):
    outputs = tensors_of(module(input, hx))
    cotangents = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o).requires_grad_() for o in outputs]
    first = torch.autograd.grad(outputs, leaves, cotangents, create_graph=True)
    total = sum((f * torch.linspace(0.5, 1.5, f.numel(), dtype=f.dtype).view_as(f)).sum() for f in first)
    return [*first, *torch.autograd.grad(total, [*leaves, *cotangents], allow_unused=True)]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("options", all_options(num_layers=(3,)), ids=str)
def test_equal_to_torch(options, layout, dropout, way):
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
def test_float32_is_as_good_as_torch(cell, way):
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
def test_every_cell_is_what_the_derivatives_take_it_for(cell, way):
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


@pytest.mark.parametrize("cell", ["LSTM", "RNN_TANH"])
def test_few_operations_a_step(cell, way):
    module = build(lstmfast, Options(cell), 3, 4)
    most = 50 if way == "torch operations" else 0  # the walks are one operation each
    assert operations(module, 30) - operations(module, 20) <= 10 * most


# ---- only what is asked for


class Wanted(TorchDispatchMode):
    """output_mask of each call of the op backward."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is ops.backward:
            self.masks.append(list(args[16]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_that_nobody_asks_for_are_not_computed(create_graph):
    # All require a gradient; what counts is for which of them torch.autograd is asked.
    module = build(lstmfast, Options("LSTM"), 3, 4)
    x = torch.randn(5, 2, 3, requires_grad=True)
    hx = make_hx(module, 2, requires_grad=True)
    leaves = [x, *hx, *module.parameters()]
    expected = torch.autograd.grad(module(x, hx)[0].square().sum(), leaves)
    for i, leaf in enumerate(leaves):
        with Wanted() as wanted:
            (grad,) = torch.autograd.grad(module(x, hx)[0].square().sum(), leaf, create_graph=create_graph)
        assert wanted.masks == [[j == i for j in range(len(leaves))]]
        torch.testing.assert_close(grad.detach(), expected[i])
    with Wanted() as wanted:
        module(x, hx)[0].square().sum().backward()
    assert wanted.masks == [[True] * len(leaves)]
    with Wanted() as wanted:  # through an operation below, which is not a leaf
        torch.autograd.grad(module(2 * x, hx)[0].square().sum(), x)
    assert wanted.masks == [[True] + [False] * (len(leaves) - 1)]


@pytest.mark.parametrize("options", [Options("LSTM", 2, True, projected=True), Options("RNN_TANH", 2)], ids=str)
def test_each_second_derivative_alone(options, way):
    module = build(lstmfast, options, 3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    hx = make_hx(module, 2, requires_grad=True)
    leaves = [x, *states_of(hx), *module.parameters()]

    def penalty():
        first = torch.autograd.grad(module(x, hx)[0].square().sum(), leaves, create_graph=True)
        return sum(f.square().sum() for f in first)

    together = torch.autograd.grad(penalty(), leaves)
    for leaf, expected in zip(leaves, together, strict=True):
        torch.testing.assert_close(torch.autograd.grad(penalty(), leaf)[0], expected, **ROUNDING)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_cotangents_of_states_alone(layout, way):
    # The output then has no gradient, and sequences of a packed batch end at different steps.
    pair = build_pair(Options("LSTM", 2, bidirectional=True), 3, 4)
    packed, leaf = make_packed((5, 3, 3, 1), 3, requires_grad=True)
    results = []
    for module in pair:
        _, (h_n, c_n) = module(packed if layout == "packed" else leaf)
        first = torch.autograd.grad(h_n.square().sum() + c_n.sum(), [leaf, *module.parameters()], create_graph=True)
        results.append(torch.autograd.grad(sum(f.square().sum() for f in first), [leaf, *module.parameters()]))
        packed, _ = torch.nn.utils.rnn.pack_padded_sequence(leaf, torch.tensor([5, 3, 3, 1])), leaf
    torch.testing.assert_close(*results, **ROUNDING)


def test_weights_and_cotangents_with_any_strides(way):
    theirs, ours = build_pair(Options("LSTM", projected=True), 6, 8)
    for module in theirs, ours:
        with torch.no_grad():
            for name, p in module.named_parameters():
                if p.dim() == 2:
                    setattr(module, name, torch.nn.Parameter(p.t().contiguous().t()))
    results = []
    leaf = torch.randn(2, 7, 6, dtype=torch.float64).transpose(0, 1).requires_grad_()
    for module in theirs, ours:
        (slope,) = torch.autograd.grad(module(leaf)[0].sum(), leaf, create_graph=True)  # of expanded ones
        results.append(torch.autograd.grad(slope.square().sum(), list(module.parameters())))
    torch.testing.assert_close(*results, **ROUNDING)


def test_batched_directions(monkeypatch):
    # is_grads_batched maps operations, for some of which torch has no rule: the reference's it has.
    monkeypatch.setattr(reference, "recurrent", reference_recurrent)
    module = build(lstmfast, Options("LSTM"), 3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    directions = torch.randn(3, *x.shape, dtype=torch.float64)
    (rows,) = torch.autograd.grad(slope, x, directions, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(slope, x, d, retain_graph=True)[0] for d in directions]
    torch.testing.assert_close(rows, torch.stack(expected), **ROUNDING)


def test_third_order(way):
    pair = build_pair(Options("LSTM", 2), 3, 4)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    results = []
    for module in pair:
        (first,) = torch.autograd.grad(module(x)[0].tanh().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(second.square().sum(), [x, *module.parameters()]))
    torch.testing.assert_close(*results, **ROUNDING)


def test_threads_share_the_walks():
    # Each thread has sequences of its own in a step, and no sum of the cells' part crosses them; products are torch's.
    module = build(lstmfast, Options("LSTM"), 20, 300)
    x = torch.randn(4, 70, 20, requires_grad=True)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        (slope,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), list(module.parameters())))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4 * results[0][0].abs().max().item())


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
