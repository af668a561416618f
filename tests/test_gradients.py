"""First derivatives: by finite differences in every mode, only those asked for, and what autograd keeps between."""

import itertools

import pytest
import torch
from cases import (
    CELLS,
    Options,
    all_options,
    build,
    build_pair,
    gradients,
    make_hx,
    make_packed,
    run_reference,
    states_of,
    tensors_of,
)
from recurrent_calls import BATCH, HIDDEN_SIZE, INPUT_SIZE, LENGTHS, PACKED, ROUNDING, STEPS, Call, double, only, pack
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import lstmfast

# ---- finite differences


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@PACKED
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_gradcheck(options, packed, given_hx):
    call = Call(options, packed=packed, given_hx=given_hx)
    assert torch.autograd.gradcheck(call, call.leaves, fast_mode=options.num_layers > 1)


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@PACKED
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_gradgradcheck(options, packed, given_hx):
    call = Call(options, packed=packed, given_hx=given_hx)
    assert torch.autograd.gradgradcheck(call, call.leaves, fast_mode=True)


@PACKED
@pytest.mark.parametrize("options", [Options(cell, 3, bidirectional=True) for cell in CELLS], ids=str)
def test_gradcheck_with_dropout(options, packed):
    call = Call(options, packed=packed, dropout=0.4)
    assert torch.autograd.gradcheck(call, call.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, call.leaves, fast_mode=True)


@PACKED
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_gradcheck_in_forward_mode(options, packed):
    call = Call(options, packed=packed)
    assert torch.autograd.gradcheck(call, call.leaves, fast_mode=True, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(
        call, call.leaves, fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False
    )


# ---- only what is asked for


def backward(call, leaves):
    outputs = call(*leaves)
    generator = torch.Generator().manual_seed(2)
    sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs).backward()
    return [leaf.grad for leaf in leaves]


@PACKED
@pytest.mark.parametrize(
    "options",
    [Options("LSTM", 2, bidirectional=True, projected=True), Options("LSTM", 2), Options("RNN_TANH", 2, True)],
    ids=str,
)
def test_subsets_of_gradients(options, packed):
    call = Call(options, packed=packed)
    everything = dict(zip(call.names, backward(call, only(call, call.names)), strict=True))
    weights = [name for name in call.names if "_l" in name]
    subsets = [[name] for name in call.names]
    subsets += [["input", "h0"], weights, [name for name in weights if "bias" in name]]
    subsets += [[name for name in weights if f"_l{layer}" in name] for layer in range(options.num_layers)]
    subsets += [["input", *weights], [name for name in call.names if name not in weights]]
    for subset in subsets:
        for name, gradient in zip(call.names, backward(call, only(call, subset)), strict=True):
            if name in subset:
                assert torch.equal(gradient, everything[name]), f"{name}, alone with {subset}"
            else:
                assert gradient is None, f"{name} was not asked for, but {subset}"


@PACKED
@pytest.mark.parametrize("options", [Options("LSTM", 2, True, projected=True), Options("RNN_RELU", 2)], ids=str)
def test_gradients_of_some_outputs(options, packed):
    call = Call(options, packed=packed)
    outputs = call(*call.leaves)
    expected = run_reference(call.module, call.leaves[0], call.batch_sizes, call.leaves[1 : 1 + call.states])
    theirs = [*call.leaves[: 1 + call.states], *call.module.parameters()]
    count = len(outputs)
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(count), n) for n in range(1, count + 1)):
        actual = gradients([outputs[i] for i in chosen], call.leaves, retain_graph=True)
        wanted = gradients([expected[i] for i in chosen], theirs, retain_graph=True)
        torch.testing.assert_close(actual, wanted, **ROUNDING, msg=lambda text, i=chosen: f"outputs {i}: {text}")


@pytest.mark.parametrize("chosen", ["h_n", "c_n"])
def test_one_state_of_one_layer(chosen):
    # The others' gradients are zeros that autograd expands: strides of 0 in what backward is given.
    theirs, ours = build_pair(Options("LSTM", 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = double((STEPS, BATCH, INPUT_SIZE))
    grads = []
    for module in theirs, ours:
        _, (h_n, c_n) = module(x)
        state = {"h_n": h_n, "c_n": c_n}[chosen]
        grads.append(torch.autograd.grad(state[2].sum(), [x, *module.parameters()], allow_unused=True))
    # What that state does not depend on is zero here, and there a zero or None.
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, torch.zeros_like(actual) if expected is None else expected, **ROUNDING)


class Ops(TorchDispatchMode):
    """Counts the ops below, and those that save for backward."""

    def __init__(self):
        super().__init__()
        self.forward, self.saving, self.backward = 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.lstmfast.forward.default:
            self.forward += 1
            self.saving += args[-1]
        self.backward += func is torch.ops.lstmfast.backward.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "nothing requires a gradient"])
@PACKED
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_saved_without_need(cell, packed, mode):
    module = build(lstmfast, Options(cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    input = make_packed(LENGTHS, INPUT_SIZE)[0] if packed else double((STEPS, BATCH, INPUT_SIZE)).detach()
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, torch.enable_grad)
    if mode.startswith("nothing"):
        module.requires_grad_(False)
    packs = []
    with Ops() as ops, torch.autograd.graph.saved_tensors_hooks(lambda t: packs.append(t) or t, lambda t: t), context():
        results = tensors_of(module(input))
    assert (ops.forward, ops.saving) == (1, 0)
    assert packs == []
    for result in results:
        assert result.grad_fn is None
        assert not result.requires_grad
        assert result.is_inference() == (mode == "inference_mode")


def test_one_op_each_way():
    module = build(lstmfast, Options("LSTM", 3, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    packs = []
    with Ops() as ops, torch.autograd.graph.saved_tensors_hooks(lambda t: packs.append(t) or t, lambda t: t):
        output, _ = module(torch.randn(STEPS, BATCH, INPUT_SIZE))
        output.sum().backward()
    assert (ops.forward, ops.saving, ops.backward) == (1, 1, 1)
    assert packs


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_backward_in_evaluation(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dropout=0.5)
    x = double((STEPS, BATCH, INPUT_SIZE))
    grads = [gradients(tensors_of(m.eval()(x)), [x, *m.parameters()]) for m in (theirs, ours)]
    torch.testing.assert_close(*grads, **ROUNDING)


@PACKED
@pytest.mark.parametrize("cell", CELLS)
def test_many_layers_with_dropout(cell, packed):
    # More than go through one launch on a GPU, in a type that has such launches: several of them, or layer after layer,
    # each with its own layers' part of the mask.
    call = Call(Options(cell, num_layers=10), packed=packed, dropout=0.4)
    leaves = [leaf.detach().float().requires_grad_() for leaf in call.leaves]
    wanted, results = call(*call.leaves), call(*leaves)
    seeds = [torch.randn_like(r) for r in wanted]
    for exact, rounded in (
        (wanted, results),
        (
            torch.autograd.grad(wanted, call.leaves, seeds),
            torch.autograd.grad(results, leaves, [s.float() for s in seeds]),
        ),
    ):
        for a, b in zip(exact, rounded, strict=True):
            # Some fifty roundings of 6e-8 follow each other through ten layers and three steps.
            torch.testing.assert_close(b.double(), a, rtol=1e-4, atol=5e-6)


# ---- the graph between the two ways


@PACKED
@pytest.mark.parametrize("cell", CELLS)
def test_retain_graph(cell, packed):
    call = Call(Options(cell, 2, bidirectional=True), packed=packed)
    outputs = call(*call.leaves)
    first = gradients(outputs, call.leaves, retain_graph=True)
    second = gradients(outputs, call.leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = gradients(outputs, call.leaves, seed=1)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        gradients(outputs, call.leaves)


@pytest.mark.parametrize("what", ["output", "weight_hh_l0", "input", "h0"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_saved_must_not_be_modified(cell, what):
    # The output is saved, too: torch.nn refuses its modification where it runs a fused layer, and so does this.
    module = build(lstmfast, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE)
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    weights["weight_ih_l0"].requires_grad_()
    input, hx = torch.randn(STEPS, BATCH, INPUT_SIZE), make_hx(module, BATCH)
    output, _ = functional_call(module, weights, (input, hx))
    {"output": output, "input": input, "h0": states_of(hx)[0], **weights}[what].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("cell", CELLS)
def test_final_states_may_be_modified(cell):
    # Between two parts of a sequence they are scaled where an episode ended, or cut off with detach_().
    results = []
    x = double((STEPS, BATCH, INPUT_SIZE))
    for module in build_pair(Options(cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE):
        output, hidden = module(x)
        for state in states_of(hidden):
            state.mul_(torch.tensor([[0.0], [2.0]]))
        outputs = [output, *tensors_of(module(x, hidden))]
        results += [gradients(outputs, [x, *module.parameters()])]
        _, hidden = module(x)
        for state in states_of(hidden):
            state.detach_()
        results[-1] += gradients(tensors_of(module(x, hidden)), [x, *module.parameters()])
    torch.testing.assert_close(*results, **ROUNDING)


@PACKED
@pytest.mark.parametrize("cell", CELLS)
def test_tied_weights(cell, packed):
    theirs, ours = build_pair(Options(cell, 3), HIDDEN_SIZE, HIDDEN_SIZE)
    for module in theirs, ours:  # input and hidden sizes are equal, so that all layers have the same shapes
        module.weight_ih_l1 = module.weight_ih_l0
        module.weight_hh_l2 = module.weight_hh_l0
        module.weight_ih_l2 = module.weight_hh_l0
        module.bias_hh_l1 = module.bias_ih_l1
    leaf = double((STEPS, BATCH, HIDDEN_SIZE))
    results = []
    for module in theirs, ours:
        leaves = [leaf, *module.parameters()]
        outputs = tensors_of(module(pack(leaf) if packed else leaf))
        first = torch.autograd.grad(sum(o.square().sum() for o in outputs), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([*first, *second])
    torch.testing.assert_close(*results, **ROUNDING)


@PACKED
@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("options", [Options(cell, 2, bidirectional=True) for cell in CELLS], ids=str)
def test_checkpoint(options, use_reentrant, packed):
    module = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64, dropout=0.5)
    leaf = double((STEPS, BATCH, INPUT_SIZE))

    def run(leaf):
        return tuple(tensors_of(module(pack(leaf) if packed else leaf)))

    results = []
    for call in run, lambda leaf: checkpoint(run, leaf, use_reentrant=use_reentrant):
        torch.manual_seed(1)
        module.zero_grad()
        leaf.grad = None
        outputs = call(leaf)
        sum(o.square().sum() for o in outputs).backward()
        results.append([*outputs, leaf.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_saved_tensors_may_be_kept_elsewhere():
    module = build(lstmfast, Options("LSTM", 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    x = double((STEPS, BATCH, INPUT_SIZE))
    expected = gradients(tensors_of(module(x)), [x, *module.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy):
        outputs = tensors_of(module(x))
    assert all(torch.equal(a, b) for a, b in zip(gradients(outputs, [x, *module.parameters()]), expected, strict=True))
