"""functorch transforms: how many calls of the op they cost, and per-sample gradients beside a loop. What else they
give is in test_functorch_results.py."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, make_packed, tensors_of
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vjp, vmap
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode

import lstmfast
from lstmfast import reference

STEPS, BATCH, INPUT_SIZE, HIDDEN_SIZE, COPIES = 5, 2, 3, 4, 6
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def no_reference(monkeypatch):
    """The transforms must not take the way of the reference, which builds a graph of every step."""
    monkeypatch.setattr(reference, "recurrent", None)


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ours, self.all = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ours += func.namespace == "lstmfast"
        self.all += 1
        return func(*args, **(kwargs or {}))


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def make(options, **kwargs):
    module = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float64, **kwargs)
    return module, {name: p.detach() for name, p in module.named_parameters()}


def outputs_of(module, weights, *args):
    return tuple(tensors_of(functional_call(module, weights, args)))


def loss_of(module):
    return lambda weights, *args: sum(o.square().sum() for o in outputs_of(module, weights, *args))


@pytest.mark.parametrize("cell", CELLS)
def test_inputs_are_folded_into_one_call(cell):
    module, weights = make(Options(cell, 2, bidirectional=True))
    with Ops() as ops:
        vmap(lambda x: outputs_of(module, weights, x))(double(COPIES, STEPS, BATCH, INPUT_SIZE))
    assert ops.ours == 1


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, 1), (2, 1, 0)], ids=str)
def test_any_dimension_may_be_mapped(in_dims):
    module, weights = make(Options("LSTM", 2, bidirectional=True))
    args = []
    for dim, shape in zip(in_dims, [(STEPS, BATCH, INPUT_SIZE)] + [(4, BATCH, HIDDEN_SIZE)] * 2, strict=True):
        args.append(double(*shape) if dim is None else double(COPIES, *shape).movedim(0, dim))

    def call(x, h0, c0):
        return outputs_of(module, weights, x, (h0, c0))

    mapped = vmap(call, in_dims)(*args)
    for i in range(COPIES):
        own = [a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)]
        torch.testing.assert_close([m[i] for m in mapped], list(call(*own)), **ROUNDING)


@pytest.mark.parametrize("cell", CELLS)
def test_an_ensemble_is_a_call_each(cell):
    members = [make(Options(cell, 2))[0] for _ in range(COPIES)]
    weights, _ = stack_module_state(members)
    x = double(STEPS, BATCH, INPUT_SIZE)
    with Ops() as ops:
        mapped = vmap(lambda w: outputs_of(members[0], w, x))(weights)
    assert ops.ours == COPIES
    torch.testing.assert_close(mapped[0], torch.stack([m(x)[0] for m in members]), **ROUNDING)


@pytest.mark.parametrize("transform", [lambda f: f, grad], ids=["outputs", "gradients"])
def test_an_ensemble_with_inputs_of_its_own(transform):
    members = [make(Options("LSTM", 2, bidirectional=True)) for _ in range(COPIES)]
    weights = {n: w.detach() for n, w in stack_module_state([m for m, _ in members])[0].items()}
    xs = double(COPIES, STEPS, BATCH, INPUT_SIZE)
    call = transform(lambda w, x: loss_of(members[0][0])(w, x))
    mapped = vmap(call)(weights, xs)
    each = [call(w, x) for (_, w), x in zip(members, xs, strict=True)]
    expected = {n: torch.stack([e[n] for e in each]) for n in weights} if transform is grad else torch.stack(each)
    torch.testing.assert_close(mapped, expected, **ROUNDING)


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_per_sample_gradients(options):
    # Sequences of a batch each are a sample: input [T, 1, I], as vmap hands it out.
    module, weights = make(options)
    xs = double(COPIES, STEPS, INPUT_SIZE)
    loss = loss_of(module)
    with Ops() as ops:
        mapped = vmap(grad(loss), in_dims=(None, 0))(weights, xs)
    for i, x in enumerate(xs):
        torch.testing.assert_close({n: g[i] for n, g in mapped.items()}, grad(loss)(weights, x), **ROUNDING)
    more = torch.cat((xs, xs))
    with Ops() as twice:
        vmap(grad(loss), in_dims=(None, 0))(weights, more)
    assert twice.all == ops.all  # twice the samples, as many operations: none is a sample's own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_per_sample_gradients_in_other_dtypes(dtype):
    module = build(lstmfast, Options("LSTM", 2), INPUT_SIZE, HIDDEN_SIZE, dtype=dtype)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    xs = torch.randn(COPIES, STEPS, INPUT_SIZE).to(dtype)
    mapped = vmap(grad(loss_of(module)), in_dims=(None, 0))(weights, xs)
    exactly, _ = make(Options("LSTM", 2))
    weights64 = {name: w.double() for name, w in weights.items()}
    exact = vmap(grad(loss_of(exactly)), in_dims=(None, 0))(weights64, xs.double())
    for name, g in mapped.items():
        assert g.dtype == dtype
        atol = 20 * torch.finfo(dtype).eps * exact[name].abs().max().item()
        torch.testing.assert_close(g.double(), exact[name], rtol=0, atol=atol)


def test_per_sample_gradients_of_packed_batches():
    module, weights = make(Options("LSTM", 2, bidirectional=True, projected=True))
    packed, _ = make_packed((5, 3, 2), INPUT_SIZE)
    datas = double(COPIES, *packed.data.shape)

    def loss(weights, data):
        return loss_of(module)(weights, PackedSequence(data, packed.batch_sizes))

    mapped = vmap(grad(loss), in_dims=(None, 0))(weights, datas)
    for i, data in enumerate(datas):
        torch.testing.assert_close({n: g[i] for n, g in mapped.items()}, grad(loss)(weights, data), **ROUNDING)


def test_per_sample_gradients_of_some_weights():
    module, weights = make(Options("LSTM", 2, projected=True))
    xs = double(COPIES, STEPS, INPUT_SIZE)
    for name in weights:

        def loss(weight, x, name=name):
            return loss_of(module)({**weights, name: weight}, x)

        mapped = vmap(grad(loss), in_dims=(None, 0))(weights[name], xs)
        torch.testing.assert_close(mapped, torch.stack([grad(loss)(weights[name], x) for x in xs]), **ROUNDING)


def test_per_sample_gradients_with_dropout_of_each_ones_own():
    module, weights = make(Options("LSTM", 2), dropout=0.5)
    xs = double(1, STEPS, INPUT_SIZE).expand(COPIES, -1, -1)
    mapped = vmap(grad(loss_of(module)), in_dims=(None, 0), randomness="different")(weights, xs)
    first, *others = mapped["weight_ih_l1"]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("outer", ["weights", "inputs"])
def test_maps_in_maps(outer):
    members = [make(Options("LSTM", 2, bidirectional=True)) for _ in range(3)]
    module, weights = members[0][0], stack_module_state([m for m, _ in members])[0]
    weights = {name: w.detach() for name, w in weights.items()}
    xs = double(COPIES, STEPS, BATCH, INPUT_SIZE)
    one = grad(loss_of(module))
    if outer == "weights":
        mapped = vmap(vmap(one, in_dims=(None, 0)), in_dims=(0, None))(weights, xs)
    else:
        mapped = vmap(vmap(one, in_dims=(0, None)), in_dims=(None, 0))(weights, xs)
        mapped = {name: g.transpose(0, 1) for name, g in mapped.items()}
    for m in range(3):
        for i, x in enumerate(xs):
            expected = one({name: w[m] for name, w in weights.items()}, x)
            torch.testing.assert_close({n: g[m, i] for n, g in mapped.items()}, expected, **ROUNDING)


def test_as_many_cotangents_as_copies():
    # Equal sizes on two levels: what was saved for one must not be taken for the other's.
    module, weights = make(Options("LSTM", 2))
    xs = double(3, STEPS, BATCH, INPUT_SIZE)
    cotangents = double(3, STEPS, BATCH, HIDDEN_SIZE)

    def products(x):
        _, pull = vjp(lambda w, x: outputs_of(module, w, x)[0], weights, x)
        return vmap(pull)(cotangents)

    mapped = vmap(products)(xs)
    for i, x in enumerate(xs):
        _, pull = vjp(lambda w, x: outputs_of(module, w, x)[0], weights, x)
        for k, cotangent in enumerate(cotangents):
            by_weights, by_x = pull(cotangent)
            torch.testing.assert_close(mapped[1][i, k], by_x, **ROUNDING)
            torch.testing.assert_close({n: g[i, k] for n, g in mapped[0].items()}, by_weights, **ROUNDING)


@pytest.mark.parametrize("options", [Options("LSTM", 2, True, projected=True), Options("RNN_TANH", 2)], ids=str)
def test_hessian_vector_products_both_ways(options):
    module, weights = make(options)
    x, v = double(STEPS, BATCH, INPUT_SIZE), double(STEPS, BATCH, INPUT_SIZE)

    def gradient(x):
        return grad(lambda x: loss_of(module)(weights, x))(x)

    _, forward_over_reverse = jvp(gradient, (x,), (v,))
    _, pull = vjp(gradient, x)
    torch.testing.assert_close(forward_over_reverse, pull(v)[0], **ROUNDING)
    reverse_over_forward = grad(lambda x: jvp(lambda x: loss_of(module)(weights, x), (x,), (v,))[1])(x)
    torch.testing.assert_close(forward_over_reverse, reverse_over_forward, **ROUNDING)


def test_hessian_by_weights():
    module, weights = make(Options("RNN_TANH"))
    x = double(STEPS, BATCH, INPUT_SIZE)

    def loss(weight):
        return loss_of(module)({**weights, "weight_hh_l0": weight}, x)

    weight = weights["weight_hh_l0"]
    torch.testing.assert_close(hessian(loss)(weight), jacrev(jacrev(loss))(weight), **ROUNDING)


def test_vmap_over_an_empty_batch():
    module, weights = make(Options("LSTM", 2, bidirectional=True))
    xs = double(COPIES, STEPS, 0, INPUT_SIZE)
    mapped = vmap(grad(loss_of(module)), in_dims=(None, 0))(weights, xs)
    assert all(g.shape == (COPIES, *weights[n].shape) and not g.any() for n, g in mapped.items())
