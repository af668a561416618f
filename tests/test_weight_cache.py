"""Packed weights that inference keeps: never stale, bounded, shared by threads."""

import threading

import pytest
import torch

import lstmfast

T, N, INPUT, HIDDEN = 20, 3, 24, 40


@pytest.fixture(autouse=True)
def empty_cache():
    limit = lstmfast.weight_cache_info()["limit"]
    lstmfast.set_weight_cache_limit(0)
    lstmfast.set_weight_cache_limit(limit)
    yield
    lstmfast.set_weight_cache_limit(limit)


def pair(**options):
    torch.manual_seed(0)
    ours = lstmfast.LSTM(INPUT, HIDDEN, **options)
    return ours, torch.nn.LSTM(INPUT, HIDDEN, **options), torch.randn(T, N, INPUT)


def assert_same(ours, theirs, x):
    """Results of weights as they are now, however they became so."""
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-5)


def counted(call):
    before = lstmfast.weight_cache_info()
    call()
    after = lstmfast.weight_cache_info()
    return after["hits"] - before["hits"], after["misses"] - before["misses"]


def negate_through_data(m):
    m.weight_hh_l0.data.neg_()  # changes nothing but sign bits, in an even number of weights


def edit_through_numpy(m):
    m.weight_ih_l0.detach().numpy()[3, 5] += 1


def swap_rows(m):
    m.weight_hh_l0.data[[0, 1]] = m.weight_hh_l0.data[[1, 0]].clone()


def edit_in_place(m):
    with torch.no_grad():
        m.weight_hh_l0.mul_(1.5)


def load(m):
    m.load_state_dict({name: torch.randn_like(p) * 0.1 for name, p in m.state_dict().items()})


def optimize(m):
    m(torch.randn(T, N, INPUT))[0].sum().backward()
    torch.optim.SGD(m.parameters(), lr=0.1).step()


def replace(m):
    m.weight_ih_l0 = torch.nn.Parameter(torch.randn_like(m.weight_ih_l0) * 0.1)


def replace_data(m):
    m.weight_ih_l0.data = torch.randn_like(m.weight_ih_l0) * 0.1


@pytest.mark.parametrize(
    "change",
    [negate_through_data, edit_through_numpy, swap_rows, edit_in_place, load, optimize, replace, replace_data],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("options", [{}, {"proj_size": 8}], ids=["plain", "proj"])
def test_changed_weights_are_seen(change, options):
    ours, theirs, x = pair(**options)
    assert_same(ours, theirs, x)
    change(ours)
    assert_same(ours, theirs, x)


def test_weights_are_packed_once():
    ours, theirs, x = pair(num_layers=2, bidirectional=True)
    assert counted(lambda: assert_same(ours, theirs, x)) == (0, 4)
    assert counted(lambda: assert_same(ours, theirs, x)) == (4, 0)
    edit_in_place(ours)
    assert counted(lambda: assert_same(ours, theirs, x)) == (3, 1)


def test_same_bits_with_and_without():
    ours, _, x = pair()
    with torch.no_grad():
        first, second = ours(x)[0], ours(x)[0]
        lstmfast.set_weight_cache_limit(0)
        none = ours(x)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, none)


def test_training_and_short_calls_keep_nothing():
    ours, _, x = pair()
    ours(x)[0].sum().backward()
    with torch.no_grad():
        ours(x[:2])
    assert lstmfast.weight_cache_info()["entries"] == 0


def test_bounded_least_recently_used_first():
    models = [pair()[0] for _ in range(3)]
    x = pair()[2]
    with torch.no_grad():
        models[0](x)
        size = lstmfast.weight_cache_info()["bytes"]
        lstmfast.set_weight_cache_limit(2 * size)
        models[1](x)
        models[0](x)
        models[2](x)  # the second has to go
        assert lstmfast.weight_cache_info()["bytes"] == 2 * size
        assert counted(lambda: models[0](x)) == (1, 0)
        assert counted(lambda: models[1](x)) == (0, 1)


def test_negative_limit_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        lstmfast.set_weight_cache_limit(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types(dtype):
    ours, _, x = pair()
    ours, x = ours.to(dtype), x.to(dtype)
    with torch.no_grad():
        expected = ours(x)[0]
        ours.weight_hh_l0.data.neg_()
        changed = ours(x)[0]
        ours.weight_hh_l0.data.neg_()
        assert torch.equal(ours(x)[0], expected)
    assert not torch.equal(changed, expected)


def test_weights_with_gaps_between_rows():
    """Rows of a slice are hashed one by one; what lies between them does not count."""
    ours, theirs, x = pair()
    wide = torch.randn(4 * HIDDEN, INPUT + 7)
    ours.weight_ih_l0 = torch.nn.Parameter(wide[:, :INPUT])
    assert_same(ours, theirs, x)
    wide[:, INPUT:] = 0
    assert counted(lambda: assert_same(ours, theirs, x)) == (1, 0)
    wide[5, 3] += 1
    assert_same(ours, theirs, x)


def test_threads_share_it():
    """Many threads on one model whose weights change now and then: each result belongs to the weights of its time."""
    ours, _, x = pair()
    with torch.no_grad():
        expected = ours(x)[0]
    wrong = []

    def work():
        with torch.no_grad():
            wrong.extend(1 for _ in range(50) if not torch.equal(ours(x)[0], expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
