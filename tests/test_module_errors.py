"""Wrong arguments of a call: exceptions of the type that torch.nn raises, with messages that say what was expected."""

import pytest
import torch
from cases import MODULE_NAMES, Options, build_pair, make_hx, make_packed
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, both_modules, outcome, randn
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import lstmfast


def wrap(name, hx):
    return (hx, hx) if name == "LSTM" else hx


def packed_of(*shape, lengths=(5, 3), **kwargs):
    return pack_padded_sequence(torch.randn(*shape), torch.tensor(lengths), enforce_sorted=False, **kwargs)


def of_batch_sizes(sizes, rows=3, **kwargs):
    """A PackedSequence, which checks nothing when it is made by hand."""
    return PackedSequence(torch.randn(rows, 3), torch.tensor(sizes, **kwargs))


def call_errors(name):
    """Arguments of a module with input_size 3 and hidden_size 4, by what is wrong with them."""
    x, h, packed = torch.randn(5, 2, 3), torch.randn(1, 2, 4), packed_of(5, 2, 3)
    cases = {
        "0-D": (torch.randn(()),),
        "1-D": (torch.randn(3),),
        "4-D": (torch.randn(5, 1, 2, 3),),
        "last dimension": (torch.randn(5, 2, 4),),
        "last dimension of one sequence": (torch.randn(5, 4),),
        "no step": (torch.randn(0, 2, 3),),
        "no step of one sequence": (torch.randn(0, 3),),
        "no step, no sequence": (torch.randn(0, 0, 3),),
        "no step, with hx": (torch.randn(0, 2, 3), wrap(name, h)),
        "dtype": (x.double(),),
        "integer": (torch.ones(5, 2, 3, dtype=torch.int64),),
        "complex": (x.to(torch.complex64),),
        "dtype and rank": (torch.randn(3).double(),),
        "dtype and last dimension": (torch.randn(5, 2, 4).double(),),
        "dtype and rank of hx": (x.double(), wrap(name, torch.randn(1, 4))),
        "device": (x.to("meta"),),
        "device of hx": (x, wrap(name, h.to("meta"))),
        "list": ([[1.0]],),
        "None": (None,),
        "numpy": (x.numpy(),),
        "plain tuple for a PackedSequence": ((packed.data, packed.batch_sizes),),
        "no argument": (),
        "three arguments": (x, None, None),
        "hx with 2 dimensions": (x, wrap(name, torch.randn(1, 4))),
        "hx with 4 dimensions": (x, wrap(name, torch.randn(1, 1, 2, 4))),
        "hx with 3 dimensions for one sequence": (x[:, 0], wrap(name, torch.randn(1, 1, 4))),
        "hx with 1 dimension for one sequence": (x[:, 0], wrap(name, torch.randn(4))),
        "layers of hx": (x, wrap(name, torch.randn(2, 2, 4))),
        "batch of hx": (x, wrap(name, torch.randn(1, 3, 4))),
        "width of hx": (x, wrap(name, torch.randn(1, 2, 5))),
        "layers of hx for one sequence": (x[:, 0], wrap(name, torch.randn(2, 4))),
        "dtype of hx": (x, wrap(name, h.double())),
        "half dtype of hx": (x, wrap(name, h.half())),
        "integer hx": (x, wrap(name, h.long())),
        "hx of the other kind": (x, h if name == "LSTM" else (h, h)),
        "hx stacked in one tensor": (x, torch.stack([h, h])),
        "hx as a single": (x, (h,)),
        "hx as a triple": (x, (h, h, h)),
        "hx as an empty tuple": (x, ()),
        "hx as an empty list": (x, []),
        "hx of None": (x, (None, None)),
        "hx half None": (x, (h, None)),
        "hx a string": (x, "ab"),
        "hx a number": (x, 3),
        "hx a dict": (x, {"h": h}),
        "hx numpy": (x, h.numpy()),
        "hx of numpy": (x, (h.numpy(), h.numpy())),
        "packed: last dimension": (packed_of(5, 2, 4),),
        "packed: three dimensions": (packed_of(5, 2, 3, 3),),
        "packed: one dimension": (packed_of(5, 2),),
        "packed: dtype": (packed.double(),),
        "packed: layers of hx": (packed, wrap(name, torch.randn(2, 2, 4))),
        "packed: too small a batch of hx": (packed, wrap(name, torch.randn(1, 1, 4))),
        "packed: width of hx": (packed, wrap(name, torch.randn(1, 2, 5))),
        "packed: dtype of hx": (packed, wrap(name, h.double())),
        "packed: no step": (of_batch_sizes([], rows=0),),
        "packed: batch_sizes 0-D": (of_batch_sizes(3),),
        "packed: batch_sizes 2-D": (of_batch_sizes([[2, 1]]),),
        "packed: batch_sizes int32": (of_batch_sizes([2, 1], dtype=torch.int32),),
        "packed: batch_sizes int32, with hx": (of_batch_sizes([2, 1], dtype=torch.int32), wrap(name, h)),
        "packed: batch_sizes bool": (of_batch_sizes([True, True, True]),),
        "packed: batch_sizes float32": (of_batch_sizes([2.0, 1.0]),),
        "packed: batch_sizes float32, with hx": (of_batch_sizes([2.0, 1.0]), wrap(name, h)),
        "packed: batch_sizes increasing": (of_batch_sizes([1, 2]),),
        "packed: batch_sizes negative": (of_batch_sizes([2, -1]),),
    }
    if name == "LSTM":
        in_order = pack_padded_sequence(x, torch.tensor([5, 3]))
        cases |= {
            "dtype of c_0": (x, (h, h.double())),
            "width of c_0": (x, (h, torch.randn(1, 2, 5))),
            "rank of c_0": (x, (h, torch.randn(1, 4))),
            "packed: batch of hx": (in_order, wrap(name, torch.randn(1, 3, 4))),
            "packed: hx a tensor": (in_order, h),
            "packed: hx stacked in one tensor": (in_order, torch.stack([h, h])),
            "packed: hx as a single": (in_order, (h,)),
            "packed: hx as a triple": (in_order, (h, h, h)),
            "packed: hx of None": (in_order, (None, None)),
            "packed: hx a string": (in_order, "ab"),
            "packed, unsorted: hx as a single": (packed, (h,)),
        }
    else:
        cases |= {"packed: hx as a pair": (packed, (h, h)), "packed: hx a list": (packed, [h])}
    return cases


CALL_ERRORS = [(name, case) for name in MODULE_NAMES for case in call_errors(name)]


@pytest.mark.parametrize(("name", "case"), CALL_ERRORS)
def test_call_errors(name, case):
    args = call_errors(name)[case]
    expected, _ = outcome(lambda: getattr(nn, name)(3, 4)(*args))
    actual, message = outcome(lambda: getattr(lstmfast, name)(3, 4)(*args))
    assert expected is not None, "torch.nn accepts this by now"
    assert actual is expected, message


@pytest.mark.parametrize("hx", ["h_0 and c_0 swapped", "c_0 projected"])
@pytest.mark.parametrize("packed", [False, True])
def test_sizes_of_projected_hx(hx, packed):
    theirs, ours = build_pair(Options(projected=True), INPUT_SIZE, HIDDEN_SIZE)
    h_0, c_0 = make_hx(ours, 2)
    hx = (c_0, h_0) if hx == "h_0 and c_0 swapped" else (h_0, h_0)
    input = make_packed((5, 3), INPUT_SIZE)[0] if packed else randn(5, 2, INPUT_SIZE)
    for module in (theirs, ours):
        with pytest.raises(RuntimeError):
            module(input, hx)


@both_modules
@pytest.mark.parametrize("sizes", [[2, 1, 0], [2], [3, 1]], ids=str)
def test_batch_sizes_that_are_not_of_the_data(name, sizes):
    """torch.nn runs with rows left out or steps without sequences, and raises where it would read beyond the data."""
    with pytest.raises(RuntimeError, match="batch_sizes must"):
        getattr(lstmfast, name)(3, 4)(of_batch_sizes(sizes))


@both_modules
def test_messages_say_what_was_expected(name):
    module = getattr(lstmfast, name)(3, 4)
    x = torch.randn(5, 2, 3)
    with pytest.raises(ValueError, match=f"{name}: Expected input to be 2D or 3D, got 1D"):
        module(x[0, 0])
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 2"):
        module(x[..., :2])
    with pytest.raises(
        ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        module(x.double())
    with pytest.raises(RuntimeError, match=r"Expected hidden.* size \(1, 2, 4\), got \[1, 3, 4\]"):
        module(x, wrap(name, torch.randn(1, 3, 4)))
    with pytest.raises(RuntimeError, match=r"For batched 3-D input, hx .*should also be 3-D but got .*2-D"):
        module(x, wrap(name, torch.randn(1, 4)))
    with pytest.raises(RuntimeError, match=r"For unbatched 2-D input, hx .*should also be 2-D but got .*3-D"):
        module(x[0], wrap(name, torch.randn(1, 2, 4)))
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0 in RNN"):
        module(x[:0])
