"""Good citizenship on the GPU: bits, streams, graphs, waiting, memory, other devices, processes and threads, errors."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import CELLS, Options, build, make_hx, make_packed, states_of, tensors_of
from setups import DTYPES, SETUPS
from test_readme import examples_of
from torch import nn

import lstmfast
from lstmfast import _C
from lstmfast.autograd import chunks

ROOT = Path(__file__).resolve().parents[2]


class Training:
    """A module, its input and states, and run(): all outputs and gradients of a call."""

    def __init__(self, options, hidden_size, batch, dtype=torch.float32, *, steps=12, packed=False, device="cuda"):
        torch.manual_seed(0)
        self.module = build(lstmfast, options, 32, hidden_size, dtype=dtype, device=device)
        lengths = [max(1, steps - n // 3) if packed else steps for n in range(batch)]
        rows, padded = make_packed(lengths, 32, dtype=dtype, device=device)
        self.leaf = (rows.data if packed else padded).detach().clone().requires_grad_()
        self.input = rows._replace(data=self.leaf) if packed else self.leaf
        self.hx = make_hx(self.module, batch, requires_grad=True)
        self.leaves = [self.leaf, *states_of(self.hx), *self.module.parameters()]
        self.cotangents = [torch.randn_like(o) for o in self.forward()]

    def forward(self):
        return tensors_of(self.module(self.input, self.hx))

    def run(self):
        outputs = self.forward()
        return [o.detach() for o in outputs] + list(torch.autograd.grad(outputs, self.leaves, self.cotangents))


def assert_same_bits(actual, expected, what=""):
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        # Of integers, so that NaNs are the same as themselves.
        assert torch.equal(a.view(torch.uint8), e.view(torch.uint8)), f"{what}: result {i} differs"


def occupy(milliseconds: float) -> None:
    """Keeps the current stream busy for about so long, or longer on a GPU with a slow clock."""
    torch.cuda._sleep(int(milliseconds * 2e6))


PACKED = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
SETUP = pytest.mark.parametrize("setup", SETUPS, ids=str)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ---- the same bits


@PACKED
@SETUP
@DTYPE
def test_the_same_bits_every_time(setup, dtype, packed):
    training = Training(*setup, dtype, packed=packed)
    expected = training.run()
    for _ in range(10):
        assert_same_bits(training.run(), expected)
    # Beside other work, which changes the order in which blocks get to run.
    other = torch.cuda.Stream()
    a = torch.randn(2048, 2048, device="cuda")
    torch.cuda.synchronize()
    for _ in range(3):
        with torch.cuda.stream(other):
            for _ in range(5):
                a @ a
        assert_same_bits(training.run(), expected, "beside other work")
    torch.cuda.synchronize()


@SETUP
@DTYPE
def test_no_memory_is_read_before_it_is_written(setup, dtype):
    training = Training(*setup, dtype)
    expected = training.run()
    was = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # torch.empty gives NaNs
    try:
        assert torch.empty(3, device="cuda").isnan().all()
        assert_same_bits(training.run(), expected)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = was
        torch.use_deterministic_algorithms(False)


# ---- streams


@PACKED
@SETUP
def test_runs_on_the_current_stream(setup, packed):
    training = Training(*setup, packed=packed)
    expected = training.run()
    side = torch.cuda.Stream()
    wanted = training.leaf.detach().clone()
    with torch.no_grad():
        training.leaf.fill_(float("nan"))
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # A kernel on another stream would not wait for the input.
        occupy(20)
        with torch.no_grad():
            training.leaf.copy_(wanted)
        actual = training.run()
    side.synchronize()
    assert_same_bits(actual, expected)


@SETUP
def test_two_streams_at_once(setup):
    trainings = [Training(*setup), Training(*setup, torch.bfloat16)]
    expected = [t.run() for t in trainings]
    streams = [torch.cuda.Stream() for _ in trainings]
    torch.cuda.synchronize()
    results = [[] for _ in trainings]
    for _ in range(5):
        for result, training, stream in zip(results, trainings, streams, strict=True):
            with torch.cuda.stream(stream):
                result.append(training.run())
    torch.cuda.synchronize()
    for result, e in zip(results, expected, strict=True):
        for actual in result:
            assert_same_bits(actual, e)


@SETUP
def test_threads_with_a_stream_each(setup):
    trainings = [Training(*setup) for _ in range(4)]
    expected = [t.run() for t in trainings]
    torch.cuda.synchronize()
    failures = []

    def work(training, wanted):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(5):
                    assert_same_bits(training.run(), wanted)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(trainings, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@PACKED
@SETUP
@DTYPE
def test_never_waits_for_the_gpu(setup, dtype, packed):
    training = Training(*setup, dtype, packed=packed)
    training.run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        occupy(300)
        end = torch.cuda.Event()
        training.run()
        end.record()
        assert not end.query(), "the call came back after the GPU was done"
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


# ---- CUDA graphs


def check_graph(training):
    """That replays give what calls give."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        training.run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = training.run()
    for seed in range(3):  # a flag left over from the last replay would show in the next
        torch.manual_seed(seed)
        with torch.no_grad():
            training.leaf.normal_()
        graph.replay()
        assert_same_bits(captured, training.run(), f"replay {seed}")


@PACKED
@SETUP
@DTYPE
def test_graph(setup, dtype, packed):
    check_graph(Training(*setup, dtype, packed=packed))


@PACKED
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_graph_of_chunks(dtype, bidirectional, packed, monkeypatch):
    monkeypatch.setattr(chunks, "chunk_steps", lambda steps, batch, device_type: min(5, steps))
    training = Training(Options("LSTM", 2, bidirectional=bidirectional), 64, 8, dtype, packed=packed)
    training.module.recompute = True
    check_graph(training)


def test_graphed_callable():
    module = lstmfast.LSTM(16, 64, num_layers=2, device="cuda")
    sample = torch.randn(10, 8, 16, device="cuda", requires_grad=True)
    input = torch.randn(10, 8, 16, device="cuda")
    expected = module(input)[0]
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    graphed = torch.cuda.make_graphed_callables(module, (sample,))
    output = graphed(input)[0]
    output.square().sum().backward()
    assert torch.equal(output, expected)
    assert_same_bits([p.grad for p in module.parameters()], gradients)


def test_the_documented_stream_of_graphs():
    """The example of docs/cuda.md carries the state from replay to replay."""
    (code,) = examples_of(ROOT / "docs" / "cuda.md")
    names = {}
    exec(compile(code, "cuda.md", "exec"), names)
    with torch.inference_mode():
        expected = names["step"](names["frames"].flatten(0, 1))[0]
    # One call over all frames and a call for each need not run the same kernel: the sums' order differs.
    torch.testing.assert_close(torch.cat(names["outputs"]), expected, rtol=1e-4, atol=1e-5)


# ---- memory


@pytest.mark.alone
@PACKED
@SETUP
def test_nothing_is_kept(setup, packed):
    training = Training(*setup, packed=packed)
    for _ in range(3):
        training.run()
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    free = torch.cuda.mem_get_info()[0]
    for _ in range(20):
        training.run()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == allocated
    assert torch.cuda.memory_reserved() == reserved
    # And what does not come from torch's allocator.
    assert free - torch.cuda.mem_get_info()[0] < 2**20


def peak_of(module, input):
    def step():
        module(input)[0].sum().backward()

    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def counted_peak(rows, hidden, layers, dtype):
    """Bytes of a training step of as many features as hidden units, at its peak: during the backward of the first layer
    (docs/cuda.md). Without what the size of the batch does not change."""
    size = torch.empty((), dtype=dtype).element_size()
    kept = layers * (_C.reserve_width("LSTM", str(dtype).removeprefix("torch."), hidden, 0, "cuda") * 4 + hidden * size)
    # The gates' gradients, h of the step before, and gradients of y: of the last layer, of the input, of a layer's.
    going_back = (4 + 1 + 1 + 1 + (layers > 1)) * hidden * size
    return rows * (kept + going_back)


PEAKS = pytest.mark.parametrize(("hidden_size", "layers"), [(256, 1), (512, 2)])


@PEAKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_peak_is_what_was_counted(dtype, hidden_size, layers):
    input = torch.randn(200, 64, hidden_size, dtype=dtype, device="cuda", requires_grad=True)
    peak = peak_of(lstmfast.LSTM(hidden_size, hidden_size, layers, dtype=dtype, device="cuda"), input)
    counted = counted_peak(200 * 64, hidden_size, layers, dtype)
    # A tenth for gradients of weights, partial sums of those of biases, and the allocator's rounding.
    assert 0.9 * counted <= peak <= 1.1 * counted, f"{peak / 2**20:.1f} MiB, counted {counted / 2**20:.1f} MiB"


@PEAKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_peak_beside_cudnns(dtype, hidden_size, layers):
    """What cuDNN keeps is not public. At least it keeps gates, c and y in the type of the elements, and going back it
    has the gates' gradients and those of y, x and a layer between: so much more than that we may need, and no more."""
    input = torch.randn(200, 64, hidden_size, dtype=dtype, device="cuda", requires_grad=True)
    options = {"num_layers": layers, "dtype": dtype, "device": "cuda"}
    theirs, ours = (peak_of(package.LSTM(hidden_size, hidden_size, **options), input) for package in (nn, lstmfast))
    least = (layers * (4 + 1 + 1) + 4 + 1 + 1 + (layers > 1)) * 200 * 64 * hidden_size * input.element_size()
    factor = 1.1 * counted_peak(200 * 64, hidden_size, layers, dtype) / least
    print(f"{ours / 2**20:.1f} MiB, cuDNN {theirs / 2**20:.1f} MiB, {ours / theirs:.2f} of it; at most {factor:.2f}")
    assert ours <= factor * theirs


# ---- several processes and devices

CHILD = """
import sys, torch
sys.path[:0] = [{tests!r}, {cuda_tests!r}]
from test_cuda_runtime import SETUPS, Training
for setup in SETUPS:
    for dtype in (torch.float32, torch.bfloat16):
        training = Training(*setup, dtype, steps=50)
        expected = training.run()
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(training.run(), expected))
        print(*(t.double().sum().item() for t in expected))
"""


@pytest.mark.alone
def test_two_processes_share_the_gpu():
    """Kernels whose blocks wait for each other must end even if another process has a part of the GPU."""
    code = CHILD.format(tests=str(ROOT / "tests"), cuda_tests=str(Path(__file__).parent))
    path = os.pathsep.join(p for p in (*sys.path, os.environ.get("PYTHONPATH")) if p)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        results = [child.communicate(timeout=150) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], [r[1][-2000:] for r in results]
    assert results[0][0] == results[1][0]
    assert len(results[0][0].splitlines()) == 2 * len(SETUPS)


@pytest.mark.several_gpus
@PACKED
@SETUP
def test_the_inputs_device_is_used(setup, packed):
    expected = Training(*setup, packed=packed).run()
    training = Training(*setup, packed=packed, device="cuda:1")
    assert torch.cuda.current_device() == 0
    actual = training.run()
    assert torch.cuda.current_device() == 0
    assert {t.device for t in actual} == {torch.device("cuda:1")}
    for a, e in zip(actual, expected, strict=True):
        # float32, and what computes `expected` may sum in another order.
        torch.testing.assert_close(a.cpu(), e.cpu(), rtol=1e-4, atol=1e-5)


@pytest.mark.several_gpus
def test_tensors_of_two_devices_are_refused():
    module = lstmfast.LSTM(3, 4, device="cuda:0")
    with pytest.raises(RuntimeError, match="cuda:1"):
        module(torch.randn(2, 1, 3, device="cuda:1"))


# ---- errors


def faulty_calls():
    module = lstmfast.LSTM(3, 4, device="cuda")
    weights = list(module.parameters())
    x = torch.randn(5, 2, 3, device="cuda")
    state = torch.zeros(1, 2, 4, device="cuda")
    sizes = torch.tensor([2, 2, 1])
    rows = torch.randn(5, 3, device="cuda")
    forward = lstmfast.ops.forward
    rest = (None, True, 1, False, 0.0, False)
    return {
        "input on the CPU": (RuntimeError, "cpu", lambda: module(x.cpu())),
        "hx on the CPU": (RuntimeError, "cpu", lambda: module(x, (state.cpu(), state.cpu()))),
        "hx of another dtype": (RuntimeError, "float64", lambda: module(x, (state.double(), state.double()))),
        "input of another dtype": (ValueError, "float16", lambda: module(x.half())),
        "too wide": (RuntimeError, "input_size", lambda: module(x.expand(5, 2, 3).repeat(1, 1, 2))),
        "op: input on the CPU": (RuntimeError, "cuda", lambda: forward("LSTM", x.cpu(), None, [], weights, *rest)),
        "op: batch_sizes on the GPU": (
            ValueError,
            "batch_sizes",
            lambda: forward("LSTM", rows, sizes.cuda(), [], weights, *rest),
        ),
        "op: integers": (ValueError, "float32", lambda: forward("LSTM", x.int(), None, [], weights, *rest)),
        "op: a mask on the CPU": (
            RuntimeError,
            "dropout_mask",
            lambda: forward(
                "LSTM",
                x,
                None,
                [],
                list(lstmfast.LSTM(3, 4, 2, device="cuda").parameters()),
                torch.ones(1, 5, 2, 4, dtype=torch.bool),
                True,
                2,
                False,
                0.5,
                False,
            ),
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "input on the CPU",
        "hx on the CPU",
        "hx of another dtype",
        "input of another dtype",
        "too wide",
        "op: input on the CPU",
        "op: batch_sizes on the GPU",
        "op: integers",
        "op: a mask on the CPU",
    ],
)
def test_refusals(name):
    kind, message, call = faulty_calls()[name]
    with pytest.raises(kind, match=message):
        call()
    # And the GPU is none the worse for it.
    assert lstmfast.LSTM(3, 4, device="cuda")(torch.randn(5, 2, 3, device="cuda"))[0].isfinite().all()


@pytest.mark.alone
def test_out_of_memory_is_torchs_error():
    free = torch.cuda.mem_get_info()[0]
    module = lstmfast.LSTM(1, 4096, device="cuda")
    batch = 64
    steps = free // (batch * 4096 * 4) + 1
    with pytest.raises(torch.OutOfMemoryError):
        module(torch.zeros(steps, batch, 1, device="cuda"))
    torch.cuda.empty_cache()
    assert module(torch.zeros(2, 1, 1, device="cuda"))[0].isfinite().all()


# ---- what the build says


def test_build_info():
    info = lstmfast.build_info()
    assert info["cuda"].split(".")[0] == torch.version.cuda.split(".")[0]
    assert info["cuda_architectures"]


def test_the_gpu_is_described_as_it_is():
    properties, info = torch.cuda.get_device_properties(0), _C.gpu_info(0)
    assert info["multiprocessors"] == properties.multi_processor_count
    assert info["capability"] == (properties.major, properties.minor)
    assert info["l2_bytes"] == properties.L2_cache_size
    assert info["shared_per_block"] == properties.shared_memory_per_block_optin
    assert info["registers_per_multiprocessor"] == properties.regs_per_multiprocessor
    assert info["cooperative"]


@SETUP
@DTYPE
def test_no_launch_is_refused(setup, dtype):
    """A plan that the driver refuses would be hidden by the general path, which takes over."""
    Training(*setup, dtype).run()
    assert _C.gpu_info(0)["persistent"]


@pytest.mark.parametrize("cell", CELLS)
def test_explain_describes_the_present_gpu(cell):
    module = build(lstmfast, Options(cell, 2), 8, 64, device="cuda")
    text = lstmfast.explain(module, steps=10, batch=4)
    assert torch.cuda.get_device_name() in text
    assert len(text.splitlines()) == 1 + 2 * 2
