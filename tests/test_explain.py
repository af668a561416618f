"""lstmfast.explain: plans in words, for this machine's CPU and for GPUs that need not be there."""

import re

import pytest
import torch
from cases import CELLS, Options, build
from torch import nn

import lstmfast
from lstmfast import _C


@pytest.mark.parametrize("package", [nn, lstmfast], ids=["torch", "lstmfast"])
@pytest.mark.parametrize("cell", CELLS)
def test_cpu(cell, package):
    module = build(package, Options(cell, 2, bidirectional=True), 5, 100)
    lines = lstmfast.explain(module, steps=20, batch=7).splitlines()
    assert lines[0] == f"{cell}, float32, 20 steps of 7 sequences, on the CPU"
    plan = _C.plan(cell, 20, 7, 5, 100, threads=torch.get_num_threads())
    assert len(lines) == 3
    assert f"blocks of {plan['forward_steps']} steps forward and {plan['backward_steps']} backward" in lines[1]


@pytest.mark.parametrize(
    ("steps", "said"), [(1, "read in place"), (40, "read in place in training, packed in inference"), (99, "packed")]
)
def test_cpu_tells_how_weights_are_read(steps, said):
    assert lstmfast.explain(lstmfast.LSTM(8, 16), steps, batch=1).endswith(f"; weights {said}")


@pytest.mark.parametrize("gpu", _C.gpu_names())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_gpus_by_name(dtype, gpu):
    module = lstmfast.LSTM(64, 128, num_layers=2, dtype=dtype, device="meta")
    lines = lstmfast.explain(module, steps=100, batch=16, gpu=gpu).splitlines()
    assert lines[0].endswith(f"on {gpu}")
    assert [line.split(":")[0] for line in lines[1:]] == [
        f"  layer {layer}, {direction}" for layer in range(2) for direction in ("forward", "backward")
    ]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_both_directions_of_a_layer_share_a_launch(bidirectional):
    module = lstmfast.LSTM(64, 256, bidirectional=bidirectional, dtype=torch.bfloat16, device="meta")
    lines = lstmfast.explain(module, steps=100, batch=16, gpu="H200").splitlines()
    assert len(lines) == 3
    assert all(("both directions in one launch" in line) == bidirectional for line in lines[1:])


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"num_layers": 1}, {"num_layers": 2, "proj_size": 64}], ids=str)
def test_layers_share_a_launch(options):
    module = lstmfast.LSTM(64, 256, dtype=torch.bfloat16, device="meta", **options)
    lines = lstmfast.explain(module, steps=100, batch=16, gpu="H200").splitlines()
    at_once = options == {"num_layers": 2}
    assert all(("2 layers in one launch" in line) == at_once for line in lines[1:])


def test_more_layers_than_fit_go_in_several_launches():
    module = lstmfast.LSTM(64, 512, 9, dtype=torch.bfloat16, device="meta")
    lines = lstmfast.explain(module, steps=100, batch=16, gpu="H200").splitlines()
    for way, order in (("forward", 1), ("backward", -1)):
        texts = [line.partition(": ")[2] for line in lines if f", {way}: " in line][::order]
        assert len(texts) == 9
        at_once = re.search(r"(\d) layers in one launch", texts[0])
        assert at_once is not None
        count = int(at_once[1])
        assert 1 < count < 9
        assert set(texts[:count]) == {texts[0]}


def test_times_are_marked_as_a_models():
    lines = lstmfast.explain(lstmfast.LSTM(64, 128), steps=100, batch=16, gpu="H200").splitlines()
    assert all(re.search(r"\d\.\d\d us a step by a model, not measured$", line) for line in lines[1:])


def test_candidates():
    arguments = ("LSTM", "bfloat16", 100, 16, 256, 256, 0, 1, 1, False, False, "H200")
    chosen, general = _C.cuda_plan(*arguments), _C.cuda_plan(*arguments, choice=-2)
    plans = [_C.cuda_plan(*arguments, choice=i) for i in range(chosen["candidates"])]
    assert chosen["text"] in {plan["text"] for plan in plans}
    assert len({plan["text"] for plan in plans}) == len(plans) > 3
    assert chosen["microseconds"] <= min(plan["microseconds"] for plan in plans)
    assert {plan["regime"] for plan in plans} == {"cluster", "whole GPU"}
    assert general["regime"] == "general"
    with pytest.raises(ValueError, match="at least -2"):
        _C.cuda_plan(*arguments, choice=-3)
    with pytest.raises(ValueError, match="at least -2"):
        _C.choose_cuda_plans(backward=-3)


def test_tf32_setting_counts():
    module = lstmfast.LSTM(64, 128)
    texts = []
    allowed = torch.backends.cudnn.allow_tf32
    try:
        for torch.backends.cudnn.allow_tf32 in (False, True):
            assert _C.allow_tf32() == torch.backends.cudnn.allow_tf32
            texts.append(lstmfast.explain(module, steps=100, batch=16, gpu="H200"))
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
    assert texts[0] != texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.GRU(3, 4), 2, 2), "not GRU"),
        ((nn.Linear(3, 4), 2, 2), "not Linear"),
        ((nn.LSTM(3, 4), 0, 2), "at least 1"),
        ((nn.LSTM(3, 4), 2, -1), "at least 1"),
        ((nn.LSTM(3, 4), 2**40, 2**40), "product below 2"),
        ((nn.LSTM(3, 4, dtype=torch.complex64), 2, 2), "float16, not complex64"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        lstmfast.explain(*arguments)


def test_gpu_info():
    info = _C.gpu_info("H200")
    assert info["multiprocessors"] == 132
    assert info["capability"] == (9, 0)
    assert info["persistent"]
    if lstmfast.build_info()["cuda"] is None:
        with pytest.raises(ValueError, match="no CUDA"):
            _C.gpu_info(0)


def test_unknown_gpu_is_refused():
    with pytest.raises(ValueError, match="no GPU is described as 'Voodoo2': gpu must be one of A100, "):
        lstmfast.explain(nn.LSTM(3, 4), 2, 2, gpu="Voodoo2")
    assert all(f'"{name}"' in lstmfast.explain.__doc__ for name in _C.gpu_names())


@pytest.mark.parametrize("sizes", [(1.5, 2), (2, "2")])
def test_sizes_are_integers(sizes):
    with pytest.raises(TypeError, match="steps and batch must be integers"):
        lstmfast.explain(nn.LSTM(3, 4), *sizes)


@pytest.mark.skipif(lstmfast.build_info()["cuda"] is not None, reason="this build has CUDA kernels")
def test_calls_with_cuda_tensors_are_refused_by_a_build_without_cuda():
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    arguments = ("LSTM", torch.zeros(1, 1, 1), None, [], [torch.zeros(4, 1)] * 2, None, False, 1, False, 0.0, False)
    with pytest.raises(NotImplementedError, match="was built without CUDA"):
        torch.ops.lstmfast.forward.default.redispatch(keys, *arguments)
