"""bench/: how samples are taken, on the CPU and, with a clock that is moved by hand, on a GPU."""

import types
from dataclasses import replace

import pytest
import torch
from lstmfast_bench import comparison, cuda, timing
from lstmfast_bench.points import Point, Shape

import bench


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
