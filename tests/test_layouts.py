"""Exact tests of where everything lies: cells without activations, small integers, results equal to the last bit.

With identity activations all results and gradients are polynomials with integer coefficients of the inputs. As long as
every number on the way stays below 2**24, float32 holds all of them, any order of summation gives the same sum, and a
misplaced index shows as a wrong integer. That every number stays below is proved for each case by running the reference
on the absolute values: no partial sum, in any order, is larger than the sum of the absolute values of its terms, and
none of the terms is larger than what that run computes. The numbers are drawn sparser until the proof succeeds.

The sizes lie around the edges of tiles (3 or 6 rows), panels (16 to 64 columns) and blocks (96 rows forward, 256 back).
"""

import contextlib
import functools
import statistics
from dataclasses import dataclass

import pytest
import torch
from covering import pairwise

from lstmfast import _C, autograd, reference

THREADS = (1, 2, 3)


@dataclass(frozen=True)
class Case:
    cell: str
    input_size: int
    hidden_size: int
    batch: int
    steps: int
    bidirectional: bool = False
    num_layers: int = 1
    bias: bool = True
    projection: str = "none"  # "none", "1", "half" or "H-1"
    packed: bool = False
    hx: bool = True

    @property
    def proj_size(self) -> int:
        return {"none": 0, "1": 1, "half": (self.hidden_size + 1) // 2, "H-1": self.hidden_size - 1}[self.projection]

    def __str__(self) -> str:
        options = [
            "bidirectional" if self.bidirectional else "",
            f"{self.num_layers}layers" if self.num_layers > 1 else "",
            "" if self.bias else "nobias",
            f"P{self.proj_size}" if self.proj_size else "",
            "packed" if self.packed else "",
            "hx" if self.hx else "",
        ]
        sizes = f"I{self.input_size}-H{self.hidden_size}-B{self.batch}-T{self.steps}"
        return "-".join([self.cell, sizes, *filter(None, options)])


def valid(**parameters) -> bool:
    case = Case(**parameters)
    if case.projection != "none" and not (case.cell == "LSTM_LINEAR" and 0 < case.proj_size < case.hidden_size):
        return False
    return case.steps < 97 or (case.hidden_size <= 33 and case.input_size <= 33 and case.batch <= 4)


EDGES = (1, 15, 16, 17, 31, 33, 63, 64, 65)
PARAMETERS = {
    "cell": ("LSTM_LINEAR", "RNN_LINEAR"),
    "input_size": EDGES,
    "hidden_size": EDGES,
    "batch": (1, 2, 3, 4, 5, 6, 7, 8, 13),
    "steps": (1, 2, 33, 97, 300),
    "bidirectional": (False, True),
    "num_layers": (1, 2),
    "bias": (True, False),
    "projection": ("none", "1", "half", "H-1"),
    "packed": (False, True),
    "hx": (True, False),
}
CASES = [Case(**parameters) for parameters in pairwise(PARAMETERS, valid)]
# Panels enough to be shared by three threads, and rows enough for blocks that end in the middle of a tile.
CASES += [
    Case("RNN_LINEAR", 17, 200, batch=3, steps=33, bidirectional=True),
    Case("RNN_LINEAR", 65, 130, batch=37, steps=9, packed=True),
    Case("LSTM_LINEAR", 33, 129, batch=2, steps=33, projection="half", packed=True),
    Case("LSTM_LINEAR", 33, 129, batch=20, steps=17, bidirectional=True, num_layers=2),
    Case("LSTM_LINEAR", 17, 65, batch=300, steps=3, bidirectional=True, projection="half"),
    Case("LSTM_LINEAR", 31, 65, batch=2, steps=150, projection="half"),
    Case("LSTM_LINEAR", 31, 65, batch=2, steps=150, bidirectional=True, packed=True),
    # Several tiles of rows over weights in place.
    Case("LSTM_LINEAR", 33, 65, batch=50, steps=1),
    Case("LSTM_LINEAR", 65, 33, batch=31, steps=2, projection="half", hx=False),
    Case("RNN_LINEAR", 65, 33, batch=20, steps=3, packed=True),
]


# ---- integers, and the proof that they stay small


@dataclass
class Data:
    """A call's arguments and the cotangents of its results, float64."""

    input: torch.Tensor
    hx: list[torch.Tensor]
    weights: list[torch.Tensor]
    cotangents: list[torch.Tensor]

    def map(self, f) -> "Data":
        return Data(f(self.input), *([f(t) for t in ts] for ts in (self.hx, self.weights, self.cotangents)))


def signs(n: int) -> torch.Tensor:
    return torch.randint(2, (n,)) * 2.0 - 1


def integers(shape, density: float, largest: int = 2) -> torch.Tensor:
    """Between -largest and largest, not 0, with a probability of `density`; else 0."""
    values = torch.randint(1, largest + 1, shape) * (torch.randint(2, shape) * 2.0 - 1)
    return (values * (torch.rand(shape) < density)).double()


def signed_permutation(rows: int, cols: int, density: float) -> torch.Tensor:
    """At most one number, -1 or 1, in a row and in a column (of `cols` rows): a product with it does not grow."""
    blocks = [
        torch.diag(signs(cols) * (torch.rand(cols) < density))[torch.randperm(cols)] for _ in range(0, rows, cols)
    ]
    return torch.cat(blocks)[:rows].double()


def lengths_of(case: Case) -> list[int]:
    """Decreasing lengths with ties."""
    return [max(1, case.steps - n // 2 * (case.steps // case.batch + 1)) for n in range(case.batch)]


def batch_sizes_of(case: Case) -> torch.Tensor | None:
    if not case.packed:
        return None
    return torch.tensor([sum(length > t for length in lengths_of(case)) for t in range(case.steps)])


def draw_rnn_run(case: Case, width: int, density: float) -> list[torch.Tensor]:
    hidden = case.hidden_size
    biases = [integers((hidden,), 0.3) for _ in range(2)] if case.bias else []
    # A few in a row, however many columns there are.
    return [
        integers((hidden, width), min(1, 3 * density / width**0.5)),
        signed_permutation(hidden, hidden, 0.7),
        *biases,
    ]


def draw_lstm_run(case: Case, small_in: torch.Tensor, density: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Weights of one run with gates in -1, 0, 1, and which of its outputs stay in -1, 0, 1.

    A linear LSTM multiplies: where a gate can be 2, a cell doubles at every step. So each of i, f and o of a unit has
    one source of at most 1: a feature among `small_in`, a bias, or the output of a small unit. Those are units that
    forget at once (f = 0) and see small features only; the others add up what they like in g."""
    hidden, out, width = case.hidden_size, case.proj_size or case.hidden_size, len(small_in)
    small = torch.rand(hidden) < 0.4
    w_hr = signed_permutation(out, hidden, 0.9)
    small_out = small if not case.proj_size else w_hr.abs() @ (~small).double() == 0
    features, outputs = small_in.nonzero().flatten(), small_out.nonzero().flatten()
    w_ih, w_hh = torch.zeros(4, hidden, width).double(), torch.zeros(4, hidden, out).double()
    biases = torch.zeros(2, 4, hidden).double()
    I, F, G, O = range(4)
    for unit in range(hidden):
        for gate in (I, G, O) if small[unit] else (I, F, O):
            kind, sign = torch.rand(()).item(), signs(1).item()
            if case.bias and kind < 0.3 * density:
                biases[torch.randint(2, ()), gate, unit] = sign
            elif len(outputs) and not small[unit] and kind < 0.5:
                w_hh[gate, unit, outputs[torch.randint(len(outputs), ())]] = sign
            elif len(features):
                w_ih[gate, unit, features[torch.randint(len(features), ())]] = sign
    large = (~small).double()[:, None]
    w_ih[G] += integers((hidden, width), min(1, 6 * density / width)) * large
    w_hh[G] += signed_permutation(hidden, out, density) * large
    weights = [w_ih.flatten(0, 1), w_hh.flatten(0, 1)]
    weights += [b.flatten() for b in biases] if case.bias else []
    weights += [w_hr] if case.proj_size else []
    return weights, small_out


def draw(case: Case, density: float) -> Data:
    is_lstm, directions = case.cell == "LSTM_LINEAR", 1 + case.bidirectional
    hidden, out = case.hidden_size, case.proj_size or case.hidden_size
    sizes = batch_sizes_of(case)
    rows = (case.steps, case.batch) if sizes is None else (int(sizes.sum()),)
    weights, small = [], torch.ones(case.input_size, dtype=torch.bool)
    for _ in range(case.num_layers):
        smalls = []
        for _ in range(directions):
            if is_lstm:
                run_weights, small_out = draw_lstm_run(case, small, density)
                smalls.append(small_out)
            else:
                run_weights = draw_rnn_run(case, len(small), density)
                smalls.append(torch.ones(out, dtype=torch.bool))
            weights += run_weights
        small = torch.cat(smalls)
    states = [out, hidden] if is_lstm else [out]
    shapes = [(case.num_layers * directions, case.batch, size) for size in states]
    return Data(
        integers((*rows, case.input_size), density, largest=1),
        [integers(shape, 0.7, largest=1) for shape in shapes] if case.hx else [],
        weights,
        [integers((*rows, directions * out), 0.3), *(integers(shape, 0.5) for shape in shapes)],
    )


def call(recurrent, case: Case, data: Data) -> list[torch.Tensor]:
    """[output, h_n(, c_n)] of reference.recurrent or autograd.recurrent."""
    results = recurrent(
        case.cell,
        data.input,
        batch_sizes_of(case),
        tuple(data.hx),
        data.weights,
        has_biases=case.bias,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
        dropout=0.0,
    )
    return [r for r in results if r is not None]


def run(recurrent, case: Case, data: Data, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """The same, and the gradients of input, hx and weights."""
    leaves = data.map(lambda t: t.to(dtype, copy=True).requires_grad_())
    outputs = call(recurrent, case, leaves)
    cotangents = [c.to(dtype) for c in data.cotangents]
    grads = torch.autograd.grad(outputs, [leaves.input, *leaves.hx, *leaves.weights], cotangents)
    return [*(o.detach() for o in outputs), *grads]


@contextlib.contextmanager
def recorded(cell: str):
    """Yields a list that collects, from every step of the reference, its pre-activations and its new states."""
    seen = []

    def step(pre, state):
        new = original(pre, state)
        for t in (pre, *new):
            t.retain_grad()
            seen.append(t)
        return new

    original = reference.CELLS[cell]
    reference.CELLS[cell] = reference.Cell(step, original.states)
    try:
        yield seen
    finally:
        reference.CELLS[cell] = original


def bounds(case: Case, data: Data) -> tuple[float, float]:
    """No number on the way to the results is larger than the first; none on the way to the input's gradient than the
    second, once it has been multiplied by the weights."""
    with recorded(case.cell) as seen:
        results = run(reference.recurrent, case, data.map(torch.abs))
    grads = [t.grad for t in seen if t.grad is not None]
    input_gradient = results[len(data.cotangents)]
    return max(t.max().item() for t in (*results, *seen, *grads)), input_gradient.max().item()


@functools.cache
def draw_exact(case: Case) -> tuple[Data, list[torch.Tensor], list[torch.dtype]]:
    """The densest data of a series whose numbers provably fit, their results, and the dtypes that hold those exactly.

    Half types are computed in float32 and rounded when stored: once for most results, but the output is read again in
    backward, and so is the input's gradient of one direction when that of the other is added to it. Where these are
    numbers that the half type has, the results are the exact ones, rounded once."""
    for attempt in range(12):
        torch.manual_seed(attempt)
        data = draw(case, (0.9 if case.steps < 97 else 0.6) * 0.8**attempt)
        largest, input_gradient = bounds(case, data)
        if largest < 2**24:
            break
    else:
        raise AssertionError(f"no data of the series keep {case} exact")
    results = run(reference.recurrent, case, data)
    dtypes = [torch.float32, torch.float64]
    for dtype, integers_up_to in ((torch.bfloat16, 2**8), (torch.float16, 2**11)):
        output_fits = torch.equal(results[0], results[0].to(dtype).double())
        if case.num_layers == 1 and output_fits and (not case.bidirectional or input_gradient <= integers_up_to):
            dtypes.append(dtype)
    return data, results, dtypes


# ---- the tests


def levels_and_threads():
    for level in _C.isa_levels():
        _C.set_isa(level)
        for threads in THREADS:
            torch.set_num_threads(threads)
            yield level, threads


def names_of(case: Case, data: Data) -> list[str]:
    per_run = ["w_ih", "w_hh", *(["b_ih", "b_hh"] if case.bias else []), *(["w_hr"] if case.proj_size else [])]
    runs = range(len(data.weights) // len(per_run))
    states = ["h", "c"][: len(data.cotangents) - 1]
    leaves = ["input", *(f"{s}0" for s in states[: len(data.hx)]), *(f"{w} of run {r}" for r in runs for w in per_run)]
    return ["output", *(f"{s}_n" for s in states), *(f"d {leaf}" for leaf in leaves)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_the_last_bit(case):
    data, expected, dtypes = draw_exact(case)
    assert any(t.any() for t in expected[1:]), "only zeros"
    names = names_of(case, data)
    for level, threads in levels_and_threads():
        for dtype in dtypes:
            actual = run(autograd.recurrent, case, data, dtype)
            # Without gradients the kernel reuses one block's memory.
            with torch.no_grad():
                bare = call(autograd.recurrent, case, data.map(lambda t, dtype=dtype: t.to(dtype)))
            for name, a, e in [*zip(names, actual, expected, strict=True), *zip(names, bare, expected, strict=False)]:
                e = e.to(dtype)
                wrong = (a != e).nonzero()
                if len(wrong):
                    at = tuple(wrong[0])
                    pytest.fail(
                        f"{name} {list(e.shape)} in {dtype} at {level} with {threads} threads: {len(wrong)} wrong, "
                        f"the first at {wrong[0].tolist()}: {a[at]}, should be {e[at]}"
                    )


def test_cases_reach_every_way_to_share_and_to_cut():
    for level in _C.isa_levels():
        _C.set_isa(level)
        plans, places = set(), set()
        for case in CASES:
            sizes = (case.steps, case.batch, case.input_size, case.hidden_size, case.proj_size)
            for threads in THREADS:
                plan = _C.plan(case.cell, *sizes, threads=threads)
                blocks = case.steps > plan["forward_steps"], case.steps > plan["backward_steps"]
                plans.add((plan["split"], plan["threads"], *blocks, case.packed, case.proj_size > 0))
            training = _C.plan(case.cell, *sizes, training=True)
            few = case.steps * case.batch <= 8  # rows: a register tile or two
            places.add((training["in_place"], training["gradients_in_place"], few, case.packed))
        ways = {(True, True, True), (True, True, False), (False, True, False), (False, False, False)}
        assert places >= {(*way, packed) for way in ways for packed in (False, True)}, level
        for split in "batch", "hidden":
            for threads in 2, 3:
                reached = {p[2:] for p in plans if p[:2] == (split, threads)}
                assert {p[0] for p in reached} == {False, True}, (level, split, threads, "blocks forward")
                assert {p[1] for p in reached} == {False, True}, (level, split, threads, "blocks backward")
                assert {p[2] for p in reached} == {False, True}, (level, split, threads, "packed")
                assert {p[3] for p in reached} == {False, True}, (level, split, threads, "projected")


def test_data_are_not_mostly_zeros():
    # A wrong index that hits another zero goes unnoticed.
    shares = [
        (t != 0).double().mean().item()
        for case in CASES
        if case.steps > 1
        for t in draw_exact(case)[1]
        if t.numel() > 50
    ]
    assert statistics.median(shares) > 0.3


def test_half_types_are_among_the_exact_cases():
    for dtype in torch.bfloat16, torch.float16:
        cases = [case for case in CASES if dtype in draw_exact(case)[2]]
        assert len(cases) >= 15
        assert {case.packed for case in cases if case.batch * case.steps > 256} == {False, True}
