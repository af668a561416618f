"""torch.ops.lstmfast.* called directly: hostile arguments raise, strides do not matter, opcheck passes, it compiles."""

import itertools

import pytest
import torch
from torch.utils._pytree import tree_leaves as leaves
from torch.utils._pytree import tree_map_only

import lstmfast
from lstmfast import ops, reference
from lstmfast.autograd import second_order

CELLS = ("LSTM", "RNN_TANH", "RNN_RELU")


def arguments(cell="LSTM", T=3, B=2, I=5, H=4, L=1, D=1, P=0, bias=True, dtype=torch.float64, packed=None, **other):
    """Keyword arguments of a sound call of the op."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    facts, O = ops.CELLS[cell], P or H
    gates, states = facts["gates"], facts["states"]
    weights = []
    for layer, _ in itertools.product(range(L), range(D)):
        weights += [randn(gates * H, I if layer == 0 else D * O), randn(gates * H, O)]
        weights += [randn(gates * H), randn(gates * H)] if bias else []
        weights += [randn(P, H)] if P else []
    sizes = None if packed is None else torch.tensor(packed)
    a = {
        "cell": cell,
        "input": randn(T, B, I) if packed is None else randn(sum(packed), I),
        "batch_sizes": sizes,
        "hx": [randn(L * D, B, O), randn(L * D, B, H)][:states],
        "weights": weights,
        "dropout_mask": None,
        "has_biases": bias,
        "num_layers": L,
        "bidirectional": D == 2,
        "dropout": 0.0,
        "save_for_backward": True,
    }
    return {**a, **other}


def call(**kwargs):
    return ops.forward(*arguments(**kwargs).values())


def backward_arguments(**kwargs):
    a = arguments(**kwargs)
    output, h_n, c_n, hidden, reserve = ops.forward(*a.values())
    save = a.pop("save_for_backward")
    assert save
    return {
        "grad_output": torch.ones_like(output),
        "grad_h_n": torch.ones_like(h_n),
        "grad_c_n": torch.ones_like(c_n) if len(a["hx"]) > 1 else None,
        **a,
        "output": output,
        "hidden": hidden,
        "reserve": reserve,
        "output_mask": [True] * (1 + len(a["hx"]) + len(a["weights"])),
    }


HUGE = torch.zeros(1, dtype=torch.float64)
FORWARD_FAULTS = {
    "input 1-D": {"input": torch.zeros(5, dtype=torch.float64)},
    "input 4-D": {"input": torch.zeros(1, 1, 1, 5, dtype=torch.float64)},
    "input 0-D": {"input": torch.zeros((), dtype=torch.float64)},
    "input integer": {"input": torch.zeros(3, 2, 5, dtype=torch.int64)},
    "input complex": {"input": torch.zeros(3, 2, 5, dtype=torch.complex64)},
    "input float32 with float64 weights": {"input": torch.zeros(3, 2, 5)},
    "input sparse": {"input": torch.zeros(3, 2, 5, dtype=torch.float64).to_sparse()},
    "input on meta": {"input": torch.zeros(3, 2, 5, dtype=torch.float64, device="meta")},
    "no step": {"input": torch.zeros(0, 2, 5, dtype=torch.float64)},
    "no feature": {"input": torch.zeros(3, 2, 0, dtype=torch.float64)},
    "wrong feature count": {"input": torch.zeros(3, 2, 6, dtype=torch.float64)},
    "steps * batch overflow": {"I": 1, "input": HUGE.expand(2**31, 2**31, 1), "hx": []},
    "reserve overflow": {"input": HUGE.expand(2**30, 2**30, 5), "hx": []},
    "rows that no memory holds": {"input": HUGE.expand(2**20, 2**20, 5), "hx": []},
    "no layer": {"num_layers": 0},
    "negative layers": {"num_layers": -1},
    "absurd layers": {"num_layers": 2**62},
    "more layers than weights": {"num_layers": 3},
    "direction without weights": {"bidirectional": True},
    "biases promised": {"has_biases": False},
    "dropout NaN": {"dropout": float("nan")},
    "dropout negative": {"dropout": -0.1},
    "dropout above one": {"dropout": 1.5},
    "no weights": {"weights": []},
    "one state for LSTM": {"hx": [torch.zeros(1, 2, 4, dtype=torch.float64)]},
    "three states": {"hx": [torch.zeros(1, 2, 4, dtype=torch.float64)] * 3},
    "state of wrong size": {
        "hx": [torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 5, dtype=torch.float64)]
    },
    "state 2-D": {"hx": [torch.zeros(2, 4, dtype=torch.float64)] * 2},
    "state float32": {"hx": [torch.zeros(1, 2, 4)] * 2},
    "mask with one layer": {"dropout_mask": torch.ones(0, 3, 2, 4, dtype=torch.bool)},
    "packed input without batch_sizes": {"input": torch.zeros(6, 5, dtype=torch.float64)},
}
PACKED_FAULTS = {
    "3-D input": {"input": torch.zeros(3, 2, 5, dtype=torch.float64)},
    "sum too small": {"batch_sizes": torch.tensor([2, 1])},
    "sum too large": {"batch_sizes": torch.tensor([2, 2, 2])},
    "increasing": {"batch_sizes": torch.tensor([1, 2, 2])},
    "zero": {"batch_sizes": torch.tensor([3, 2, 0])},
    "negative": {"batch_sizes": torch.tensor([6, -1])},
    "overflowing": {"batch_sizes": torch.tensor([2**62, 2**62, 2**62])},
    "empty": {"batch_sizes": torch.zeros(0, dtype=torch.int64)},
    "int32": {"batch_sizes": torch.tensor([2, 2, 1], dtype=torch.int32)},
    "2-D": {"batch_sizes": torch.tensor([[2, 2, 1]])},
    "states of another batch": {"batch_sizes": torch.tensor([3, 2])},
}


@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_forward_refuses(fault):
    with pytest.raises((ValueError, RuntimeError, TypeError, NotImplementedError)) as error:
        call(**FORWARD_FAULTS[fault])
    assert not isinstance(error.value, SystemError)


@pytest.mark.parametrize("fault", PACKED_FAULTS)
def test_packed_forward_refuses(fault):
    with pytest.raises((ValueError, RuntimeError)):
        call(packed=(2, 2, 1), **PACKED_FAULTS[fault])


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("how", ["size", "rank", "dtype", "meta", "scalar"])
def test_each_weight_is_checked(index, how):
    weights = arguments(P=3)["weights"]
    w = weights[index]
    weights[index] = {
        "size": torch.zeros(w.shape[0] + 1, *w.shape[1:], dtype=w.dtype),
        "rank": w.unsqueeze(0),
        "dtype": w.float(),
        "meta": w.to("meta"),
        "scalar": torch.zeros((), dtype=w.dtype),
    }[how]
    with pytest.raises((ValueError, RuntimeError, NotImplementedError)):
        call(P=3, weights=weights)


@pytest.mark.parametrize("name", ["GRU", "", "lstm", "LSTM\0", "x" * 10000])
def test_unknown_cell_is_refused(name):
    with pytest.raises(ValueError, match="unknown cell"):
        ops.forward(name, *list(arguments().values())[1:])


@pytest.mark.parametrize("fault", ["no layer", "no weights", "biases promised", "more layers than weights"])
def test_fake_kernels_refuse_weights_that_they_cannot_read_sizes_from(fault):
    a = {**arguments(), **FORWARD_FAULTS[fault]}
    with pytest.raises(ValueError, match="weights must hold"):
        ops.forward(*tree_map_only(torch.Tensor, lambda t: t.to("meta"), a).values())


def test_tensors_on_the_meta_device_do_not_pass_for_data():
    """One of them is enough for the fake kernels to be called, whose results are memory that nobody has written."""
    stack = arguments(L=2, dropout=0.5, dropout_mask=torch.ones(1, 3, 2, 4, dtype=torch.bool, device="meta"))
    with pytest.raises(RuntimeError, match="must be on the input's device cpu, got meta"):
        ops.forward(*stack.values())
    a = backward_arguments()
    for name in ("grad_output", "grad_h_n", "grad_c_n", "output", "reserve"):
        with pytest.raises(RuntimeError, match="must be on the input's device cpu, got meta"):
            ops.backward(*{**a, name: a[name].to("meta")}.values())


def test_error_names_argument_expectation_and_what_came():
    with pytest.raises(ValueError, match=r"unknown cell 'GRU', expected one of LSTM, RNN_TANH, RNN_RELU"):
        ops.forward("GRU", *list(arguments().values())[1:])
    first = torch.zeros(1, 16, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"weights\[0\] must be 2-D, got 3-D"):
        call(weights=[first, *arguments()["weights"][1:]])
    weights = arguments()["weights"]
    weights[1] = torch.zeros(16, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"weights\[1\] must have shape \[16, 4\], got \[16, 5\]"):
        call(weights=weights)


BACKWARD_FAULTS = {
    "gradient of wrong shape": {"grad_output": torch.zeros(3, 2, 5, dtype=torch.float64)},
    "gradient of wrong dtype": {"grad_output": torch.zeros(3, 2, 4)},
    "grad_h_n of wrong shape": {"grad_h_n": torch.zeros(1, 3, 4, dtype=torch.float64)},
    "grad_c_n of wrong shape": {"grad_c_n": torch.zeros(2, 4, dtype=torch.float64)},
    "output of wrong shape": {"output": torch.zeros(3, 2, 3, dtype=torch.float64)},
    "reserve too small": {"reserve": torch.zeros(1, 6, 8, dtype=torch.float64)},
    "reserve empty": {"reserve": torch.zeros(0, dtype=torch.float64)},
    "reserve float32": {"reserve": torch.zeros(1, 6, 40)},
    "hidden missing": {"hidden": torch.zeros(0, dtype=torch.float64)},
    "mask too short": {"output_mask": [True]},
    "mask too long": {"output_mask": [True] * 20},
    "fewer states than forward": {"hx": []},
    "input of another length": {"input": torch.zeros(4, 2, 5, dtype=torch.float64)},
}


@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_backward_refuses(fault):
    with pytest.raises((ValueError, RuntimeError)):
        ops.backward(*{**backward_arguments(), **BACKWARD_FAULTS[fault]}.values())


@pytest.mark.parametrize("cell", CELLS)
def test_only_what_is_asked_is_returned(cell):
    a = backward_arguments(cell=cell, L=2, D=2)
    full = leaves(ops.backward(*a.values()))
    for i in range(len(full)):
        a["output_mask"] = [k == i for k in range(len(full))]
        for k, g in enumerate(leaves(ops.backward(*a.values()))):
            assert torch.equal(g, full[k]) if k == i else g.numel() == 0


def scattered(t):
    """The same values with gaps and in another order of dimensions."""
    if t.dim() == 0 or not t.is_floating_point():
        return t
    spread = torch.full([2 * s for s in reversed(t.shape)], float("nan"), dtype=t.dtype)
    view = spread[tuple(slice(1, None, 2) for _ in t.shape)].permute(*reversed(range(t.dim())))
    return view.copy_(t)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("packed", [None, (2, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(cell, packed, dtype):
    options = {"cell": cell, "L": 2, "D": 2, "packed": packed, "dtype": dtype}
    a = backward_arguments(**options)
    expected = ops.backward(*a.values())
    b = tree_map_only(torch.Tensor, scattered, a)
    assert not b["input"].is_contiguous()
    forward = {k: b[k] for k in arguments() if k != "save_for_backward"}
    outputs = ops.forward(*forward.values(), True)
    # Where the weights' rows are as long as a pack of lanes, a short call reads them in place if they can be, and then
    # adds up in another order: one rounding of h more or less in the half type, a few of float32. Gradients reach 10.
    same = {"rtol": 2**-7, "atol": 2**-8} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(outputs[0], a["output"], **same)
    for x, y in zip(leaves(ops.backward(*b.values())), leaves(expected), strict=True):
        torch.testing.assert_close(x, y, **same)


@pytest.mark.parametrize("isa", lstmfast._C.isa_levels())
@pytest.mark.parametrize("cell", CELLS)
def test_all_that_is_kept_is_written(cell, isa):
    """Also what pads the layout, or the op would have results that change from call to call."""
    lstmfast._C.set_isa(isa)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        for B, H, P, dtype in itertools.product((1, 9), (4, 17, 65), (0, 3), (torch.float32, torch.float64)):
            if P and cell != "LSTM":
                continue
            for result in leaves(call(cell=cell, B=B, H=H, P=P, dtype=dtype, L=2, D=2)):
                assert not result.isnan().any(), (B, H, P, dtype)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("cell", CELLS)
def test_empty_batch(cell):
    a = backward_arguments(cell=cell, B=0, L=2, D=2)
    assert a["output"].shape == (3, 0, 8)
    for g, like in zip(leaves(ops.backward(*a.values())), [a["input"], *a["hx"], *a["weights"]], strict=True):
        assert g.shape == like.shape
        assert not g.any()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [{}, {"L": 2, "D": 2}, {"packed": (2, 2, 1)}, {"bias": False}, {"hx": []}, {"dtype": torch.bfloat16}],
    ids=["plain", "stacked", "packed", "no bias", "no states", "bfloat16"],
)
def test_opcheck(cell, options):
    a = arguments(cell=cell, **options)
    for t in (a["input"], *a["hx"], *a["weights"]):
        t.requires_grad_()
    torch.library.opcheck(ops.forward, tuple(a.values()))
    torch.library.opcheck(ops.backward, tuple(backward_arguments(cell=cell, **options).values()))


def test_opcheck_projection_and_dropout():
    mask = torch.rand(1, 3, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    options = {"P": 3, "L": 2, "dropout_mask": mask, "dropout": 0.5}
    torch.library.opcheck(ops.forward, tuple(arguments(**options).values()))
    torch.library.opcheck(ops.backward, tuple(backward_arguments(**options).values()))


def test_direct_call_has_a_gradient():
    a = arguments(L=2, dtype=torch.float64)
    leaves = [a["input"], *a["hx"], *a["weights"]]
    for t in leaves:
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda *_: ops.forward(*a.values())[:3], leaves, fast_mode=True)


def test_direct_call_without_reserve_says_that_it_has_no_gradient():
    a = arguments(save_for_backward=False)
    a["input"].requires_grad_()
    with pytest.raises(RuntimeError, match="save_for_backward=False"):
        ops.forward(*a.values())[0].sum().backward()


def test_reserve_is_only_there_when_asked_for():
    *_, hidden, reserve = call(L=2, save_for_backward=False)
    assert hidden.numel() == 0
    assert reserve.numel() == 0


@pytest.mark.parametrize("module", [lstmfast.LSTM, lstmfast.RNN])
def test_compiles_without_graph_break(module):
    m = module(5, 7, num_layers=2, bidirectional=True)
    x = torch.randn(4, 3, 5)
    compiled = torch.compile(m, fullgraph=True, backend="aot_eager", dynamic=True)
    expected = m(x)[0]
    expected.sum().backward()
    grads = [p.grad.clone() for p in m.parameters()]
    m.zero_grad()
    out = compiled(x)[0]
    out.sum().backward()
    assert torch.equal(out, expected)
    for p, g in zip(m.parameters(), grads, strict=True):
        assert torch.equal(p.grad, g)


def test_every_cell_has_a_reference():
    assert set(ops.CELLS) == set(reference.CELLS)
    for name, facts in ops.CELLS.items():
        assert reference.CELLS[name].states == facts["states"]


# ---- the ops that write into memory of the caller's


def into_arguments(cell="LSTM", **kwargs):
    a = arguments(cell, **kwargs)
    output, h_n, c_n, *_ = ops.forward(*a.values())
    given = {name: a[name] for name in ("cell", "input", "hx", "weights", "has_biases", "num_layers")}
    states = [torch.full_like(t, torch.nan) for t in (h_n, c_n)[: len(a["hx"])]]
    results = {"float32_precision": None, "output": torch.full_like(output, torch.nan), "states": states}
    return {**given, **results}, (output, h_n, c_n)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("T", [1, 3])
def test_forward_into(cell, T):
    a, (output, h_n, c_n) = into_arguments(cell, T=T, L=2)
    assert ops.forward_into(*a.values()) is None
    assert torch.equal(a["output"], output)
    for written, expected in zip(a["states"], (h_n, c_n), strict=False):
        assert torch.equal(written, expected)


INTO_FAULTS = {
    "output too short": lambda a: {"output": a["output"][:2]},
    "output with gaps": lambda a: {"output": torch.zeros(3, 2, 8, dtype=torch.float64)[..., ::2]},
    "output float32": lambda a: {"output": a["output"].float()},
    "output is the input": lambda a: {"input": a["output"], "weights": [a["weights"][1], *a["weights"][1:]]},
    "states are hx": lambda a: {"states": a["hx"]},
    "states are each other": lambda a: {"states": [a["states"][0]] * 2, "hx": [a["hx"][0], a["states"][0]]},
    "a state too few": lambda a: {"states": a["states"][:1]},
    "no states": lambda a: {"states": [], "hx": []},
    "states too small": lambda a: {"states": [s[:, :1] for s in a["states"]]},
}


@pytest.mark.parametrize("fault", INTO_FAULTS)
def test_forward_into_refuses(fault):
    a, _ = into_arguments()
    with pytest.raises((RuntimeError, ValueError)):
        ops.forward_into(*{**a, **INTO_FAULTS[fault](a)}.values())


WALK_FAULTS = {
    "unknown cell": {"cell": "GRU"},
    "dpre of another size": {"dpre": torch.zeros(5, 16, dtype=torch.float64)},
    "dpre float16": {"dpre": torch.zeros(6, 16, dtype=torch.float16)},
    "dpre transposed": {"dpre": torch.zeros(16, 6, dtype=torch.float64).t()},
    "reserve of another call": {"reserve": torch.zeros(6, 3, dtype=torch.float64)},
    "c0 too small": {"c0": torch.zeros(1, 4, dtype=torch.float64)},
    "c0 float32": {"c0": torch.zeros(2, 4)},
    "another batch": {"batch_sizes": torch.tensor([2, 2, 1])},
    "another w_hh": {"w_hh": torch.zeros(12, 4, dtype=torch.float64)},
}


@pytest.mark.skipif(not second_order.CPU_HAS_WALKS, reason="this build has no walks")
@pytest.mark.parametrize("fault", [None, *WALK_FAULTS])
def test_walks_refuse(fault):
    a = arguments()
    reserve = ops.forward(*a.values())[-1][0]
    double = {"dtype": torch.float64}
    tangent = {
        "cell": "LSTM",
        "dpre": torch.zeros(6, 16, **double),
        "batch_sizes": None,
        "reverse": False,
        "reserve": reserve,
        "w_hh": a["weights"][1],
        "w_hr": None,
        "dw_hr": None,
        "c0": a["hx"][1][0],
        "dh0": torch.zeros(2, 4, **double),
        "dc0": None,
    }
    tangent.update(WALK_FAULTS.get(fault, {}))
    if fault is None:
        dh, _, _, dc = ops.tangent_walk(*tangent.values())
        assert not dh.any()
        assert not dc.any()
        return
    with pytest.raises((RuntimeError, ValueError)):
        ops.tangent_walk(*tangent.values())
    back = {name: tangent[name] for name in ("cell", "dpre", "batch_sizes", "reverse", "reserve", "w_hh", "c0")}
    with pytest.raises((RuntimeError, ValueError)):
        ops.gradient_tangent_walk(
            back["cell"],
            torch.zeros(12, 4, **double),
            back["dpre"],
            torch.zeros(6, 4, **double),
            back["batch_sizes"],
            back["reverse"],
            back["reserve"],
            back["w_hh"],
            None,
            None,
            None,
            back["c0"],
            None,
            torch.zeros(2, 2, 4, **double),
            torch.zeros(2, 2, 4, **double),
        )
