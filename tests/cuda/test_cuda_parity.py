"""On the GPU, beside torch.nn on cuDNN: the cases and the rule of tests/test_parity.py, and sizes for every regime."""

import pytest
import torch
from cases import CELLS, SIZES_B, SIZES_T, Options, all_options, build, make_hx, states_of, tensors_of
from covering import pairwise
from test_parity import DTYPES, PARAMETERS, Case, affordable, compare, draw_tensors, name_of, run_module

import lstmfast

pytestmark = [
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk"),
]

# Below, at and above what one multiprocessor, a part of the GPU, and all of it can hold of W_hh; and not a multiple of
# anything.
SIZES_H = (1, 8, 31, 64, 128, 151, 192, 256, 384, 512, 650)
GPU_PARAMETERS = PARAMETERS | {
    "hidden_size": SIZES_H,
    "input_size": (1, 7, 64, 129),
    "batch": (*SIZES_B, 8, 64),
    "steps": SIZES_T,
    "threads": (1,),
}
CASES = [Case(**parameters) for parameters in pairwise(GPU_PARAMETERS, affordable(400_000_000))]

# One layer, one direction: (hidden size, batch).
LARGE = [(128, 300), (256, 128), (768, 16), (1024, 1), (1024, 64), (1536, 24), (2048, 8)]
TF32_EPS = 2.0**-11


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_equals_cudnn(dtype, case):
    compare(case, dtype, "cuda")


@pytest.mark.parametrize("layout", ["time-major", "packed"])
@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=name_of)
@pytest.mark.parametrize("cell", ["LSTM", "RNN_TANH"])
def test_large_sizes(cell, dtype, sizes, layout):
    hidden_size, batch = sizes
    compare(Case(cell, 64, hidden_size, batch, steps=7, layout=layout), dtype, "cuda")


@pytest.mark.parametrize("sizes", [(64, 16), (192, 5), (256, 64), (512, 16), (1024, 8)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_tf32(cell, sizes):
    torch.backends.cudnn.allow_tf32 = True
    hidden_size, batch = sizes
    compare(Case(cell, 64, hidden_size, batch, steps=7), torch.float32, "cuda", TF32_EPS)


def test_tf32_is_used_only_where_it_is_allowed():
    case = Case("LSTM", 256, 256, batch=16, steps=7)
    tensors = draw_tensors(case, torch.float32, "cuda")
    results = {}
    for allowed in (False, True):
        for products in (False, True):  # the setting of products must not matter
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed, products
            results[allowed, products] = run_module(lstmfast, case, torch.float32, dict(tensors))[0]
    assert torch.equal(results[True, True], results[True, False])
    assert torch.equal(results[False, True], results[False, False])
    exact = run_module(lstmfast, case, torch.float64, {k: t.detach().double() for k, t in tensors.items()})[0]
    strict, reduced = ((results[allowed, False] - exact).abs().max().item() for allowed in (False, True))
    assert strict < 1e-5 < reduced < 1e-2


@pytest.mark.parametrize("options", all_options(), ids=str)
def test_equals_the_cpu(options):
    """float64 here and there: two implementations that share the cell and nothing else."""
    ours = build(lstmfast, options, 5, 33, dtype=torch.float64)
    there = build(lstmfast, options, 5, 33, dtype=torch.float64, device="cuda")
    there.load_state_dict(ours.state_dict())
    input, hx = torch.randn(9, 4, 5, dtype=torch.float64), make_hx(ours, 4)
    results = []
    for module, device in ((ours, "cpu"), (there, "cuda")):
        leaves = [t.to(device, copy=True).requires_grad_() for t in (input, *states_of(hx))]
        states = tuple(leaves[1:]) if options.num_states > 1 else leaves[1]
        outputs = tensors_of(module(leaves[0], states))
        grads = torch.autograd.grad(sum(o.sin().sum() for o in outputs), [*leaves, *module.parameters()])
        results.append([t.cpu() for t in (*outputs, *grads)])
    # float64: the same sums in another order, some thousand terms of about 1, each rounded to 1e-16.
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_empty_batch(options, given_hx):
    module = build(lstmfast, options, 3, 4, device="cuda")
    input = torch.randn(5, 0, 3, device="cuda", requires_grad=True)
    hx = make_hx(module, 0, requires_grad=True) if given_hx else None
    outputs = tensors_of(module(input, hx))
    leaves = [input, *states_of(hx), *module.parameters()]
    for gradient, leaf in zip(torch.autograd.grad(sum(o.sum() for o in outputs), leaves), leaves, strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()
    assert [o.shape[-2] for o in outputs] == [0] * len(outputs)


@pytest.mark.parametrize("cell", CELLS)
def test_very_many_steps(cell):
    """More than 65 536 steps, which a 16-bit index does not reach, against the same steps in parts."""
    module = build(lstmfast, Options(cell), 2, 3, device="cuda", dtype=torch.float64)
    input = torch.randn(66_000, 2, 2, device="cuda", dtype=torch.float64)
    with torch.no_grad():
        whole = tensors_of(module(input))
        parts, hidden = [], None
        for part in input.split(6_000):
            output, hidden = module(part, hidden)
            parts.append(output)
    # float64: the library may sum products of other sizes in another order.
    torch.testing.assert_close(whole, [torch.cat(parts), *states_of(hidden)], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=name_of)
@pytest.mark.parametrize("hidden_size", [64, 512])
def test_nan_stays_in_its_sequence(cell, dtype, hidden_size):
    """Also where blocks exchange their part of h through memory and may wait for values that are not NaN."""
    module = build(lstmfast, Options(cell), 3, hidden_size, dtype=dtype, device="cuda")
    clean = torch.randn(6, 7, 3, dtype=dtype, device="cuda")
    dirty = clean.clone()
    dirty[2, 3] = float("nan")
    with torch.no_grad():
        outputs = [module(x)[0] for x in (clean, dirty)]
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(outputs[0][:, others], outputs[1][:, others])
    assert torch.equal(outputs[0][:2], outputs[1][:2])
    assert outputs[1][2:, 3].isnan().all()
