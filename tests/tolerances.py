"""How far results may be from exact: one table, and the comparison that uses it.

"Exact" is a float64 computation from the same rounded inputs and weights. An error is the largest absolute difference
in a tensor, and a unit is one ulp of the largest value in it or, where that is more, the tensor's wobble: how far the
exact result moves when every input and weight moves by up to an ulp. No computation can be asked to be surer of its
result than its arguments are, and the wobble is what that means where a result is the small difference of large
numbers, or where relu's derivative jumps.

    our error  <=  FACTOR * torch.nn's own error  +  FLOOR * unit

FACTOR is 2, because of two equally good ways to add the same numbers one is often twice as lucky. The rule needs no
factor, only the exceptions do: in tensors of more than 1000 elements our error is, at the median, 1.0 to 1.1 times
torch's in float32, and 0.4 to 0.5 times in the half types, which are accumulated in float32 here; in 5 of 100 it is
more than 3 to 4 times torch's in float32. test_parity.py sees to it that the median stays below FACTOR.

FLOOR is for the tensors in which torch has next to no error by luck, which few elements and T = 1 make common, and for
sums whose order differs: ours are one chain of additions, torch's for one sequence are many short ones. It is about
twice the largest number of units that was needed beside FACTOR in 4,500 tensors a dtype at three instruction sets:

              outputs   gradients   needed
    float64      20        128      11, 63    torch and the reference share most roundings: FLOOR does all the work
    float32      16         80       8, 40    40 once, in a sum of 1221 terms that cancel; otherwise 17
    bfloat16      1          4       0, 2.5   2.5 once, where one unit of a relu changed sides; otherwise 1.2
    float16       1          2       0, 0.9
"""

from typing import NamedTuple

import torch
from torch import Tensor

FACTOR = 2.0


class Floor(NamedTuple):
    outputs: float
    gradients: float


FLOORS = {
    torch.float64: Floor(outputs=20, gradients=128),
    torch.float32: Floor(outputs=16, gradients=80),
    torch.bfloat16: Floor(outputs=1, gradients=4),
    torch.float16: Floor(outputs=1, gradients=2),
}


def error(actual: Tensor, exact: Tensor) -> float:
    """The largest absolute difference; 0 for empty tensors."""
    return (actual.detach().double() - exact.detach()).abs().max().item() if exact.numel() else 0.0


def unit(exact: Tensor, dtype: torch.dtype, wobble: float = 0.0) -> float:
    """What FLOOR counts. Results below the dtype's normal numbers may be flushed to zero."""
    largest = exact.detach().abs().max().item() if exact.numel() else 0.0
    return max(torch.finfo(dtype).eps * largest, wobble, torch.finfo(dtype).tiny)


def assert_no_worse(
    ours: Tensor,
    theirs: Tensor | None,
    exact: Tensor,
    dtype: torch.dtype,
    what: str,
    *,
    gradient: bool = False,
    wobble: float = 0.0,
) -> None:
    """Fails if our error is larger than the table allows; theirs None: torch has no result, FLOOR alone counts.

    exact is float64 and finite; wobble is how far it moves with its arguments, absolute."""
    assert exact.dtype == torch.float64
    assert exact.isfinite().all(), f"{what}: the exact result is not finite"
    assert ours.dtype == dtype
    assert ours.shape == exact.shape
    floor = FLOORS[dtype].gradients if gradient else FLOORS[dtype].outputs
    our_error, one = error(ours, exact), unit(exact, dtype, wobble)
    their_error = 0.0 if theirs is None else error(theirs, exact)
    # Written so that a NaN among ours fails; among theirs (an overflow in a half type) it does not excuse anything.
    allowed = floor * one + (FACTOR * their_error if their_error < float("inf") else 0.0)
    assert our_error <= allowed, (
        f"{what}: error {our_error:.3g} is {our_error / one:.3g} units of {one:.3g}; torch's is {their_error:.3g}; "
        f"allowed are {FACTOR:g} times that and {floor:g} units: {allowed:.3g}"
    )
