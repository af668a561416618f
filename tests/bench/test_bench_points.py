"""bench/: which points are measured, and how many operations and bytes they count."""

from dataclasses import replace

import pytest
import torch
from lstmfast_bench import points, sides
from lstmfast_bench.points import Point, Shape
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lstmfast import reference


def test_shape():
    shape = Shape.parse("35x20x650x640x2+")
    assert shape == Shape(35, 20, 650, 640, 2, bidirectional=True)
    assert str(shape) == "35x20x650x640x2+"
    assert shape.directions == 2
    assert not Shape.parse("1x1x1x1x1").bidirectional


@pytest.mark.parametrize("text", ["", "1x2x3x4", "1x2x3x4x5x6", "1x2x3x4x0", "1x2x3x4x5-", "axbxcxdxe"])
def test_shape_refuses(text):
    with pytest.raises(ValueError, match="TxBxIxHxL"):
        Shape.parse(text)


def test_standard_grid():
    names = [str(shape) for shape in points.STANDARD]
    assert len(names) == len(set(names)) == 17
    assert sum(shape.bidirectional for shape in points.STANDARD) == 3
    for shape in points.STANDARD:
        assert replace(shape, bidirectional=False) in points.STANDARD


@pytest.mark.parametrize(
    ("cell", "variant"), [("LSTM", "plain"), ("LSTM", "proj"), ("RNN_TANH", "plain"), ("RNN_RELU", "plain")]
)
@pytest.mark.parametrize("shape", ["3x2x4x6x1", "3x2x4x6x3+"])
def test_flops_are_those_of_the_reference(cell, variant, shape):
    point = Point(Shape.parse(shape), cell, variant=variant)
    module = sides.module_of(nn, point)
    runs = point.shape.layers * point.shape.directions
    sizes = [point.state_size, point.shape.hidden][: reference.CELLS[cell].states]
    hx = tuple(torch.randn(runs, point.shape.batch, size, requires_grad=True) for size in sizes)
    x = torch.randn(point.shape.steps, point.shape.batch, point.shape.input, requires_grad=True)
    options = {"num_layers": point.shape.layers, "bidirectional": point.shape.bidirectional}
    with FlopCounterMode(display=False) as forward:
        output, _, _ = reference.recurrent(cell, x, None, hx, list(module.parameters()), has_biases=True, **options)
    assert point.flops == forward.get_total_flops()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(output.sum(), [x, *hx, *module.parameters()], allow_unused=True)
    assert replace(point, mode="training").flops == forward.get_total_flops() + backward.get_total_flops()


def test_packed_lengths_and_their_flops():
    point = Point(Shape.parse("8x4x3x5x1"), variant="packed")
    assert point.lengths == [8, 6, 4, 2]
    assert point.flops * 32 == replace(point, variant="plain").flops * sum(point.lengths)
    assert Point(Shape.parse("8x1x3x5x1"), variant="packed").lengths == [8]


def test_recurrent_weight_bytes():
    point = Point(Shape.parse("8x1x3x6x2+"))
    module = sides.module_of(nn, point)
    recurrent = [p for name, p in module.named_parameters() if name.startswith("weight_hh")]
    assert point.recurrent_weight_bytes == sum(p.nbytes for p in recurrent)
    one_step = replace(point, shape=replace(point.shape, steps=1), dtype="float64")
    weights = [p for name, p in module.named_parameters() if name.startswith("weight")]
    assert one_step.recurrent_weight_bytes == 2 * sum(p.nbytes for p in weights)


def test_grid_leaves_out_what_means_nothing():
    shapes, modes = [Shape.parse("2x2x2x2x1")], points.MODES
    chosen = points.grid(shapes, ["lstm", "rnn_relu"], ["float32"], ["proj", "lastloss"], modes, [1])
    assert [(p.cell, p.variant, p.mode, p.flush_denormal) for p in chosen] == [
        ("LSTM", "proj", "inference", False),
        ("LSTM", "proj", "training", False),
        ("LSTM", "lastloss", "training", False),
        ("LSTM", "lastloss", "training", True),
        ("RNN_RELU", "lastloss", "training", False),
        ("RNN_RELU", "lastloss", "training", True),
    ]


def test_sweeps_share_their_common_points():
    base = Point(points.SCALING_BASE, threads=2)
    around = points.with_sweeps([base], threads=[1, 2])
    assert len(around) == len(set(around)) == sum(map(len, points.SWEEPS.values())) + 2 - 3
    assert next(p for p in around if p == base).sweeps == ("T", "B", "H", "threads")
