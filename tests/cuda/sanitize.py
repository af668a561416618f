"""A small set of calls for compute-sanitizer, under which a kernel takes many times as long; see docs/gpu-check.md.

compute-sanitizer --tool racecheck python tests/cuda/sanitize.py
"""

import itertools
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from cases import CELLS, Options, build, make_hx, make_packed, states_of, tensors_of  # noqa: E402

import lstmfast  # noqa: E402
from lstmfast import _C  # noqa: E402

STEPS, INPUT = 4, 5
PLANNERS, GENERAL = -1, -2  # see choose_cuda_plans() in lstmfast/_C.pyi
FUSED = "fused steps"
# (hidden size, batch, layers, plans): the general path; what the planner of an H200 takes for all of W_hh in one
# multiprocessor, in a cluster, in more than that; a stack of layers; and steps in one kernel.
SIZES = [(17, 3, 1, GENERAL), *((h, b, 1, PLANNERS) for h, b in ((17, 3), (64, 9), (128, 9), (384, 8)))]
SIZES += [(256, 8, 2, PLANNERS), (17, 3, 1, FUSED), (64, 1, 1, FUSED)]
CALLS = list(itertools.product(CELLS, (torch.float32, torch.bfloat16), SIZES, (False, True)))
CALLS += [("LSTM", dtype, SIZES[2], False) for dtype in (torch.float16, torch.float64)]


def choices(options: Options, dtype: torch.dtype, size: tuple, gpu: int | str = 0) -> tuple[int, int]:
    """What choose_cuda_plans() gets for a size of SIZES. Fused steps are the last candidate of forward, which alone has
    them."""
    hidden_size, batch, layers, plans = size
    if plans != FUSED:
        return plans, plans
    sizes = (STEPS, batch, INPUT, hidden_size, options.proj_size(hidden_size), 1, layers)
    plan = _C.cuda_plan(options.cell, str(dtype).removeprefix("torch."), *sizes, False, False, gpu)
    return plan["candidates"] - 1, PLANNERS


def main() -> None:
    torch.manual_seed(0)
    for cell, dtype, size, packed in CALLS:
        hidden_size, batch, layers, _ = size
        options = Options(cell, layers, projected=cell == "LSTM" and hidden_size == 17)
        _C.choose_cuda_plans(*choices(options, dtype, size))
        module = build(lstmfast, options, INPUT, hidden_size, dtype=dtype, device="cuda")
        lengths = [STEPS, *[STEPS - 1] * (batch - 1)] if packed else [STEPS] * batch
        rows, padded = make_packed(lengths, INPUT, dtype=dtype, device="cuda", requires_grad=True)
        hx = make_hx(module, batch, requires_grad=True)
        outputs = tensors_of(module(rows if packed else padded, hx))
        grads = torch.autograd.grad([o.float().sum() for o in outputs], [padded, *states_of(hx), *module.parameters()])
        torch.cuda.synchronize()
        assert all(t.isfinite().all() for t in (*outputs, *grads))
    print(f"{len(CALLS)} calls, forward and backward")


if __name__ == "__main__":
    main()
