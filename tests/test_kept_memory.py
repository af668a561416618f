"""Large results on the CPU come from memory that freed ones have left, and are ordinary tensors all the same."""

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch

import lstmfast

STEPS, BATCH, HIDDEN = 40, 64, 256  # an output of 2.5 MiB


@pytest.fixture(autouse=True)
def empty_pool():
    limit = lstmfast.kept_memory_info()["results_limit"]
    lstmfast.set_kept_memory_limit(limit)
    yield
    lstmfast.set_kept_memory_limit(limit)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return lstmfast.LSTM(16, HIDDEN)


@pytest.fixture
def x():
    return torch.randn(STEPS, BATCH, 16)


def kept():
    return lstmfast.kept_memory_info()["results"]


def gradients(layer, x):
    layer.zero_grad()
    layer(x)[0].square().sum().backward()
    return [p.grad.clone() for p in layer.parameters()]


def test_a_step_leaves_its_memory_to_the_next(layer, x):
    output = layer(x)[0]
    places = {output.data_ptr(), output.grad_fn.saved_tensors[-1].data_ptr()}
    assert kept() == 0
    del output
    reserve = STEPS * BATCH * HIDDEN * 5 * 4
    assert reserve < kept() < reserve + output_bytes() + (8 << 20)
    again = layer(x)[0]
    assert {again.data_ptr(), again.grad_fn.saved_tensors[-1].data_ptr()} == places
    assert kept() == 0


def output_bytes():
    return STEPS * BATCH * HIDDEN * 4


def test_what_is_held_is_not_written_to(layer, x):
    with torch.no_grad():
        held = [layer(x * k)[0] for k in range(4)]
        expected = [y.clone() for y in held]
        for k in range(4, 9):
            layer(x * k)
    assert len({y.data_ptr() for y in held}) == 4
    for y, e in zip(held, expected, strict=True):
        assert torch.equal(y, e)


def test_results_do_not_depend_on_what_was_left(layer, x):
    fresh = gradients(layer, x)
    with torch.no_grad():
        layer(torch.full_like(x, torch.nan))
    assert kept() > 0
    for a, b in zip(gradients(layer, x), fresh, strict=True):
        assert torch.equal(a, b)


def test_limit(layer, x):
    lstmfast.set_kept_memory_limit(0)
    expected = gradients(layer, x)
    assert kept() == 0
    lstmfast.set_kept_memory_limit(4 << 20)
    assert lstmfast.kept_memory_info()["results_limit"] == 4 << 20
    for a, b in zip(gradients(layer, x), expected, strict=True):
        assert torch.equal(a, b)
    assert 0 < kept() <= 4 << 20
    with pytest.raises(ValueError, match="bytes must not be negative, got -1"):
        lstmfast.set_kept_memory_limit(-1)


def test_batches_of_many_lengths_keep_little(layer):
    most = 0
    for steps in (40, 44, 36, 60, 31, 80, 52, 41, 79):
        most = max(most, steps)
        gradients(layer, torch.randn(steps, BATCH, 16))
    assert kept() < 3 * most * BATCH * HIDDEN * 6 * 4


def test_an_ordinary_tensor(layer, x):
    with torch.no_grad():
        y = layer(x)[0]
    expected = y.clone()
    assert torch.equal(torch.from_numpy(y.numpy()), expected)
    assert torch.equal(pickle.loads(pickle.dumps(y)), expected)
    assert torch.equal(copy.deepcopy(y), expected)
    assert torch.equal(copy.deepcopy(y).share_memory_(), expected)


def test_another_size(layer, x):
    with torch.no_grad():
        y = layer(x)[0]
    expected = y.clone()
    y.resize_(2 * STEPS, BATCH, HIDDEN)
    assert torch.equal(y[:STEPS], expected)
    y.untyped_storage().resize_(0)
    assert kept() >= 2 * output_bytes()


def test_inference_mode(layer, x):
    with torch.inference_mode():
        assert layer(x)[0].is_inference()


def test_several_threads(layer, x):
    layers = [layer, *(copy.deepcopy(layer) for _ in range(3))]
    expected = gradients(layer, x)
    same = []

    def work(own):
        same.extend(all(torch.equal(a, b) for a, b in zip(gradients(own, x), expected, strict=True)) for _ in range(3))

    threads = [threading.Thread(target=work, args=(own,)) for own in layers]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(same) == 12
    assert all(same)


def test_the_profiler_sees_it(layer, x):
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        y = layer(x)[0]
    assert max(e.self_cpu_memory_usage for e in profile.key_averages()) >= y.nbytes


def test_the_system_may_take_it(layer, x):
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists() or "LazyFree:" not in rollup.read_text():
        # Linux counts such pages since 4.12; elsewhere there is nothing to look at, and nothing else depends on it.
        pytest.skip("this system does not tell what it may take")

    def lent():
        line = next(s for s in rollup.read_text().splitlines() if s.startswith("LazyFree:"))
        return int(line.split()[1]) << 10

    before = lent()
    gradients(layer, x)
    assert lent() - before > kept() // 2
