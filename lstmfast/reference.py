"""The recurrent layers written as equations in plain torch: slow, differentiable any number of times, meant to be read.

The tests compare the compiled kernels with this file, `lstmfast.autograd.derivatives` differentiates its cells, and
rare calls (transforms inside torch.compile) compute through it. Nothing here writes in place, so every torch transform
applies.

Notation, the same everywhere in the project:
    T steps, B sequences, I input features, H hidden size, P projected size (P = H without a projection),
    G gates of a cell, L layers, D directions.

Sources:
    LSTM         S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997
    forget gate  F. Gers, J. Schmidhuber, F. Cummins, "Learning to Forget", Neural Computation 12(10), 2000
    RNN          J. Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990
    projection   H. Sak, A. Senior, F. Beaufays, "Long Short-Term Memory Based Recurrent Neural Network
                 Architectures for Large Vocabulary Speech Recognition", arXiv:1402.1128, 2014
    directions   M. Schuster, K. Paliwal, "Bidirectional Recurrent Neural Networks", IEEE TSP 45(11), 1997
    dropout      W. Zaremba, I. Sutskever, O. Vinyals, "Recurrent Neural Network Regularization",
                 arXiv:1409.2329, 2014: between layers only, never along time
    conventions  gate order i, f, g, o, two bias vectors and the weight shapes: PyTorch's documentation of
                 torch.nn.LSTM and torch.nn.RNN
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import dropout as random_dropout
from torch.nn.functional import linear

State = tuple[Tensor, ...]
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence: cell(pre, state) -> new state.

    pre [B, G*H] is W_ih x_t + b_ih + W_hh h_{t-1} + b_hh. A state holds `states` tensors: first h, [B, P] going in
    and [B, H] coming out (the projection, if any, is the caller's), then the cell's own, [B, H] both ways."""

    step: Callable[[Tensor, State], State]
    states: int

    def __call__(self, pre: Tensor, state: State) -> State:
        return self.step(pre, state)


def _lstm(sigmoid: Activation, tanh: Activation) -> Cell:
    def step(pre: Tensor, state: State) -> State:
        i, f, g, o = pre.chunk(4, dim=-1)
        _, c = state
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, c

    return Cell(step, states=2)


def _rnn(activation: Activation) -> Cell:
    def step(pre: Tensor, state: State) -> State:
        return (activation(pre),)

    return Cell(step, states=1)


def _identity(x: Tensor) -> Tensor:
    return x


CELLS = {
    "LSTM": _lstm(torch.sigmoid, torch.tanh),
    "RNN_TANH": _rnn(torch.tanh),
    "RNN_RELU": _rnn(torch.relu),
    # For tests: without saturation small integers stay exact, and a misplaced index shows as a wrong integer.
    "LSTM_LINEAR": _lstm(_identity, _identity),
    "RNN_LINEAR": _rnn(_identity),
}


def recurrent(
    cell: str,
    input: Tensor,
    batch_sizes: Tensor | None,
    hx: State,
    weights: Sequence[Tensor],
    *,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    dropout: float = 0.0,
    dropout_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Runs all layers and directions over a sequence.

    Arguments:
        cell: a key of CELLS.
        input: [T, B, I], or with batch_sizes the rows of a PackedSequence, [sum(batch_sizes), I].
        batch_sizes: None, or int64 on the CPU, [T], never increasing: how many sequences are alive at each step.
        hx: () for zeros, (h0,) for an RNN, (h0, c0) for an LSTM; h0 is [L*D, B, P], c0 is [L*D, B, H].
        weights: per layer, per direction: w_ih [G*H, I or D*P], w_hh [G*H, P], if has_biases b_ih [G*H] and
            b_hh [G*H], and, if there is a projection, w_hr [P, H]: torch.nn.RNNBase's order.
        dropout: probability of zeroing an element between two layers; 0 outside of training.
        dropout_mask: bool, [L-1, T, B, D*P] or [L-1, sum(batch_sizes), D*P], True where an element is kept. Without
            it the elements are drawn from torch's generator, layer by layer.

    Returns:
        (output, h_n, c_n): output [T, B, D*P] or [sum(batch_sizes), D*P], h_n [L*D, B, P], c_n [L*D, B, H] or None
        for a cell without c. Nothing is cast: the dtype is the arguments'.

    Raises:
        ValueError: cell is unknown, or the number of weights or of states does not fit the other arguments.
        RuntimeError: the sequence has no step, or sizes or dtypes of the tensors do not fit each other.
    """
    if cell not in CELLS:
        raise ValueError(f"unknown cell {cell!r}, expected one of {', '.join(CELLS)}")
    step = CELLS[cell]
    num_directions = 2 if bidirectional else 1
    num_unprojected = 4 if has_biases else 2
    per_direction, rest = divmod(len(weights), num_layers * num_directions)
    if rest or per_direction not in (num_unprojected, num_unprojected + 1):
        raise ValueError(f"{len(weights)} weights do not fit {num_layers} layers in {num_directions} directions")
    if len(hx) not in (0, step.states):
        raise ValueError(f"{cell} has {step.states} states, got {len(hx)}")
    num_steps = input.shape[0] if batch_sizes is None else batch_sizes.shape[0]
    if num_steps == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

    alive = None if batch_sizes is None else batch_sizes.tolist()
    batch = input.shape[1] if alive is None else alive[0]
    layer_input = input
    final_states = []
    for layer in range(num_layers):
        if layer > 0 and dropout > 0:
            layer_input = drop(layer_input, dropout, None if dropout_mask is None else dropout_mask[layer - 1])
        outputs = []
        for direction in range(num_directions):
            index = layer * num_directions + direction
            w_ih, w_hh, *others = weights[index * per_direction : (index + 1) * per_direction]
            b_ih, b_hh = others[:2] if has_biases else (None, None)
            w_hr = others[-1] if per_direction > num_unprojected else None
            if hx:
                state = tuple(initial[index] for initial in hx)
            else:
                hidden_size = w_hh.shape[1] if w_hr is None else w_hr.shape[1]
                sizes = (w_hh.shape[1], hidden_size)[: step.states]
                state = tuple(input.new_zeros(batch, size) for size in sizes)

            # The input's share of the pre-activations does not depend on the state: one product for all steps.
            projected = linear(layer_input, w_ih, b_ih)
            rows = projected.unbind(0) if alive is None else projected.split(alive)
            output, state = _direction(step, rows, state, w_hh, b_hh, w_hr, reverse=direction == 1)
            outputs.append(torch.stack(output) if alive is None else torch.cat(output))
            final_states.append(state)
        layer_input = torch.cat(outputs, dim=-1)

    h_n, *c_n = (torch.stack(states) for states in zip(*final_states, strict=True))
    return layer_input, h_n, c_n[0] if c_n else None


def _direction(
    step: Cell,
    rows: Sequence[Tensor],
    state: State,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    *,
    reverse: bool,
) -> tuple[list[Tensor], State]:
    """One layer in one direction.

    rows holds W_ih x_t + b_ih for every step, [b_t, G*H], where b_t sequences are alive; state is [B, P or H] each.
    Returns h_t for every step, [b_t, P], in the order of time, and every sequence's state after its last step."""
    batch = state[0].shape[0]
    output = []
    for row in reversed(rows) if reverse else rows:
        # Longer sequences come first, so the first b_t are alive. Going forward, the others have ended and keep their
        # last state; going backward, they have not begun yet and keep their initial one.
        alive = row.shape[0]
        old = tuple(s[:alive] for s in state)
        h, *own = step(row + linear(old[0], w_hh, b_hh), old)
        if w_hr is not None:
            h = linear(h, w_hr)
        output.append(h)
        new = (h, *own)
        state = new if alive == batch else tuple(torch.cat((n, s[alive:])) for n, s in zip(new, state, strict=True))
    return (output[::-1] if reverse else output), state


def drop(x: Tensor, probability: float, kept: Tensor | None) -> Tensor:
    """Zeroes elements and scales the kept ones up, so that the expectation of each stays."""
    if kept is None:
        return random_dropout(x, probability)
    scale = 1 / (1 - probability) if probability < 1 else 0.0
    return x * (kept.to(x.dtype) * scale)
