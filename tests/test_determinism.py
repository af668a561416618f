"""The same call gives the same bits: run after run, with any number of threads, and with dropout from the same seed."""

import pytest
import torch
from cases import CELLS, Options, build, build_pair, make_hx, make_packed, states_of, tensors_of
from torch import nn

import lstmfast
from lstmfast import _C

THREADS = (1, 2, 3, 4)
ROUNDING = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 2e-6}}


def size_of_which_a_part_fits():
    """The smallest whose weights stay in this machine's L2 for each of two threads, and not for one."""

    def fuses(size, threads):
        return _C.plan("LSTM", 6, 24, size, size, threads=threads)["fuse_input"]

    return next(size for size in range(16, 8192, 16) if fuses(size, 2) and not fuses(size, 1))


PART = size_of_which_a_part_fits()

# Sizes at which the plan changes with the number of threads: how many share, whether they share sequences or units, and
# what a step multiplies.
SIZES = {  # steps, batch, input size, hidden size
    "one sequence": (40, 1, 65, 130),
    "two sequences": (40, 2, 65, 64),
    "a sequence for each of a few": (20, 5, 33, 65),
    "a tile for each": (20, 24, 33, 40),
    "weights beyond the cache": (3, 26, 320, 330),
    "one step": (1, 33, 65, 130),
    "a few rows": (2, 4, 129, 151),
    "many short blocks": (9, 97, 17, 33),
    "long": (300, 7, 17, 33),
    "a part of the weights in the cache": (6, 24, PART, PART),
}


def results_of(options, sizes, dtype, layout, *, threads, dropout=0.0):
    """Outputs, states and all gradients of a call with `threads` threads."""
    steps, batch, input_size, hidden_size = sizes
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    module = build(lstmfast, options, input_size, hidden_size, dtype=dtype, dropout=dropout)
    lengths = [max(1, steps - n // 3) if layout == "packed" else steps for n in range(batch)]
    packed, leaf = make_packed(lengths, input_size, dtype=dtype, requires_grad=True)
    hx = make_hx(module, batch, requires_grad=True)
    outputs = tensors_of(module(packed if layout == "packed" else leaf, hx))
    cotangents = [torch.randn_like(o) for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, [leaf, *states_of(hx), *module.parameters()], cotangents)]


def assert_same_bits(actual, expected, what):
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(a, e), f"{what}: result {i} differs by up to {(a - e).abs().max().item():.3g}"


OPTIONS = [
    Options("LSTM"),
    Options("LSTM", 2, bidirectional=True, projected=True),
    Options("RNN_TANH", 2, bidirectional=True),
    Options("RNN_RELU"),
]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(options, dtype, sizes, layout):
    alone = results_of(options, sizes, dtype, layout, threads=1)
    assert all(t.isfinite().all() for t in alone)
    for threads in THREADS:
        again = results_of(options, sizes, dtype, layout, threads=threads)
        assert_same_bits(again, alone, f"{threads} threads")


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients_any_number_of_threads_gives_the_same_bits(cell, dtype, layout):
    # Nothing is kept for backward then, and what is kept otherwise takes turns in one block's memory.
    torch.manual_seed(0)
    module = build(lstmfast, Options(cell), 129, 31, dtype=dtype)
    packed, padded = make_packed([max(1, 37 - n) for n in range(33)], 129, dtype=dtype)
    with torch.no_grad():
        alone = tensors_of(module(packed if layout == "packed" else padded))
        for threads in (2, 3, 4):
            torch.set_num_threads(threads)
            for _ in range(10):
                again = tensors_of(module(packed if layout == "packed" else padded))
                assert_same_bits(again, alone, f"{threads} threads")


def test_sizes_reach_every_plan():
    for level in _C.isa_levels():
        _C.set_isa(level)
        plans = {
            name: [_C.plan("LSTM", *sizes, threads=threads) for threads in THREADS] for name, sizes in SIZES.items()
        }
        reached = {(plan["split"], plan["threads"]) for each in plans.values() for plan in each}
        assert reached >= {(split, threads) for split in ("batch", "hidden") for threads in (2, 3, 4)}, level
        # With the number of threads, the split changes as well, and what a step multiplies.
        for decision in ("split", "fuse_input"):
            assert any(len({plan[decision] for plan in each}) == 2 for each in plans.values()), (level, decision)
        # The blocks, which decide how sums are grouped, do not.
        for each in plans.values():
            assert len({(plan["forward_steps"], plan["backward_steps"]) for plan in each}) == 1


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_run_to_run(options, dtype, layout):
    runs = [results_of(options, (11, 14, 17, 33), dtype, layout, threads=2) for _ in range(5)]
    for run in runs[1:]:
        assert_same_bits(run, runs[0], "another run")


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("cell", CELLS)
def test_dropout_from_the_same_seed(cell, layout, threads):
    options = Options(cell, 3, bidirectional=True)
    runs = [results_of(options, (7, 9, 33, 65), torch.float32, layout, threads=n, dropout=0.5) for n in (1, threads)]
    assert_same_bits(*runs, "the same seed")


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_from_another_seed_or_state(cell):
    module = build(lstmfast, Options(cell, 2), 3, 40, dropout=0.5)
    x = torch.randn(5, 2, 3)
    torch.manual_seed(1)
    first, second = module(x)[0], module(x)[0]
    torch.manual_seed(2)
    third = module(x)[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("layout", ["padded", "batch-first", "packed", "unsorted"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "options",
    [Options(cell, 3, bidirectional=both) for cell in CELLS for both in (False, True)]
    + [Options("LSTM", 3, bidirectional=True, projected=True)],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_dropout_drops_what_torch_drops(options, dtype, layout, probability):
    results = []
    pair = build_pair(options, 5, 17, dtype=dtype, dropout=probability, batch_first=layout == "batch-first")
    for module in pair:
        torch.manual_seed(0)
        lengths = {"packed": [6, 4, 4, 1], "unsorted": [4, 1, 6, 4]}.get(layout, [6] * 4)
        packed, leaf = make_packed(lengths, 5, dtype=dtype, requires_grad=True)
        torch.manual_seed(1)
        outputs = tensors_of(module(packed if layout in ("packed", "unsorted") else leaf))
        # The generator has been asked as often; but to drop everything torch asks nothing.
        after = torch.rand(4) if probability < 1 else torch.zeros(4)
        grads = torch.autograd.grad([o.sum() for o in outputs], [leaf, *module.parameters()])
        results.append([*outputs, *grads, after])
    torch.testing.assert_close(*results, **ROUNDING[dtype])


@pytest.mark.parametrize("package", [nn, lstmfast])
def test_evaluation_draws_nothing(package):
    module = build(package, Options("LSTM", 2), 3, 4, dropout=0.5).eval()
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    module(torch.randn(5, 2, 3, generator=torch.Generator()))
    assert torch.equal(torch.rand(4), expected)
