"""Derivatives: by finite differences, of every order, in every mode of differentiation, and only those asked for."""

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
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import lstmfast
from lstmfast import autograd

STEPS, BATCH, INPUT_SIZE, HIDDEN_SIZE = 3, 2, 2, 3
LENGTHS = (3, 2)
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}
PACKED = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def double(shape, dtype=torch.float64, device="cpu"):
    return torch.randn(shape, dtype=dtype, device=device, requires_grad=True)


def pack(leaf):
    """A leaf's own graph to its packed sequence, for each pass that frees it."""
    return pack_padded_sequence(leaf, torch.tensor(LENGTHS))


class Call:
    """A call of autograd.recurrent as a function of (input, *hx, *weights), and leaves to call it with."""

    def __init__(
        self,
        options,
        hidden_size=HIDDEN_SIZE,
        *,
        packed=False,
        given_hx=True,
        dropout=0.0,
        dtype=torch.float64,
        device="cpu",
    ):
        self.module = build(lstmfast, options, INPUT_SIZE, hidden_size, dtype=dtype, device=device)
        self.batch_sizes = torch.tensor([2, 2, 1]) if packed else None
        self.dropout = dropout
        input = double((5, INPUT_SIZE) if packed else (STEPS, BATCH, INPUT_SIZE), dtype, device)
        hx = states_of(make_hx(self.module, BATCH, requires_grad=True)) if given_hx else ()
        self.states = len(hx)
        self.leaves = (input, *hx, *(p.detach().requires_grad_() for p in self.module.parameters()))
        names = ["input", *("h0", "c0")[: self.states], *(name for name, _ in self.module.named_parameters())]
        self.names = dict(zip(names, range(len(names)), strict=True))

    def __call__(self, *leaves):
        if self.dropout:
            torch.manual_seed(1)  # the same mask in every evaluation
        input, *others = leaves
        results = autograd.recurrent(
            self.module.mode,
            input,
            self.batch_sizes,
            tuple(others[: self.states]),
            others[self.states :],
            has_biases=self.module.bias,
            num_layers=self.module.num_layers,
            bidirectional=self.module.bidirectional,
            dropout=self.dropout,
        )
        return tuple(r for r in results if r is not None)


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


def only(call, names):
    """The leaves with a gradient wanted for `names` alone."""
    return [t.detach().requires_grad_(name in names) for name, t in zip(call.names, call.leaves, strict=True)]


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


# ---- higher orders


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@PACKED
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_second_derivatives_equal_torch(options, packed, given_hx):
    pair = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    leaf = double((STEPS, BATCH, INPUT_SIZE))
    hx = make_hx(pair[0], BATCH, requires_grad=True) if given_hx else None
    results = []
    for module in pair:
        leaves = [leaf, *states_of(hx), *module.parameters()]
        outputs = tensors_of(module(pack(leaf) if packed else leaf, hx))
        first = torch.autograd.grad(sum(o.square().sum() for o in outputs), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([*first, *second])
    torch.testing.assert_close(*results, **ROUNDING)


@pytest.mark.parametrize("options", [Options(cell, 2, bidirectional=True) for cell in CELLS], ids=str)
def test_gradient_penalty_step(options):
    # The critic's step of a Wasserstein GAN with a gradient penalty, dropout on.
    results = []
    for package in nn, lstmfast:
        torch.manual_seed(3)
        critic = build(package, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64, dropout=0.3)
        optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        for _ in range(2):
            real, fake = double((STEPS, BATCH, INPUT_SIZE)), double((STEPS, BATCH, INPUT_SIZE))
            between = ((real + fake) / 2).detach().requires_grad_()
            output, _ = critic(between)
            (slope,) = torch.autograd.grad(output.sum(), between, create_graph=True)
            penalty = (slope.norm(dim=-1) - 1).square().mean()
            optimizer.zero_grad()
            (critic(fake)[0].mean() - critic(real)[0].mean() + 10 * penalty).backward()
            optimizer.step()
        results.append([penalty, *critic.parameters()])
    torch.testing.assert_close(*results, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives_in_other_dtypes(cell, dtype):
    module = build(lstmfast, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE, dtype=dtype)
    exactly = build(nn, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    exactly.load_state_dict(module.state_dict())
    x = torch.randn(STEPS, BATCH, INPUT_SIZE).to(dtype)
    results = []
    for m in module, exactly:
        leaf = x.to(next(m.parameters()).dtype, copy=True).requires_grad_()
        (first,) = torch.autograd.grad(m(leaf)[0].square().sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [leaf, *m.parameters()]))
    assert all(g.dtype == dtype for g in results[0])
    eps = torch.finfo(dtype).eps
    for ours, exact in zip(*results, strict=True):
        # The first gradient is rounded to dtype before it is squared: a few ulps of the largest value.
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=20 * eps * exact.abs().max().item())


@pytest.mark.parametrize("linear", [False, True], ids=["of squares", "of sums"])
@PACKED
@pytest.mark.parametrize("options", [Options("LSTM"), Options("LSTM", projected=True), Options("RNN_TANH")], ids=str)
def test_third_derivatives_equal_torch(options, packed, linear):
    # Of sums, the gradient that enters each backward is a constant: the graph must be kept all the same.
    results = []
    leaf = double((STEPS, BATCH, INPUT_SIZE))
    for module in build_pair(options, INPUT_SIZE, HIDDEN_SIZE):
        leaves = [leaf, *module.parameters()]
        quantities = tensors_of(module(pack(leaf) if packed else leaf))
        for order in range(3):
            total = sum(q.sum() if linear else q.square().sum() for q in quantities)
            quantities = torch.autograd.grad(total, leaves, create_graph=order < 2)
        results.append(quantities)
    torch.testing.assert_close(*results, **ROUNDING)


def test_create_graph_leaves_first_derivatives_as_they_are():
    call = Call(Options("LSTM", 2, bidirectional=True, projected=True))
    outputs = call(*call.leaves)
    total = sum(o.square().sum() for o in outputs)
    plain = torch.autograd.grad(total, call.leaves, retain_graph=True)
    recorded = torch.autograd.grad(total, call.leaves, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


def test_second_derivatives_of_some_inputs():
    call = Call(Options("LSTM", 2, bidirectional=True, projected=True))
    for name in call.names:
        leaves = only(call, [name])
        leaf = leaves[call.names[name]]
        reference_leaf = leaf.detach().requires_grad_()
        others = [reference_leaf if t is leaf else t for t in leaves]
        (first,) = torch.autograd.grad(call(*leaves)[0].square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        expected = reference_outputs(call, others)[0]
        (first,) = torch.autograd.grad(expected.square().sum(), reference_leaf, create_graph=True)
        torch.testing.assert_close(second, *torch.autograd.grad(first.square().sum(), reference_leaf), **ROUNDING)


def reference_outputs(call, leaves):
    input, *others = leaves
    return lstmfast.reference.recurrent(
        call.module.mode,
        input,
        call.batch_sizes,
        tuple(others[: call.states]),
        others[call.states :],
        has_biases=call.module.bias,
        num_layers=call.module.num_layers,
        bidirectional=call.module.bidirectional,
    )


# ---- forward mode: an op without a rule of its own would answer with a zero tangent and no error


@PACKED
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_jvp(options, packed):
    call = Call(options, packed=packed)
    tangents = tuple(torch.randn_like(t) for t in call.leaves)
    primals = tuple(t.detach() for t in call.leaves)
    outputs, actual = jvp(call, primals, tangents)
    torch.testing.assert_close(outputs, call(*primals), **ROUNDING)
    # <cotangent, J tangent> = <J' cotangent, tangent>
    for i, tangent in enumerate(actual):
        assert tangent.abs().max() > 0
        cotangent = torch.randn_like(tangent)
        back = torch.autograd.grad(call(*call.leaves)[i], call.leaves, cotangent, allow_unused=True)
        expected = sum((b * t).sum() for b, t in zip(back, tangents, strict=True) if b is not None)
        torch.testing.assert_close((cotangent * tangent).sum(), expected, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recording", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("name", ["input", "h0", "weight_ih_l0", "weight_hh_l1", "bias_hh_l0"])
@pytest.mark.parametrize("cell", CELLS)
def test_dual_numbers_are_never_dropped(cell, name, recording, dtype):
    module = build(lstmfast, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE, dtype=dtype)
    x = torch.randn(STEPS, BATCH, INPUT_SIZE, dtype=dtype)
    hx = make_hx(module, BATCH)
    with forward_ad.dual_level(), torch.set_grad_enabled(recording):
        weights = {n: p.detach() for n, p in module.named_parameters()}
        tensors = {"input": x, "h0": states_of(hx)[0], **weights}
        dual = forward_ad.make_dual(tensors[name], torch.ones_like(tensors[name]))
        weights = {n: dual if n == name else w for n, w in weights.items()}
        states = (dual if name == "h0" else states_of(hx)[0], *states_of(hx)[1:])
        result = functional_call(
            module, weights, (dual if name == "input" else x, states if cell == "LSTM" else states[0])
        )
        for output in tensors_of(result):
            tangent = forward_ad.unpack_dual(output).tangent
            assert tangent is not None
            assert tangent.abs().max() > 0


# ---- functorch transforms


def outputs_of(module, weights, x, hx=None):
    return tuple(tensors_of(functional_call(module, weights, (x, hx))))


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_vmap_over_inputs(options):
    module = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    weights = dict(module.named_parameters())
    xs = torch.randn(4, STEPS, BATCH, INPUT_SIZE, dtype=torch.float64)
    mapped = vmap(lambda x: outputs_of(module, weights, x))(xs)
    looped = [torch.stack(o) for o in zip(*(outputs_of(module, weights, x) for x in xs), strict=True)]
    torch.testing.assert_close(list(mapped), looped, **ROUNDING)


@pytest.mark.parametrize("options", [Options(cell, 2, bidirectional=True) for cell in CELLS], ids=str)
@pytest.mark.parametrize("x_mapped", [False, True])
def test_vmap_over_weights_is_an_ensemble(options, x_mapped):
    modules = [build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64) for _ in range(3)]
    weights, _ = stack_module_state(modules)
    x = torch.randn(*(3,) * x_mapped, STEPS, BATCH, INPUT_SIZE, dtype=torch.float64)
    mapped = vmap(lambda w, x: outputs_of(modules[0], w, x), in_dims=(0, 0 if x_mapped else None))(weights, x)
    each = [m(x[i] if x_mapped else x) for i, m in enumerate(modules)]
    looped = [torch.stack(o) for o in zip(*map(tensors_of, each), strict=True)]
    torch.testing.assert_close(list(mapped), looped, **ROUNDING)


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_vmap_of_grad_gives_gradients_of_each_sample(options):
    module = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    xs = torch.randn(4, STEPS, INPUT_SIZE, dtype=torch.float64)

    def loss(weights, x):
        return sum(o.square().sum() for o in outputs_of(module, weights, x))

    mapped = vmap(grad(loss), in_dims=(None, 0))(weights, xs)
    for i, x in enumerate(xs):
        expected = torch.autograd.grad(loss(dict(module.named_parameters()), x), list(module.parameters()))
        for (name, per_sample), g in zip(mapped.items(), expected, strict=True):
            torch.testing.assert_close(per_sample[i], g, **ROUNDING, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("options", [Options(cell) for cell in ("LSTM", "RNN_TANH")], ids=str)
def test_jacobians_and_hessian_agree(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = torch.randn(STEPS, 1, INPUT_SIZE, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda x: theirs(x)[0], x)
    for jacobian in jacrev, jacfwd:
        torch.testing.assert_close(jacobian(lambda x: ours(x)[0])(x), expected, **ROUNDING)
    torch.testing.assert_close(torch.autograd.functional.jacobian(lambda x: ours(x)[0], x), expected, **ROUNDING)
    expected = torch.autograd.functional.hessian(lambda x: theirs(x)[0].square().sum(), x)
    torch.testing.assert_close(hessian(lambda x: ours(x)[0].square().sum())(x), expected, **ROUNDING)
    actual = torch.autograd.functional.hessian(lambda x: ours(x)[0].square().sum(), x)
    torch.testing.assert_close(actual, expected, **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_batched_gradients(cell):
    # torch.autograd.grad(is_grads_batched=True), which functional.jacobian(vectorize=True) uses, maps the backward.
    theirs, ours = build_pair(Options(cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = double((STEPS, BATCH, INPUT_SIZE))
    cotangents = torch.randn(4, STEPS, BATCH, 2 * HIDDEN_SIZE, dtype=torch.float64)
    grads = [
        torch.autograd.grad(module(x)[0], [x, *module.parameters()], cotangents, is_grads_batched=True)
        for module in (theirs, ours)
    ]
    torch.testing.assert_close(*grads, **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_under_vmap(cell):
    module = build(lstmfast, Options(cell, 2), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64, dropout=0.5)
    xs = torch.randn(3, STEPS, BATCH, INPUT_SIZE, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda x: module(x)[0])(xs)
    torch.manual_seed(1)
    mapped = vmap(lambda x: module(x)[0], randomness="same")(xs)
    for x, output in zip(xs, mapped, strict=True):
        torch.manual_seed(1)
        torch.testing.assert_close(output, module(x)[0], **ROUNDING)
    first, *others = vmap(lambda x: module(x)[0], randomness="different")(xs[:1].expand_as(xs))
    assert not any(torch.equal(first, other) for other in others)


def test_transforms_of_packed_sequences():
    module = build(lstmfast, Options("LSTM", 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64)
    packed, _ = make_packed(LENGTHS, INPUT_SIZE)

    def run(data):
        return module(PackedSequence(data, packed.batch_sizes))[0].data

    datas = torch.randn(3, *packed.data.shape, dtype=torch.float64)
    torch.testing.assert_close(vmap(run)(datas), torch.stack([run(d) for d in datas]), **ROUNDING)
    _, tangent = jvp(run, (packed.data,), (torch.ones_like(packed.data),))
    assert tangent.abs().max() > 0
