"""Sequences that arrive step by step: a layer that keeps its state between calls, for serving."""

from __future__ import annotations

import torch
from torch import Tensor

from .modules import LSTM, RNN
from .ops import Options


class Stream:
    """Runs `module` over B sequences at once, a step or a few per call, and carries their states from call to call.

        stream = lstmfast.Stream(lstm, batch_size=1)
        for features in microphone:              # [1, input_size]
            output = stream(features)            # [1, hidden_size]

    The same numbers as module(input, hx) with the states handed on, for less work around them: options are read and
    weights looked up once. Dropout is off and nothing is recorded for a gradient. A stream serves one caller at a time;
    several streams may share a module between threads.

    The weights are those that the module had: changed in place (an optimizer, load_state_dict) they are seen, assigned
    anew they are not.

    Arguments:
        module: lstmfast.LSTM or RNN, of one direction.
        batch_size: B.

    Raises: TypeError for another module, ValueError for two directions or a batch_size below 1.
    """

    def __init__(self, module: LSTM | RNN, batch_size: int = 1):
        if not isinstance(module, LSTM | RNN):
            raise TypeError(f"expected an lstmfast.LSTM or lstmfast.RNN, got {type(module).__name__}")
        if module.bidirectional:
            raise ValueError("a stream has no end to start the other direction from: bidirectional must be False")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._weights = [w.detach() for w in module._weights()]
        like = self._weights[0]
        sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
        self._options = Options(module.mode, None, module.bias, module.num_layers, False, 0.0, len(sizes))
        self._batch_size, self._input_size = batch_size, module.input_size
        with torch.no_grad():
            self._states = [like.new_zeros(module.num_layers, batch_size, size) for size in sizes]

    @property
    def state(self) -> Tensor | tuple[Tensor, Tensor]:
        """(h, c), or h of an RNN: [L, B, .] as a module takes it. The next call leaves it as it is."""
        return tuple(self._states) if len(self._states) > 1 else self._states[0]

    @state.setter
    def state(self, hx: Tensor | tuple[Tensor, Tensor]) -> None:
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        shapes, expected = [tuple(s.shape) for s in states], [tuple(s.shape) for s in self._states]
        if shapes != expected:
            raise RuntimeError(f"expected states of the sizes {expected}, got {shapes}")
        like = self._weights[0]
        self._states = [s.detach().to(like, copy=True) for s in states]

    def reset(self, which: Tensor | None = None) -> None:
        """Begins new sequences: all, or those where `which`, bool [B], is True."""
        if which is None:
            self._states = [torch.zeros_like(s) for s in self._states]
        else:
            self._states = [s.masked_fill(which[:, None], 0) for s in self._states]

    def __call__(self, input: Tensor) -> Tensor:
        """[B, input_size] for one step or [T, B, input_size] for some -> [B, H] or [T, B, H] (P with a projection).

        Raises RuntimeError if a size does not fit, ValueError if the dtype or device does not.
        """
        one_step = input.dim() == 2
        if input.shape[-2:] != (self._batch_size, self._input_size) or input.dim() not in (2, 3):
            raise RuntimeError(
                f"expected input of the size [{self._batch_size}, {self._input_size}] or [steps, {self._batch_size}, "
                f"{self._input_size}], got {list(input.shape)}"
            )
        with torch.no_grad():
            output, *states = self._options.forward(
                input.unsqueeze(0) if one_step else input, None, (*self._states, *self._weights), False
            )[:3]
        self._states = states[: self._options.states]
        return output[0] if one_step else output
