"""Forward-mode derivatives: an op without a rule of its own would answer with a zero tangent and no error."""

import pytest
import torch
from cases import CELLS, Options, all_options, build, make_hx, states_of, tensors_of
from recurrent_calls import BATCH, HIDDEN_SIZE, INPUT_SIZE, PACKED, ROUNDING, STEPS, Call
from torch.autograd import forward_ad
from torch.func import functional_call, jvp

import lstmfast


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
