"""What is done to a module as a whole: checkpoints, tracing, compilation, hooks, subclasses."""

import pytest
import torch
from cases import Options, build_pair, gradients, make_hx, tensors_of
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, ROUNDING, both_cells, both_modules, randn
from torch import nn
from torch.utils.checkpoint import checkpoint

import lstmfast


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
