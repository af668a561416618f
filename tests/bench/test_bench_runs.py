"""bench.py: what a run writes, refuses and puts back, and that wrong results are not timed."""

import sys

import pytest
import torch
from bench_runs import run
from lstmfast_bench import memory, peers, points, results, sides
from lstmfast_bench.points import Point, Shape

import bench
import lstmfast

SPREAD = {"median", "low", "high"}


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
        ("derivatives", "--mode", "penalty", "--cell", "lstm,rnn_relu", "--variant", "plain,packed,proj"),
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


def test_derivatives(tmp_path):
    code, result = run(tmp_path / "out.json", "derivatives", "--shape", "3x2x4x5x2+")
    assert code == 0
    assert [record["mode"] for record in result["points"]] == ["penalty", "per-sample"]
    for record in result["points"]:
        assert record["agreement"]["outputs"] is None
        assert 0 <= record["agreement"]["gradients"] <= record["agreement"]["gradients_tolerance"]
        assert record["gemm"] is record["reading"] is None, "no arithmetic is counted for them"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--variant", "proj", "--mode", "per-sample"), "torch.func.vmap takes LSTM alone, without projections"),
        (("--cell", "rnn_tanh", "--mode", "per-sample"), "torch.func.vmap takes LSTM alone"),
        (("--peer", "compile", "--mode", "penalty"), "derivatives are compared with torch.nn's alone"),
    ],
)
def test_derivatives_that_are_not_compared(tmp_path, arguments, reason):
    code, result = run(tmp_path / "out.json", "derivatives", "--shape", "3x2x4x5x1", *arguments)
    assert code == 2
    (skipped,) = result["skipped"]
    assert reason in skipped["reason"]


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
    code, result = run(tmp_path / "out.json", "memory", "--shape", "1024x16x64x64x1", "--pairs", "1")
    assert code == 0
    assert [record["callee"] for record in result["points"]] == ["module", "recompute"]
    output = 1024 * 16 * 64 * 4
    for record in result["points"]:
        assert record["metric"] == "bytes"
        for side in ("theirs", "ours"):
            assert 2 * output < record[side]["median"] < 40 * output, "at least the output and the input's gradient"
        assert record["pairs"] == 1
        assert record["ratio"]["median"] == record["theirs"]["median"] / record["ours"]["median"]
    plain, recomputed = (record["ours"]["median"] for record in result["points"])
    assert recomputed < plain


def test_memory_tells_why_a_process_failed(tmp_path, monkeypatch):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho Traceback >&2\necho 'MemoryError: no more' >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(memory.ChildFailed, match="theirs ended with 3: MemoryError: no more"):
        memory.peak_in_child(Point(Shape.parse("1x1x1x1x1")), "theirs")
