"""bench/: what is compared beside torch.nn computes the same with the same weights."""

import sys
import types
from dataclasses import replace

import pytest
import torch
from lstmfast_bench import peers, points, sides
from lstmfast_bench.points import Point, Shape
from torch import nn

from lstmfast import reference


@pytest.mark.parametrize("cell", points.GATES)
def test_compiled_loop_is_the_module(monkeypatch, cell):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # takes a minute, and is torch's to test
    point = Point(Shape.parse("5x3x4x6x2+"), cell, mode="training", peer="compile")
    agreement = sides.compare(*sides.build(point))
    assert agreement.gradients < 1e-6
    sides.compare(*sides.build(replace(point, mode="streaming")))


@pytest.mark.parametrize("cell", points.GATES)
def test_checkpointed_chunks_are_the_module(monkeypatch, cell):
    monkeypatch.setattr(peers, "chunk_steps", lambda steps, batch, device_type: 2)
    point = Point(Shape.parse("5x3x4x6x2"), cell, mode="training", peer="checkpoint")
    assert sides.compare(*sides.build(point)).gradients < 1e-6
    with pytest.raises(peers.Unsupported, match="two directions"):
        sides.build(replace(point, shape=Shape.parse("5x3x4x6x2+")))


def fake_flashrnn(rows, recurrent, bias, *, function, backend, dtype):
    """The documented call: rows [B, T, G, 1, H], recurrent [G, 1, H, H], bias [G, 1, H]; states [S, B, T, 1, H]."""
    assert (backend, dtype) == ("cuda_fused", "float32")
    cell = reference.CELLS[{"lstm": "LSTM", "elman": "RNN_TANH"}[function]]
    state = tuple(rows.new_zeros(rows.shape[0], rows.shape[-1]) for _ in range(cell.states))
    steps = []
    for pre in rows.flatten(2).unbind(1):
        state = cell(pre + state[0] @ recurrent.flatten(0, 2).t() + bias.flatten(), state)
        steps.append(torch.stack(state).unsqueeze(2))
    return torch.stack(steps, dim=2), None


class FakeHaste(nn.Module):
    """Haste's documented parameters and call."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(input_size, 4 * hidden_size))
        self.recurrent_kernel = nn.Parameter(torch.empty(hidden_size, 4 * hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))

    def forward(self, input):
        h = c = input.new_zeros(input.shape[1], self.bias.shape[0] // 4)
        steps = []
        for x in input:
            i, g, f, o = (x @ self.kernel + h @ self.recurrent_kernel + self.bias).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            steps.append(h)
        return torch.stack(steps), (h[None], c[None])


@pytest.mark.parametrize(("peer", "cell"), [("flashrnn", "LSTM"), ("flashrnn", "RNN_TANH"), ("haste", "LSTM")])
def test_weights_reach_the_peers_on_a_gpu(monkeypatch, peer, cell):
    """The layouts, on stand-ins: the packages themselves need a GPU."""
    monkeypatch.setitem(sys.modules, "flashrnn", types.SimpleNamespace(flashrnn=fake_flashrnn))
    monkeypatch.setitem(sys.modules, "haste_pytorch", types.SimpleNamespace(LSTM=FakeHaste))
    point = Point(Shape.parse("5x3x4x6x2"), cell, mode="training", peer=peer)
    with pytest.raises(peers.Unsupported, match="CUDA devices only"):
        sides.build(point)
    monkeypatch.setitem(peers.PEERS, peer, replace(peers.PEERS[peer], refusal=lambda point: None))
    assert sides.compare(*sides.build(point)).gradients < 1e-6
