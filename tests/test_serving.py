"""Inference for others: step by step, from several threads, and in ONNX by way of torch.nn."""

import copy
import pickle
import threading
import time

import pytest
import torch
from cases import CELLS, Options, build, build_pair, make_hx, states_of, tensors_of
from torch import nn

import lstmfast

OPTIONS = [Options(cell, 2) for cell in CELLS] + [Options("LSTM", 2, bias=False, projected=True)]


# ---- streams


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stream_equals_the_whole_sequence(options, dtype):
    module = build(lstmfast, options, 5, 8, dtype=dtype, dropout=0.5)
    x = torch.randn(12, 3, 5).to(dtype)
    stream, state, steps = lstmfast.Stream(module, batch_size=3), None, []
    module.eval()
    with torch.no_grad():
        for row in x:
            output, state = module(row[None], state)
            steps.append(output[0])
    assert torch.equal(torch.stack([stream(row).clone() for row in x]), torch.stack(steps))
    assert all(torch.equal(a, b) for a, b in zip(states_of(stream.state), states_of(state), strict=True))
    # Some steps at once, from a state that was kept.
    stream.reset()
    first = stream(x[:7]).clone()
    kept = stream.state
    rest = stream(x[7:]).clone()
    stream.state = kept
    assert torch.equal(stream(x[7:]), rest)
    if dtype != torch.bfloat16:  # whose states are rounded where they are handed over
        torch.testing.assert_close(torch.cat((first, rest)), module(x)[0].detach())
    assert not rest.requires_grad


def test_some_sequences_of_a_stream_begin_anew():
    module = build(lstmfast, Options("LSTM", 2), 5, 8)
    x = torch.randn(6, 3, 5)
    stream = lstmfast.Stream(module, batch_size=3)
    stream(x)
    stream.reset(torch.tensor([False, True, False]))
    again = stream(x).clone()
    fresh = lstmfast.Stream(module, batch_size=3)(x)
    assert torch.equal(again[:, 1], fresh[:, 1])
    assert not torch.equal(again[:, 0], fresh[:, 0])


def test_a_stream_sees_weights_that_change_in_place():
    module = build(lstmfast, Options("LSTM"), 5, 8)
    stream = lstmfast.Stream(module)
    other = build(lstmfast, Options("LSTM"), 5, 8)
    module.load_state_dict(other.state_dict())
    x = torch.randn(4, 1, 5)
    assert torch.equal(stream(x), lstmfast.Stream(other)(x))


def addresses(stream):
    return {t.data_ptr() for t in (*stream._states, *stream._next)}


@pytest.mark.parametrize("cell", CELLS)
def test_a_stream_writes_to_the_same_memory(cell):
    stream = lstmfast.Stream(build(lstmfast, Options(cell, 2), 5, 8), 3)
    before, outputs = addresses(stream), set()
    for i in range(5):
        row = torch.randn(3, 5)
        output = stream(row)
        outputs.add(output.data_ptr())
        if i == 2:
            stream.reset()
        if i == 3:
            stream.state = stream.state
    assert len(outputs) == 1
    assert addresses(stream) == before
    several = torch.randn(4, 3, 5)
    assert stream(several).data_ptr() == stream(several).data_ptr()
    # Written to from inside and outside of inference mode alike.
    for context in torch.inference_mode(), torch.no_grad(), torch.enable_grad():
        with context:
            assert not stream(
                several.requires_grad_() if not torch.is_inference_mode_enabled() else several
            ).requires_grad
    assert addresses(stream) == before


def test_the_state_of_a_stream_is_a_copy():
    stream = lstmfast.Stream(build(lstmfast, Options("LSTM", 2), 5, 8))
    x = torch.randn(6, 1, 5)
    stream(x)
    h, c = stream.state
    kept = h.clone(), c.clone()
    for row in x:
        stream(row)
    assert torch.equal(h, kept[0])
    assert torch.equal(c, kept[1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_of_a_stream_goes_on_by_itself(copied):
    stream = lstmfast.Stream(build(lstmfast, Options("LSTM", 2), 5, 8))
    x = torch.randn(4, 1, 5)
    stream(x)
    other = copied(stream)
    expected = stream(x).clone()
    stream(x)
    assert torch.equal(other(x), expected)
    assert not addresses(other) & addresses(stream)


def test_streams_in_threads_of_their_own_share_a_module():
    module = build(lstmfast, Options("LSTM", 2), 33, 65)
    xs = torch.randn(4, 50, 33)
    results = [None] * len(xs)

    def serve(i):
        torch.set_num_threads(1)
        stream = lstmfast.Stream(module)
        results[i] = torch.stack([stream(row[None]).clone() for row in xs[i]])

    workers = [threading.Thread(target=serve, args=(i,)) for i in range(len(xs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, result in enumerate(results):
        serve(i)
        assert torch.equal(result, results[i])


def test_a_stream_that_is_busy_refuses_a_second_caller():
    stream = lstmfast.Stream(build(lstmfast, Options("LSTM"), 5, 8))
    x = torch.randn(4, 1, 5)
    expected = stream(x).clone()
    stream.reset()
    with stream._lock, pytest.raises(RuntimeError, match="one caller at a time"):
        stream(x)
    assert torch.equal(stream(x), expected)  # and nothing has moved


def test_stream_refuses():
    module = build(lstmfast, Options("LSTM"), 5, 8)
    with pytest.raises(TypeError, match=r"expected an lstmfast\.LSTM or lstmfast\.RNN, got torch\.nn\."):
        lstmfast.Stream(nn.LSTM(5, 8))
    with pytest.raises(ValueError, match="bidirectional"):
        lstmfast.Stream(build(lstmfast, Options("LSTM", bidirectional=True), 5, 8))
    with pytest.raises(ValueError, match="batch_size"):
        lstmfast.Stream(module, 0)
    with pytest.raises(TypeError, match="batch_size must be an integer, got float"):
        lstmfast.Stream(module, 2.0)
    stream = lstmfast.Stream(module, 2)
    with pytest.raises(RuntimeError, match="at least one step"):
        stream(torch.zeros(0, 2, 5))
    for size in ((3, 5), (2, 6), (5,), (1, 1, 2, 5)):
        with pytest.raises(RuntimeError, match="expected input of the size"):
            stream(torch.zeros(size))
    with pytest.raises(RuntimeError, match="expected states"):
        stream.state = torch.zeros(1, 2, 8)
    with pytest.raises(TypeError, match="states that are tensors, got NoneType"):
        stream.state = (None, None)
    with pytest.raises(RuntimeError, match=r"states of floating point, got torch\.complex64"):
        stream.state = (torch.zeros(1, 2, 8, dtype=torch.complex64),) * 2
    for which in ([True], [True] * 3, [1, 0], [[True], [False]]):
        with pytest.raises(RuntimeError, match=r"which must be bool of the size \[2\]"):
            stream.reset(torch.tensor(which))
    with pytest.raises(TypeError, match="which must be a bool tensor or None, got list"):
        stream.reset([True, False])
    with pytest.raises(ValueError, match="dtype"):
        stream(torch.zeros(2, 5, dtype=torch.float64))


# ---- threads


def test_the_op_releases_the_interpreter():
    # While a call of some tens of milliseconds runs, another thread counts: with the lock held it would not.
    module = build(lstmfast, Options("LSTM"), 128, 256)
    x = torch.randn(200, 8, 128)
    counts, done = [0], threading.Event()

    def count():
        while not done.is_set():
            counts[0] += 1
            time.sleep(0)

    with torch.no_grad():
        module(x)
        counter = threading.Thread(target=count)
        counter.start()
        try:
            time.sleep(0.01)
            before = counts[0]
            module(x)
            during = counts[0] - before
        finally:
            done.set()
            counter.join()
    # The interpreter's own switching would give the counter a turn before and after the op.
    assert during > 20


@pytest.mark.parametrize("threads_each", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_calls_from_several_threads(training, threads_each):
    module = build(lstmfast, Options("LSTM", 2, bidirectional=True), 33, 65)
    inputs = [torch.randn(9 + 5 * i, 3 + i, 33) for i in range(4)]

    def results(x):
        torch.set_num_threads(threads_each)
        if not training:
            with torch.inference_mode():
                return [t.clone() for t in tensors_of(module(x))]
        return list(torch.autograd.grad(module(x)[0].sum(), list(module.parameters())))

    expected = [results(x) for x in inputs]
    failures = []

    def serve(i):
        for _ in range(3):
            if not all(torch.equal(a, e) for a, e in zip(results(inputs[i]), expected[i], strict=True)):
                failures.append(i)

    workers = [threading.Thread(target=serve, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


# ---- elsewhere


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_back_in_torch(options):
    theirs, ours = build_pair(options, 5, 8)
    model = nn.Sequential(ours)
    lstmfast.to_torch(model)
    assert type(model[0]) is type(theirs)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    hx = make_hx(theirs, 3)
    torch.testing.assert_close(tensors_of(model[0](x, hx)), tensors_of(theirs(x, hx)))


class Outputs(nn.Module):
    """ONNX has no name for nested results."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "options", [Options("LSTM", 2, bidirectional=True), Options("RNN_TANH", 2), Options("RNN_RELU")], ids=str
)
def test_onnx_by_way_of_torch(options, tmp_path):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = Outputs(build(lstmfast, options, 5, 8)).eval()
    theirs = lstmfast.to_torch(copy.deepcopy(ours))
    torch.onnx.export(
        theirs,
        (torch.randn(4, 3, 5),),
        tmp_path / "model.onnx",
        dynamo=False,
        input_names=["x"],
        output_names=["output"],
        dynamic_axes={"x": {0: "steps", 1: "batch"}},
    )
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for steps, batch in ((4, 3), (11, 2)):
        x = torch.randn(steps, batch, 5)
        (output,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), ours(x).detach(), rtol=1e-4, atol=1e-5)
