"""The two sides of a point, the peer's and ours: the same inputs and weights, what is run, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import lstmfast

from .peers import PEERS, Unsupported
from .points import Point

STREAMED_STEPS = 8

# Of |a - b| / |b|, euclidean norms of a whole tensor: (outputs, gradients). They are there to find wrong results, not
# inaccurate ones; the tests of the package compare with float64. In half types a peer may round at every step.
TOLERANCES = {
    "float64": (1e-11, 1e-10),
    "float32": (1e-5, 1e-4),
    "float16": (1e-2, 3e-2),
    "bfloat16": (3e-2, 1e-1),
}
REDUCED_PRECISION = (1e-2, 5e-2)  # float32 with products of tf32 or bfloat16
# relu's derivative jumps: wherever rounding turns a sum around zero, one side has a gradient and the other none.
RELU_GRADIENTS = {"float64": 1e-4, "float32": 1e-2, "float16": 1e-1, "bfloat16": 3e-1}


class Mismatch(Exception):
    """The two sides compute different things: their times must not be compared."""


@dataclass(frozen=True)
class Agreement:
    """Largest errors found, and the largest allowed; None where nothing of the kind is computed."""

    outputs: float | None
    gradients: float | None
    outputs_tolerance: float
    gradients_tolerance: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Side:
    """A module with its input, and the repeated calls that are timed."""

    def __init__(self, point: Point, module: nn.Module, input: Tensor | PackedSequence, grad: Tensor):
        self.point = point
        self.module = module
        self.input = input
        self.grad = grad
        self.leaves = [_rows(input), *module.parameters()]

    def repeat(self, calls: int) -> None:
        """Calls the module so many times, with backward in training."""
        if self.point.mode == "training":
            for _ in range(calls):
                self.train()
        elif self.point.mode == "streaming":
            with torch.inference_mode():
                self.stream(calls)
        else:
            with torch.inference_mode():
                for _ in range(calls):
                    self.module(self.input)

    def train(self) -> tuple[Tensor, Sequence[Tensor]]:
        """Gradients of everything, the input's too, as in a layer below which others learn.

        The loss is a random weighted sum of all outputs, or with lastloss of those of the last step."""
        output = _rows(self.module(self.input)[0])
        seen = output[-1] if self.point.variant == "lastloss" else output
        return output, torch.autograd.grad(seen, self.leaves, self.grad)

    def stream(self, calls: int) -> list[Tensor]:
        output, hx = self.module(self.input)
        for _ in range(calls - 1):
            output, hx = self.module(self.input, hx)
        return [output, *(hx if isinstance(hx, tuple) else (hx,))]

    def results(self) -> tuple[list[Tensor], Sequence[Tensor]]:
        """(outputs, gradients) of one call, or of a few streamed steps."""
        if self.point.mode == "training":
            output, gradients = self.train()
            return [output.detach()], gradients
        with torch.inference_mode():
            if self.point.mode == "streaming":
                return self.stream(STREAMED_STEPS), ()
            return [_rows(self.module(self.input)[0])], ()


class StreamSide(Side):
    """Ours, by lstmfast.Stream."""

    def __init__(self, point: Point, module: nn.Module, input: Tensor | PackedSequence, grad: Tensor):
        super().__init__(point, module, input, grad)
        self._stream = lstmfast.Stream(module, point.shape.batch)

    def stream(self, calls: int) -> list[Tensor]:
        self._stream.reset()
        for _ in range(calls):
            output = self._stream(self.input)
        state = self._stream.state
        return [output, *(state if isinstance(state, tuple) else (state,))]


class DerivativeSide(Side):
    """Gradients, by `results`, are all that is computed and compared."""

    def repeat(self, calls: int) -> None:
        for _ in range(calls):
            self.results()


class PenaltySide(DerivativeSide):
    """A critic's gradient penalty: the gradient by the input, and the gradients of all weights by its norm."""

    def results(self) -> tuple[list[Tensor], Sequence[Tensor]]:
        x, *weights = self.leaves
        (slope,) = torch.autograd.grad(_rows(self.module(self.input)[0]).sum(), x, create_graph=True)
        loss = (slope.norm(dim=-1) - 1).square().mean()
        return [], torch.autograd.grad(loss, weights)


class PerSampleSide(DerivativeSide):
    """The gradients of each sequence of the batch by itself. torch maps nn.LSTM as a loop over them."""

    def results(self) -> tuple[list[Tensor], Sequence[Tensor]]:
        def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.module, weights, (x,))[0].square().mean()

        weights = {name: p.detach() for name, p in self.module.named_parameters()}
        return [], list(vmap(grad(loss), in_dims=(None, 1))(weights, self.input).values())


def build(point: Point, *, only: str | None = None) -> tuple[Side | None, Side | None]:
    """(the peer's side, ours) with the same weights and the same input; `only` "theirs" or "ours" builds just that one.

    Raises Unsupported if the peer does not offer what the point asks for."""
    peer = PEERS[point.peer]
    reason = peer.refusal(point)
    if not point.is_of_calls and point.peer != "nn":
        reason = "derivatives are compared with torch.nn's alone"
    elif point.mode == "per-sample" and (point.cell != "LSTM" or point.variant != "plain"):
        reason = "of torch.nn's layers torch.func.vmap takes LSTM alone, without projections or packed input"
    if reason is not None:
        raise Unsupported(reason)
    torch.manual_seed(0)
    template = module_of(nn, point)
    input = _input(point)
    shape = (point.shape.batch,) if point.variant == "lastloss" else _rows(input).shape[:-1]
    side = {"penalty": PenaltySide, "per-sample": PerSampleSide}.get(point.mode, Side)
    grad = torch.randn((*shape, point.shape.directions * point.state_size)).to(point.device, _rows(input).dtype)
    ours = None
    if only != "theirs":
        ours = module_of(lstmfast, point)
        ours.load_state_dict(template.state_dict())
        ours.recompute = point.callee == "recompute"
        ours = (StreamSide if point.callee == "stream" else side)(point, ours, input, grad)
    theirs = side(point, peer.wrap(template), input, grad) if only != "ours" else None
    return theirs, ours


def module_of(package: Any, point: Point) -> nn.RNNBase:
    """The module for a point from `package`, which is torch.nn or lstmfast."""
    shape = point.shape
    options = {"num_layers": shape.layers, "bidirectional": shape.bidirectional}
    options |= {"device": point.device, "dtype": getattr(torch, point.dtype)}
    if point.cell == "LSTM":
        return package.LSTM(shape.input, shape.hidden, proj_size=point.proj_size, **options)
    return package.RNN(shape.input, shape.hidden, nonlinearity=point.cell.removeprefix("RNN_").lower(), **options)


def compare(theirs: Side, ours: Side) -> Agreement:
    """Runs both once. Raises Mismatch if a result differs by more than TOLERANCES, or is not finite."""
    point = ours.point
    allowed = tolerances(point)
    their_outputs, their_gradients = theirs.results()
    our_outputs, our_gradients = ours.results()
    outputs = max((relative_error(a, b) for a, b in zip(our_outputs, their_outputs, strict=True)), default=None)
    gradients = None
    if our_gradients:
        if not PEERS[point.peer].has_torch_weights:  # the input's alone
            our_gradients, their_gradients = our_gradients[:1], their_gradients[:1]
        gradients = max(relative_error(a, b) for a, b in zip(our_gradients, their_gradients, strict=True))
    for kind, error, tolerance in zip(("outputs", "gradients"), (outputs, gradients), allowed, strict=True):
        if error is not None and not error <= tolerance:  # NaN is a mismatch
            raise Mismatch(f"{kind} differ by {error:.2e} of their norm, more than {tolerance:.0e}")
    return Agreement(outputs, gradients, *allowed)


@contextmanager
def conditions(point: Point):
    """Threads, precision and treatment of subnormals as the point wants them, and afterwards as they were."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    cudnn_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(point.threads)
    torch.set_float32_matmul_precision(point.precision)
    torch.backends.cudnn.allow_tf32 = point.precision != "highest"
    torch.set_flush_denormal(point.flush_denormal)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # torch's default; the mode cannot be asked for
        torch.backends.cudnn.allow_tf32 = cudnn_tf32
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def _input(point: Point) -> Tensor | PackedSequence:
    shape = point.shape
    x = torch.randn(shape.steps, shape.batch, shape.input).to(point.device, getattr(torch, point.dtype))
    learns = point.mode in ("training", "penalty")
    if point.variant != "packed":
        return x.requires_grad_(learns)
    packed = pack_padded_sequence(x, torch.tensor(point.lengths))
    return packed._replace(data=packed.data.detach().requires_grad_(learns))


def _rows(x: Tensor | PackedSequence) -> Tensor:
    return x.data if isinstance(x, PackedSequence) else x


def tolerances(point: Point) -> tuple[float, float]:
    reduced = point.dtype == "float32" and point.precision != "highest"
    outputs, gradients = REDUCED_PRECISION if reduced else TOLERANCES[point.dtype]
    return outputs, max(gradients, RELU_GRADIENTS[point.dtype]) if point.cell == "RNN_RELU" else gradients


def relative_error(a: Tensor, b: Tensor) -> float:
    a, b = (t if t.dtype == torch.float64 else t.float() for t in (a, b))
    return (torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b).clamp_min(_TINY)).item()


_TINY = torch.finfo(torch.float32).tiny
