"""The call and its gradient as functions that torch.autograd records, and functorch maps and differentiates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops import Options
from . import second_order
from .derivatives import Stack
from .fallback import reference_gradient, reference_second_gradient
from .full_precision import down, in_full_precision, up
from .mapping import Fold, each, weights_are_mapped
from .torch_state import asked_for, is_batched, is_recorded


class RecurrentFunction(torch.autograd.Function):
    """The op with its gradient. Inputs: options, input, dropout mask, *hx, *weights."""

    @staticmethod
    def forward(ctx, options: Options, input: Tensor, mask: Tensor | None, *tensors: Tensor):
        output, h_n, c_n, hidden, reserve = options.forward(input, mask, tensors, True)
        ctx.save_for_backward(input, mask, output, hidden, reserve, *tensors)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return (output, h_n, c_n) if options.has_cell_state else (output, h_n)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        input, mask, output, hidden, reserve, *tensors = ctx.saved_tensors
        saved = (output, hidden, reserve)
        options: Options = ctx.options
        _, wanted_input, _, *wanted_tensors = asked_for(ctx.needs_input_grad, (False, True, mask is not None))
        wanted = (wanted_input, *wanted_tensors)
        grads = (*grads[: 2 + options.has_cell_state], None)[:3]
        if all(g is None for g in grads):
            return None, None, None, *(None for _ in tensors)
        if any(is_batched(g) for g in grads if g is not None):
            d_input, *d_tensors = reference_gradient(options, grads, input, mask, tensors, wanted)
        else:
            d_input, *d_tensors = gradient(options, grads, input, mask, saved, tensors, wanted)
        return None, d_input, None, *d_tensors


class TransformableFunction(RecurrentFunction):
    """RecurrentFunction in the form that functorch transforms ask for; returns (output, h_n[, c_n], hidden, reserve).

    torch spends some microseconds more on each call of a function of this form, so the common call has the other."""

    @staticmethod
    def forward(options: Options, input: Tensor, mask: Tensor | None, *tensors: Tensor):
        output, h_n, c_n, hidden, reserve = options.forward(input, mask, tensors, True)
        return (output, h_n, c_n, hidden, reserve) if options.has_cell_state else (output, h_n, hidden, reserve)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.options, input, mask, *tensors = inputs
        hidden, reserve = output[-2:]
        ctx.save_for_backward(input, mask, output[0], hidden, reserve, *tensors)
        ctx.save_for_forward(input, mask, *tensors)
        ctx.mark_non_differentiable(hidden, reserve)
        ctx.set_materialize_grads(False)

    @staticmethod
    @in_full_precision
    def jvp(ctx, _, d_input: Tensor | None, __, *d_tensors: Tensor | None):
        input, mask, *tensors = ctx.saved_tensors
        stack = _stack(ctx.options, input, mask, tensors, None)
        tangents = stack.tangent(*up((d_input,)), up(d_tensors))
        return (*down(tangents, input.dtype), None, None)

    @staticmethod
    def vmap(info, in_dims, options: Options, input: Tensor, mask: Tensor | None, *tensors: Tensor):
        _, input_dim, mask_dim, *dims = in_dims
        if weights_are_mapped(options, dims):
            return each(info.batch_size, TransformableFunction, in_dims, options, input, mask, *tensors)
        fold = Fold(options, info.batch_size)
        hx, weights = options.split(tensors)
        hx = [fold.states(t, dim) for t, dim in zip(hx, dims, strict=False)]
        *results, hidden, reserve = TransformableFunction.apply(
            fold.options, fold.rows(input, input_dim), fold.stacked_rows(mask, mask_dim), *hx, *weights
        )
        output, *states = results
        results = [fold.unfolded_rows(output), *(fold.unfolded_states(s) for s in states)]
        # The reserve's layout is private: it stays whole, and serves the gradient if that is folded as well.
        return (*results, fold.unfolded_stacked_rows(hidden), reserve), (*(0 for _ in results), 0, None)


class GradientFunction(torch.autograd.Function):
    """Gradients of (input, *hx, *weights), None where not wanted, as a differentiable function of the arguments of the
    call and of the gradients that enter. What forward saved, (output, hidden, reserve), is an input that only spares
    the work of computing it again, and has no gradient."""

    @staticmethod
    def forward(
        options: Options,
        wanted: tuple[bool, ...],
        grad_output: Tensor | None,
        grad_h_n: Tensor | None,
        grad_c_n: Tensor | None,
        mask: Tensor | None,
        output: Tensor,
        hidden: Tensor,
        reserve: Tensor,
        input: Tensor,
        *tensors: Tensor,
    ):
        saved: Sequence[Tensor] = (output, hidden, reserve)
        rows = input.shape[0] if options.batch_sizes is not None else input.shape[0] * input.shape[1]
        if reserve.shape[1] != rows:  # of a call that was mapped in another way
            saved = options.forward(input, mask, tensors, True)
            saved = (saved[0], *saved[-2:])
        return tuple(options.backward((grad_output, grad_h_n, grad_c_n), input, mask, saved, tensors, wanted))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.options, ctx.wanted, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    @in_full_precision
    def backward(ctx, *second: Tensor | None):
        *grads, mask, output, hidden, reserve, input = (all_saved := ctx.saved_tensors)[:8]
        tensors = all_saved[8:]
        given = [False, False, *(t is not None for t in (*grads, mask)), True, True, True]
        needs = asked_for(ctx.needs_input_grad, given)[2:]
        if any(is_batched(t) for t in second if t is not None):
            results = reference_second_gradient(ctx.options, ctx.wanted, second, grads, input, mask, tensors, needs)
            return None, None, *results[:3], None, None, None, None, *results[3:]
        fused = _takes_fused_walks(input, reserve)
        if fused:
            stack = _fused_stack(ctx.options, input, mask, tensors, (output, hidden, reserve))
        else:
            stack = _stack(ctx.options, input, mask, tensors, None if is_recorded() else (output, hidden))
        d_input, *d_tensors = up(second)
        of_grads = down(stack.tangent(d_input, d_tensors), input.dtype)
        of_arguments = [None] * (1 + len(tensors))
        if any(needs[7:]):
            if fused:
                of_arguments = stack.second(up(grads), needs[7:])
            else:
                of_arguments = stack.gradient_tangent(up(grads), (None, None, None), needs[7])
            of_arguments = down(of_arguments, input.dtype)
        of_grads = [g if need else None for g, need in zip((*of_grads, None)[:3], needs[:3], strict=True)]
        of_arguments = [g if need else None for g, need in zip(of_arguments, needs[7:], strict=True)]
        return None, None, *of_grads, None, None, None, None, *of_arguments

    @staticmethod
    @in_full_precision
    def jvp(ctx, _, __, *tangents: Tensor | None):
        *grads, mask, _, _, _, input = (all_saved := ctx.saved_tensors)[:8]
        tensors = all_saved[8:]
        stack = _stack(ctx.options, input, mask, tensors, None)
        d_input, *d_tensors = up(tangents[7:])
        stack.tangent(d_input, d_tensors)
        result = down(stack.gradient_tangent(up(grads), up(tangents[:3]), ctx.wanted[0]), input.dtype)
        return tuple(r if w else None for r, w in zip(result, ctx.wanted, strict=True))

    @staticmethod
    @in_full_precision
    def vmap(info, in_dims, options: Options, wanted: tuple[bool, ...], *args: Tensor | None):
        _, _, *dims = in_dims
        if weights_are_mapped(options, dims[8:]):
            return each(info.batch_size, GradientFunction, in_dims, options, wanted, *args)
        fold = Fold(options, info.batch_size)
        grad_output, grad_h_n, grad_c_n, mask, output, hidden, reserve, input, *tensors = args
        grads = (
            fold.rows(grad_output, dims[0]),
            fold.states(grad_h_n, dims[1]),
            fold.states(grad_c_n, dims[2]),
        )
        hx, weights = options.split(tensors)
        hx = [fold.states(t, dim) for t, dim in zip(hx, dims[8:], strict=False)]
        mask, input = fold.stacked_rows(mask, dims[3]), fold.rows(input, dims[7])
        output, hidden = fold.rows(output, dims[4]), fold.stacked_rows(hidden, dims[5])
        arguments = 1 + options.states
        of_weights: Sequence[Tensor | None] = [None] * len(weights)
        if any(wanted[arguments:]):
            stack = _stack(fold.options, input, mask, (*hx, *weights), (output, hidden))
            of_arguments, of_weights = stack.gradient(up(grads), wanted, info.batch_size)
            of_arguments, of_weights = down(of_arguments, input.dtype), down(of_weights, input.dtype)
        else:
            of_arguments = GradientFunction.apply(
                fold.options, wanted, *grads, mask, output, hidden, reserve, input, *hx, *weights
            )
        d_input, *d_hx = of_arguments[:arguments]
        results = (
            None if d_input is None else fold.unfolded_rows(d_input),
            *(None if d is None else fold.unfolded_states(d) for d in d_hx),
            *of_weights,
        )
        return results, tuple(None if r is None else 0 for r in results)


def gradient(
    options: Options,
    grads: Sequence[Tensor | None],
    input: Tensor,
    mask: Tensor | None,
    saved: Sequence[Tensor],
    tensors: Sequence[Tensor],
    wanted: tuple[bool, ...],
) -> Sequence[Tensor | None]:
    """Gradients of (input, *hx, *weights), None where not wanted; recorded if torch is recording."""
    if is_recorded():
        # Detached: what was saved has a history, and through it autograd would go back to the call once more.
        return GradientFunction.apply(options, wanted, *grads, mask, *(s.detach() for s in saved), input, *tensors)
    return options.backward(grads, input, mask, saved, tensors, wanted)


def _stack(
    options: Options,
    input: Tensor,
    mask: Tensor | None,
    tensors: Sequence[Tensor],
    saved: tuple[Tensor, Tensor] | None,
) -> Stack:
    """Half types are computed in float32, as the kernels do."""
    (input,), tensors = up((input,)), up(tensors)
    return Stack(options, input, mask, tensors, saved and tuple(up(saved)), TransformableFunction.apply)


def _fused_stack(
    options: Options,
    input: Tensor,
    mask: Tensor | None,
    tensors: Sequence[Tensor],
    saved: tuple[Tensor, Tensor, Tensor],
) -> second_order.FusedStack:
    (input,), tensors = up((input,)), up(tensors)
    return second_order.FusedStack(options, input, mask, tensors, tuple(up(saved)))


def _takes_fused_walks(input: Tensor, reserve: Tensor) -> bool:
    """Whether second derivatives of a call that saved `reserve` take the CPU's compiled walks."""
    return (
        second_order.CPU_HAS_WALKS
        and input.device.type == "cpu"
        and not is_recorded()
        and 0 < reserve.shape[1] == input[..., 0].numel()  # else of a call that was mapped in another way
    )
