"""lstmfast.LSTM and lstmfast.RNN beside torch.nn's: outputs, states and gradients in every dtype, on adversarial sizes.

Errors are measured against lstmfast.reference in float64, from the same rounded inputs and weights (see tolerances.py).
"""

import itertools
import math
import statistics
from dataclasses import dataclass

import pytest
import torch
from cases import (
    CELLS,
    SIZES_B,
    SIZES_HI,
    SIZES_T,
    Options,
    all_options,
    build,
    build_pair,
    make_hx,
    states_of,
    tensors_of,
)
from covering import pairwise
from tolerances import FACTOR, assert_no_worse, error
from torch import nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

import lstmfast
from lstmfast import reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NO_ONEDNN = "ignore:LSTM with projections is not supported with oneDNN"


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- a call: a module's options, its sizes, how its tensors lie and which of them want a gradient


@dataclass(frozen=True)
class Case:
    cell: str
    input_size: int
    hidden_size: int
    batch: int
    steps: int
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    projection: str = "none"  # "none", "1", "5" or "H-1"
    hx: bool = True
    layout: str = "time-major"  # "time-major", "batch-first", "packed" or "unsorted"
    memory: str = "contiguous"  # a key of MEMORY
    wanted: str = "all"  # a key of WANTED
    threads: int = 1

    @property
    def proj_size(self) -> int:
        return {"none": 0, "1": 1, "5": 5, "H-1": self.hidden_size - 1}[self.projection]

    @property
    def multiplications(self) -> int:
        """About how many there are in a forward pass: what a case costs."""
        directions, out = 1 + self.bidirectional, self.proj_size or self.hidden_size
        gates = 4 if self.cell == "LSTM" else 1
        first = gates * self.hidden_size * (self.input_size + out) + self.proj_size * self.hidden_size
        others = gates * self.hidden_size * (directions * out + out) + self.proj_size * self.hidden_size
        return self.steps * self.batch * directions * (first + (self.num_layers - 1) * others)

    def __str__(self) -> str:
        options = [
            f"{self.num_layers}layers" if self.num_layers > 1 else "",
            "bidirectional" if self.bidirectional else "",
            "" if self.bias else "nobias",
            "" if self.projection == "none" else f"P{self.proj_size}",
            "hx" if self.hx else "",
            self.layout,
            self.memory,
            self.wanted,
            f"{self.threads}threads",
        ]
        sizes = f"I{self.input_size}-H{self.hidden_size}-B{self.batch}-T{self.steps}"
        return "-".join([self.cell, sizes, *filter(None, options)])


def affordable(most: int):
    def valid(**parameters) -> bool:
        case = Case(**parameters)
        return (
            (case.projection == "none" or (case.cell == "LSTM" and 0 < case.proj_size < case.hidden_size))
            and (case.hx or case.wanted != "hx")
            and case.multiplications <= most
        )

    return valid


def sliced(t: torch.Tensor) -> torch.Tensor:
    """The same values in the middle of a larger tensor, every second one, so that no stride is what it seems."""
    larger = t.new_full([2 * n + 3 for n in t.shape], math.nan)
    view = larger[tuple(slice(1, 1 + 2 * n, 2) for n in t.shape)]
    return view.copy_(t)


def transposed(t: torch.Tensor) -> torch.Tensor:
    """The same values with the dimensions' order in memory reversed."""
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def expanded(t: torch.Tensor) -> torch.Tensor:
    """The same shape with stride 0: one sequence for the whole batch, one weight for a unit's whole row, one bias."""
    one = t.narrow(min(1, t.dim() - 1), 0, 1)
    # Equal weights add up where random ones cancel: scaled down, lest the recurrence explode.
    return (one / t.shape[1] ** 0.5 if t.dim() == 2 else one).expand(t.shape)


MEMORY = {"contiguous": lambda t: t, "sliced": sliced, "transposed": transposed, "expanded": expanded}
WANTED = {
    "all": lambda name: True,
    "input": lambda name: name == "input",
    "hx": lambda name: name in ("h0", "c0"),
    "weights": lambda name: name not in ("input", "h0", "c0"),
    "weight_hh_l0": lambda name: name == "weight_hh_l0",
}


def draw_tensors(case: Case, dtype: torch.dtype, device: str = "cpu") -> dict[str, torch.Tensor]:
    """The leaves of a call by name, input first [B, T, I] or [T, B, I], then h0 and c0, then the weights."""
    module = make_module(nn, case, dtype)
    rows = case.num_layers * (1 + case.bidirectional)
    shape = (case.steps, case.batch) if case.layout != "batch-first" else (case.batch, case.steps)
    # Not wider than the default initialisation of a few units stands: saturated, they would hide every error.
    tensors = {"input": torch.randn(*shape, case.input_size) * min(1.0, (case.hidden_size / case.input_size) ** 0.5)}
    if case.hx:
        tensors["h0"] = torch.randn(rows, case.batch, case.proj_size or case.hidden_size)
        if case.cell == "LSTM":
            tensors["c0"] = torch.randn(rows, case.batch, case.hidden_size)
    tensors.update(module.named_parameters())
    return {
        name: MEMORY[case.memory](t.detach().to(device, dtype)).requires_grad_(WANTED[case.wanted](name))
        for name, t in tensors.items()
    }


def make_module(package, case: Case, dtype: torch.dtype) -> nn.RNNBase:
    options = {
        "num_layers": case.num_layers,
        "bidirectional": case.bidirectional,
        "bias": case.bias,
        "batch_first": case.layout == "batch-first",
        "dtype": dtype,
    }
    if case.cell == "LSTM":
        return package.LSTM(case.input_size, case.hidden_size, proj_size=case.proj_size, **options)
    nonlinearity = case.cell.removeprefix("RNN_").lower()
    return package.RNN(case.input_size, case.hidden_size, nonlinearity=nonlinearity, **options)


def lengths_of(case: Case) -> torch.Tensor:
    """Unequal lengths with ties, the longest first, or the second longest if unsorted."""
    lengths = [max(1, case.steps - n * case.steps // (case.batch + 1) // 2 * 2) for n in range(case.batch)]
    return torch.tensor(lengths if case.layout == "packed" else [*lengths[1:], lengths[0]])


def pack(case: Case, input: torch.Tensor) -> torch.Tensor | PackedSequence:
    if case.layout not in ("packed", "unsorted"):
        return input
    return pack_padded_sequence(input, lengths_of(case), enforce_sorted=case.layout == "packed")


# ---- three ways to run it


def run_module(package, case: Case, dtype: torch.dtype, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """[output, h_n(, c_n)] of the module whose parameters are the very tensors given."""
    module = make_module(package, case, dtype)
    states = [tensors[name] for name in ("h0", "c0") if name in tensors]
    weights = {name: tensors[name] for name, _ in module.named_parameters()}
    if package is nn and tensors["input"].is_cuda:  # cuDNN takes no others
        states = [state.contiguous() for state in states]
        weights = {name: weight.detach().contiguous() for name, weight in weights.items()}
    for name, weight in weights.items():
        delattr(module, name)
        setattr(module, name, nn.Parameter(weight, requires_grad=tensors[name].requires_grad))
        tensors[name] = getattr(module, name)
    hx = None if not states else states[0] if len(states) == 1 else tuple(states)
    return tensors_of(module(pack(case, tensors["input"]), hx))


def run_exact(case: Case, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    input, *others = tensors.values()
    states = others[: sum(name in tensors for name in ("h0", "c0"))]
    weights = others[len(states) :]
    packed = pack(case, input)
    data, batch_sizes, order, back = packed if isinstance(packed, PackedSequence) else (packed, None, None, None)
    output, *hidden = reference.recurrent(
        case.cell,
        data.transpose(0, 1) if case.layout == "batch-first" else data,
        batch_sizes,
        tuple(s if order is None else s.index_select(1, order) for s in states),
        weights,
        has_biases=case.bias,
        num_layers=case.num_layers,
        bidirectional=case.bidirectional,
    )
    output = output.transpose(0, 1) if case.layout == "batch-first" else output
    return [output, *(h if back is None else h.index_select(1, back) for h in hidden if h is not None)]


def differentiate(outputs: list[torch.Tensor], tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Results and gradients by name, for cotangents that are the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).to(o) for o in outputs]
    leaves = {name: t for name, t in tensors.items() if t.requires_grad}
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    results = dict(zip(("output", "h_n", "c_n"), outputs, strict=False))
    return results | {f"d {name}": g for name, g in zip(leaves, grads, strict=True)}


def errors_of(case: Case, dtype: torch.dtype, device: str = "cpu", eps: float | None = None):
    """Yields (name, ours, theirs, exact, wobble) for every result and gradient of a call.

    eps: how far a call may round its arguments, for the wobble; None: not beyond the dtype."""
    torch.manual_seed(0)
    tensors = draw_tensors(case, dtype, device)
    eps = eps or torch.finfo(dtype).eps

    def exact(moved_by: float = 0.0) -> dict[str, torch.Tensor]:
        leaves = {}
        for name, t in tensors.items():
            factor = 1 + moved_by * (2 * torch.rand(t.shape, dtype=torch.float64, device=device) - 1)
            leaves[name] = (t.detach().double() * factor).requires_grad_(t.requires_grad)
        return differentiate(run_exact(case, leaves), leaves)

    def of_module(package) -> dict[str, torch.Tensor]:
        leaves = dict(tensors)
        return differentiate(run_module(package, case, dtype, leaves), leaves)

    exactly, theirs = exact(), of_module(nn)
    torch.set_num_threads(case.threads)
    ours = of_module(lstmfast)
    torch.set_num_threads(1)
    assert ours.keys() == theirs.keys() == exactly.keys()
    # An ulp of float64 would drown in the rounding of the reference: a larger step, scaled back.
    step = max(eps, 1e-9)
    moved = [exact(step) for _ in range(2)]
    for name, e in exactly.items():
        yield name, ours[name], theirs[name], e, eps / step * max(error(m[name], e) for m in moved)


def compare(case: Case, dtype: torch.dtype, device: str = "cpu", eps: float | None = None) -> None:
    for name, ours, theirs, exact, wobble in errors_of(case, dtype, device, eps):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        what = f"{name} of {case}"
        assert_no_worse(ours, theirs, exact, dtype, what, gradient=name.startswith("d "), wobble=wobble)


# ---- every pair of values

PARAMETERS = {
    "cell": CELLS,
    "input_size": SIZES_HI,
    "hidden_size": SIZES_HI,
    "batch": SIZES_B,
    "steps": SIZES_T,
    "num_layers": (1, 2, 3),
    "bidirectional": (False, True),
    "bias": (True, False),
    "projection": ("none", "1", "5", "H-1"),
    "hx": (True, False),
    "layout": ("time-major", "batch-first", "packed", "unsorted"),
    "memory": tuple(MEMORY),
    "wanted": tuple(WANTED),
    "threads": (1, 2, 3),
}
CASES = [Case(**parameters) for parameters in pairwise(PARAMETERS, affordable(40_000_000))]


def test_cases_hold_every_pair_of_values():
    held = {(a, getattr(case, a), b, getattr(case, b)) for case in CASES for a in PARAMETERS for b in PARAMETERS}
    missing = [
        (a, x, b, y)
        for (a, xs), (b, ys) in itertools.combinations(PARAMETERS.items(), 2)
        for x, y in itertools.product(xs, ys)
        if (a, x, b, y) not in held
    ]
    impossible = {("cell", "RNN_TANH"), ("cell", "RNN_RELU"), ("hidden_size", 1), ("hidden_size", 3)}
    missing = [pair for pair in missing if not (pair[2] == "projection" and pair[:2] in impossible)]
    assert missing == [("hx", False, "wanted", "hx")]


@pytest.mark.filterwarnings(NO_ONEDNN)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_equals_torch(dtype, case):
    compare(case, dtype)


@pytest.mark.filterwarnings(NO_ONEDNN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=name_of)
def test_errors_are_typically_torchs_own(dtype):
    # What FLOOR lets pass in a small tensor must not be the rule in large ones.
    ratios = []
    for case in CASES:
        if case.steps > 1 and case.hidden_size >= 129 and case.multiplications < 20_000_000:
            ratios += [
                error(ours, exact) / error(theirs, exact)
                for _, ours, theirs, exact, _ in errors_of(case, dtype)
                if exact.numel() > 1000 and error(theirs, exact) > 0
            ]
    assert len(ratios) > 20
    assert statistics.median(ratios) <= FACTOR


# ---- what has no size to vary: no gradient, no sequence, very many steps


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", ["time-major", "unsorted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients_the_same_bits(cell, dtype, layout, threads):
    case = Case(cell, 17, 31, batch=9, steps=37, num_layers=2, bidirectional=True, layout=layout)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    tensors = draw_tensors(case, dtype)
    recorded = run_module(lstmfast, case, dtype, dict(tensors))
    with torch.no_grad():
        bare = run_module(lstmfast, case, dtype, dict(tensors))
    assert all(torch.equal(a, b) for a, b in zip(bare, recorded, strict=True))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_empty_batch(options, given_hx, batch_first):
    results = []
    for module in build_pair(options, 3, 4, batch_first=batch_first):
        input = torch.randn(*((0, 5) if batch_first else (5, 0)), 3, dtype=torch.float64, requires_grad=True)
        hx = make_hx(module, 0, requires_grad=True) if given_hx else None
        outputs = tensors_of(module(input, hx))
        grads = torch.autograd.grad(sum(o.sum() for o in outputs), [input, *states_of(hx), *module.parameters()])
        results.append([*outputs, *grads])
    theirs, ours = results
    assert all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


LONG = 70_000  # more than 65 536, which a 16-bit index does not reach


def run_whole(module, input, cotangent):
    output, hidden = module(input)
    return [output, *states_of(hidden), *torch.autograd.grad(output, [input, *module.parameters()], cotangent)]


def run_in_parts(module, input, cotangent):
    outputs, hidden = [], None
    for part in input.split(1000):
        output, hidden = module(part, hidden)
        outputs.append(output)
    output = torch.cat(outputs)
    return [output, *states_of(hidden), *torch.autograd.grad(output, [input, *module.parameters()], cotangent)]


def assert_all_no_worse(ours, theirs, exact, dtype, what):
    states = len(exact) - 6  # what precedes: output; what follows: input and the four weights
    for i, e in enumerate(exact):
        their = None if theirs is None else theirs[i]
        assert_no_worse(ours[i], their, e, dtype, f"{what}, result {i}", gradient=i > states)


@pytest.mark.parametrize("cell", CELLS)
def test_very_many_steps(cell):
    torch.manual_seed(0)
    theirs, ours = build_pair(Options(cell), 2, 3)
    input = torch.randn(LONG, 2, 2, requires_grad=True)
    cotangent = torch.randn(LONG, 2, 3)
    # The same equations a thousand steps at a time, sizes at which the other tests compare with torch.
    doubles = input.detach().double().requires_grad_()
    in_parts, whole = (run(ours, doubles, cotangent.double()) for run in (run_in_parts, run_whole))
    assert_all_no_worse(whole, None, in_parts, torch.float64, cell)

    theirs, ours = theirs.float(), ours.float()
    for p in theirs.parameters(), ours.parameters():
        assert all(w.dtype == torch.float32 for w in p)
    exact_module = build(lstmfast, Options(cell), 2, 3, dtype=torch.float64)
    exact_module.load_state_dict(ours.state_dict())
    exact = run_in_parts(exact_module, doubles, cotangent.double())
    # torch.nn.RNN takes the better part of a minute for this: see the slow test.
    torchs = run_whole(theirs, input, cotangent) if cell == "LSTM" else None
    assert_all_no_worse(run_whole(ours, input, cotangent), torchs, exact, torch.float32, cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_very_many_steps_beside_torch(cell):
    torch.manual_seed(0)
    theirs, ours = build_pair(Options(cell), 2, 3)
    input = torch.randn(LONG, 2, 2, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(LONG, 2, 3, dtype=torch.float64)
    exact = run_whole(theirs, input, cotangent)
    assert_all_no_worse(run_whole(ours, input, cotangent), None, exact, torch.float64, cell)


@pytest.mark.parametrize("cell", CELLS)
def test_very_many_steps_packed(cell):
    torch.manual_seed(0)
    module = build(lstmfast, Options(cell, bidirectional=True), 2, 3, dtype=torch.float64)
    lengths = [3, LONG]
    sequences = [torch.randn(n, 2, dtype=torch.float64, requires_grad=True) for n in lengths]
    cotangents = [torch.randn(n, 6, dtype=torch.float64) for n in lengths]
    output, _ = module(pack_sequence(sequences, enforce_sorted=False))
    packed = torch.autograd.grad(output.data, sequences, pack_sequence(cotangents, enforce_sorted=False).data)
    for sequence, cotangent, gradient in zip(sequences, cotangents, packed, strict=True):
        alone, _ = module(sequence)
        torch.testing.assert_close(gradient, *torch.autograd.grad(alone, sequence, cotangent), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(unpack_sequence(output)[1], alone, rtol=1e-12, atol=1e-13)


# ---- numbers at and beyond the edge


@pytest.mark.parametrize("options", [Options(cell, 2, bidirectional=True) for cell in CELLS], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_large_inputs(dtype, options):
    # Almost every unit saturates, and its gradient vanishes: neither may turn into a NaN.
    torch.manual_seed(0)
    theirs, ours = build_pair(options, 17, 31, dtype=dtype)
    exactly = build(nn, options, 17, 31, dtype=torch.float64)
    exactly.load_state_dict(ours.state_dict())
    # A tenth of that in float16, whose largest number is 65 504, for relu, which sums without a bound.
    scale = 1e3 if (dtype, options.cell) == (torch.float16, "RNN_RELU") else 1e4
    input = (scale * torch.randn(7, 5, 17)).to(dtype)
    results = []
    for module in ours, theirs, exactly:
        leaf = input.to(next(module.parameters()).dtype, copy=True).requires_grad_()
        output, hidden = module(leaf)
        leaves = [leaf, *module.parameters()]
        results.append([output, *states_of(hidden), *torch.autograd.grad(output, leaves, torch.ones_like(output))])
    states = ["h_n", "c_n"][: options.num_states]
    names = ["output", *states, "input", *(name for name, _ in ours.named_parameters())]
    for i, name in enumerate(names):
        our, their, exact = (r[i] for r in results)
        # Where one pre-activation in a thousand does not saturate, its error is an ulp of 1e4: the bound is absolute.
        wobble = torch.finfo(dtype).eps * scale if options.cell != "RNN_RELU" else 0.0
        assert_no_worse(our, their, exact, dtype, name, gradient=i > options.num_states, wobble=wobble)


SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
PLACES = ("input", "h0", "c0", "weight_ih_l0", "weight_hh_l0", "bias_hh_l1_reverse", "cotangent")


def places_of(cell):
    return [place for place in PLACES if place != "c0" or cell == "LSTM"]


def with_special_values(module, place, value, layout, lengths):
    """Results and gradients of `module` with one number replaced, by name."""
    input = torch.randn(max(lengths), len(lengths), module.input_size, dtype=torch.float64)
    states = states_of(make_hx(module, len(lengths)))
    tensors = {"input": input, **dict(zip(("h0", "c0"), states, strict=False))}
    tensors.update((name, p.detach().clone()) for name, p in module.named_parameters())
    if place != "cotangent":
        t = tensors[place]
        # In the last dimension of 17 an element that whole packs of any width cover, and so does the last pack's rest.
        t[(*(n // 2 for n in t.shape[:-1]), t.shape[-1] - 2)] = value
    dtype = next(module.parameters()).dtype
    leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
    states = tuple(leaves[name] for name in ("h0", "c0") if name in leaves)
    parameters = {name: t for name, t in leaves.items() if name not in ("input", "h0", "c0")}
    input = leaves["input"]
    if layout == "packed":
        input = pack_padded_sequence(input, torch.tensor(lengths))
    hx = states if module.mode == "LSTM" else states[0]
    outputs = tensors_of(torch.func.functional_call(module, parameters, (input, hx)))
    cotangents = [torch.randn(o.shape, dtype=torch.float64).to(dtype) for o in outputs]
    if place == "cotangent":
        cotangents[0].view(-1)[cotangents[0].numel() // 2] = value
    grads = torch.autograd.grad(outputs, list(leaves.values()), cotangents)
    results = dict(zip(("output", "h_n", "c_n"), outputs, strict=False))
    return results | {f"d {name}": g for name, g in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("sizes", [(3, 4), (17, 17)], ids=["steps", "step"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize(("cell", "place"), [(cell, place) for cell in CELLS for place in places_of(cell)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name_of)
def test_nan_and_infinity_reach_what_they_reach_in_torch(dtype, cell, place, value, layout, sizes):
    results = []
    torch.manual_seed(0)
    pair = build_pair(Options(cell, num_layers=2, bidirectional=True), *sizes, dtype=dtype)
    lengths = [6, 5, 3, 3, 1] if sizes == (3, 4) else [1] * 5
    for module in pair:
        torch.manual_seed(1)
        results.append(with_special_values(module, place, SPECIAL[value], layout, lengths))
    theirs, ours = results
    for name, expected in theirs.items():
        torch.testing.assert_close(
            ours[name], expected, equal_nan=True, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_stays_in_its_sequence(cell, dtype):
    torch.manual_seed(0)
    module = build(lstmfast, Options(cell, num_layers=2, bidirectional=True), 3, 17, dtype=dtype)
    lengths = torch.tensor([6, 6, 5, 5, 3, 3, 1])
    clean = torch.randn(6, 7, 3, dtype=dtype)
    dirty = clean.clone()
    dirty[2, 3] = math.nan
    with torch.no_grad():
        outputs = [pad_packed_sequence(module(pack_padded_sequence(x, lengths))[0])[0] for x in (clean, dirty)]
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(outputs[0][:, others], outputs[1][:, others])
    assert outputs[1][:5, 3].isnan().all()


# ---- views that hold other numbers than their memory


@pytest.mark.parametrize("cell", CELLS)
def test_lazily_negated_tensors(cell):
    def negated(t):
        """t as a view of memory that holds -t: the imaginary part of a conjugate."""
        view = torch.complex(torch.zeros_like(t), -t).conj().imag
        assert view.is_neg()
        assert torch.equal(view, t)
        return view

    torch.manual_seed(0)
    theirs, ours = build_pair(Options(cell, num_layers=2, bidirectional=True), 3, 4)
    input, hx = torch.randn(5, 2, 3, dtype=torch.float64), make_hx(theirs, 2)
    view = tuple(map(negated, hx)) if isinstance(hx, tuple) else negated(hx)
    weights = {name: negated(p.detach()) for name, p in ours.named_parameters()}
    actual = tensors_of(torch.func.functional_call(ours, weights, (negated(input), view)))
    torch.testing.assert_close(actual, tensors_of(theirs(input, hx)), rtol=1e-12, atol=1e-13)
    cotangent = torch.randn(5, 2, 8, dtype=torch.float64)
    grads = [
        torch.autograd.grad(module(input, hx)[0], list(module.parameters()), g)
        for module, g in ((ours, negated(cotangent)), (theirs, cotangent))
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-13)
