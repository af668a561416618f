"""Small calls in float64 for tests of derivatives: as a module makes them, and as functions of all their tensors."""

import pytest
import torch
from cases import build, make_hx, states_of
from torch.nn.utils.rnn import pack_padded_sequence

import lstmfast
from lstmfast import autograd

STEPS, BATCH, INPUT_SIZE, HIDDEN_SIZE = 3, 2, 2, 3
LENGTHS = (3, 2)
ROUNDING = {"rtol": 1e-10, "atol": 1e-12}
PACKED = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


def double(shape, dtype=torch.float64, device="cpu"):
    return torch.randn(shape, dtype=dtype, device=device, requires_grad=True)


def pack(leaf):
    """A leaf's own graph to its packed sequence, for each pass that frees it."""
    return pack_padded_sequence(leaf, torch.tensor(LENGTHS))


class Call:
    """A call of autograd.recurrent as a function of (input, *hx, *weights), and leaves to call it with."""

    def __init__(
        self,
        options,
        hidden_size=HIDDEN_SIZE,
        *,
        packed=False,
        given_hx=True,
        dropout=0.0,
        recompute=False,
        dtype=torch.float64,
        device="cpu",
    ):
        self.module = build(lstmfast, options, INPUT_SIZE, hidden_size, dtype=dtype, device=device)
        self.batch_sizes = torch.tensor([2, 2, 1]) if packed else None
        self.dropout, self.recompute = dropout, recompute
        input = double((5, INPUT_SIZE) if packed else (STEPS, BATCH, INPUT_SIZE), dtype, device)
        hx = states_of(make_hx(self.module, BATCH, requires_grad=True)) if given_hx else ()
        self.states = len(hx)
        self.leaves = (input, *hx, *(p.detach().requires_grad_() for p in self.module.parameters()))
        names = ["input", *("h0", "c0")[: self.states], *(name for name, _ in self.module.named_parameters())]
        self.names = dict(zip(names, range(len(names)), strict=True))

    def __call__(self, *leaves):
        if self.dropout:
            torch.manual_seed(1)  # the same mask in every evaluation
        input, *others = leaves
        results = autograd.recurrent(
            self.module.mode,
            input,
            self.batch_sizes,
            tuple(others[: self.states]),
            others[self.states :],
            has_biases=self.module.bias,
            num_layers=self.module.num_layers,
            bidirectional=self.module.bidirectional,
            dropout=self.dropout,
            recompute=self.recompute,
        )
        return tuple(r for r in results if r is not None)


def only(call, names):
    """The leaves with a gradient wanted for `names` alone."""
    return [t.detach().requires_grad_(name in names) for name, t in zip(call.names, call.leaves, strict=True)]
