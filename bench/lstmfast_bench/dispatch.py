"""What one small call costs, layer by layer: the modules, what they call, and the bare ops, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import lstmfast
from lstmfast import autograd, ops

from . import cuda, sides
from .comparison import Effort, record_of
from .points import Point
from .results import Record
from .timing import cpu_timer

Call = Callable[[], Any]  # returns the output, alone or first in a tuple


def measure(point: Point, effort: Effort, on_round: Callable[[], Any] = lambda: None) -> list[Record]:
    """A record for each callee: the ratio is the time of torch.nn's module over the callee's.

    Initial states are given, as when they are carried from call to call; gradients in training are of everything."""
    timer = cpu_timer if point.device == "cpu" else cuda.warm_timer
    with sides.conditions(point):
        theirs, ours = sides.build(point)
        agreement = sides.compare(theirs, ours)
        calls = _calls(point, theirs.module, ours.module, ours.input)
        leaves = [theirs.leaves, theirs.leaves, *[ours.leaves] * (len(calls) - 2)]
        repeats = [_repeat(point, call, own, ours.grad) for call, own in zip(calls.values(), leaves, strict=True)]
        samples = effort.samples(repeats, timer, on_round)
    return [
        record_of(replace(point, callee=callee), samples, index, agreement)
        for index, callee in enumerate(calls)
        if index > 0
    ]


def _calls(point: Point, theirs: nn.RNNBase, ours: nn.RNNBase, x: Tensor) -> dict[str, Call]:
    """From torch's module to our bare op. The first two are torch's."""
    shape = point.shape
    state = torch.randn(shape.layers * shape.directions, shape.batch, shape.hidden).to(x.device, x.dtype)
    is_lstm = point.cell == "LSTM"
    hx = (state, state) if is_lstm else state
    states = hx if is_lstm else (hx,)
    their_weights, our_weights = theirs._flat_weights, ours._flat_weights
    torch_op = {"LSTM": torch._VF.lstm, "RNN_TANH": torch._VF.rnn_tanh, "RNN_RELU": torch._VF.rnn_relu}[point.cell]
    options = {"has_biases": True, "num_layers": shape.layers, "bidirectional": shape.bidirectional, "dropout": 0.0}
    two_ways, saves = shape.bidirectional, point.mode == "training"
    if is_lstm:
        functional = lambda: lstmfast.lstm(x, hx, our_weights, num_layers=shape.layers, bidirectional=two_ways)  # noqa: E731
    else:
        kind = point.cell.removeprefix("RNN_").lower()
        functional = lambda: lstmfast.rnn(  # noqa: E731
            x, hx, our_weights, nonlinearity=kind, num_layers=shape.layers, bidirectional=two_ways
        )
    return {
        "torch.nn module": lambda: theirs(x, hx),
        "torch op": lambda: torch_op(x, hx, their_weights, True, shape.layers, 0.0, saves, two_ways, False),
        "module": lambda: ours(x, hx),
        "functional": functional,
        "autograd.recurrent": lambda: autograd.recurrent(point.cell, x, None, states, our_weights, **options),
        "ops.forward": lambda: ops.forward(
            point.cell, x, None, states, our_weights, None, True, shape.layers, two_ways, 0.0, saves
        ),
    }


def _repeat(point: Point, call: Call, leaves: Sequence[Tensor], grad: Tensor) -> Callable[[int], None]:
    def infer(calls: int) -> None:
        with torch.inference_mode():
            for _ in range(calls):
                call()

    def train(calls: int) -> None:
        for _ in range(calls):
            torch.autograd.grad(call()[0], leaves, grad)

    return train if point.mode == "training" else infer
