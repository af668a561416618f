"""recompute=True beside the rest of torch: what autograd is asked for, autocast, transforms, copies, bad arguments."""

import copy
import pickle

import pytest
import torch
from cases import Options, build, build_pair, gradients, tensors_of
from module_pairs import INPUT_SIZE, ROUNDING, both_cells, outcome, randn
from recurrent_calls import PACKED, Call, only
from test_recompute import OPTIONS, call_in_layout, is_recomputed
from torch import nn
from torch.func import grad, jvp, vmap

import lstmfast

# ---- autograd


@PACKED
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_only_what_is_asked_for(options, packed, chunks_of):
    chunks_of(1)
    call = Call(options, packed=packed, recompute=True)

    def backward(names):
        leaves = only(call, names)
        outputs = call(*leaves)
        sum((o * torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)).sum() for o in outputs).backward()
        return dict(zip(call.names, (leaf.grad for leaf in leaves), strict=True))

    everything = backward(call.names)
    last = [name for name in call.names if f"_l{options.num_layers - 1}" in name]
    for names in (["input"], ["h0"], last, last[:1], ["weight_hh_l0"], ["input", *last]):
        for name, gradient in backward(names).items():
            assert (gradient is not None) == (name in names)
            assert gradient is None or torch.equal(gradient, everything[name]), name


@pytest.mark.parametrize("chosen", [[0], [1], [2], [1, 2]])
def test_gradients_of_some_outputs(chosen, chunks_of):
    chunks_of(3)
    theirs, ours = build_pair(OPTIONS[1], INPUT_SIZE, 5)
    ours.recompute = True
    results = []
    for module in (theirs, ours):
        outputs, leaves = call_in_layout(module, "packed", True)
        results.append(torch.autograd.grad(sum(outputs[i].sum() for i in chosen), leaves, allow_unused=True))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, torch.zeros_like(actual) if expected is None else expected, **ROUNDING)


@pytest.mark.parametrize("what", ["input", "h0", "weight_ih_l0"])
def test_what_is_needed_again_must_not_be_modified(what, chunks_of):
    chunks_of(1)
    call = Call(Options("LSTM", 2), recompute=True)
    output = call(*call.leaves)[0]
    with torch.no_grad():
        call.leaves[call.names[what]].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_backward_again_and_with_what_is_kept_elsewhere(chunks_of):
    chunks_of(3)
    module = lstmfast.LSTM(3, 5, 2, bidirectional=True, recompute=True)
    x = torch.randn(11, 4, 3)
    with torch.autograd.graph.save_on_cpu():
        output = module(x)[0]
    first, second = (torch.autograd.grad(output.sum(), module.parameters(), retain_graph=True) for _ in range(2))
    output = output.mul_(2)  # nothing of it is kept, so it may be written to
    third = torch.autograd.grad(output.sum(), module.parameters())
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(2 * a, c)


def test_derivatives_of_gradients_and_transforms(chunks_of):
    """They take the usual way, or recompute the whole call: the same bits."""
    chunks_of(3)
    module, results = lstmfast.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64), []
    x, t = randn(11, 4, 3, requires_grad=True), randn(11, 4, 3)
    for module.recompute in (False, True):
        loss = lambda x: module(x)[0].square().sum()  # noqa: E731
        (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), [x, *module.parameters()])
        batched = torch.autograd.grad(module(x)[0], x, randn(2, 11, 4, 10).fill_(1), is_grads_batched=True)
        mapped = vmap(grad(loss), in_dims=1)(x.detach().unsqueeze(2))
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)(x)[0]
        (through_graph,) = torch.autograd.grad(compiled.sum(), x)
        results.append([slope, *second, *batched, mapped, *jvp(loss, (x,), (t,)), compiled, through_graph])
    for usual, again in zip(*results, strict=True):
        torch.testing.assert_close(again, usual, **ROUNDING)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype, chunks_of):
    chunks_of(5)
    module, results = lstmfast.LSTM(3, 8, 2), []
    x = torch.randn(40, 4, 3, requires_grad=True)
    for module.recompute in (False, True):
        with torch.autocast("cpu", dtype=dtype):
            output, _ = module(x)
            assert output.dtype == dtype
            loss = output.float().square().mean()
        results.append([output, *torch.autograd.grad(loss, [x, *module.parameters()])])
    for usual, again in zip(*results, strict=True):
        assert usual.dtype == again.dtype
        # Both are rounded to the type once; the rows that enter the second layer, in the usual way, once more.
        torch.testing.assert_close(again, usual, rtol=0, atol=4 * torch.finfo(dtype).eps * usual.abs().max().item())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_changes(mode, chunks_of):
    chunks_of(3)
    module, x = lstmfast.LSTM(3, 5, 2), torch.randn(11, 4, 3)
    with mode():
        usual, module.recompute = module(x)[0], True
        assert torch.equal(module(x)[0], usual)


# ---- the option


@both_cells
def test_copies_and_conversions(options):
    module = build(lstmfast, options, 3, 4, recompute=True)
    assert repr(module).endswith(", recompute=True)")
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.recompute
    theirs = lstmfast.to_torch(copy.deepcopy(module))
    assert repr(theirs) == repr(build(nn, options, 3, 4))
    theirs(torch.randn(5, 2, 3))
    assert lstmfast.convert(theirs).recompute  # to_torch leaves the attribute, which torch.nn does not read
    assert not lstmfast.convert(build(nn, options, 3, 4)).recompute
    state = module.__getstate__()
    del state["recompute"]  # a pickle of before
    revived = type(module).__new__(type(module))
    revived.__setstate__(state)
    assert revived.recompute is False
    with pytest.raises(TypeError, match="recompute should be of type bool"):
        build(lstmfast, options, 3, 4, recompute=1)


def test_functions(chunks_of):
    chunks_of(3)
    for options in OPTIONS:
        module, results = build(lstmfast, options, 3, 5), []
        function = lstmfast.lstm if options.cell == "LSTM" else lstmfast.rnn
        kind = {} if options.cell == "LSTM" else {"nonlinearity": module.nonlinearity}
        for recompute in (False, True):
            call = {"bias": options.bias, "num_layers": options.num_layers, "bidirectional": options.bidirectional}
            x = torch.ones(11, 4, 3)
            outputs = tensors_of(function(x, None, list(module.parameters()), recompute=recompute, **call, **kind))
            assert is_recomputed(outputs[0]) == recompute
            results.append([*outputs, *gradients(outputs, list(module.parameters()))])
        torch.testing.assert_close(*results)


BAD = {
    "a rank": {"input": torch.zeros(11, 3)},
    "features": {"input": torch.zeros(11, 4, 2)},
    "no step": {"input": torch.zeros(0, 4, 3)},
    "a type": {"input": torch.zeros(11, 4, 3, dtype=torch.float64)},
    "sequences of h0": {"hx": (torch.zeros(4, 5, 5), torch.zeros(4, 4, 5))},
    "runs of c0": {"hx": (torch.zeros(4, 4, 5), torch.zeros(3, 4, 5))},
    "features of c0": {"hx": (torch.zeros(4, 4, 5), torch.zeros(4, 4, 6))},
    "type of h0": {"hx": (torch.zeros(4, 4, 5, dtype=torch.float64), torch.zeros(4, 4, 5))},
    "growing batch_sizes": {"input": torch.zeros(9, 3), "batch_sizes": torch.tensor([2, 2, 2, 3])},
    "rows left over": {"input": torch.zeros(9, 3), "batch_sizes": torch.tensor([2, 2, 2, 2])},
    "rows missing": {"input": torch.zeros(7, 3), "batch_sizes": torch.tensor([2, 2, 2, 2])},
    "an empty step": {"input": torch.zeros(6, 3), "batch_sizes": torch.tensor([2, 2, 2, 0])},
    "int32 batch_sizes": {"input": torch.zeros(8, 3), "batch_sizes": torch.tensor([2, 2, 2, 2], dtype=torch.int32)},
    "layers": {"num_layers": 3},
    "no layers": {"num_layers": 0},
    "one direction": {"bidirectional": False},
    "a kind": {"bidirectional": "no"},
    "dropout": {"dropout": 1.5},
}


@pytest.mark.parametrize("wrong", BAD.values(), ids=BAD)
def test_the_same_refusals(wrong, chunks_of):
    chunks_of(2)
    weights = list(lstmfast.LSTM(3, 5, 2, bidirectional=True).parameters())
    arguments = {"input": torch.zeros(11, 4, 3), "hx": None, "num_layers": 2, "bidirectional": True, "training": True}
    usual, again = (
        outcome(lambda r=r: lstmfast.lstm(weights=weights, **(arguments | wrong), recompute=r)) for r in (False, True)
    )
    assert usual[0] is not None
    assert again == usual
