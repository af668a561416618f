"""Derivatives on the GPU: finite differences in float64, only those asked for, again and again, and of second order."""

import pytest
import torch
from cases import CELLS, Options, all_options, make_packed, run_reference, tensors_of
from recurrent_calls import PACKED, Call
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

import lstmfast
from lstmfast import ops


@PACKED
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_gradcheck(options, packed):
    call = Call(options, packed=packed, device="cuda")
    assert torch.autograd.gradcheck(call, call.leaves, fast_mode=options.num_layers > 1)


@PACKED
@pytest.mark.parametrize("cell", CELLS)
def test_second_derivatives(cell, packed):
    call = Call(Options(cell, 2, bidirectional=True), packed=packed, device="cuda")
    assert torch.autograd.gradgradcheck(call, call.leaves, fast_mode=True)


@PACKED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("options", "hidden_size"),
    [
        (Options("LSTM", 2, bidirectional=True, projected=True), 6),
        (Options("LSTM"), 64),
        (Options("LSTM"), 512),
        (Options("RNN_TANH", 2), 256),
    ],
    ids=str,
)
def test_one_gradient_alone_is_the_same(options, hidden_size, dtype, packed):
    call = Call(options, hidden_size, packed=packed, dtype=dtype, device="cuda")
    outputs = call(*call.leaves)
    loss = sum(o.float().sin().sum() for o in outputs)
    together = torch.autograd.grad(loss, call.leaves, retain_graph=True)
    for i, expected in enumerate(together):
        leaves = [leaf.detach().requires_grad_(k == i) for k, leaf in enumerate(call.leaves)]
        alone = sum(o.float().sin().sum() for o in call(*leaves))
        assert torch.equal(torch.autograd.grad(alone, leaves[i])[0], expected), i
    again = torch.autograd.grad(loss, call.leaves)
    assert all(torch.equal(a, b) for a, b in zip(again, together, strict=True))


def test_backward_in_evaluation():
    module = lstmfast.LSTM(3, 4, num_layers=2, dropout=0.5, device="cuda").eval()
    input = torch.randn(5, 2, 3, device="cuda", requires_grad=True)
    module(input)[0].sum().backward()
    assert input.grad.abs().sum() > 0


def test_dropout_is_repeated_by_the_seed():
    module = lstmfast.LSTM(8, 64, num_layers=2, dropout=0.25, device="cuda")
    input = torch.randn(20, 32, 8, device="cuda")
    results = []
    for seed in (1, 1, 2):
        torch.cuda.manual_seed(seed)
        results.append(module(input)[0].detach())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    module.eval()
    assert torch.equal(module(input)[0], module(input)[0])


def test_dropout_mask():
    module = lstmfast.LSTM(8, 64, num_layers=2, device="cuda", dtype=torch.float64)
    input = torch.randn(20, 32, 8, device="cuda", dtype=torch.float64)
    mask = torch.rand(1, 20, 32, 64, device="cuda") < 0.75
    expected = run_reference(module, input, dropout=0.25, dropout_mask=mask)
    actual = ops.forward("LSTM", input, None, [], list(module.parameters()), mask, True, 2, False, 0.25, False)
    # float64: the same sums in another order, some thousand terms of about 1, each rounded to 1e-16.
    torch.testing.assert_close(list(actual[:3]), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("module", [lstmfast.LSTM, lstmfast.RNN])
def test_autocast(module, dtype):
    layer = module(5, 7, num_layers=2, bidirectional=True, device="cuda")
    input = torch.randn(6, 3, 5, device="cuda")
    with torch.autocast("cuda", dtype):
        outputs = tensors_of(layer(input))
        loss = outputs[0].float().sum()
    gradient = torch.autograd.grad(loss, layer.weight_hh_l0)[0]
    assert {o.dtype for o in outputs} == {dtype}
    assert gradient.dtype == torch.float32
    converted = module(5, 7, num_layers=2, bidirectional=True, device="cuda", dtype=dtype)
    converted.load_state_dict(layer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(outputs, tensors_of(converted(input.to(dtype))), strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@PACKED
def test_compiles_without_graph_break(backend, packed):
    module = lstmfast.LSTM(5, 64, num_layers=2, bidirectional=True, device="cuda")
    rows, leaf = make_packed([4, 4, 2], 5, dtype=torch.float32, device="cuda")
    input = rows if packed else leaf
    results = []
    for call in (module, torch.compile(module, fullgraph=True, backend=backend)):
        outputs = tensors_of(call(input))
        results.append([*outputs, *torch.autograd.grad(outputs[0].square().sum(), list(module.parameters()))])
    # float32: the compiler may fuse what surrounds the op, which rounds the loss's gradient differently.
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@PACKED
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_fake_kernels_know_the_results(dtype, projected, packed):
    """Shapes, dtypes and devices; the reserve's width depends on the dtype here."""
    call = Call(Options("LSTM", 2, True, projected=projected), 5, packed=packed, dtype=dtype, device="cuda")
    input, *others = call.leaves
    hx, weights = others[: call.states], others[call.states :]
    tensors = (input, call.batch_sizes, hx, weights)

    def run(input, batch_sizes, hx, weights):
        call = ("LSTM", input, batch_sizes, hx, weights, None, True, 2, True, 0.0)
        output, h_n, c_n, hidden, reserve = lstmfast.ops.forward(*call, True)
        wanted = [True] * (1 + len(hx) + len(weights))
        grads = lstmfast.ops.backward(output, h_n, c_n, *call, output, hidden, reserve, wanted)
        return tree_leaves((output, h_n, c_n, hidden, reserve, grads))

    with torch.no_grad():
        real = run(*tensors)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fake = run(*tree_map_only(torch.Tensor, lambda t: mode.from_tensor(t.detach()) if t.is_cuda else t, tensors))
    for r, f in zip(real, fake, strict=True):
        assert (r.shape, r.dtype, r.device, r.stride()) == (f.shape, f.dtype, f.device, f.stride())
