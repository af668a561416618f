"""`lstmfast.reference` instead of the op, where torch maps what the op has no rule for: right, and slow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from ..ops import Options
from .full_precision import down, in_full_precision, up


@in_full_precision
def composite(
    options: Options, input: Tensor, mask: Tensor | None, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same call in differentiable torch operations."""
    dtype = input.dtype
    (input,), tensors = up((input,)), up(tensors)
    hx, weights = options.split(tensors)
    results = reference.recurrent(
        options.cell,
        input,
        options.batch_sizes,
        tuple(hx),
        weights,
        has_biases=options.has_biases,
        num_layers=options.num_layers,
        bidirectional=options.bidirectional,
        dropout=options.dropout,
        dropout_mask=mask,
    )
    return tuple(down(results, dtype))


def reference_gradient(
    options: Options,
    grads: Sequence[Tensor | None],
    input: Tensor,
    mask: Tensor | None,
    tensors: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """`gradient` by differentiating the reference."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        primals = [_alias(t) for t in (input, *tensors)]
        outputs = composite(options, primals[0], mask, primals[1:])
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o is not None and g is not None]
        results = torch.autograd.grad(
            [o for o, _ in pairs],
            [p for p, w in zip(primals, wanted, strict=True) if w],
            [g for _, g in pairs],
            create_graph=again,
            allow_unused=True,
        )
    found = iter(results)
    return [next(found) if w else None for w in wanted]


def reference_second_gradient(
    options: Options,
    wanted: Sequence[bool],
    second: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    input: Tensor,
    mask: Tensor | None,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of <second, gradients> by (*grads, input, *tensors), by differentiating the reference twice; needs is
    GradientFunction's, from grad_output on."""
    with torch.enable_grad():
        primals = [t if t is None else _alias(t) for t in (*grads, input, *tensors)]
        first = reference_gradient(options, primals[:3], primals[3], mask, primals[4:], wanted)
    pairs = [(f, s) for f, s in zip(first, second, strict=True) if f is not None and s is not None]
    needed = [*needs[:3], *needs[7:]]
    results = torch.autograd.grad(
        [f for f, _ in pairs],
        [p for p, need in zip(primals, needed, strict=True) if need],
        [s for _, s in pairs],
        allow_unused=True,
    )
    found = iter(results)
    return [next(found) if need else None for need in needed]


def _alias(t: Tensor) -> Tensor:
    """`t` to be differentiated by: tied weights, the same tensor twice, then get each gradient where it belongs."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
