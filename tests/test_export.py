"""torch.export and AOTInductor: programs of one opaque op that run where only lstmfast's ops are loaded."""

import pytest
import torch
from cases import Options, build
from subprocesses import run_python
from torch import nn
from torch.export import Dim, export

import lstmfast

OPTIONS = [
    Options("LSTM", 2, bidirectional=True),
    Options("LSTM", projected=True),
    Options("RNN_TANH", 2),
    Options("RNN_RELU", bidirectional=True, bias=False),
]
ANY_SIZES = {0: Dim("steps", min=2), 1: Dim("batch", min=2)}


class Model(nn.Module):
    def __init__(self, options):
        super().__init__()
        self.layer = build(lstmfast, options, 5, 8)
        self.read_out = nn.LazyLinear(2)
        self(torch.zeros(2, 2, 5))

    def forward(self, input):
        return self.read_out(self.layer(input)[0])


def exported(options, *, strict=False):
    torch.manual_seed(0)
    model = Model(options).eval()
    with torch.no_grad():
        program = export(model, (torch.randn(4, 3, 5),), dynamic_shapes=({**ANY_SIZES},), strict=strict)
    return model, program


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_round_trip(options, strict, tmp_path):
    model, program = exported(options, strict=strict)
    (call,) = (n for n in program.graph.nodes if n.target is torch.ops.lstmfast.forward.default)
    assert call.args[-1] is False  # nothing is kept for a backward that was not exported
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for steps, batch in ((4, 3), (11, 2), (2, 9)):
        x = torch.randn(steps, batch, 5)
        assert torch.equal(loaded(x), model(x))


def test_exported_with_grad_mode_it_can_be_trained():
    torch.manual_seed(0)
    model = Model(OPTIONS[0])
    program = export(model, (torch.randn(4, 3, 5),)).module()
    x = torch.randn(4, 3, 5)
    grads = [torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (model, program)]
    torch.testing.assert_close(*grads)


@pytest.mark.slow
def test_a_process_that_imports_only_the_ops(tmp_path):
    model, program = exported(OPTIONS[0])
    torch.export.save(program, tmp_path / "model.pt2")
    x = torch.randn(7, 2, 5)
    torch.save((x, model(x)), tmp_path / "expected.pt")
    code = """
import sys, torch, lstmfast.ops
program = torch.export.load(sys.argv[1] + "/model.pt2").module()
x, expected = torch.load(sys.argv[1] + "/expected.pt")
assert torch.equal(program(x), expected)
print("done")
"""
    assert run_python(code, str(tmp_path)).strip() == "done"


def test_decompositions_leave_the_op_whole():
    _, program = exported(OPTIONS[1])
    program = program.run_decompositions()
    assert any(n.target is torch.ops.lstmfast.forward.default for n in program.graph.nodes)


@pytest.mark.slow
def test_aot_inductor_package(tmp_path):
    model, program = exported(OPTIONS[0])
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    x = torch.randn(7, 2, 5)
    torch.testing.assert_close(torch._inductor.aoti_load_package(path)(x), model(x))
    torch.save((x, model(x)), tmp_path / "expected.pt")
    code = """
import sys, torch, lstmfast.ops
model = torch._inductor.aoti_load_package(sys.argv[1] + "/model.pt2")
x, expected = torch.load(sys.argv[1] + "/expected.pt")
torch.testing.assert_close(model(x), expected)
print("done")
"""
    assert run_python(code, str(tmp_path)).strip() == "done"
