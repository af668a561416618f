"""Functional forms for people who hold their own weights, in the manner of torch.nn.functional."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .autograd import recurrent


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
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Long short-term memory over a batch of sequences; the equations are in `lstmfast.reference`.

    Args:
        input: ``[T, B, I]`` (``[B, T, I]`` with ``batch_first``), or packed rows ``[sum(batch_sizes), I]``;
            float32, float64, bfloat16 or float16, any strides.
        hx: ``(h0 [L*D, B, P or H], c0 [L*D, B, H])`` of the input's dtype, or None for zeros.
        weights: per layer and direction ``w_ih [4H, I or D*(P or H)]``, ``w_hh [4H, P or H]``, with ``bias``
            ``b_ih [4H]`` and ``b_hh [4H]``, and ``w_hr [P, H]`` with a projection; gates in the order i, f, g, o.
        dropout: probability of dropping an element between layers, in training only.
        batch_sizes: int64 ``[T]`` on the CPU when the input is packed, sequences sorted by decreasing length.

    Returns:
        ``(output [T, B, D*(P or H)], (h_n, c_n))``, shaped like the input and hx.

    Raises:
        ValueError: wrong ranks, dtypes, devices or options.
        RuntimeError: wrong sizes.
    """
    output, h_n, c_n = _run(
        "LSTM",
        input,
        tuple(hx or ()),
        weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
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
) -> tuple[Tensor, Tensor]:
    """Elman's recurrent network; arguments as for `lstm`, with ``hx [L*D, B, H]`` and weights ``[H, .]``.

    Raises:
        ValueError: an unknown nonlinearity, wrong ranks, dtypes, devices or options.
        RuntimeError: wrong sizes.
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
    )
    return output, h_n


def _run(cell, input, hx, weights, bias, num_layers, dropout, training, bidirectional, batch_first, batch_sizes):
    swap = batch_first and batch_sizes is None
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
    )
    return output.transpose(0, 1) if swap else output, h_n, c_n
