"""bench/: what it counts, times, compares, refuses and writes. Shapes are tiny: no figure here says what is fast."""

import copy
import sys
import types
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lstmfast
from lstmfast import reference

BENCH = Path(__file__).resolve().parent.parent / "bench"
sys.path.insert(0, str(BENCH))

import compare  # noqa: E402
import plot  # noqa: E402
import table  # noqa: E402
from lstmfast_bench import comparison, cuda, memory, peers, points, results, sides, timing  # noqa: E402
from lstmfast_bench.points import Point, Shape  # noqa: E402

import bench  # noqa: E402

FAST = ("--threads", "1", "--pairs", "2", "--min-time", "1e-4")
SPREAD = {"median", "low", "high"}


def run(out, *arguments):
    """(exit code, result) of bench.py."""
    code = bench.main([*FAST, "--out", str(out), *map(str, arguments)])
    return code, results.load(out)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(path, result) of a run with two shapes, two modes and two cells."""
    out = tmp_path_factory.mktemp("bench") / "new" / "tiny.json"
    code, result = run(out, "--shape", "3x2x4x5x1,4x3x4x6x2+", "--cell", "lstm,rnn_tanh")
    assert code == 0
    return out, result


def altered(result, path, change):
    """A copy of a result file in which `change` was called with every record."""
    result = copy.deepcopy(result)
    for record in result["points"]:
        change(record)
    results.save(result, path)
    return path


# Points


def test_shape():
    shape = Shape.parse("35x20x650x640x2+")
    assert shape == Shape(35, 20, 650, 640, 2, bidirectional=True)
    assert str(shape) == "35x20x650x640x2+"
    assert shape.directions == 2
    assert not Shape.parse("1x1x1x1x1").bidirectional


@pytest.mark.parametrize("text", ["", "1x2x3x4", "1x2x3x4x5x6", "1x2x3x4x0", "1x2x3x4x5-", "axbxcxdxe"])
def test_shape_refuses(text):
    with pytest.raises(ValueError, match="TxBxIxHxL"):
        Shape.parse(text)


def test_standard_grid():
    names = [str(shape) for shape in points.STANDARD]
    assert len(names) == len(set(names)) == 17
    assert sum(shape.bidirectional for shape in points.STANDARD) == 3
    for shape in points.STANDARD:
        assert replace(shape, bidirectional=False) in points.STANDARD


@pytest.mark.parametrize(
    ("cell", "variant"), [("LSTM", "plain"), ("LSTM", "proj"), ("RNN_TANH", "plain"), ("RNN_RELU", "plain")]
)
@pytest.mark.parametrize("shape", ["3x2x4x6x1", "3x2x4x6x3+"])
def test_flops_are_those_of_the_reference(cell, variant, shape):
    point = Point(Shape.parse(shape), cell, variant=variant)
    module = sides.module_of(nn, point)
    runs = point.shape.layers * point.shape.directions
    sizes = [point.state_size, point.shape.hidden][: reference.CELLS[cell].states]
    hx = tuple(torch.randn(runs, point.shape.batch, size, requires_grad=True) for size in sizes)
    x = torch.randn(point.shape.steps, point.shape.batch, point.shape.input, requires_grad=True)
    options = {"num_layers": point.shape.layers, "bidirectional": point.shape.bidirectional}
    with FlopCounterMode(display=False) as forward:
        output, _, _ = reference.recurrent(cell, x, None, hx, list(module.parameters()), has_biases=True, **options)
    assert point.flops == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output.sum(), [x, *hx, *module.parameters()], allow_unused=True)
    assert replace(point, mode="training").flops == forward.get_total_flops() + backward.get_total_flops()


def test_packed_lengths_and_their_flops():
    point = Point(Shape.parse("8x4x3x5x1"), variant="packed")
    assert point.lengths == [8, 6, 4, 2]
    assert point.flops * 32 == replace(point, variant="plain").flops * sum(point.lengths)
    assert Point(Shape.parse("8x1x3x5x1"), variant="packed").lengths == [8]


def test_recurrent_weight_bytes():
    point = Point(Shape.parse("8x1x3x6x2+"))
    module = sides.module_of(nn, point)
    recurrent = [p for name, p in module.named_parameters() if name.startswith("weight_hh")]
    assert point.recurrent_weight_bytes == sum(p.nbytes for p in recurrent)
    one_step = replace(point, shape=replace(point.shape, steps=1), dtype="float64")
    weights = [p for name, p in module.named_parameters() if name.startswith("weight")]
    assert one_step.recurrent_weight_bytes == 2 * sum(p.nbytes for p in weights)


def test_grid_leaves_out_what_means_nothing():
    shapes, modes = [Shape.parse("2x2x2x2x1")], points.MODES
    chosen = points.grid(shapes, ["lstm", "rnn_relu"], ["float32"], ["proj", "lastloss"], modes, [1])
    assert [(p.cell, p.variant, p.mode, p.flush_denormal) for p in chosen] == [
        ("LSTM", "proj", "inference", False),
        ("LSTM", "proj", "training", False),
        ("LSTM", "lastloss", "training", False),
        ("LSTM", "lastloss", "training", True),
        ("RNN_RELU", "lastloss", "training", False),
        ("RNN_RELU", "lastloss", "training", True),
    ]


def test_sweeps_share_their_common_points():
    base = Point(points.SCALING_BASE, threads=2)
    around = points.with_sweeps([base], threads=[1, 2])
    assert len(around) == len(set(around)) == sum(map(len, points.SWEEPS.values())) + 2 - 3
    assert next(p for p in around if p == base).sweeps == ("T", "B", "H", "threads")


# Times


def test_spread():
    assert timing.Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == timing.Spread(3.0, 2.0, 4.0)
    assert timing.Spread.of([2.0]) == timing.Spread(2.0, 2.0, 2.0)


def fake_timer(log):
    """Pretends that a call of "a" takes 1 s and one of "b" 0.25 s."""

    def timer(function, calls):
        log.append((function, calls))
        return {"a": 1.0, "b": 0.25}[function(calls)]

    return timer


def a(calls):
    return "a"


def b(calls):
    return "b"


def test_samples_interleave():
    log = []
    samples = timing.interleave([a, b], fake_timer(log), rounds=3, min_time=0.9)
    assert log[-6:] == [(a, 1), (b, 4)] * 3
    assert samples.times == [[1.0] * 3, [0.25] * 3]
    assert samples.calls == [1, 4]
    assert samples.ratio(0, 1) == timing.Spread(4.0, 4.0, 4.0)
    assert not samples.is_capped


def test_slow_points_are_cut_short():
    samples = timing.interleave([a, b], fake_timer([]), rounds=9, min_time=0.1, max_time=0.0)
    assert len(samples.times[0]) == len(samples.times[1]) == timing.LEAST_ROUNDS
    assert samples.is_capped


def test_cpu_timer_counts_calls():
    made = []
    assert timing.cpu_timer(made.append, 10) > 0
    assert made == [10]


class FakeGpu:
    """torch.cuda with a clock: an event is a moment on it. `log` is what was put on the stream."""

    def __init__(self, monkeypatch):
        self.now, self.log = 0.0, []
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.moment = gpu.now

            def synchronize(self):
                pass

            def elapsed_time(self, later):
                return later.moment - self.moment

        class Buffer:
            def zero_(self):
                gpu.run("flush", 1000.0)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        properties = types.SimpleNamespace(L2_cache_size=100)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
        monkeypatch.setattr(torch, "empty", lambda size, **_: Buffer() if size == 200 else None)

    def run(self, what, milliseconds):
        self.log.append(what)
        self.now += milliseconds

    def repeat(self, calls):
        for _ in range(calls):
            self.run("call", 3.0)


def test_calls_on_a_gpu_find_the_cache_full_of_other_data(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    assert cuda.ColdTimer()(gpu.repeat, 3) == pytest.approx(0.003)
    assert gpu.log == ["flush", "call"] * 3


def test_streams_of_steps_on_a_gpu_run_one_after_the_other(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    assert cuda.warm_timer(gpu.repeat, 3) == pytest.approx(0.003)
    assert gpu.log == ["call"] * 3


def test_timers(monkeypatch):
    FakeGpu(monkeypatch)
    point = Point(Shape.parse("3x2x4x5x1"))
    assert comparison.timers_of(point) == (timing.cpu_timer, timing.cpu_timer)
    on_gpu = replace(point, device="cuda")
    calls, rates = comparison.timers_of(on_gpu)
    assert isinstance(calls, cuda.ColdTimer)
    assert rates is cuda.warm_timer
    assert comparison.timers_of(replace(on_gpu, mode="streaming")) == (cuda.warm_timer, cuda.warm_timer)


def test_cuda_grid(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    options = bench._parser().parse_args(["standard", "--device", "cuda", "--dtype", "bfloat16"])
    chosen = bench.choose(options)
    assert {point.threads for point in chosen} == {16}
    assert {256, 128} <= {point.shape.batch for point in chosen}
    assert {1536, 2048} <= {point.shape.hidden for point in chosen}


# Runs


def test_result_file(tiny):
    _, result = tiny
    assert result.keys() == {
        "schema", "preset", "effort", "budget", "date", "git", "build_info", "versions", "machine",
        "points", "cut", "skipped", "failures", "groups",
    }  # fmt: skip
    assert result["build_info"] == lstmfast.build_info()
    own = {"cpu", "cores", "isa", "torch_isa", "l2_bytes", "load_average"}
    assert result["machine"].keys() == own | {"gpu", "gpu_details"}
    assert result["versions"]["torch"] == torch.__version__
    assert result["budget"] is None
    assert result["effort"] == {"pairs": 2, "min_time": 1e-4, "max_time": 3.0}
    assert len(result["points"]) == 8
    for record in result["points"]:
        assert record["ratio"].keys() == record["theirs"].keys() == record["ours"].keys() == SPREAD
        for spread in (record["ratio"], record["theirs"], record["ours"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
        assert (record["pairs"], record["is_capped"]) == (2, False)
        assert record["agreement"]["outputs"] <= record["agreement"]["outputs_tolerance"]
        assert (record["agreement"]["gradients"] is None) == (record["mode"] == "inference")
        assert record["gemm"]["shape"][0] == 512
        assert record["gpu"] is None
        assert record["gemm"]["ours_share"] > 0
        assert record["reading"]["ours_share"] > 0
        assert results.fields_of(results.point_of(record)).items() <= record.items()


def test_groups(tiny):
    _, result = tiny
    assert len(result["groups"]) == 4
    for group in result["groups"]:
        ratios = {
            r["shape"]: r["ratio"]["median"]
            for r in result["points"]
            if (r["cell"], r["mode"]) == (group["cell"], group["mode"])
        }
        assert group["count"] == 2
        assert group["worst"] == min(ratios.values()) == ratios[group["worst_shape"]]
        one, other = ratios.values()
        assert group["geometric_mean"] == pytest.approx((one * other) ** 0.5)
        assert group["below_one"] == sum(ratio < 1 for ratio in ratios.values())


def test_restricted_groups():
    records = [
        results.fields_of(Point(Shape.parse(shape))) | {"ratio": {"median": ratio}}
        for shape, ratio in [("9x1x8x8x1", 4.0), ("9x2x8x8x1", 1.0), ("9x64x8x512x1", 0.5)]
    ]
    found = [(g.restriction, g.count, g.geometric_mean, g.worst, g.below_one) for g in results.groups(records)]
    assert found == [
        ("", 3, pytest.approx(2 ** (1 / 3)), 0.5, 1),
        ("B = 1, H <= 512", 1, pytest.approx(4), 4.0, 0),
        ("B >= 64, H >= 512", 1, pytest.approx(0.5), 0.5, 1),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--variant", "packed,proj,lastloss"),
        ("--dtype", "float64,bfloat16,float16", "--mode", "training"),
        ("--cell", "rnn_relu"),
        ("--precision", "high", "--mode", "inference"),
        ("latency",),
    ],
    ids=" ".join,
)
def test_variants_run(tmp_path, arguments):
    code, result = run(tmp_path / "out.json", *arguments, "--shape", "6x3x4x8x1+")
    assert code == 0
    assert result["points"]
    assert not result["skipped"] + result["failures"]


def test_conditions_are_put_back(tmp_path):
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    run(tmp_path / "out.json", "--shape", "2x2x3x4x1", "--variant", "lastloss", "--precision", "medium")
    after = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    assert after == before
    assert torch.tensor(1e-40).mul(1) > 0, "subnormals are kept"


def test_latency_is_of_the_module_and_of_streams(tmp_path):
    code, result = run(tmp_path / "out.json", "latency", "--shape", "1x2x3x4x2,1x2x3x4x1+")
    assert code == 0
    assert [(p["shape"], p["callee"], p["mode"]) for p in result["points"]] == [
        ("1x2x3x4x2", "module", "streaming"),
        ("1x2x3x4x2", "stream", "streaming"),
        ("1x2x3x4x1+", "module", "streaming"),  # a stream has one direction
    ]


def test_streaming_carries_the_state():
    point = Point(Shape.parse("1x2x3x4x2"), mode="streaming")
    theirs, _ = sides.build(point)
    repeated = theirs.input.detach().expand(5, -1, -1)
    torch.testing.assert_close(theirs.stream(5)[0], theirs.module(repeated)[0][-1:])


@pytest.mark.parametrize("error", [1e-3, float("nan")])
@pytest.mark.parametrize("mode", points.MODES)
def test_wrong_results_are_not_timed(tmp_path, monkeypatch, capsys, error, mode):
    forward = lstmfast.LSTM.forward

    def wrong(self, input, hx=None):
        output, hx = forward(self, input, hx)
        return output * (1 + error), hx

    monkeypatch.setattr(lstmfast.LSTM, "forward", wrong)
    code, result = run(tmp_path / "out.json", "--shape", "3x2x4x5x1", "--mode", mode)
    assert code == 1
    assert result["points"] == []
    (failure,) = result["failures"]
    assert "outputs differ" in failure["reason"]
    assert failure["reason"] in capsys.readouterr().err


def test_wrong_gradients_are_not_timed(tmp_path, monkeypatch):
    train = sides.Side.train

    def wrong(self):
        output, gradients = train(self)
        return output, [*gradients[:-1], gradients[-1] * 1.001]

    monkeypatch.setattr(sides.Side, "train", lambda s: wrong(s) if isinstance(s.module, lstmfast.LSTM) else train(s))
    code, result = run(tmp_path / "out.json", "--shape", "3x2x4x5x1")
    assert code == 1
    assert [r["mode"] for r in result["points"]] == ["inference"]
    assert "gradients differ" in result["failures"][0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peer", "haste"], "needs the package haste_pytorch, which is not installed"),
        (["--peer", "flashrnn"], "needs the package flashrnn, which is not installed"),
        (["--shape", "1x2"], "a shape is TxBxIxHxL"),
        (["--cell", "gru"], "'gru' is none of lstm, rnn_tanh, rnn_relu"),
        (["--threads", "0"], "at least 1"),
        (["--cell", "rnn_tanh", "--variant", "proj"], "no point is left"),
        (["--mode", "inference", "--variant", "lastloss"], "no point is left"),
        (["latency", "--mode", "training"], "a mode of its own"),
        (["dispatch", "--variant", "packed"], "in the variant plain only"),
    ],
)
def test_refusals(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        bench.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_cuda_is_refused_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "torch.cuda.is_available() is False" in capsys.readouterr().err


def test_nothing_measured(tmp_path):
    code, result = run(tmp_path / "out.json", "--shape", "3x2x4x5x1", "--peer", "compile", "--variant", "packed")
    assert code == 2
    assert [entry["reason"] for entry in result["skipped"]] == [
        "the loop takes neither packed input nor projections"
    ] * 2


def test_dispatch(tmp_path):
    code, result = run(tmp_path / "out.json", "dispatch", "--cell", "lstm,rnn_relu")
    assert code == 0
    callees = ["torch op", "module", "functional", "autograd.recurrent", "ops.forward"]
    assert [r["callee"] for r in result["points"]] == callees * 4
    assert {r["shape"] for r in result["points"]} == {"1x1x32x32x1"}


def test_memory(tmp_path):
    code, result = run(tmp_path / "out.json", "memory", "--shape", "256x16x64x64x1", "--pairs", "1")
    assert code == 0
    (record,) = result["points"]
    assert record["metric"] == "bytes"
    output = 256 * 16 * 64 * 4
    for side in ("theirs", "ours"):
        assert 2 * output < record[side]["median"] < 40 * output, "at least the output and the gradient of the input"
    assert record["pairs"] == 1
    assert record["ratio"]["median"] == record["theirs"]["median"] / record["ours"]["median"]


def test_memory_tells_why_a_process_failed(tmp_path, monkeypatch):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho Traceback >&2\necho 'MemoryError: no more' >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(memory.ChildFailed, match="theirs ended with 3: MemoryError: no more"):
        memory.peak_in_child(Point(Shape.parse("1x1x1x1x1")), "theirs")


# Peers


@pytest.mark.parametrize("cell", points.GATES)
def test_compiled_loop_is_the_module(monkeypatch, cell):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # takes a minute, and is torch's to test
    point = Point(Shape.parse("5x3x4x6x2+"), cell, mode="training", peer="compile")
    agreement = sides.compare(*sides.build(point))
    assert agreement.gradients < 1e-6
    sides.compare(*sides.build(replace(point, mode="streaming")))


def fake_flashrnn(rows, recurrent, bias, *, function, backend, dtype):
    """The documented call: rows [B, T, G, 1, H], recurrent [G, 1, H, H], bias [G, 1, H]; states [S, B, T, 1, H]."""
    assert (backend, dtype) == ("cuda_fused", "float32")
    cell = reference.CELLS[{"lstm": "LSTM", "elman": "RNN_TANH"}[function]]
    state = tuple(rows.new_zeros(rows.shape[0], rows.shape[-1]) for _ in range(cell.states))
    steps = []
    for pre in rows.flatten(2).unbind(1):
        state = cell(pre + state[0] @ recurrent.flatten(0, 2).t() + bias.flatten(), state)
        steps.append(torch.stack(state).unsqueeze(2))
    return torch.stack(steps, dim=2), None


class FakeHaste(nn.Module):
    """Haste's documented parameters and call."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(input_size, 4 * hidden_size))
        self.recurrent_kernel = nn.Parameter(torch.empty(hidden_size, 4 * hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))

    def forward(self, input):
        h = c = input.new_zeros(input.shape[1], self.bias.shape[0] // 4)
        steps = []
        for x in input:
            i, g, f, o = (x @ self.kernel + h @ self.recurrent_kernel + self.bias).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            steps.append(h)
        return torch.stack(steps), (h[None], c[None])


@pytest.mark.parametrize(("peer", "cell"), [("flashrnn", "LSTM"), ("flashrnn", "RNN_TANH"), ("haste", "LSTM")])
def test_weights_reach_the_peers_on_a_gpu(monkeypatch, peer, cell):
    """The layouts, on stand-ins: the packages themselves need a GPU."""
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=fake_flashrnn))
    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    point = Point(Shape.parse("5x3x4x6x2"), cell, mode="training", peer=peer)
    with pytest.raises(peers.Unsupported, match="CUDA devices only"):
        sides.build(point)
    monkeypatch.setitem(peers.PEERS, peer, replace(peers.PEERS[peer], refusal=lambda point: None))
    assert sides.compare(*sides.build(point)).gradients < 1e-6


# Result files: compare, table, plot


def scaled(factor):
    def change(record):
        record["ratio"] = {key: value * factor for key, value in record["ratio"].items()}

    return change


def narrow(record):
    record["ratio"] = {"median": 2.0, "low": 1.99, "high": 2.01}


def test_compare(tiny, tmp_path, capsys):
    _, result = tiny
    before = altered(result, tmp_path / "before.json", narrow)
    base = results.load(before)
    for factor, code, mark in [(1.0, 0, None), (0.96, 0, None), (0.9, 1, "worse"), (1.2, 0, "better")]:
        after = altered(base, tmp_path / "after.json", scaled(factor))
        assert compare.main([str(before), str(after)]) == code
        lines = capsys.readouterr().out.splitlines()
        changes = [line for line in lines if f"{factor:6.2f}" in line and "LSTM" in line]
        assert len(changes) == 4
        assert all(mark in line if mark else "worse" not in line + "better" for line in changes)
    assert compare.main([str(before), str(after), "--threshold", "0.5"]) == 0
    after = altered(base, tmp_path / "after.json", scaled(0.9))
    assert compare.main([str(before), str(after), "--threshold", "0.89"]) == 0


def test_compare_allows_for_the_spread(tiny, tmp_path):
    def wide(record):
        record["ratio"] = {"median": 1.8, "low": 1.6, "high": 2.0}

    before = altered(tiny[1], tmp_path / "before.json", narrow)
    assert compare.main([str(before), str(altered(tiny[1], tmp_path / "after.json", wide))]) == 0


def test_compare_tells_failures_and_strangers(tiny, tmp_path, capsys):
    path, result = tiny
    failing = copy.deepcopy(result) | {"failures": [{"point": "some point", "reason": "some reason"}]}
    failing["machine"]["cpu"] = "another"
    results.save(failing, tmp_path / "failing.json")
    assert compare.main([str(path), str(tmp_path / "failing.json")]) == 1
    output = capsys.readouterr().out
    assert "failed: some point: some reason" in output
    assert "CPU differs" in output
    _, other = run(tmp_path / "other.json", "--shape", "2x2x3x4x1", "--mode", "inference")
    assert other["points"]
    assert compare.main([str(path), str(tmp_path / "other.json")]) == 2


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', '{"schema": 1, "points": [{}]}'])
@pytest.mark.parametrize(
    "read", [lambda p: compare.main([p, p]), lambda p: table.main([p]), lambda p: plot.main([p, "--out", "x"])]
)
def test_other_files_are_refused(tmp_path, capsys, read, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        read(str(path))
    assert stopped.value.code == 2
    assert "other.json" in capsys.readouterr().err


def test_table(tiny, tmp_path):
    def set_ratio(record):
        record["ratio"]["median"] = {"inference": 2.0, "training": 0.5}[record["mode"]]

    path = altered(tiny[1], tmp_path / "result.json", set_ratio)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):  # replacing what it generated itself as well
        assert table.main([str(path), "--readme", str(readme)]) == 0
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[1], lines[-2], lines[-1]) == ("before", table.BEGIN, table.END, "after")
    assert "old" not in lines
    assert lines.count("| 3x2x4x5x1 | 2.00 | **0.50** |") == 2, "losses are in bold, and each cell has a table"
    assert lines.count("| geometric mean | 2.00 | **0.50** |") == 2
    assert any("torch.nn.RNN over time of lstmfast.RNN" in line and "tanh" in line for line in lines)
    assert any(torch.__version__ in line and tiny[1]["machine"]["isa"] in line for line in lines)


@pytest.mark.parametrize(
    "text", ["", table.BEGIN, f"{table.END}{table.BEGIN}", f"{table.BEGIN}{table.BEGIN}{table.END}"]
)
def test_table_needs_its_markers(tiny, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        table.main([str(tiny[0]), "--readme", str(readme)])
    assert stopped.value.code == 2
    assert readme.read_text() == text


def test_heat_maps(tiny, tmp_path, capsys):
    assert plot.main([str(tiny[0]), "--out", str(tmp_path / "plots")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.name for p in paths] == ["speedup-LSTM.png", "speedup-RNN_TANH.png"]
    check_picture(paths[0])


def test_scaling(tmp_path, monkeypatch):
    monkeypatch.setattr(points, "SWEEPS", {"T": (1, 4), "B": (2, 3), "H": (8, 16)})
    code, result = run(tmp_path / "scaling.json", "scaling", "--shape", "4x2x8x8x1", "--mode", "training")
    assert code == 0
    assert len(result["points"]) == 4
    paths = plot.draw(result, tmp_path)
    assert [p.name for p in paths] == [f"scaling-LSTM-{size}.png" for size in "TBH"], "one thread count is no sweep"
    check_picture(paths[0])


def check_picture(path):
    height, width, _ = matplotlib.image.imread(path).shape
    assert height > 250
    assert width > 600
