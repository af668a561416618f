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

# (hidden size, batch): the general path, all of W_hh in one multiprocessor, and in several.
SIZES = [(17, 3), (64, 9), (384, 8)]


def main() -> None:
    torch.manual_seed(0)
    calls = list(itertools.product(CELLS, (torch.float32, torch.bfloat16), SIZES, (False, True)))
    calls += [("LSTM", dtype, SIZES[1], False) for dtype in (torch.float16, torch.float64)]
    for cell, dtype, (hidden_size, batch), packed in calls:
        projected = cell == "LSTM" and hidden_size == SIZES[0][0]
        module = build(lstmfast, Options(cell, projected=projected), 5, hidden_size, dtype=dtype, device="cuda")
        lengths = [4, *[3] * (batch - 1)] if packed else [4] * batch
        rows, padded = make_packed(lengths, 5, dtype=dtype, device="cuda", requires_grad=True)
        hx = make_hx(module, batch, requires_grad=True)
        outputs = tensors_of(module(rows if packed else padded, hx))
        grads = torch.autograd.grad([o.float().sum() for o in outputs], [padded, *states_of(hx), *module.parameters()])
        torch.cuda.synchronize()
        assert all(t.isfinite().all() for t in (*outputs, *grads))
    print(f"{len(calls)} calls, forward and backward")


if __name__ == "__main__":
    main()
