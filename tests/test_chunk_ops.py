"""The ops that recompute=True works with: the check alone, and chunks, whose gradients of weights are added to sums."""

import pytest
import torch
from module_pairs import outcome
from test_ops import CELLS, arguments, backward_arguments, scattered
from torch.utils._pytree import tree_map_only

import lstmfast
from lstmfast import ops

# Whole packs of lanes and not, a block of backward's rows and several, calls so short that backward writes in place.
LAYOUTS = {
    "few rows": {"T": 3, "B": 2, "H": 16},
    "packs": {"T": 9, "B": 40, "I": 16, "H": 16, "L": 2},
    "edges": {"T": 300, "B": 1, "I": 33, "H": 17},
    "packed": {"packed": (5, 5, 3, 1), "B": 5, "I": 8, "H": 16},
    "one step from zeros": {"T": 1, "B": 3, "H": 16, "hx": []},
    "without biases": {"T": 3, "B": 7, "H": 8, "bias": False},
}
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
CELL = pytest.mark.parametrize(("cell", "P"), [*((cell, 0) for cell in CELLS), ("LSTM", 3)])


def chunk_arguments(reverse=False, **kwargs):
    """(forward_chunk's arguments, those that backward_chunk has beside them, what ops.backward finds for the same)."""
    whole = backward_arguments(**kwargs)
    call = {name: whole[name] for name in arguments() if name != "save_for_backward"}
    names = [name.replace("bidirectional", "reverse") for name in call]
    call = dict(zip(names, call.values(), strict=True)) | {"reverse": reverse}
    grads = {name: whole[name] for name in ("grad_output", "grad_h_n", "grad_c_n")}
    return call, grads, whole


def run_chunk(call, grads, sums, output_mask=None, precision=None):
    """(results of forward_chunk, gradients of input and hx)."""
    output, h_n, c_n, *saved = ops.forward_chunk(*call.values(), precision)
    mask = [True] * (1 + len(call["hx"]) + len(call["weights"])) if output_mask is None else output_mask
    return (output, h_n, c_n), ops.backward_chunk(
        *grads.values(), *call.values(), output, *saved, mask, precision, sums
    )


@LAYOUT
@CELL
def test_gradients_are_added(cell, P, layout):
    call, grads, whole = chunk_arguments(cell=cell, P=P, **layout)
    d_input, d_hx, d_weights = ops.backward(*whole.values())
    for level in lstmfast._C.isa_levels():
        lstmfast._C.set_isa(level)
        before = [torch.randn_like(w) for w in call["weights"]]
        sums = [t.clone() for t in before]
        (output, *_), (of_input, of_hx) = run_chunk(call, grads, sums)
        expected = [b + d for b, d in zip(before, d_weights, strict=True)]
        # float64; levels and ways of adding up 360 rows at most differ in the order of their sums.
        torch.testing.assert_close([output, of_input, *of_hx], [whole["output"], d_input, *d_hx], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sums, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_in_the_type_that_is_computed_in(dtype):
    call, grads, whole = chunk_arguments(dtype=dtype, T=20, B=30, I=16, H=16, P=5)
    sums = [torch.zeros(w.shape) for w in call["weights"]]
    for _ in range(2):
        run_chunk(call, grads, sums)
    for total, once in zip(sums, ops.backward(*whole.values())[2], strict=True):
        assert once.dtype == dtype
        # `once` has been rounded; in float32 sums of 600 rows may have been made in another order: 24 roundings.
        roundings = 24 if dtype == torch.float32 else 1
        torch.testing.assert_close(total / 2, once.float(), rtol=roundings * torch.finfo(dtype).eps, atol=1e-4)


@CELL
def test_against_time(cell, P):
    """As the sequence turned round, in time."""
    call, grads, _ = chunk_arguments(cell=cell, P=P, T=7, B=3)
    results = []
    for reverse in (False, True):
        turned = {**call, "input": call["input"].flip(0) if reverse else call["input"], "reverse": reverse}
        d_output = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None, None] * grads["grad_output"]
        sums = [torch.zeros_like(w) for w in call["weights"]]
        turned_grads = {**grads, "grad_output": d_output.flip(0) if reverse else d_output}
        (output, h_n, c_n), (d_input, d_hx) = run_chunk(turned, turned_grads, sums)
        in_time = [t.flip(0) if reverse else t for t in (output, d_input)]
        results.append([*in_time, h_n, c_n, *d_hx, *sums])
    # Sums over 21 rows in the opposite order, float64.
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_only_wanted_sums_are_touched():
    call, grads, _ = chunk_arguments(L=2)
    everything = [torch.zeros_like(w) for w in call["weights"]]
    run_chunk(call, grads, everything)
    for chosen in range(len(everything)):
        sums = [torch.zeros_like(w) if i == chosen else torch.empty(0) for i, w in enumerate(everything)]
        mask = [False] * 3 + [i == chosen for i in range(len(everything))]
        _, (d_input, d_hx) = run_chunk(call, grads, sums, mask)
        assert all(t.numel() == 0 for t in (d_input, *d_hx))
        assert torch.equal(sums[chosen], everything[chosen])


def test_any_strides():
    call, grads, _ = chunk_arguments(T=9, B=40, I=16, H=16)
    results = []
    for arguments_ in ((call, grads), tree_map_only(torch.Tensor, scattered, (call, grads))):
        sums = [torch.zeros(w.shape, dtype=w.dtype) for w in call["weights"]]
        outputs, (d_input, d_hx) = run_chunk(*arguments_, sums)
        results.append([*outputs, d_input, *d_hx, *sums])
    # Weights that cannot be read in place are multiplied in another order; float64, sums over 360 rows.
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


SUM_FAULTS = {
    "none": lambda sums: [],
    "one too few": lambda sums: sums[:-1],
    "of another shape": lambda sums: [s.t() if s.dim() > 1 else s for s in sums],
    "of another type": lambda sums: [s.float() for s in sums],
    "with gaps": lambda sums: [scattered(s) for s in sums],
}


@pytest.mark.parametrize("fault", SUM_FAULTS)
def test_refused_sums(fault):
    call, grads, _ = chunk_arguments()
    sums = SUM_FAULTS[fault]([torch.zeros_like(w) for w in call["weights"]])
    with pytest.raises((ValueError, RuntimeError), match="sums"):
        run_chunk(call, grads, sums)


OVERLAPS = {
    "a weight": lambda call, grads, sums: [call["weights"][0], *sums[1:]],
    "the input": lambda call, grads, sums: [
        sums[0],
        call["input"].view(-1)[: sums[1].numel()].view_as(sums[1]),
        *sums[2:],
    ],
    "a gradient": lambda call, grads, sums: [*sums[:2], grads["grad_output"].view(-1)[: sums[2].numel()], sums[3]],
    "another sum": lambda call, grads, sums: [*sums[:3], sums[0].view(-1)[1 : 1 + sums[3].numel()]],
}


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_sums_may_not_be_read_otherwise(overlap):
    call, grads, _ = chunk_arguments(T=9, B=40, I=16, H=16)
    sums = OVERLAPS[overlap](call, grads, [torch.zeros_like(w) for w in call["weights"]])
    with pytest.raises(RuntimeError, match="memory location"):
        run_chunk(call, grads, sums)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"num_layers": 3}, {"dropout": 1.5}, {"input": torch.zeros(3, 2, 7)}, {"batch_sizes": torch.tensor([2, 3])}],
    ids=str,
)
def test_check_says_what_forward_says(wrong):
    a = {**arguments(L=2, D=2), **wrong}
    of_forward = outcome(lambda: ops.forward(*a.values()))
    del a["save_for_backward"]
    of_check = outcome(lambda: ops.check(*a.values()))
    assert of_check == (of_forward if wrong else (None, None))
