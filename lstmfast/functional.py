"""Functional forms for people who hold their own weights, in the manner of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .autograd import recurrent
from .modules import pair_of_states


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Long short-term memory over a batch of sequences; the equations are in `lstmfast.reference`.

    Args:
        input: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), or packed rows ``[sum(batch_sizes), I]``;
            float32, float64, bfloat16 or float16, any strides.
        hx: ``(h0 [L*D, B, P or H], c0 [L*D, B, H])`` of the input's dtype, or None for zeros.
        weights: per layer and direction ``w_ih [4H, I or D*(P or H)]``, ``w_hh [4H, P or H]``, with ``bias``
            ``b_ih [4H]`` and ``b_hh [4H]``, and ``w_hr [P, H]`` with a projection; gates in the order i, f, g, o; of
            the input's dtype.
        bias, num_layers, bidirectional: what ``weights`` holds; L layers, D = 2 directions if bidirectional, else 1.
        dropout: probability of dropping an element between layers, with ``training`` only.
        batch_first: input and output are ``[B, T, .]``; not for packed rows.
        batch_sizes: int64 ``[T]`` on the CPU when the input is packed, sequences sorted by decreasing length.
        recompute: train a long sequence in little memory, for the time of another forward: docs/ecosystem.md.

    Returns:
        ``(output [T, B, D*(P or H)], (h_n, c_n))``, in the layout of the input and of hx.

    Raises:
        TypeError: an argument of another kind than these.
        ValueError: wrong ranks, dtypes, options, or another number of weights.
        RuntimeError: wrong sizes, another number of states, tensors on different devices.
    """
    output, h_n, c_n = _run(
        "LSTM",
        input,
        () if hx is None else pair_of_states(hx),
        weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        recompute,
    )
    return output, (h_n, c_n)


def rnn(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    nonlinearity: str = "tanh",
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Elman's recurrent network over a batch of sequences; the equation is in `lstmfast.reference`.

    Args:
        hx: ``h0 [L*D, B, H]`` of the input's dtype, or None for zeros.
        weights: per layer and direction ``w_ih [H, I or D*H]``, ``w_hh [H, H]``, with ``bias`` ``b_ih [H]`` and
            ``b_hh [H]``.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        input, bias, num_layers, dropout, training, bidirectional, batch_first, batch_sizes, recompute: as for `lstm`.

    Returns:
        ``(output [T, B, D*H], h_n)``, in the layout of the input and of hx.

    Raises:
        As `lstm`, and ValueError for an unknown nonlinearity.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    output, h_n, _ = _run(
        f"RNN_{nonlinearity.upper()}",
        input,
        () if hx is None else (hx,),
        weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        recompute,
    )
    return output, h_n


def _run(
    cell, input, hx, weights, bias, num_layers, dropout, training, bidirectional, batch_first, batch_sizes, recompute
):
    swap = batch_first and batch_sizes is None
    try:
        output, h_n, c_n = recurrent(
            cell,
            input.transpose(0, 1) if swap else input,
            batch_sizes,
            hx,
            weights,
            has_biases=bias,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout if training else 0.0,
            recompute=recompute,
        )
    except (AttributeError, RuntimeError, TypeError):
        # Looked for only now, so that a call that is well does not pay for it.
        _refuse_other_kinds(input, batch_sizes, hx, weights, bias, num_layers, dropout, bidirectional, recompute)
        raise
    return output.transpose(0, 1) if swap else output, h_n, c_n


def _refuse_other_kinds(input, batch_sizes, hx, weights, bias, num_layers, dropout, bidirectional, recompute) -> None:
    """Raises TypeError if an argument is of another kind than it must be."""

    def require(name: str, value: Any, kinds: Any, wanted: str) -> None:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")

    require("input", input, Tensor, "a tensor")
    require("batch_sizes", batch_sizes, Tensor | None, "a tensor or None")
    require("weights", weights, Sequence | Tensor, "a sequence of tensors")
    for name, tensors in (("hx", hx), ("weights", weights)):
        for i, tensor in enumerate(tensors):
            require(f"{name}[{i}]", tensor, Tensor, "a tensor")
    require("bias", bias, bool, "True or False")
    require("num_layers", num_layers, int, "an integer")
    require("dropout", dropout, float | int, "a number")
    require("bidirectional", bidirectional, bool, "True or False")
    require("recompute", recompute, bool, "True or False")
