"""A module of torch.nn beside ours: the same call on both, and what of it is compared."""

import pytest
import torch
from cases import MODULE_NAMES, Options, tensors_of

INPUT_SIZE, HIDDEN_SIZE = 3, 4
# In float64, and over a few steps: sums of a dozen terms in another order.
ROUNDING = {"rtol": 1e-10, "atol": 1e-11}

both_modules = pytest.mark.parametrize("name", MODULE_NAMES)
both_cells = pytest.mark.parametrize("options", [Options("LSTM"), Options("RNN_TANH")], ids=str)


def randn(*shape, **kwargs):
    return torch.randn(*shape, dtype=torch.float64, **kwargs)


def outcome(call):
    """The type of the exception that call raises, and its message; (None, result) without one."""
    try:
        return None, call()
    except Exception as error:
        return type(error), str(error)


def assert_same_results(ours, theirs, *args):
    actual, expected = tensors_of(ours(*args)), tensors_of(theirs(*args))
    torch.testing.assert_close(actual, expected, **ROUNDING)
