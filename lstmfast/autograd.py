"""From tensors to the compiled op and back: what is saved, who needs a gradient, and which rare calls go elsewhere.

The common call runs ``torch.ops.lstmfast.forward`` in `RecurrentFunction`, or bare when nothing needs a gradient.
Second derivatives, forward-mode AD, functorch transforms and batched cotangents differentiate `lstmfast.reference`
instead: right, and slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import ops, reference

_HALF_TYPES = (torch.bfloat16, torch.float16)
_BATCHED = torch._C._dispatch_key_parse("Batched")


class Options(NamedTuple):
    """What a call is, beside its tensors."""

    cell: str
    has_biases: bool
    num_layers: int
    bidirectional: bool
    dropout: float
    states: int  # tensors of hx that were given: 0, 1 or 2
    allow_tf32: bool | None  # ops.allows_tf32(), as it was for forward

    def split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """``tensors`` = (*hx, *weights) taken apart."""
        return list(tensors[: self.states]), list(tensors[self.states :])

    def arguments(self) -> tuple[bool, int, bool, float]:
        return self.has_biases, self.num_layers, self.bidirectional, self.dropout


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
    mask = _dropout_mask(cell, input, weights, has_biases, num_layers, bidirectional, dropout) if dropout > 0 else None
    allow_tf32 = ops.allows_tf32(input)
    options = Options(cell, has_biases, num_layers, bidirectional, dropout, len(hx), allow_tf32)
    tensors = (*hx, *weights)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or any(t.requires_grad for t in tensors))
    # The compiler sees the bare op, one node with a gradient of its own (lstmfast.ops).
    if not torch.compiler.is_compiling():
        if _is_transformed():
            return _composite(options, input, batch_sizes, mask, tensors)
        if needs_grad:
            output, h_n, *c_n = RecurrentFunction.apply(options, input, batch_sizes, mask, *tensors)
            return output, h_n, c_n[0] if c_n else None
    output, h_n, c_n, _, _ = ops.forward(
        cell, input, batch_sizes, hx, weights, mask, *options.arguments(), needs_grad, allow_tf32
    )
    return output, h_n, c_n if ops.CELLS[cell]["states"] > 1 else None


class RecurrentFunction(torch.autograd.Function):
    """The op with its gradient. Inputs: options, input, batch_sizes, dropout mask, *hx, *weights."""

    @staticmethod
    def forward(
        ctx, options: Options, input: Tensor, batch_sizes: Tensor | None, mask: Tensor | None, *tensors: Tensor
    ):
        hx, weights = options.split(tensors)
        output, h_n, c_n, hidden, reserve = ops.forward(
            options.cell, input, batch_sizes, hx, weights, mask, *options.arguments(), True, options.allow_tf32
        )
        ctx.save_for_backward(input, batch_sizes, mask, output, hidden, reserve, *tensors)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return (output, h_n, c_n) if ops.CELLS[options.cell]["states"] > 1 else (output, h_n)

    @staticmethod
    def backward(ctx, *grads: Tensor | None):
        input, batch_sizes, mask, output, hidden, reserve, *tensors = ctx.saved_tensors
        _, wanted_input, _, _, *wanted_tensors = ctx.needs_input_grad
        call = BackwardCall(ctx.options, batch_sizes, mask, output, hidden, reserve, (wanted_input, *wanted_tensors))
        grads = (*grads, None)[:3]
        if any(_is_batched(g) for g in grads if g is not None):
            again = torch.is_grad_enabled()
            with torch.enable_grad():
                primals = [_alias(t) for t in (input, *tensors)]
                d_input, *d_tensors = _reference_vjp(ctx.options, batch_sizes, mask, primals, grads, call.wanted, again)
        elif torch.is_grad_enabled():
            d_input, *d_tensors = RecurrentBackwardFunction.apply(call, *grads, input, *tensors)
        else:
            d_input, *d_tensors = call.run(grads, input, tensors)
        return None, d_input, None, None, *d_tensors


class BackwardCall(NamedTuple):
    """What the gradient depends on and is not differentiated through."""

    options: Options
    batch_sizes: Tensor | None
    mask: Tensor | None
    output: Tensor
    hidden: Tensor
    reserve: Tensor
    wanted: tuple[bool, ...]  # for input, *hx, *weights

    def run(self, grads: Sequence[Tensor | None], input: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of input, *hx, *weights; None where not wanted."""
        hx, weights = self.options.split(tensors)
        d_input, d_hx, d_weights = ops.backward(
            *grads,
            self.options.cell,
            input,
            self.batch_sizes,
            hx,
            weights,
            self.mask,
            *self.options.arguments(),
            self.output,
            self.hidden,
            self.reserve,
            self.wanted,
            self.options.allow_tf32,
        )
        return [d if wanted else None for d, wanted in zip((d_input, *d_hx, *d_weights), self.wanted, strict=True)]


class RecurrentBackwardFunction(torch.autograd.Function):
    """The gradient as a function of its own, for ``create_graph=True``; its backward differentiates the reference."""

    @staticmethod
    def forward(ctx, call: BackwardCall, grad_output, grad_h_n, grad_c_n, input: Tensor, *tensors: Tensor):
        ctx.save_for_backward(grad_output, grad_h_n, grad_c_n, call.batch_sizes, call.mask, input, *tensors)
        ctx.options, ctx.wanted = call.options, call.wanted
        ctx.set_materialize_grads(False)
        return tuple(call.run((grad_output, grad_h_n, grad_c_n), input, tensors))

    @staticmethod
    def backward(ctx, *second: Tensor | None):
        *grads, batch_sizes, mask, input = ctx.saved_tensors[:6]
        tensors = ctx.saved_tensors[6:]
        wanted = [w and s is not None for w, s in zip(ctx.wanted, second, strict=True)]
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            primals = [_alias(t) for t in (input, *tensors)]
            cotangents = [None if g is None else _alias(g) for g in grads]
            first = _reference_vjp(ctx.options, batch_sizes, mask, primals, cotangents, wanted, create_graph=True)
            pairs = [(f, s) for f, s in zip(first, second, strict=True) if f is not None and f.requires_grad]
            inputs = [*(c for c in cotangents if c is not None), *primals]
            result = iter(_grad(pairs, inputs, again))
        return None, *(None if c is None else next(result) for c in cotangents), *result


def _alias(t: Tensor) -> Tensor:
    """`t` to be differentiated by: tied weights, the same tensor twice, then get each gradient where it belongs."""
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _reference_vjp(
    options: Options,
    batch_sizes: Tensor | None,
    mask: Tensor | None,
    primals: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    wanted: Sequence[bool],
    create_graph: bool,
) -> list[Tensor | None]:
    """Gradients of the reference by primals = (input, *hx, *weights), None where not wanted; call it in grad mode."""
    outputs = _composite(options, primals[0], batch_sizes, mask, primals[1:])
    pairs = [(o, c) for o, c in zip(outputs, cotangents, strict=True) if o is not None and c is not None]
    grads = iter(_grad(pairs, [p for p, w in zip(primals, wanted, strict=True) if w], create_graph))
    return [next(grads) if w else None for w in wanted]


def _grad(
    pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor], create_graph: bool
) -> Sequence[Tensor | None]:
    """torch.autograd.grad of (output, cotangent) pairs, which may be none."""
    if not pairs or not inputs:
        return [None] * len(inputs)
    outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, cotangents, create_graph=create_graph, allow_unused=True)


def _composite(
    options: Options, input: Tensor, batch_sizes: Tensor | None, mask: Tensor | None, tensors: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same call in differentiable torch operations; half types computed in float32, as the kernels do."""
    dtype = input.dtype
    if dtype in _HALF_TYPES:
        input, tensors = input.float(), [t.float() for t in tensors]
    hx, weights = options.split(tensors)
    results = reference.recurrent(
        options.cell,
        input,
        batch_sizes,
        tuple(hx),
        weights,
        has_biases=options.has_biases,
        num_layers=options.num_layers,
        bidirectional=options.bidirectional,
        dropout=options.dropout,
        dropout_mask=mask,
    )
    return tuple(None if r is None else r.to(dtype) for r in results)


def _is_transformed() -> bool:
    """Whether a functorch transform or a forward-mode level is active: an op would drop tangents silently."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_batched(cotangent: Tensor) -> bool:
    """Whether torch.autograd.grad(is_grads_batched=True) maps the backward; the op has no rule for its tensors."""
    return torch._C._dispatch_keys(cotangent).has(_BATCHED)


def _autocast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """What torch's autocast does to an argument of an op on its lower-precision list."""
    return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t


def _dropout_mask(
    cell: str,
    input: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
) -> Tensor | None:
    """Kept elements of the outputs of all layers but the last, bool ``[L-1, *output.shape]``."""
    if num_layers == 1:
        return None
    hidden_size, proj_size, directions = ops._sizes(cell, weights, has_biases, num_layers, bidirectional)
    width = directions * (proj_size or hidden_size)
    mask = torch.empty((num_layers - 1, *input.shape[:-1], width), dtype=torch.bool, device=input.device)
    for layer in mask:  # one draw a layer: the numbers that nn.LSTM draws from the same seed
        layer.bernoulli_(1 - dropout)
    return mask
