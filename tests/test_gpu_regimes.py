"""What runs on a GPU, in tests/cuda, meets every regime of an H200's plans, in both directions of time."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "cuda"))

import pytest
import sanitize
import setups
import torch
from cases import Options

from lstmfast import _C

REGIMES = {"general", "one SM", "cluster", "whole GPU", "stack"}


def regimes(backward):
    return REGIMES if backward else REGIMES | {"fused steps"}


def regime(options, dtype, sizes, backward, choice=-1):
    steps, batch, input_size, hidden_size = sizes
    plan = _C.cuda_plan(
        options.cell,
        str(dtype).removeprefix("torch."),
        *(steps, batch, input_size, hidden_size, options.proj_size(hidden_size)),
        *(1 + options.bidirectional, options.num_layers),
        *(backward, False, "H200", choice),
    )
    return plan["regime"]


@pytest.mark.parametrize("backward", [False, True])
def test_setups_meet_every_regime(backward):
    assert {
        regime(options, dtype, (12, batch, 32, hidden_size), backward)
        for options, hidden_size, batch in setups.SETUPS
        for dtype in setups.DTYPES
    } == regimes(backward)


@pytest.mark.parametrize("backward", [False, True])
def test_the_sanitizer_meets_every_regime(backward):
    assert {
        regime(
            options := Options(cell, size[2]),
            dtype,
            (sanitize.STEPS, size[1], sanitize.INPUT, size[0]),
            backward,
            sanitize.choices(options, dtype, size, "H200")[backward],
        )
        for cell, dtype, size, _ in sanitize.CALLS
        if dtype != torch.float64
    } == regimes(backward)
