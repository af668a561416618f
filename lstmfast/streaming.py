"""Sequences that arrive step by step: a layer that keeps its state between calls, for serving."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from . import ops
from .modules import LSTM, RNN


class Stream:
    """Runs `module` over B sequences at once, a step or a few per call, and carries their states from call to call.

        stream = lstmfast.Stream(lstm, batch_size=1)
        for features in microphone:              # [1, input_size]
            output = stream(features)            # [1, hidden_size]

    The same numbers as module(input, hx) with the states handed on, for less work around them: options are read and
    weights looked up once, and output and states lie in memory that is allocated once. So what a call returns is
    overwritten by the next one: clone what is to be kept. Dropout is off, and nothing is recorded for a gradient,
    whatever the input requires.

    A stream serves one caller at a time; several streams may share a module between threads. A copy (copy.deepcopy,
    pickle) goes on from the same states with weights of its own.

    The weights are those that the module had: changed in place (an optimizer, load_state_dict) they are seen, assigned
    anew they are not.

    Arguments:
        module: lstmfast.LSTM or RNN, of one direction.
        batch_size: B.

    Raises: TypeError for another module or a batch_size that is no integer, ValueError for two directions or a
    batch_size below 1.
    """

    def __init__(self, module: LSTM | RNN, batch_size: int = 1) -> None:
        if not isinstance(module, LSTM | RNN):
            got = module if isinstance(module, type) else type(module)
            raise TypeError(f"expected an lstmfast.LSTM or lstmfast.RNN, got {got.__module__}.{got.__qualname__}")
        if not isinstance(batch_size, int):
            raise TypeError(f"batch_size must be an integer, got {type(batch_size).__name__}")
        if module.bidirectional:
            raise ValueError("a stream has no end to start the other direction from: bidirectional must be False")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._weights = [w.detach() for w in module._weights()]
        like = self._weights[0]
        self._width = module.proj_size or module.hidden_size
        sizes = [self._width, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
        self._cell, self._structure = module.mode, (module.bias, module.num_layers)
        self._batch_size, self._input_size = batch_size, module.input_size
        with torch.inference_mode(False):  # memory that is written to inside and outside of inference mode
            # Two sets of states: a step reads one and writes the other.
            self._states, self._next = (
                [like.new_zeros(module.num_layers, batch_size, size) for size in sizes] for _ in range(2)
            )
            self._allocate_output(1)
        self._lock = threading.Lock()

    def _allocate_output(self, steps: int) -> None:
        self._output = self._weights[0].new_empty(steps, self._batch_size, self._width)
        self._step = self._output[:1].flatten(0, 1)

    @property
    def state(self) -> Tensor | tuple[Tensor, Tensor]:
        """(h, c), or h of an RNN: [L, B, .] as a module takes it, a copy.

        What is assigned is copied, and converted to the dtype and device of the weights. Raises TypeError if it is not
        one or two tensors, RuntimeError if their number, a size, or a dtype that is not floating point does not fit."""
        states = tuple(s.clone() for s in self._states)
        return states if len(states) > 1 else states[0]

    @state.setter
    def state(self, hx: Tensor | tuple[Tensor, Tensor]) -> None:
        states = [hx] if isinstance(hx, Tensor) else list(hx) if isinstance(hx, tuple | list) else [hx]
        for state in states:
            if not isinstance(state, Tensor):
                raise TypeError(f"expected states that are tensors, got {type(state).__name__}")
            if not state.is_floating_point():
                raise RuntimeError(f"expected states of floating point, got {state.dtype}")
        shapes, expected = [tuple(s.shape) for s in states], [tuple(s.shape) for s in self._states]
        if shapes != expected:
            raise RuntimeError(f"expected states of the sizes {expected}, got {shapes}")
        with torch.no_grad():
            for mine, given in zip(self._states, states, strict=True):
                mine.copy_(given)

    def reset(self, which: Tensor | None = None) -> None:
        """Begins new sequences: all, or those where `which`, bool [B], is True.

        Raises TypeError if `which` is no tensor, RuntimeError if it has another dtype or size."""
        if which is not None:
            if not isinstance(which, Tensor):
                raise TypeError(f"which must be a bool tensor or None, got {type(which).__name__}")
            if which.dtype != torch.bool or which.shape != (self._batch_size,):
                raise RuntimeError(
                    f"which must be bool of the size [{self._batch_size}], got {which.dtype} of {list(which.shape)}"
                )
        for state in self._states:
            if which is None:
                state.zero_()
            else:
                state.masked_fill_(which[:, None], 0)

    def __call__(self, input: Tensor) -> Tensor:
        """[B, input_size] for one step or [T, B, input_size] for some -> [B, H] or [T, B, H] (P with a projection), in
        the stream's own memory: the next call writes there.

        Raises RuntimeError if a size does not fit or another thread is in a call, ValueError if the dtype or device
        does not fit."""
        one_step = input.dim() == 2
        if input.shape[-2:] != (self._batch_size, self._input_size) or input.dim() not in (2, 3):
            raise RuntimeError(
                f"expected input of the size [{self._batch_size}, {self._input_size}] or [steps, {self._batch_size}, "
                f"{self._input_size}], got {list(input.shape)}"
            )
        steps = input.unsqueeze(0) if one_step else input
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("a stream serves one caller at a time: give each thread a stream of its own")
        try:
            if self._output.shape[0] != steps.shape[0]:
                with torch.inference_mode(False):
                    self._allocate_output(steps.shape[0])
            with torch._C._AutoDispatchBelowAutograd():
                ops.forward_into(
                    self._cell,
                    steps,
                    self._states,
                    self._weights,
                    *self._structure,
                    ops.float32_precision(input),
                    self._output,
                    self._next,
                )
            self._states, self._next = self._next, self._states
        finally:
            self._lock.release()
        return self._step if one_step else self._output

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_output", "_step")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._allocate_output(1)
        self._lock = threading.Lock()
