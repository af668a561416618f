"""What the tests run over: cells, options and sizes, and the torch.nn and lstmfast modules made from them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import lstmfast
from lstmfast import reference

CELLS = ("LSTM", "RNN_TANH", "RNN_RELU")
MODULE_NAMES = ("LSTM", "RNN")

# Adversarial sizes: around, below and far from whatever a vector register, a tile or a block holds.
SIZES_HI = (1, 3, 7, 17, 31, 129, 151, 650)
SIZES_B = (1, 2, 5, 33)
SIZES_T = (1, 2, 37)


@dataclass(frozen=True)
class Options:
    """A cell and the options of the module that change the computation; str() is a test id."""

    cell: str = "LSTM"
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    projected: bool = False

    def __str__(self) -> str:
        extras = [
            f"layers{self.num_layers}" if self.num_layers != 1 else "",
            "bidirectional" if self.bidirectional else "",
            "" if self.bias else "nobias",
            "projected" if self.projected else "",
        ]
        return "-".join([self.cell, *filter(None, extras)])

    @property
    def num_states(self) -> int:
        return 2 if self.cell == "LSTM" else 1

    def proj_size(self, hidden_size: int) -> int:
        """About half of hidden_size; a projection needs hidden_size >= 2."""
        return hidden_size // 2 if self.projected else 0


def all_options(num_layers: Sequence[int] = (1, 2), cells: Sequence[str] = CELLS) -> list[Options]:
    """Every combination of options, projections with LSTM only."""
    return [
        Options(cell, layers, bidirectional, bias, projected)
        for cell, layers, bidirectional, bias, projected in itertools.product(
            cells, num_layers, (False, True), (True, False), (False, True)
        )
        if cell == "LSTM" or not projected
    ]


def build(package: Any, options: Options, input_size: int, hidden_size: int, **kwargs: Any) -> nn.RNNBase:
    """The module for `options` from `package`, which is torch.nn or lstmfast."""
    kwargs = {"num_layers": options.num_layers, "bidirectional": options.bidirectional, "bias": options.bias, **kwargs}
    if options.cell == "LSTM":
        return package.LSTM(input_size, hidden_size, proj_size=options.proj_size(hidden_size), **kwargs)
    return package.RNN(input_size, hidden_size, nonlinearity=options.cell.removeprefix("RNN_").lower(), **kwargs)


def build_pair(
    options: Options, input_size: int, hidden_size: int, *, dtype: torch.dtype = torch.float64, **kwargs: Any
) -> tuple[nn.RNNBase, nn.RNNBase]:
    """(torch.nn module, lstmfast module) with the same weights."""
    theirs = build(nn, options, input_size, hidden_size, dtype=dtype, **kwargs)
    ours = build(lstmfast, options, input_size, hidden_size, dtype=dtype, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_hx(module: nn.RNNBase, batch: int | None, *, requires_grad: bool = False) -> Any:
    """Random initial states as the module takes them; batch None: for one sequence, without its dimension."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    weight = next(module.parameters())
    sizes = [module.proj_size or module.hidden_size, module.hidden_size][: 2 if module.mode == "LSTM" else 1]
    shapes = [(rows, size) if batch is None else (rows, batch, size) for size in sizes]
    options = {"dtype": weight.dtype, "device": weight.device, "requires_grad": requires_grad}
    states = tuple(torch.randn(shape, **options) for shape in shapes)
    return states if module.mode == "LSTM" else states[0]


def make_packed(
    lengths: Sequence[int],
    input_size: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    requires_grad: bool = False,
) -> tuple[PackedSequence, Tensor]:
    """(packed sequence, padded [T, B, I] leaf that it was made from); sorted_indices are None if lengths are sorted."""
    options = {"dtype": dtype, "device": device, "requires_grad": requires_grad}
    padded = torch.randn(max(lengths), len(lengths), input_size, **options)
    is_sorted = list(lengths) == sorted(lengths, reverse=True)
    return pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=is_sorted), padded


def tensors_of(result: tuple[Any, Any]) -> list[Tensor]:
    """[output or its packed rows, h_n] or [..., h_n, c_n] of a module's result."""
    output, hidden = result
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(hidden if isinstance(hidden, tuple) else (hidden,))]


def states_of(hx: Any) -> tuple[Tensor, ...]:
    """hx as a module takes it, as the tuple that the op takes."""
    return () if hx is None else tuple(hx) if isinstance(hx, tuple | list) else (hx,)


def run_reference(
    module: nn.RNNBase,
    input: Tensor,
    batch_sizes: Tensor | None = None,
    hx: Any = None,
    weights: Sequence[Tensor] | None = None,
    **kwargs: Any,
) -> list[Tensor]:
    """lstmfast.reference for time-major input or packed rows, on the module's weights or others of their shapes; listed
    as by tensors_of()."""
    results = reference.recurrent(
        module.mode,
        input,
        batch_sizes,
        states_of(hx),
        list(module.parameters()) if weights is None else weights,
        has_biases=module.bias,
        num_layers=module.num_layers,
        bidirectional=module.bidirectional,
        **kwargs,
    )
    return [result for result in results if result is not None]


def gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], *, seed: int = 0, retain_graph: bool = False
) -> list[Tensor]:
    """Gradients of a random weighted sum of all outputs, the same sum for the same shapes and seed."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs]
    return list(torch.autograd.grad(outputs, inputs, weights, retain_graph=retain_graph))
