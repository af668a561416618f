"""Whom lstmfast is compared with. A peer is a module with the call of torch.nn's and the weights of a given one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from lstmfast import reference
from lstmfast.autograd.chunks import chunk_steps

from .points import Point


class Unsupported(Exception):
    """The peer does not offer what the point asks for."""


@dataclass(frozen=True)
class Peer:
    """wrap(module) makes the peer from a torch.nn module; has_torch_weights: it has the same parameters in the same
    order, so that their gradients can be compared as well; package is what must be installed, and how to name it;
    seconds that a point may take, with what is compiled for it alone."""

    wrap: Callable[[nn.RNNBase], nn.Module]
    refusal: Callable[[Point], str | None]
    has_torch_weights: bool = True
    package: str | None = None
    distribution: str | None = None
    seconds: float = 2.0

    def missing(self) -> str | None:
        """Why the peer cannot be used here at all, or None."""
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return (
            f"needs the package {self.package}, which is not installed: pip install {self.distribution} "
            "(compiles CUDA code; see its own instructions)"
        )


def describe(peer: str, cell: str) -> str:
    """The peer's name in tables and figures."""
    if peer == "nn":
        return "torch.nn.LSTM" if cell == "LSTM" else "torch.nn.RNN"
    names = {"checkpoint": "torch.utils.checkpoint", "compile": "torch.compile loop"}
    return {**names, "flashrnn": "FlashRNN", "haste": "Haste"}[peer]


class CompiledLoop(nn.Module):
    """A loop over time in Python around a step compiled by torch.compile: what one writes without a fused layer.

    The input projection is one product over all steps. The loop itself is not compiled: unrolled over hundreds of
    steps it would take minutes to compile, for every length anew."""

    def __init__(self, module: nn.RNNBase):
        super().__init__()
        self.layers = module
        cell = reference.CELLS[module.mode]
        torch.compiler.reset()  # what was compiled for earlier points counts against a limit, past which nothing is
        self.step = torch.compile(lambda pre, w_hh, *state: cell(pre + state[0] @ w_hh.t(), state), dynamic=False)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        layers = self.layers
        directions = 2 if layers.bidirectional else 1
        if hx is None:
            zeros = input.new_zeros((layers.num_layers * directions, input.shape[1], layers.hidden_size))
            hx = (zeros, zeros) if layers.mode == "LSTM" else zeros
        initial = hx if isinstance(hx, tuple) else (hx,)
        last = []
        for layer in range(layers.num_layers):
            outputs = []
            for direction in range(directions):
                run = layer * directions + direction
                w_ih, w_hh, b_ih, b_hh = layers.all_weights[run]
                rows = linear(input, w_ih, b_ih + b_hh).unbind()
                state = tuple(s[run] for s in initial)
                output = []
                for pre in reversed(rows) if direction else rows:
                    state = self.step(pre, w_hh, *state)
                    output.append(state[0])
                outputs.append(torch.stack(output[::-1] if direction else output))
                last.append(state)
            input = torch.cat(outputs, dim=-1) if directions > 1 else outputs[0]
        states = tuple(torch.stack(s) for s in zip(*last, strict=True))
        return input, states if layers.mode == "LSTM" else states[0]


def _refused_by_compiled_loop(point: Point) -> str | None:
    return "the loop takes neither packed input nor projections" if point.variant in ("packed", "proj") else None


class FlashRNN(nn.Module):
    """github.com/NX-AI/flashrnn: the recurrence alone, on a GPU; the input projection is torch's."""

    def __init__(self, module: nn.RNNBase):
        super().__init__()
        from flashrnn import flashrnn

        self.function = flashrnn
        self.name = "lstm" if module.mode == "LSTM" else "elman"
        self.gates = 4 if module.mode == "LSTM" else 1
        self.weights = nn.ParameterList()
        for w_ih, w_hh, b_ih, b_hh in module.all_weights:
            recurrent = w_hh.detach().clone().view(self.gates, 1, module.hidden_size, module.hidden_size)
            bias = (b_ih + b_hh).detach().view(self.gates, 1, module.hidden_size)
            self.weights += [w_ih.detach().clone(), recurrent, bias]

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        x = input.transpose(0, 1)  # batch first
        dtype = str(x.dtype).removeprefix("torch.")
        for w_ih, recurrent, bias in zip(self.weights[::3], self.weights[1::3], self.weights[2::3], strict=True):
            rows = linear(x, w_ih).unflatten(-1, (self.gates, 1, recurrent.shape[-1]))
            states, _ = self.function(rows, recurrent, bias, function=self.name, backend="cuda_fused", dtype=dtype)
            x = states[0].flatten(-2)  # h of [S, B, T, 1, H]
        return x.transpose(0, 1), None


def _refused_by_flashrnn(point: Point) -> str | None:
    if point.device != "cuda":
        return "FlashRNN runs on CUDA devices only"
    if point.variant in ("packed", "proj") or point.shape.bidirectional or point.mode == "streaming":
        return "FlashRNN has neither packed input, nor projections, nor a second direction"
    if point.cell == "RNN_RELU" or point.dtype == "float64":
        return "FlashRNN has neither RNN_RELU nor float64"
    return None


class Haste(nn.Module):
    """github.com/lmnt-com/haste: LSTM on a GPU, gates in the order i, g, f, o, one bias."""

    def __init__(self, module: nn.RNNBase):
        super().__init__()
        import haste_pytorch

        def reordered(t: Tensor) -> Tensor:
            i, f, g, o = t.detach().chunk(4)
            return torch.cat((i, g, f, o))

        self.layers = nn.ModuleList()
        for w_ih, w_hh, b_ih, b_hh in module.all_weights:
            layer = haste_pytorch.LSTM(w_ih.shape[1], module.hidden_size).to(w_ih.dtype)
            with torch.no_grad():
                layer.kernel.copy_(reordered(w_ih).t())
                layer.recurrent_kernel.copy_(reordered(w_hh).t())
                layer.bias.copy_(reordered(b_ih + b_hh))
            self.layers.append(layer)

    def forward(self, input: Tensor) -> tuple[Tensor, None]:
        for layer in self.layers:
            input, _ = layer(input)
        return input, None


def _refused_by_haste(point: Point) -> str | None:
    if point.device != "cuda":
        return "Haste runs on CUDA devices only"
    if point.variant in ("packed", "proj") or point.shape.bidirectional or point.mode == "streaming":
        return "Haste has neither packed input, nor projections, nor a second direction"
    if point.cell != "LSTM" or point.dtype not in ("float32", "float64"):
        return "Haste is compared as an LSTM in float32 and float64"
    return None


class Checkpointed(nn.Module):
    """torch.nn's layers under torch.utils.checkpoint, in chunks of time as long as lstmfast's with recompute=True."""

    def __init__(self, module: nn.RNNBase):
        super().__init__()
        self.layers = module

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        outputs = []
        for chunk in input.split(chunk_steps(*input.shape[:2], input.device.type)):
            output, hx = checkpoint(self.layers, chunk, hx, use_reentrant=False)
            outputs.append(output)
        return torch.cat(outputs), hx


def _refused_by_checkpointed(point: Point) -> str | None:
    if point.variant == "packed" or point.shape.bidirectional:
        return "torch.nn's layers cannot be cut in time where they are packed or have two directions"
    return "torch.utils.checkpoint is for training" if point.mode != "training" else None


PEERS = {
    "nn": Peer(lambda module: module, lambda point: None),
    "checkpoint": Peer(Checkpointed, _refused_by_checkpointed),
    "compile": Peer(CompiledLoop, _refused_by_compiled_loop, seconds=60.0),
    "flashrnn": Peer(FlashRNN, _refused_by_flashrnn, False, "flashrnn", "flashrnn", seconds=120.0),
    "haste": Peer(Haste, _refused_by_haste, False, "haste_pytorch", "haste-pytorch"),
}
