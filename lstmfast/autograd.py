"""From tensors to the compiled op and back: what is saved, who needs a gradient, and which way a call goes.

    RecurrentFunction                   the op, with its gradient: the common call
    TransformableFunction               the same for functorch transforms (vmap, grad, jvp) and forward-mode AD
    GradientFunction                    the gradient as a function that can itself be differentiated and mapped
    the op itself                       when nothing needs a gradient, and for the compiler, which wants one node

Derivatives of the gradient, and tangents, are computed by `lstmfast.derivatives` on top of these functions. Only
cotangents that torch.autograd.grad(is_grads_batched=True) maps go to `lstmfast.reference`: right, and slow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad

from . import _C, ops, reference
from .derivatives import Stack
from .ops import Options
from .second_order import FusedStack

_HALF_TYPES = (torch.bfloat16, torch.float16)
_BATCHED = torch._C._dispatch_key_parse("Batched")
_CPU_HAS_WALKS = torch._C._dispatch_has_kernel_for_dispatch_key("lstmfast::tangent_walk", "CPU")


def _in_full_precision(function: Callable) -> Callable:
    """The function without autocast, which has been applied to the call's arguments: what is computed of a call in
    torch's operations is computed in the types that it was given, or float32."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if not torch._C._is_any_autocast_enabled():
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return wrapper


def recurrent(
    cell: str,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    *,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a stack of recurrent layers over a batch of sequences.

    Args:
        cell: a name in ``lstmfast.ops.CELLS``, such as ``"LSTM"``, ``"RNN_TANH"``, ``"RNN_RELU"``.
        input: ``[T, B, I]`` with any strides, or packed rows ``[sum(batch_sizes), I]``.
        batch_sizes: None, or int64 ``[T]`` on the CPU, as in PackedSequence.
        hx: ``()`` for zeros, else ``h0 [L*D, B, O]`` and, for LSTM, ``c0 [L*D, B, H]``.
        weights: per layer and direction ``w_ih, w_hh[, b_ih, b_hh][, w_hr]``, as in ``nn.RNNBase._flat_weights``.
        dropout: probability of dropping an element of a layer's output on its way to the next layer; pass 0 in
            evaluation. Masks come from torch's generator, a layer at a time, as ``nn.LSTM`` draws them on the CPU.

    Returns:
        ``(output, h_n, c_n)``: ``[T, B, D*O]`` or packed rows, ``[L*D, B, O]``, ``[L*D, B, H]`` (None for RNN).

    Raises:
        ValueError: wrong ranks, dtypes, devices or options.
        RuntimeError: wrong sizes.
    """
    # The first test is cheap, and the second does not know every device (meta).
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(input.device.type):
        to = torch.get_autocast_dtype(input.device.type)
        input, hx, weights = (
            _autocast(input, to),
            tuple(_autocast(t, to) for t in hx),
            [_autocast(w, to) for w in weights],
        )
    if torch.compiler.is_exporting() and not hx and batch_sizes is None:
        hx = _zero_states(cell, input, weights, has_biases, num_layers, bidirectional)
    options = Options(
        cell, batch_sizes, has_biases, num_layers, bidirectional, dropout, len(hx), ops.float32_precision(input)
    )
    mask = _dropout_mask(options, input, weights) if dropout > 0 and num_layers > 1 else None
    tensors = (*hx, *weights)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or any(t.requires_grad for t in tensors))
    if _is_transformed():
        if torch.compiler.is_compiling():
            # The compiler neither takes functions with a jvp nor sees that the op has none; this it can look into.
            return _composite(options, input, mask, tensors)
        output, h_n, *c_n = TransformableFunction.apply(options, input, mask, *tensors)[:-2]
        return output, h_n, c_n[0] if c_n else None
    # The compiler sees the bare op, one node with a gradient of its own (lstmfast.ops).
    if needs_grad and not torch.compiler.is_compiling():
        output, h_n, *c_n = RecurrentFunction.apply(options, input, mask, *tensors)
        return output, h_n, c_n[0] if c_n else None
    if torch.compiler.is_compiling():
        output, h_n, c_n, _, _ = ops.forward(
            *options.arguments(input, mask, tensors), needs_grad, options.float32_precision
        )
    else:
        output, h_n, c_n, _, _ = options.forward(input, mask, tensors, False)
    return output, h_n, c_n if options.has_cell_state else None


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
        _, wanted_input, _, *wanted_tensors = _asked_for(ctx.needs_input_grad, (False, True, mask is not None))
        wanted = (wanted_input, *wanted_tensors)
        grads = (*grads[: 2 + options.has_cell_state], None)[:3]
        if all(g is None for g in grads):
            return None, None, None, *(None for _ in tensors)
        if any(_is_batched(g) for g in grads if g is not None):
            d_input, *d_tensors = _reference_gradient(options, grads, input, mask, tensors, wanted)
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
    @_in_full_precision
    def jvp(ctx, _, d_input: Tensor | None, __, *d_tensors: Tensor | None):
        input, mask, *tensors = ctx.saved_tensors
        stack = _stack(ctx.options, input, mask, tensors, None)
        tangents = stack.tangent(*_up((d_input,)), _up(d_tensors))
        return (*_down(tangents, input.dtype), None, None)

    @staticmethod
    def vmap(info, in_dims, options: Options, input: Tensor, mask: Tensor | None, *tensors: Tensor):
        _, input_dim, mask_dim, *dims = in_dims
        if _weights_are_mapped(options, dims):
            return _each(info.batch_size, TransformableFunction, in_dims, options, input, mask, *tensors)
        fold = _Fold(options, info.batch_size)
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
    @_in_full_precision
    def backward(ctx, *second: Tensor | None):
        *grads, mask, output, hidden, reserve, input = (all_saved := ctx.saved_tensors)[:8]
        tensors = all_saved[8:]
        given = [False, False, *(t is not None for t in (*grads, mask)), True, True, True]
        needs = _asked_for(ctx.needs_input_grad, given)[2:]
        if any(_is_batched(t) for t in second if t is not None):
            results = _reference_second(ctx.options, ctx.wanted, second, grads, input, mask, tensors, needs)
            return None, None, *results[:3], None, None, None, None, *results[3:]
        fused = _takes_fused_walks(input, reserve)
        if fused:
            stack = _fused_stack(ctx.options, input, mask, tensors, (output, hidden, reserve))
        else:
            stack = _stack(ctx.options, input, mask, tensors, None if _is_recorded() else (output, hidden))
        d_input, *d_tensors = _up(second)
        of_grads = _down(stack.tangent(d_input, d_tensors), input.dtype)
        of_arguments = [None] * (1 + len(tensors))
        if any(needs[7:]):
            if fused:
                of_arguments = stack.second(_up(grads), needs[7:])
            else:
                of_arguments = stack.gradient_tangent(_up(grads), (None, None, None), needs[7])
            of_arguments = _down(of_arguments, input.dtype)
        of_grads = [g if need else None for g, need in zip((*of_grads, None)[:3], needs[:3], strict=True)]
        of_arguments = [g if need else None for g, need in zip(of_arguments, needs[7:], strict=True)]
        return None, None, *of_grads, None, None, None, None, *of_arguments

    @staticmethod
    @_in_full_precision
    def jvp(ctx, _, __, *tangents: Tensor | None):
        *grads, mask, _, _, _, input = (all_saved := ctx.saved_tensors)[:8]
        tensors = all_saved[8:]
        stack = _stack(ctx.options, input, mask, tensors, None)
        d_input, *d_tensors = _up(tangents[7:])
        stack.tangent(d_input, d_tensors)
        result = _down(stack.gradient_tangent(_up(grads), _up(tangents[:3]), ctx.wanted[0]), input.dtype)
        return tuple(r if w else None for r, w in zip(result, ctx.wanted, strict=True))

    @staticmethod
    @_in_full_precision
    def vmap(info, in_dims, options: Options, wanted: tuple[bool, ...], *args: Tensor | None):
        _, _, *dims = in_dims
        if _weights_are_mapped(options, dims[8:]):
            return _each(info.batch_size, GradientFunction, in_dims, options, wanted, *args)
        fold = _Fold(options, info.batch_size)
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
            of_arguments, of_weights = stack.gradient(_up(grads), wanted, info.batch_size)
            of_arguments, of_weights = _down(of_arguments, input.dtype), _down(of_weights, input.dtype)
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
    if _is_recorded():
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
    (input,), tensors = _up((input,)), _up(tensors)
    return Stack(options, input, mask, tensors, saved and tuple(_up(saved)), TransformableFunction.apply)


def _fused_stack(
    options: Options,
    input: Tensor,
    mask: Tensor | None,
    tensors: Sequence[Tensor],
    saved: tuple[Tensor, Tensor, Tensor],
) -> FusedStack:
    (input,), tensors = _up((input,)), _up(tensors)
    return FusedStack(options, input, mask, tensors, tuple(_up(saved)))


def _up(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [t.float() if t is not None and t.dtype in _HALF_TYPES else t for t in tensors]


def _down(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    return [None if t is None else t.to(dtype) for t in tensors]


# ---- the gradient of the op itself: for the compiler, and for those who call it directly


def _setup_context(ctx, inputs, output):
    cell, input, batch_sizes, hx, weights, mask, *structure, saved, float32_precision = inputs
    output, _, _, hidden, reserve = output
    ctx.save_for_backward(input, mask, output, hidden, reserve, *hx, *weights)
    ctx.options = Options(cell, batch_sizes, *structure, len(hx), float32_precision)
    ctx.saved = saved
    ctx.mark_non_differentiable(hidden, reserve)
    ctx.set_materialize_grads(False)


def _op_backward(ctx, grad_output, grad_h_n, grad_c_n, *_):
    if not ctx.saved:
        raise RuntimeError("lstmfast::forward was called with save_for_backward=False: it has no gradient")
    input, mask, output, hidden, reserve, *tensors = ctx.saved_tensors
    options: Options = ctx.options
    needs, (hx, weights) = ctx.needs_input_grad, options.split(tensors)
    wanted = (needs[1], *_flags(needs[3], len(hx)), *_flags(needs[4], len(weights)))
    grads = (grad_output, grad_h_n, grad_c_n if options.has_cell_state else None)
    d_input, *d_tensors = gradient(options, grads, input, mask, (output, hidden, reserve), tensors, wanted)
    d_hx, d_weights = options.split(d_tensors)
    # As many as there were arguments: the dispatcher leaves out those that equal their defaults.
    return (None, d_input, None, d_hx, d_weights, *(None,) * (len(needs) - 5))


def _flags(needs, count: int) -> list[bool]:
    return list(needs) if isinstance(needs, (list, tuple)) else [bool(needs)] * count


def _refuse_tangents(*args):
    """torch's kernel for autograd of an op written in Python has no forward mode: it would drop tangents silently."""
    tensors = torch.utils._pytree.arg_tree_leaves(*args)
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "torch.ops.lstmfast has no forward-mode derivative of its own: call lstmfast.lstm, lstmfast.rnn or a module"
        )


def _register(op, backward, setup_context) -> None:
    kernel = make_autograd_impl(op, Info(backward, setup_context))

    def checked(keyset, *args):
        if forward_ad._current_level >= 0:
            _refuse_tangents(*args)
        return kernel(keyset, *args)

    _library.impl(op.name().removesuffix(".default"), checked, "Autograd", with_keyset=True)


# torch.library.register_autograd, with a check before.
_library = torch.library.Library("lstmfast", "IMPL")
_register(ops.forward, _op_backward, _setup_context)


# ---- functorch's vmap


class _Fold:
    """Mapped copies of a call as one call: the mapped dimension of size V becomes the inner part of the batch's, so
    that in a packed batch as well the sequences stay sorted by length."""

    def __init__(self, options: Options, size: int):
        self._size, self._packed = size, options.batch_sizes is not None
        self.options = options
        if options.batch_sizes is not None:
            self.options = replace(options, batch_sizes=options.batch_sizes * size)

    def _fold(self, t: Tensor | None, mapped: int | None, batch: int) -> Tensor | None:
        """The mapped dimension into dimension `batch` of what each copy sees."""
        if t is None:
            return None
        if mapped is None:
            t = t.unsqueeze(batch + 1).expand(*t.shape[: batch + 1], self._size, *t.shape[batch + 1 :])
        else:
            t = t.movedim(mapped, batch + 1)
        return t.flatten(batch, batch + 1)

    def _unfold(self, t: Tensor, batch: int) -> Tensor:
        return t.unflatten(batch, (t.shape[batch] // self._size, self._size)).movedim(batch + 1, 0)

    def rows(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[T, B, .]``, or packed rows."""
        return self._fold(t, mapped, 0 if self._packed else 1)

    def stacked_rows(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[L-1, T, B, .]``, or packed rows."""
        return self._fold(t, mapped, 1 if self._packed else 2)

    def states(self, t: Tensor | None, mapped: int | None) -> Tensor | None:
        """``[L*D, B, .]``."""
        return self._fold(t, mapped, 1)

    def unfolded_rows(self, t: Tensor) -> Tensor:
        return self._unfold(t, 0 if self._packed else 1)

    def unfolded_stacked_rows(self, t: Tensor) -> Tensor:
        return self._unfold(t, 1 if self._packed else 2)

    def unfolded_states(self, t: Tensor) -> Tensor:
        return self._unfold(t, 1)


def _weights_are_mapped(options: Options, dims: Sequence[int | None]) -> bool:
    return any(dim is not None for dim in options.split(dims)[1])


def _each(size: int, function: type[torch.autograd.Function], in_dims: Sequence, *args):
    """One call for each copy: with weights of their own they have no product in common."""
    results = []
    for i in range(size):
        own = [a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(args, in_dims, strict=True)]
        results.append(function.apply(*own))
    stacked = tuple(None if r[0] is None else torch.stack(r) for r in zip(*results, strict=True))
    return stacked, tuple(None if s is None else 0 for s in stacked)


# ---- the reference instead of the op


@_in_full_precision
def _composite(
    options: Options, input: Tensor, mask: Tensor | None, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same call in differentiable torch operations."""
    dtype = input.dtype
    (input,), tensors = _up((input,)), _up(tensors)
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
    return tuple(_down(results, dtype))


def _reference_gradient(
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
        outputs = _composite(options, primals[0], mask, primals[1:])
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


def _reference_second(
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
        first = _reference_gradient(options, primals[:3], primals[3], mask, primals[4:], wanted)
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


# ---- the state of torch


def _is_transformed() -> bool:
    """Whether a functorch transform or a forward-mode level is active: the op itself would drop tangents silently."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_recorded() -> bool:
    return torch.is_grad_enabled() or _is_transformed()


def _takes_fused_walks(input: Tensor, reserve: Tensor) -> bool:
    """Whether second derivatives of a call that saved `reserve` take the CPU's compiled walks."""
    return (
        _CPU_HAS_WALKS
        and input.device.type == "cpu"
        and not _is_recorded()
        and 0 < reserve.shape[1] == input[..., 0].numel()  # else of a call that was mapped in another way
    )


def _asked_for(needs: Sequence[bool], leading: Sequence[bool]) -> list[bool]:
    """ctx.needs_input_grad, less what the running call of torch.autograd does not want: a gradient penalty, or a map of
    saliency, asks for the gradient of the input alone. leading: which of the first arguments are tensors; all others
    are."""
    asked = None if torch.compiler.is_compiling() else _C.asked_for()
    if asked is None:
        return list(needs)
    asked = iter(asked)
    tensors = (*leading, *(True,) * (len(needs) - len(leading)))
    return [is_tensor and next(asked) and need for need, is_tensor in zip(needs, tensors, strict=True)]


def _is_batched(cotangent: Tensor) -> bool:
    """Whether torch.autograd.grad(is_grads_batched=True) maps the backward; the op has no rule for its tensors."""
    return torch._C._dispatch_keys(cotangent).has(_BATCHED)


def _autocast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """What torch's autocast does to an argument of an op on its lower-precision list."""
    return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t


def _zero_states(
    cell: str, input: Tensor, weights: Sequence[Tensor], has_biases: bool, num_layers: int, bidirectional: bool
) -> tuple[Tensor, ...]:
    """What no hx stands for, spelt out: AOTInductor hands an empty list of tensors to an op as None."""
    hidden_size, proj_size, directions = ops._sizes(cell, weights, has_biases, num_layers, bidirectional)
    sizes = (proj_size or hidden_size, hidden_size)[: ops.CELLS[cell]["states"]]
    return tuple(input.new_zeros(num_layers * directions, input.shape[1], size) for size in sizes)


def _dropout_mask(options: Options, input: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Kept elements of the outputs of all layers but the last, bool ``[L-1, *output.shape]``."""
    hidden_size, proj_size, directions = ops._sizes(
        options.cell, weights, options.has_biases, options.num_layers, options.bidirectional
    )
    width = directions * (proj_size or hidden_size)
    shape = (options.num_layers - 1, *input.shape[:-1], width)
    if _vmap_wants_different_masks():
        return torch.rand(shape, device=input.device) < 1 - options.dropout
    mask = torch.empty(shape, dtype=torch.bool, device=input.device)
    for layer in mask:  # one draw a layer: the numbers that nn.LSTM draws from the same seed
        layer.bernoulli_(1 - options.dropout)
    return mask


def _vmap_wants_different_masks() -> bool:
    """Whether vmap(randomness="different") is active, under which torch refuses the draw in place."""
    if not torch._C._are_functorch_transforms_active():
        return False
    vmap = torch._C._functorch.TransformType.Vmap
    return any(
        i.key() == vmap and torch._C._functorch.CVmapInterpreterPtr(i).randomness().name == "Different"
        for i in torch._C._functorch.get_interpreter_stack() or ()
    )
