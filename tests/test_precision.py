"""torch.set_float32_matmul_precision: read once a call, handed to backward, without meaning where nothing is faster."""

import pytest
import torch

import lstmfast
from lstmfast import _C, ops


@pytest.fixture(autouse=True)
def precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def _step(module, x, backward_at=None):
    """Output and gradients of a training step, whose backward runs under another setting."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    y, _ = module(x)
    if backward_at is not None:
        torch.set_float32_matmul_precision(backward_at)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("name", ["highest", "high", "medium"])
def test_the_setting_is_read(name):
    torch.set_float32_matmul_precision(name)
    assert _C.float32_precision() == name


def test_a_mixed_setting_is_read_too():
    torch.set_float32_matmul_precision("highest")
    before = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # torch.get_float32_matmul_precision() would raise now
        assert _C.float32_precision() == "medium"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize("level", _C.isa_levels())
@pytest.mark.parametrize("name", ["high", "medium"])
def test_results(name, level):
    _C.set_isa(level)
    torch.manual_seed(0)
    module, x = lstmfast.LSTM(11, 20, num_layers=2), torch.randn(6, 9, 11)
    exact = _step(module.double(), x.double())
    module = module.float()
    torch.set_float32_matmul_precision("highest")
    highest = _step(module, x)
    torch.set_float32_matmul_precision(name)
    reduced = _step(module, x)
    if "amx" not in level:
        assert all(torch.equal(a, b) for a, b in zip(highest, reduced, strict=True))
        return
    assert not torch.equal(highest[0], reduced[0])
    # 2^-9 for each rounded operand, 2^-17 for the sum of two; a dozen products of them follow each other.
    bound = {"high": 2**-13, "medium": 2**-5}[name]
    for a, b in zip(exact, reduced, strict=True):
        assert (a - b).abs().max() <= bound * a.abs().max()


@pytest.mark.parametrize("level", [level for level in _C.isa_levels() if "amx" in level])
def test_packed_weights_are_told_apart(level):
    _C.set_isa(level)
    module, x = lstmfast.LSTM(11, 20), torch.randn(6, 9, 11)
    results = []
    with torch.no_grad():
        for name in ("highest", "medium", "high", "highest", "medium", "high"):
            torch.set_float32_matmul_precision(name)
            results.append(module(x)[0])
    assert all(torch.equal(a, b) for a, b in zip(results[:3], results[3:], strict=True))
    assert not torch.equal(results[0], results[1])
    assert not torch.equal(results[1], results[2])


def test_backward_computes_as_forward_did(monkeypatch):
    monkeypatch.setattr(ops, "_CPU_HAS_TILES", True)
    seen = []
    for name in ("forward", "backward"):
        op = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, op=op: (seen.append(a[-1]), op(*a))[1])
    module, x = lstmfast.LSTM(11, 20), torch.randn(6, 9, 11)
    torch.set_float32_matmul_precision("medium")
    medium = _step(module, x)
    assert seen == ["medium", "medium"]
    torch.set_float32_matmul_precision("medium")
    changed = _step(module, x, backward_at="highest")
    assert seen[2:] == ["medium", "medium"]
    assert all(torch.equal(a, b) for a, b in zip(medium, changed, strict=True))


def test_other_types_do_not_ask():
    assert ops.float32_precision(torch.empty(1, dtype=torch.bfloat16)) is None


def test_an_unknown_precision_is_refused():
    weights = [torch.randn(4, 2), torch.randn(4, 4), torch.randn(4), torch.randn(4)]
    arguments = ("RNN_TANH", torch.randn(3, 1, 2), None, [], weights, None, True, 1, False, 0.0, False)
    with pytest.raises(ValueError, match="float32_precision must be 'highest', 'high' or 'medium', got 'low'"):
        torch.ops.lstmfast.forward(*arguments, float32_precision="low")


@pytest.mark.skipif("avx512_amx" in _C.isa_levels(), reason="this machine has AMX")
def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no ISA level 'avx512_amx'"):
        _C.set_isa("avx512_amx")
