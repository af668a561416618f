"""recompute=True: results and gradients as without it, and next to nothing kept between forward and backward."""

import functools
import math

import pytest
import torch
from cases import Options, all_options, build, build_pair, gradients, make_hx, make_packed, states_of, tensors_of
from module_pairs import INPUT_SIZE, ROUNDING, both_cells, randn
from recurrent_calls import PACKED, Call
from test_layouts import CASES, draw_exact, names_of, run
from tolerances import assert_no_worse
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lstmfast
from lstmfast import _C, autograd, ops
from lstmfast.autograd import chunks
from lstmfast.autograd.chunks import chunk_steps
from lstmfast.autograd.recompute import _Network

OPTIONS = [
    Options("LSTM", 3),
    Options("LSTM", 2, bidirectional=True, projected=True),
    Options("RNN_TANH", 2, bidirectional=True, bias=False),
    Options("RNN_RELU", 2),
]
# With chunks of 3 steps: of sequences that end at a border, in a chunk, and in the first chunk.
LENGTHS = (11, 9, 7, 2)


def is_recomputed(output):
    node = output.grad_fn
    while node is not None and "Backward" in node.name() and not node.name().startswith("Rec"):
        node = node.next_functions[0][0]  # a transposed or squeezed result
    return node.name() == "RecomputeFunctionBackward"


# ---- the length of a chunk


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("batch", [0, 1, 3, 8, 33, 128, 300])
def test_length_of_chunks(batch, device_type):
    rows, least = (chunks.CPU_ROWS, 1) if device_type == "cpu" else (chunks.GPU_ROWS, chunks.GPU_STEPS)
    for steps in (1, 2, 63, 64, 65, 500, 2000, 65_537, 1_000_000):
        length = chunk_steps(steps, batch, device_type)
        assert 1 <= length <= steps
        if length == steps:
            continue
        block = _C.plan("LSTM", steps, batch, 8, 8, training=True)["backward_steps"]
        assert length % block == 0
        wanted = max(math.isqrt(steps), rows / max(batch, 1), least)
        assert wanted / 2 <= length < wanted + 1 + block


def test_a_call_of_one_chunk_goes_the_usual_way():
    module = lstmfast.LSTM(3, 4, recompute=True)
    most = chunk_steps(300, 2, "cpu")
    assert not is_recomputed(module(torch.randn(most, 2, 3))[0])
    assert is_recomputed(module(torch.randn(most + 1, 2, 3))[0])
    assert not is_recomputed(module(torch.randn(300, 0, 3))[0])


# ---- results and gradients

EXACT_CASES = [
    case for case in CASES if case.steps == 33 and case.hidden_size <= 33 and (case.batch < 13 or case.hidden_size == 1)
]


@pytest.mark.parametrize("case", EXACT_CASES, ids=str)
def test_equal_to_the_last_bit(case, chunks_of):
    """As test_layouts: integers, which have one sum in any order."""
    data, expected, dtypes = draw_exact(case)
    chunks_of(8)
    for dtype in dtypes:
        actual = run(functools.partial(autograd.recurrent, recompute=True), case, data, dtype)
        for name, a, e in zip(names_of(case, data), actual, expected, strict=True):
            assert torch.equal(a, e.to(dtype)), f"{name} in {dtype}"


def test_exact_cases_reach_every_layout():
    assert len({(case.packed, case.bidirectional, case.num_layers) for case in EXACT_CASES}) == 8


def call_in_layout(module, layout, given_hx):
    """(outputs, leaves) of a call of 11 steps."""
    torch.manual_seed(3)
    if layout in ("packed", "unsorted"):
        lengths = LENGTHS if layout == "packed" else LENGTHS[::-1]
        input, leaf = make_packed(lengths, INPUT_SIZE, requires_grad=True)
    else:
        shape = {"padded": (11, 4), "batch-first": (4, 11), "unbatched": (11,)}[layout]
        input = leaf = randn(*shape, INPUT_SIZE, requires_grad=True)
    hx = make_hx(module, None if layout == "unbatched" else 4, requires_grad=True) if given_hx else None
    return tensors_of(module(input, hx)), [leaf, *states_of(hx), *module.parameters()]


@pytest.mark.parametrize("layout", ["padded", "batch-first", "unbatched", "packed", "unsorted"])
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_equal_to_torch(options, layout, chunks_of):
    chunks_of(3)
    theirs, ours = build_pair(options, INPUT_SIZE, 5, batch_first=layout == "batch-first")
    ours.recompute = True
    for given_hx in (True, False):
        expected, actual = (call_in_layout(module, layout, given_hx) for module in (theirs, ours))
        assert is_recomputed(actual[0][1])
        torch.testing.assert_close(actual[0], expected[0], **ROUNDING)
        torch.testing.assert_close(gradients(*actual), gradients(*expected), **ROUNDING)


@pytest.mark.parametrize("probability", [0.4, 1.0])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_dropout_drops_the_same(options, layout, probability, chunks_of):
    chunks_of(3)
    module, results = build(lstmfast, options, INPUT_SIZE, 5, dropout=probability, dtype=torch.float64), []
    for module.recompute in (False, True):
        outputs, leaves = call_in_layout(module, layout, True)
        results.append([*outputs, *gradients(outputs, leaves)])
    torch.testing.assert_close(*results, **ROUNDING)


@pytest.mark.long
def test_lengths_that_the_plan_chooses():
    # 1500 steps in chunks of 512 rows or so.
    for options in OPTIONS:
        module, results = build(lstmfast, options, 5, 16), []
        x = torch.randn(1500, 2, 5, requires_grad=True)
        for module.recompute in (False, True):
            outputs = tensors_of(module(x))
            results.append([*outputs, *gradients(outputs, [x, *module.parameters()])])
        for usual, again in zip(*results, strict=True):
            # Sums of 3000 rows in another order: float32's rounding, 6e-8, times the root of 3000, of the largest sum.
            torch.testing.assert_close(again, usual, rtol=0, atol=4e-6 * usual.abs().max().item())


@PACKED
@pytest.mark.parametrize("options", [OPTIONS[1], Options("LSTM", 2)], ids=str)
def test_gradcheck(options, packed, chunks_of):
    chunks_of(1)
    call = Call(options, packed=packed, dropout=0.3, recompute=True)
    assert is_recomputed(call(*call.leaves)[0])
    assert torch.autograd.gradcheck(call, call.leaves, fast_mode=True)


@both_cells
def test_gradgradcheck(options, chunks_of):
    chunks_of(1)
    call = Call(options, recompute=True)
    assert torch.autograd.gradgradcheck(call, call.leaves, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
# relu is left out on a GPU: its derivative jumps where rounding turns a state's sign, and what these results are
# compared with has rounded none where it was computed on a CPU.
@pytest.mark.parametrize(
    ("options", "is_gpu"),
    [*((o, False) for o in OPTIONS), *((o, True) for o in OPTIONS if o.cell != "RNN_RELU")],
    ids=str,
)
def test_half_types_lose_nothing(options, is_gpu, dtype, chunks_of, monkeypatch):
    """On a CPU neither the states at 40 borders nor 40 parts of a gradient are rounded to 16 bits on their way. On a
    GPU the states are, once in five steps, and the biases' parts; it does not show."""
    if is_gpu:
        monkeypatch.setattr("lstmfast.autograd.recompute.COMPUTES_HALF_TYPES_IN_FLOAT32", ())
    chunks_of(5)
    exact = build(nn, options, 4, 16, dtype=torch.float64)
    module = build(lstmfast, options, 4, 16, dtype=dtype)
    module.load_state_dict(exact.state_dict())
    exact.load_state_dict(module.state_dict())  # the rounded weights
    x = torch.randn(200, 3, 4).to(dtype)
    results = []
    for run_, recompute in ((module, False), (module, True), (exact, False)):
        run_.recompute = recompute
        leaf = x.to(next(run_.parameters()).dtype).requires_grad_()
        outputs = tensors_of(run_(leaf))
        cotangents = [torch.randn(o.shape, generator=torch.Generator().manual_seed(0)).to(dtype) for o in outputs]
        grads = torch.autograd.grad(
            outputs, [leaf, *run_.parameters()], [c.to(o) for c, o in zip(cotangents, outputs, strict=True)]
        )
        results.append([*outputs, *grads])
    count = len(results[0]) - len(grads)
    for i, (usual, again, exactly) in enumerate(zip(*results, strict=True)):
        assert_no_worse(again, usual, exactly.detach(), dtype, f"result {i}", gradient=i >= count)


# ---- memory


def saved_bytes(module, *args):
    """Of what a call keeps for backward beside its input and weights."""
    known = {t.untyped_storage().data_ptr() for t in (*args, *module.parameters())}
    kept = {}

    def pack(t):
        if t.untyped_storage().data_ptr() not in known:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output, _ = module(*args)
    return sum(kept.values()), output.numel() * output.element_size()


@pytest.mark.long
@both_cells
def test_what_is_kept(options):
    x = torch.randn(4000, 2, 8)
    one_way = build(lstmfast, Options(options.cell, 3), 8, 32, recompute=True)
    kept, output = saved_bytes(one_way, x)
    assert 0 < kept < output / 20  # states at 15 borders, of 3 layers
    one_way.recompute = False
    assert saved_bytes(one_way, x)[0] > 3 * output
    both_ways = build(lstmfast, Options(options.cell, 3, bidirectional=True), 8, 32, recompute=True)
    kept, output = saved_bytes(both_ways, x)
    assert 2 * output < kept < 2.1 * output  # the lower layers' outputs


class Records(TorchDispatchMode):
    """Collects the rows of what every call of an op keeps for backward."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (ops.forward, ops.forward_chunk):
            self.rows.append(result[-1].shape[1])
        return result


@pytest.mark.long
def test_no_call_is_longer_than_a_chunk():
    module, x = lstmfast.LSTM(8, 16, 2, recompute=True), torch.randn(4000, 2, 8)
    most = 2 * chunk_steps(4000, 2, "cpu")
    with Records() as records:
        module(x)[0].sum().backward()
    assert max(records.rows) == most
    assert sum(records.rows) == 2 * 8000  # once forward, once again in backward


# ---- what a GPU minds


class Copies(TorchDispatchMode):
    """Collects the ops that read tensors on one device and write to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
        if len(devices) > 1:
            self.found.append((func, devices))
        return result


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["padded", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_copied_between_cpu_and_gpu(bidirectional, lengths, dtype, chunks_of, monkeypatch):
    """A CUDA graph could not be made of a call that does. Here the GPU is a device without memory, on which the ops
    compute nothing."""
    chunks_of(3)
    directions, layers = (2, 1) if bidirectional else (1, 2)  # and layers of a chunk
    sizes = None if lengths is None else torch.tensor([sum(n > t for n in lengths) for t in range(max(lengths))])
    options, precisions = ops.Options("LSTM", sizes, True, 2, bidirectional, 0.3, 0, "high"), set()

    def forward_chunk(cell, input, batch_sizes, hx, weights, *others):
        precisions.add(others[-1])
        rows = input.shape[:-1]
        hidden, reserve = input.new_empty(layers - 1, *rows, 4), input.new_empty(layers, rows.numel(), 20)
        return input.new_empty(*rows, 4), *(torch.empty_like(t) for t in hx), hidden, reserve

    def backward_chunk(*arguments):
        input, hx, (precision, sums) = arguments[4], arguments[6], arguments[-2:]
        precisions.add(precision)
        assert all(s.dtype == torch.float32 for s in sums)
        return torch.empty_like(input), [torch.empty_like(t) for t in hx]

    monkeypatch.setattr(ops, "forward_chunk", forward_chunk)
    monkeypatch.setattr(ops, "backward_chunk", backward_chunk)
    rows = (11, 4) if sizes is None else (sum(lengths),)
    runs = [[(16, width), (16, 4), (16,), (16,)] * directions for width in (3, 4 * directions)]
    with torch.device("meta"):
        input = torch.empty(*rows, 3, dtype=dtype)
        weights = [torch.empty(shape, dtype=dtype) for shape in (*runs[0], *runs[1])]
        mask = torch.empty(1, *rows, 4 * directions, dtype=torch.bool)
    with Copies() as copies:
        network = _Network(options, chunks.cut(options, input), input, mask, weights)
        output, finals, kept = network.forward()
        grads = [torch.empty_like(t) for t in (output, *finals)]
        found = network.backward(kept, grads, [True] * (1 + len(weights)))
    assert [g.shape for g in found] == [t.shape for t in (input, *weights)]
    assert {t.device.type for t in (output, *finals, *kept, *found)} == {"meta"}
    assert copies.found == []
    assert precisions == {"high"}  # also in backward, when torch may be set to another


# ---- determinism


@pytest.mark.long
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    ("options", "dtype"),
    [(OPTIONS[0], torch.bfloat16), (OPTIONS[1], torch.float32), (OPTIONS[2], torch.float32)],
    ids=str,
)
def test_any_number_of_threads_gives_the_same_bits(options, dtype, layout):
    results = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        module = build(lstmfast, options, 17, 65, dtype=dtype, dropout=0.2, recompute=True)
        lengths = [60 - n if layout == "packed" else 60 for n in range(20)]
        packed, leaf = make_packed(lengths, 17, dtype=dtype, requires_grad=True)
        outputs = tensors_of(module(packed if layout == "packed" else leaf))
        assert is_recomputed(outputs[1])
        results.append([*outputs, *gradients(outputs, [leaf, *module.parameters()])])
    for again in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, results[0], strict=True))
