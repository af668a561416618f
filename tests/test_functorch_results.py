"""functorch's transforms give what a loop gives, and torch.nn where it can. What they cost is in test_functorch.py."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, build_pair, make_packed, tensors_of
from recurrent_calls import BATCH, HIDDEN_SIZE, INPUT_SIZE, LENGTHS, ROUNDING, STEPS, double
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils.rnn import PackedSequence

import lstmfast


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
