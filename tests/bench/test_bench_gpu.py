"""bench/ on a GPU, as far as it can be tested without one: which points in which order, what is counted beside them.

The CPU stands in for the device, and a clock that is moved by hand for time.
"""

from dataclasses import replace

import plot
import pytest
import table
import torch
from lstmfast_bench import comparison, cudnn, expected, gpu, points, report, results, roofline, schedule, sides
from lstmfast_bench.peers import PEERS
from lstmfast_bench.points import Point, Shape
from torch import nn

import bench

H200 = gpu.Gpu("NVIDIA H200", 132, 0, "H200")
PEAKS = roofline.PEAKS[H200.name]


def point(shape, **fields):
    return Point(Shape.parse(shape), device="cuda", **{"dtype": "bfloat16", **fields})


def scheduled():
    return schedule.points(16, "cuda")


# The schedule


def test_the_most_telling_points_come_first():
    chosen = scheduled()
    core = len(schedule.CORE) * len(schedule.KINDS) * 2
    assert all("core" in p.sweeps for p in chosen[:core])
    assert [p.sweeps for p in chosen[core : core + 1]] == [("H x B",)]
    assert {(p.dtype, p.precision) for p in chosen[:8]} == set(schedule.KINDS)
    assert len(chosen) == len(set(chosen)) > 300


def test_the_whole_grid_is_scheduled():
    plain = [p for p in scheduled() if (p.cell, p.variant, p.peer) == ("LSTM", "plain", "nn")]
    chosen = {(p.shape, p.dtype, p.precision, p.mode): p for p in plain}
    for shape in points.STANDARD_CUDA:
        for dtype, precision in schedule.KINDS:
            for mode in points.MODES:
                assert not points.SWEPT.issuperset(chosen[shape, dtype, precision, mode].sweeps)
    swept = {name for p in chosen.values() for name in p.sweeps}
    assert {"T", "B", "H", "H x B"} <= swept
    assert chosen[Shape.parse("100x64x512x512x1"), "bfloat16", "highest", "training"].sweeps == ("core", "H x B", "B")


def test_only_peers_that_are_installed_are_scheduled(monkeypatch):
    monkeypatch.setattr(schedule, "PEERS", {n: replace(p, package=None) for n, p in PEERS.items()})
    assert {p.peer for p in scheduled()} == set(PEERS) - {"checkpoint"}, "which is about memory"
    monkeypatch.setattr(schedule, "PEERS", {n: replace(p, package="no_such_package") for n, p in PEERS.items()})
    assert scheduled() == []


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (["--dtype", "float16"], lambda p: p.dtype == "float16"),
        (["--precision", "high"], lambda p: p.dtype != "float32" or p.precision == "high"),
        (["--mode", "inference"], lambda p: p.mode == "inference"),
        (["--cell", "rnn_relu"], lambda p: p.cell == "RNN_RELU"),
        (["--variant", "packed"], lambda p: p.variant == "packed"),
        (["--shape", "3x2x4x5x1,1x1x1x1x1"], lambda p: str(p.shape) in ("3x2x4x5x1", "1x1x1x1x1")),
    ],
    ids=lambda a: a[0] if isinstance(a, list) else "",
)
def test_options_leave_a_part_of_the_schedule(arguments, holds):
    options = bench._parser().parse_args(["gpu", "--device", "cpu", *arguments])
    chosen = bench.choose(options)
    assert chosen
    assert all(holds(p) and p.device == "cpu" for p in chosen)


def test_the_device_of_the_preset_is_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        bench.main(["gpu"])
    assert "torch.cuda.is_available() is False" in capsys.readouterr().err


# Time


def run(out, *arguments):
    common = ("--device", "cpu", "--threads", "1", "--pairs", "2", "--min-time", "1e-4", "--out", str(out))
    return bench.main(["gpu", *common, *arguments]), results.load(out)


def test_what_there_is_no_time_for_is_cut_and_named(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(bench.time, "monotonic", lambda: now[0])
    measure = bench.measure

    def slow(*arguments):
        now[0] += 10.0
        return measure(*arguments)

    monkeypatch.setattr(bench, "measure", slow)
    # Four kinds, two modes: a point begins at 0, 10 and 20 s, and at 30 s two seconds would be too many.
    code, result = run(tmp_path / "out.json", "--shape", "3x2x4x5x1", "--budget", "31.9")
    assert code == 0
    assert len(result["points"]) == 3
    assert result["budget"] == 31.9
    assert len(result["cut"]) == 5
    assert all(entry["sweeps"] == ["grid"] for entry in result["cut"])
    assert "cut for time: 5 points (grid: 5)" in capsys.readouterr().err


def test_peers_that_compile_need_more_time_left():
    now = [0.0]
    budget = schedule.Budget(50.0, lambda: now[0])
    assert budget.allows(point("1x1x1x1x1"))
    assert not budget.allows(point("1x1x1x1x1", peer="compile"))
    now[0] = 49.0
    assert not budget.allows(point("1x1x1x1x1"))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_budget_is_a_number_of_seconds(seconds):
    with pytest.raises(SystemExit):
        bench.main(["gpu", "--budget", seconds])


# What cuDNN is expected to run

STANDARD, PERSISTENT, SMALL = "standard", "persistent", "small h"


@pytest.mark.parametrize(
    ("fields", "forward", "backward"),
    [
        ({"shape": "9x8x128x128x1"}, SMALL, SMALL),
        ({"shape": "9x8x64x192x3+"}, SMALL, STANDARD),
        ({"shape": "9x8x64x193x1"}, STANDARD, STANDARD),
        ({"shape": "9x8x64x64x1", "dtype": "float64"}, STANDARD, STANDARD),
        ({"shape": "9x8x64x64x1", "variant": "packed"}, STANDARD, STANDARD),
        ({"shape": "9x8x64x64x1", "variant": "proj"}, STANDARD, STANDARD),
        ({"shape": "9x8x64x384x1", "cell": "RNN_TANH"}, SMALL, STANDARD),
        ({"shape": "9x8x64x256x1", "cell": "RNN_RELU"}, SMALL, SMALL),
        ({"shape": "9x16x512x512x1"}, STANDARD, STANDARD),
        ({"shape": "9x16x512x512x1", "dtype": "float16"}, PERSISTENT, PERSISTENT),
        ({"shape": "9x128x128x1024x1", "dtype": "float16"}, PERSISTENT, PERSISTENT),
        ({"shape": "9x136x128x1024x1", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x12x128x1024x1", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x16x100x1024x1", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x16x128x1152x1", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x16x512x512x2", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x16x512x512x1+", "dtype": "float16"}, STANDARD, STANDARD),
        ({"shape": "9x96x512x896x1", "dtype": "float16", "cell": "RNN_TANH"}, STANDARD, STANDARD),
        ({"shape": "9x96x512x768x1", "dtype": "float16", "cell": "RNN_TANH"}, PERSISTENT, PERSISTENT),
    ],
    ids=str,
)
def test_cudnns_algorithm(fields, forward, backward):
    asked = point(**fields)
    known = {"multiprocessors": 132, "minor": 0}
    assert [cudnn.expected(asked, backward=b, **known) for b in (False, True)] == [forward, backward]


def test_cudnns_algorithm_depends_on_the_gpu():
    asked = point("9x16x512x512x1", dtype="float16")
    for multiprocessors, minor in ((97, 0), (132, 6)):
        assert cudnn.expected(asked, backward=False, multiprocessors=multiprocessors, minor=minor) == STANDARD


# Floors and models


@pytest.mark.parametrize("cell", points.GATES)
@pytest.mark.parametrize("variant", ["plain", "proj"])
@pytest.mark.parametrize("shape", ["3x2x4x6x1", "3x2x4x6x3+"])
def test_weights_are_counted(shape, variant, cell):
    counted = Point(Shape.parse(shape), cell, variant=variant if cell == "LSTM" else "plain")
    assert counted.weights == sum(p.numel() for p in sides.module_of(nn, counted).parameters())


def test_traffic_by_hand():
    # 10 x 4 rows of 6 features and, in two directions, 2 x 8 outputs; 2 x 32 x (6 + 8 + 2) weights; 2 bytes each.
    weights, rows = 2 * 32 * 16, 10 * 4
    assert roofline.traffic(point("10x4x6x8x1+")) == 2 * (rows * 6 + weights + rows * 16)
    # And the gradients of the output, the input and the weights.
    assert roofline.traffic(point("10x4x6x8x1+", mode="training")) == 4 * (rows * 6 + weights + rows * 16)
    # Rows that packed input does not have are not read: lengths 10, 7, 5 and 2.
    assert roofline.traffic(point("10x4x6x8x1+", variant="packed")) == 2 * (24 * 6 + weights + 24 * 16)


def test_floor_by_hand():
    # 2 x 100 x 64 rows x 2048 x 1024 multiplications, at 989e12 a second.
    floor = roofline.floor(point("100x64x512x512x1"), PEAKS)
    assert floor["limit"] == "arithmetic"
    assert floor["seconds"] == pytest.approx(2 * 6400 * 2048 * 1024 / 989e12)
    slow = roofline.floor(point("100x64x512x512x1", dtype="float32", precision="highest"), PEAKS)
    fast = roofline.floor(point("100x64x512x512x1", dtype="float32", precision="high"), PEAKS)
    assert slow["seconds"] / fast["seconds"] == pytest.approx(494 / 67)
    few = point("100x1x512x512x1")
    floor = roofline.floor(few, PEAKS)
    assert floor == {"limit": "memory", "seconds": roofline.traffic(few) / 4.8e12}
    assert roofline.floor(point("1x1x1x1x1", dtype="float64"), PEAKS) is None


def test_model_by_hand(monkeypatch):
    asked = []

    def plan(cell, dtype, steps, batch, inputs, hidden, projection, directions, layers, backward, tf32, name):
        asked.append((inputs, backward, tf32))
        assert (directions, layers) == (1, 1)
        assert (cell, dtype, steps, batch, hidden, projection, name) == ("LSTM", "float32", 10, 4, 8, 0, "H200")
        return {"regime": "backward" if backward else "forward", "microseconds": 3.0 if backward else 2.0}

    monkeypatch.setattr(roofline._C, "cuda_plan", plan)
    model = roofline.model(point("10x4x6x8x2+", mode="training", dtype="float32", precision="high"), "H200", PEAKS)
    assert asked == [(6, False, True), (6, True, True), (16, False, True), (16, True, True)]
    assert model["regimes"] == ["forward", "backward"] * 2
    steps = 2 * 2 * 10 * (2e-6 + 3e-6)  # layers, directions
    products = sum(2 * 2 * 40 * 32 * (3 * inputs + 8) for inputs in (6, 16))
    assert model["seconds"] == pytest.approx(steps + products / 494e12)
    assert roofline.model(point("10x4x6x8x2+", dtype="float32"), "H200", None)["seconds"] == pytest.approx(80e-6)


def test_the_planner_is_asked():
    model = roofline.model(point("100x16x64x64x1", mode="training"), "H200", PEAKS)
    assert model["regimes"] == ["one SM", "one SM"]
    assert 50e-6 < model["seconds"] < 200e-6


def test_expected_ratios():
    assert expected.ratio(point("100x16x512x512x1")) == 7.1
    assert expected.ratio(point("50x16x512x512x1", mode="training")) == 6.2
    assert expected.ratio(point("100x256x1024x1024x1", dtype="float32", precision="high")) == 1.2
    none = [
        point("100x16x512x512x1", dtype="float32"),
        point("100x17x512x512x1"),
        point("100x16x256x512x1"),
        point("100x16x512x512x2"),
        point("100x16x512x512x1+"),
        point("100x16x512x512x1", variant="packed"),
        point("100x16x512x512x1", cell="RNN_TANH"),
        point("100x16x512x512x1", peer="compile"),
    ]
    assert [expected.ratio(p) for p in none] == [None] * len(none)
    assert all(len(row) == len(expected.BATCHES) for row in expected.RATIOS.values())


def test_figures():
    asked = point("100x16x512x512x1", mode="training", dtype="float16")
    floor = roofline.floor(asked, PEAKS)["seconds"]
    found = gpu.figures(asked, H200, ours=4 * floor, ratio=1.1)
    assert found["floor"]["share"] == pytest.approx(0.25)
    assert found["model"]["share"] == pytest.approx(found["model"]["seconds"] / (4 * floor))
    assert found["cudnn"] == [PERSISTENT] * 2
    assert (found["expected_ratio"], found["is_short"]) == (1.7, True)
    assert not gpu.figures(asked, H200, ours=1.0, ratio=1.2)["is_short"]
    stranger = gpu.figures(replace(asked, peer="compile"), replace(H200, name="another"), ours=1.0, ratio=1.0)
    assert (stranger["floor"], stranger["cudnn"], stranger["is_short"]) == (None, None, None)
    assert stranger["model"]["seconds"] > 0


# Runs, with the CPU in the place of the GPU


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run over a small schedule, with the figures that a GPU would add."""
    parts = (
        schedule.Part("core", [Shape.parse("3x2x8x8x1")], schedule.KINDS[:2]),
        schedule.Part("H x B", [Shape(3, b, h, h, 1) for h in (8, 16) for b in (1, 2)], schedule.KINDS[:2]),
        schedule.Part("T", [Shape(t, 2, 8, 8, 1) for t in (1, 3)], schedule.KINDS[:2]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "PARTS", parts)
        patch.setattr(comparison, "_gpu", lambda p, s: gpu.figures(p, H200, s.spread(1).median, s.ratio(0, 1).median))
        code, result = run(tmp_path_factory.mktemp("gpu") / "out.json")
    assert code == 0
    assert not result["failures"] + result["skipped"] + result["cut"]
    return result


def test_a_run(measured):
    assert len(measured["points"]) == 2 * 2 * 5
    assert {(r["dtype"], r["precision"]) for r in measured["points"]} == set(schedule.KINDS[:2])
    for record in measured["points"]:
        assert 0 < record["gpu"]["floor"]["share"] < 1
        assert record["gpu"]["cudnn"] == [SMALL] * (1 + (record["mode"] == "training"))
    # Means are over the points that were not measured for a sweep alone.
    assert [group["count"] for group in measured["groups"]] == [1] * 4


def test_lines_and_tables(measured):
    header = report.HEADER_GPU
    assert header.startswith(report.HEADER)
    for record in measured["points"]:
        line = report.line(record | {"ratio": {"median": 2.0, "low": 1.9, "high": 2.1}})
        assert line[header.index("cuDNN") :].startswith("small h")
        share = line[len(report.HEADER) : len(report.HEADER) + 9]
        assert share.strip() == f"{record['gpu']['floor']['share']:.0%}"
    assert "| 3x2x8x8x1 |" in table.tables(measured)
    assert "3x2x16x16x1" not in table.tables(measured)


def test_pictures(measured, tmp_path):
    names = [path.name for path in plot.draw(measured, tmp_path)]
    kinds = ("LSTM-bfloat16", "LSTM-high")
    assert names == [
        *(f"speedup-{kind}.png" for kind in kinds),
        *(f"map-{kind}.png" for kind in kinds),
        *(f"scaling-{kind}-T.png" for kind in kinds),
    ]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)
