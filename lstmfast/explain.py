"""What the kernels' planners decide for a call, in words."""

from __future__ import annotations

import torch
from torch import nn

from . import _C

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_TOO_MANY = 1 << 48  # rows; the planners count bytes and operations in 64 bits


def explain(module: nn.RNNBase, steps: int, batch: int, *, gpu: str | None = None) -> str:
    """Which kernels run a call of `module`, and how they cut the work, one line for each layer and pass.

        print(lstmfast.explain(lstmfast.LSTM(64, 256), steps=100, batch=32, gpu="H200"))

    Both directions of a bidirectional layer are planned alike; on a GPU the line says whether they, or all layers, go
    through one launch. Nothing is run, and no GPU is needed. Microseconds are what the planner's model of the GPU
    expects of a step; nobody has measured them.

    Args:
        module: lstmfast's or torch.nn's LSTM or RNN; its sizes, dtype and device count.
        steps, batch: T and B of the input, both at least 1.
        gpu: plan for this GPU, one of ``"A100"``, ``"RTX 3090"``, ``"RTX 4090"``, ``"H100"``, ``"H200"``, ``"B200"``.
            None: for the device of the module's weights, which is planned with torch's present number of threads if it
            is a CPU.

    Returns:
        The text, without a newline at its end.

    Raises:
        TypeError: steps or batch is no integer.
        ValueError: an unknown GPU, a module of another kind, a dtype without kernels, or steps or batch below 1, or so
            large that nothing could hold the input.
    """
    if getattr(module, "mode", None) not in _C.cells():
        raise ValueError(f"explain() knows LSTM and RNN modules, not {type(module).__name__}")
    if not (isinstance(steps, int) and isinstance(batch, int)):
        raise TypeError(f"steps and batch must be integers, got {type(steps).__name__} and {type(batch).__name__}")
    if steps < 1 or batch < 1 or steps * batch >= _TOO_MANY:
        raise ValueError(f"steps and batch must be at least 1, and their product below 2**48, got {steps} and {batch}")
    if gpu is not None and gpu not in _C.gpu_names():
        raise ValueError(f"no GPU is described as {gpu!r}: gpu must be one of {', '.join(_C.gpu_names())}")
    weight = module.weight_ih_l0
    dtype = str(weight.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise ValueError(f"the weights must have one of the dtypes {', '.join(_DTYPES)}, not {dtype}")
    device = gpu if gpu is not None else _device_name(weight.device)
    lines = [f"{module.mode}, {dtype}, {steps} steps of {batch} sequences, on {device}"]
    directions = 2 if module.bidirectional else 1
    output = (module.proj_size or module.hidden_size) * directions
    sizes = [
        (steps, batch, output if layer else module.input_size, module.hidden_size, module.proj_size)
        for layer in range(module.num_layers)
    ]
    if gpu is None and weight.device.type != "cuda":
        lines += [f"  layer {layer}: {_cpu_plan(module.mode, each, dtype)}" for layer, each in enumerate(sizes)]
        return "\n".join(lines)
    target = gpu if gpu is not None else weight.device.index
    forward, backward = (_cuda_plans(module.mode, dtype, sizes, directions, back, target) for back in (False, True))
    for layer in range(module.num_layers):
        lines += [f"  layer {layer}, forward: {forward[layer]}", f"  layer {layer}, backward: {backward[layer]}"]
    return "\n".join(lines)


def _cuda_plans(
    cell: str, dtype: str, sizes: list[tuple[int, ...]], directions: int, backward: bool, target: str | int
) -> list[str]:
    """A plan for each layer; those that go at once have the same. Backward begins with the last."""
    plans: list[str] = []
    while len(plans) < len(sizes):
        runs = (directions, len(sizes) - len(plans))
        plan = _C.cuda_plan(cell, dtype, *sizes[0], *runs, backward, _C.allow_tf32(), target)
        plans += [plan["text"]] * plan["layers"]
    return plans[::-1] if backward else plans


def _cpu_plan(cell: str, sizes: tuple[int, ...], dtype: str) -> str:
    inference, plan = (
        _C.plan(cell, *sizes, threads=torch.get_num_threads(), dtype=dtype, training=training)
        for training in (False, True)
    )
    threads = f"{plan['threads']} thread{'s' * (plan['threads'] > 1)}"
    if plan["threads"] > 1:
        threads += f", split by {'sequences' if plan['split'] == 'batch' else 'hidden units'}"
    weights = "read in place" if plan["in_place"] else "packed"
    if inference["in_place"] != plan["in_place"]:
        weights += " in training, packed in inference"
    return (
        f"{_C.isa()}, {threads}; blocks of {plan['forward_steps']} steps forward and {plan['backward_steps']} "
        f"backward; weights {weights}"
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
