"""RNN and LSTM layers, from lstmfast or from torch.nn, with the same initial weights for the same seed.

Initialisations:
    default      torch.nn's: everything uniform in +-1/sqrt(H); forget gates begin near 0.5
    orthogonal   recurrent matrices orthogonal, one for each gate (A. Saxe, J. McClelland, S. Ganguli,
                 arXiv:1312.6120, 2014)
    gain1.5      orthogonal, times 1.5
    forget1      forget gates biased by 1 (R. Jozefowicz, W. Zaremba, I. Sutskever, ICML 2015)
    forget3      by 3
    chrono       forget and input gates biased for memories of up to `span` steps (C. Tallec, Y. Ollivier,
                 "Can recurrent neural networks warp time?", arXiv:1804.11188, 2018). It is told the span.
"""

from typing import Literal

import torch
from torch import nn

import lstmfast

Provider = Literal["lstmfast", "torch"]
PROVIDERS = {"lstmfast": {"LSTM": lstmfast.LSTM, "RNN": lstmfast.RNN}, "torch": {"LSTM": nn.LSTM, "RNN": nn.RNN}}
INITS = {
    "RNN": ("default", "orthogonal", "gain1.5"),
    "LSTM": ("default", "orthogonal", "forget1", "forget3", "chrono"),
}
GATES = ("input", "forget", "cell", "output")  # in the order of their rows in torch.nn's weights


def recurrent(
    layer: str,
    input_size: int,
    hidden_size: int,
    *,
    init: str = "default",
    provider: Provider = "lstmfast",
    span: int | None = None,
    **options,
) -> nn.RNNBase:
    """A layer ("RNN" or "LSTM") of `provider`; its weights are drawn from torch's generator.

    span is the longest memory that chrono is to prepare for, in steps. options are the constructor's (num_layers...).
    Raises ValueError for an initialisation that the layer does not have, and for chrono without a span above 2."""
    if init not in INITS[layer]:
        raise ValueError(f"{layer} has no initialisation {init!r}, expected one of {', '.join(INITS[layer])}")
    module = PROVIDERS[provider][layer](input_size, hidden_size, **options)
    initialise(module, init, span)
    return module


@torch.no_grad()
def initialise(module: nn.RNNBase, init: str, span: int | None = None) -> None:
    """Sets the weights of a layer in place; see the top of the file."""
    if init in ("orthogonal", "gain1.5"):
        for name, weight in module.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.split(module.hidden_size):
                    nn.init.orthogonal_(gate, gain=1.5 if init == "gain1.5" else 1.0)
    elif init.startswith("forget"):
        for suffix in _biases(module):
            _set_bias(module, suffix, forget=float(init.removeprefix("forget")))
    elif init == "chrono":
        if span is None or span <= 2:
            raise ValueError("chrono needs the span of the task, in steps, above 2")
        for suffix in _biases(module):
            forget = torch.empty(module.hidden_size).uniform_(1, span - 1).log_()
            _set_bias(module, suffix, forget=forget, input=-forget)


@torch.no_grad()
def hold_gates(module: nn.RNNBase, **gates: float) -> nn.RNNBase:
    """Holds gates of an LSTM at a value whatever the input: their weights become 0 and their biases sum to `value`.

    At 50 sigmoid is 1 to the last bit of a float32, and its gradient 0: training leaves the gate where it is. This
    is an LSTM without that gate, on the same kernels. Returns the module."""
    for name, parameter in module.named_parameters():
        for gate, value in gates.items():
            rows = parameter[_rows(module, gate)]
            rows.fill_(value if name.startswith("bias_ih") else 0.0)
    return module


@torch.no_grad()
def gate_activations(module: nn.LSTM, input: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the gates "input", "forget" and "output" of a one-layer LSTM and its candidate "cell" are while it reads
    `input` [T, B, I] from a zero state: [T, B, H] each.

    Its output is all that this takes from the layer: h_{t-1} and x_t decide the gates of step t, whatever computed
    h_{t-1}, so that fused kernels can be looked into."""
    output, _ = module(input)
    before = torch.cat([torch.zeros_like(output[:1]), output[:-1]])
    of_input = nn.functional.linear(input, module.weight_ih_l0, module.bias_ih_l0)
    sums = of_input + nn.functional.linear(before, module.weight_hh_l0, module.bias_hh_l0)
    return {gate: (torch.tanh if gate == "cell" else torch.sigmoid)(sums[..., _rows(module, gate)]) for gate in GATES}


def _biases(module: nn.RNNBase) -> list[str]:
    """What follows "bias_ih" and "bias_hh" in the names: one for each layer and direction."""
    return [name.removeprefix("bias_ih") for name, _ in module.named_parameters() if name.startswith("bias_ih")]


def _set_bias(module: nn.RNNBase, suffix: str, **gates: torch.Tensor | float) -> None:
    """Sets whole biases of gates: torch.nn has two vectors, which are added, so the second one becomes 0."""
    first, second = getattr(module, f"bias_ih{suffix}"), getattr(module, f"bias_hh{suffix}")
    for gate, value in gates.items():
        first[_rows(module, gate)] = value
        second[_rows(module, gate)] = 0


def _rows(module: nn.RNNBase, gate: str) -> slice:
    """The rows of a gate in the weights of an LSTM, torch.nn's order."""
    first = GATES.index(gate) * module.hidden_size
    return slice(first, first + module.hidden_size)
