"""Second and third derivatives equal torch.nn's. How the second ones are computed is in test_double_backward.py."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, build_pair, make_hx, run_reference, states_of, tensors_of
from recurrent_calls import BATCH, HIDDEN_SIZE, INPUT_SIZE, PACKED, ROUNDING, STEPS, Call, double, only, pack
from torch import nn

import lstmfast


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
        input, *others = [reference_leaf if t is leaf else t for t in leaves]
        (first,) = torch.autograd.grad(call(*leaves)[0].square().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        expected, *_ = run_reference(call.module, input, None, tuple(others[: call.states]), others[call.states :])
        (first,) = torch.autograd.grad(expected.square().sum(), reference_leaf, create_graph=True)
        torch.testing.assert_close(second, *torch.autograd.grad(first.square().sum(), reference_leaf), **ROUNDING)
