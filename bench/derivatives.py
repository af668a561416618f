"""Times what training and serving do beside plain steps, in turn with torch.nn: ratios above 1 mean lstmfast is faster.

python bench/derivatives.py                                       all of it, at some shapes
python bench/derivatives.py penalty --shape 100x16x64x128x1 --threads 1

penalty     a step with a gradient penalty: forward, gradient by the input with create_graph, gradients of all weights
per-sample  gradients of each sequence of the batch; torch.nn has no vmap, and loops over them
stream      one step of lstmfast.Stream and of torch.nn with the state carried along; H and B of the shape
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from lstmfast_bench import timing
from lstmfast_bench.points import Shape
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import lstmfast

SHAPES = "20x8x16x32x1,100x16x64x128x1,50x32x128x256x1,50x16x64x128x2+"
Results = Callable[[], Sequence[Tensor]]


def penalty(module: nn.RNNBase, shape: Shape) -> Results:
    x = torch.randn(shape.steps, shape.batch, shape.input, requires_grad=True)

    def step() -> Sequence[Tensor]:
        (slope,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
        loss = (slope.norm(dim=-1) - 1).square().mean()
        return torch.autograd.grad(loss, list(module.parameters()))

    return step


def per_sample(module: nn.RNNBase, shape: Shape) -> Results:
    xs = torch.randn(shape.batch, shape.steps, shape.input)
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, weights, (x,))[0].square().mean()

    return lambda: list(vmap(grad(loss), in_dims=(None, 0))(weights, xs).values())


def stream(module: nn.RNNBase, shape: Shape) -> Results:
    x = torch.randn(shape.batch, shape.input)
    if isinstance(module, nn.LSTM | nn.RNN):
        zeros = torch.zeros(shape.layers, shape.batch, shape.hidden)
        state = (zeros, zeros) if isinstance(module, nn.LSTM) else zeros

        def step() -> Sequence[Tensor]:
            nonlocal state
            with torch.no_grad():
                output, state = module(x[None], state)
            return [output[0]]

        return step
    one = lstmfast.Stream(module, shape.batch)
    return lambda: [one(x)]


WORKLOADS = {"penalty": penalty, "per-sample": per_sample, "stream": stream}


CELLS = {"lstm": ("LSTM", {}), "rnn": ("RNN", {"nonlinearity": "tanh"}), "rnn-relu": ("RNN", {"nonlinearity": "relu"})}


def compare(name: str, cell: str, shape: Shape, pairs: int, min_time: float) -> str:
    torch.manual_seed(0)
    sizes = (shape.input, shape.hidden, shape.layers)
    layer, options = CELLS[cell]
    theirs, ours = (getattr(p, layer)(*sizes, bidirectional=shape.bidirectional, **options) for p in (nn, lstmfast))
    ours.load_state_dict(theirs.state_dict())
    sides = []
    for module in theirs, ours:
        torch.manual_seed(1)
        sides.append(WORKLOADS[name](module, shape))
    for expected, actual in zip(*(side() for side in sides), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    functions = [lambda calls, side=side: [side() for _ in range(calls)] for side in sides]
    samples = timing.interleave(functions, timing.cpu_timer, rounds=pairs, min_time=min_time)
    ratio, mine = samples.ratio(0, 1), samples.spread(1)
    return f"{ratio.median:6.2f}  ({ratio.low:.2f} to {ratio.high:.2f})  {1e6 * mine.median:12.1f} us"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"{', '.join(WORKLOADS)}; default: all")
    parser.add_argument(
        "--shape", default=SHAPES, help="TxBxIxHxL, with + at the end for two directions; comma-separated"
    )
    parser.add_argument("--cell", choices=CELLS, default="lstm", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pairs", type=int, default=11, help="samples of each side, taken in turn")
    parser.add_argument("--min-time", type=float, default=0.02, metavar="SECONDS", help="length of a sample")
    options = parser.parse_args()
    if unknown := set(options.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {lstmfast.build_info()['cpu_isa']}, {options.threads} thread(s); ratios of times"
    )
    for name in options.workloads or WORKLOADS:
        for shape in map(Shape.parse, options.shape.split(",")):
            if name == "stream" and shape.bidirectional:
                continue
            print(
                f"{name:11} {shape!s:20} {compare(name, options.cell, shape, options.pairs, options.min_time)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
