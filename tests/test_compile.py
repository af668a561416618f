"""torch.compile: one opaque op each way, no graph break, no recompilation for another length."""

import contextlib
import time

import pytest
import torch
from cases import CELLS, Options, build, gradients, make_hx, make_packed, states_of, tensors_of
from torch.func import grad, jvp, vmap
from torch.nn.utils.rnn import PackedSequence

import lstmfast

OPTIONS = [Options(cell, 2, bidirectional=True) for cell in CELLS] + [Options("LSTM", 3, projected=True)]
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(function, **kwargs):
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **kwargs})


@contextlib.contextmanager
def compiles_once():
    """Another compilation of the same function raises. Yields (how to compile, the graphs: the last one runs)."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    with torch._dynamo.config.patch(error_on_recompile=True):
        yield lambda function: compiled(function, dynamic=True, backend=backend), graphs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lengths_and_batches_do_not_recompile(options):
    module = build(lstmfast, options, 5, 8)
    with compiles_once() as (compile, graphs):
        run = compile(module)
        # At first no two sizes are equal: the compiler takes equal ones for the same.
        for steps, batch in ((6, 7), (9, 2), (2, 7), (30, 4)):
            x = torch.randn(steps, batch, 5, requires_grad=True)
            hx = make_hx(module, batch, requires_grad=True)
            leaves = [x, *states_of(hx), *module.parameters()]
            results = []
            for call in module, run:
                outputs = tensors_of(call(x, hx))
                results.append([*outputs, *gradients(outputs, leaves)])
            torch.testing.assert_close(*results, **ROUNDING)
    targets = [node.target for node in graphs[-1].graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.lstmfast.forward.default) == 1


@pytest.mark.parametrize("cell", CELLS[:2])
def test_packed_sequences(cell):
    module = build(lstmfast, Options(cell, 2, bidirectional=True), 5, 8)

    def call(data, batch_sizes):
        return module(PackedSequence(data, batch_sizes))[0].data

    with compiles_once() as (compile, _):
        run = compile(call)
        for lengths in ((6, 3, 2), (9, 9, 4, 2)):
            packed, _ = make_packed(lengths, 5, dtype=torch.float32)
            torch.testing.assert_close(run(packed.data, packed.batch_sizes), call(packed.data, packed.batch_sizes))


def test_dropout_draws_what_eager_draws():
    module = build(lstmfast, Options("LSTM", 3), 5, 8, dropout=0.5)
    x = torch.randn(4, 3, 5)
    results = []
    for call in module, compiled(module):
        torch.manual_seed(1)
        results.append(call(x)[0])
    assert torch.equal(*results)


TRANSFORMS = {
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),)),
    "vmap": lambda f, x: vmap(f)(torch.stack((x, 2 * x))),
    "grad": lambda f, x: grad(lambda x: f(x).square().sum())(x),
    "vmap of grad": lambda f, x: vmap(grad(lambda x: f(x).square().sum()))(torch.stack((x, 2 * x))),
}


SLOW = ("grad", "vmap of grad")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in TRANSFORMS])
def test_transforms_inside(name):
    # The op has no rule of its own there: a tangent that vanishes is the fault to find.
    module = build(lstmfast, Options("LSTM", 2), 5, 8)
    x = torch.randn(3, 2, 5)
    expected = TRANSFORMS[name](lambda x: module(x)[0], x)
    actual = compiled(lambda x: TRANSFORMS[name](lambda x: module(x)[0], x))(x)
    torch.testing.assert_close(actual, expected, **ROUNDING)


def test_double_backward_is_refused_by_the_compiler():
    module = build(lstmfast, Options("LSTM"), 5, 8)
    x = torch.randn(3, 2, 5, requires_grad=True)
    (first,) = torch.autograd.grad(compiled(module)(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        first.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_inductor(mode):
    module = build(lstmfast, Options("LSTM", 3), 16, 24)
    x = torch.randn(6, 4, 16)
    began = time.perf_counter()
    module(x)[0].sum().backward()
    eager = time.perf_counter() - began
    expected = gradients(tensors_of(module(x)), list(module.parameters()))
    run = compiled(module, mode=mode, backend="inductor", dynamic=True)
    began = time.perf_counter()
    actual = gradients(tensors_of(run(x)), list(module.parameters()))
    # A graph of one node: what takes long is to start the compiler, not to compile.
    assert time.perf_counter() - began < eager + 60
    torch.testing.assert_close(actual, expected, **ROUNDING)
    for _ in range(3):  # reduce-overhead records in the first calls and replays in the others
        torch.testing.assert_close(run(x)[0], module(x)[0], **ROUNDING)
