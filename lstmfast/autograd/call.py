"""A call from tensors to results: autocast, dropout masks, and which way it goes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import ops
from ..ops import Options
from .chunks import cut
from .fallback import composite
from .functions import RecurrentFunction, TransformableFunction
from .recompute import RecomputeFunction
from .torch_state import is_transformed, vmap_wants_different_masks


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
    recompute: bool = False,
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
        recompute: keep little for backward, which computes the forward again: recompute.py.

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
    if is_transformed():
        if torch.compiler.is_compiling():
            # The compiler neither takes functions with a jvp nor sees that the op has none; this it can look into.
            return composite(options, input, mask, tensors)
        output, h_n, *c_n = TransformableFunction.apply(options, input, mask, *tensors)[:-2]
        return output, h_n, c_n[0] if c_n else None
    # The compiler sees the bare op, one node with a gradient of its own (op.py).
    if needs_grad and not torch.compiler.is_compiling():
        # Unsound calls go the usual way, which says what is wrong.
        chunks = cut(options, input) if recompute and options.are_sound(input, mask, tensors) else None
        if chunks is None:
            output, h_n, *c_n = RecurrentFunction.apply(options, input, mask, *tensors)
        else:
            output, h_n, *c_n = RecomputeFunction.apply(options, chunks, input, mask, *tensors)
        return output, h_n, c_n[0] if c_n else None
    if torch.compiler.is_compiling():
        output, h_n, c_n, _, _ = ops.forward(
            *options.arguments(input, mask, tensors), needs_grad, options.float32_precision
        )
    else:
        output, h_n, c_n, _, _ = options.forward(input, mask, tensors, False)
    return output, h_n, c_n if options.has_cell_state else None


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
    if options.dropout > 1:  # the op says so for what draws no mask
        raise ValueError(f"dropout must be a probability, got {options.dropout}")
    hidden_size, proj_size, directions = ops._sizes(
        options.cell, weights, options.has_biases, options.num_layers, options.bidirectional
    )
    width = directions * (proj_size or hidden_size)
    shape = (options.num_layers - 1, *input.shape[:-1], width)
    if vmap_wants_different_masks():
        return torch.rand(shape, device=input.device) < 1 - options.dropout
    mask = torch.empty(shape, dtype=torch.bool, device=input.device)
    for layer in mask:  # one draw a layer: the numbers that nn.LSTM draws from the same seed
        layer.bernoulli_(1 - options.dropout)
    return mask
