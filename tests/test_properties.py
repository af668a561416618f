"""Properties that hold for any shape and option, on examples that hypothesis draws and shrinks."""

from dataclasses import dataclass

import torch
from cases import Options, build, build_pair, make_hx, states_of, tensors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

import lstmfast

ROUNDING = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-11},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}
examples = settings(max_examples=100, deadline=None, derandomize=True, print_blob=True)


@dataclass(frozen=True)
class Call:
    """A module's options, and what it is called with; everything else follows from the seed."""

    options: Options
    input_size: int
    hidden_size: int
    lengths: tuple[int, ...]  # of the sequences in the batch
    packed: bool
    given_hx: bool
    dtype: torch.dtype
    threads: int
    seed: int

    @property
    def batch(self) -> int:
        return len(self.lengths)

    def prepare(self) -> None:
        torch.manual_seed(self.seed)
        torch.set_num_threads(self.threads)

    def module(self, package=lstmfast) -> nn.RNNBase:
        return build(package, self.options, self.input_size, self.hidden_size, dtype=self.dtype)

    def sequences(self) -> list[Tensor]:
        return [torch.randn(n, self.input_size, dtype=self.dtype, requires_grad=True) for n in self.lengths]

    def input(self, sequences: list[Tensor]):
        return pack_sequence(sequences, enforce_sorted=False) if self.packed else torch.stack(sequences, 1)


@st.composite
def calls(draw, *, packed=None, bidirectional=None, num_layers=(1, 2, 3)):
    cell = draw(st.sampled_from(["LSTM", "RNN_TANH", "RNN_RELU"]))
    hidden_size = draw(st.integers(1, 40))
    projected = cell == "LSTM" and hidden_size > 1 and draw(st.booleans())
    options = Options(
        cell,
        draw(st.sampled_from(num_layers)),
        draw(st.booleans()) if bidirectional is None else bidirectional,
        draw(st.booleans()),
        projected,
    )
    is_packed = draw(st.booleans()) if packed is None else packed
    batch = draw(st.integers(1, 14))
    lengths = draw(st.lists(st.integers(1, 12), min_size=batch, max_size=batch))
    if not is_packed:
        lengths = [lengths[0]] * batch
    return Call(
        options,
        draw(st.integers(1, 40)),
        hidden_size,
        tuple(lengths),
        is_packed,
        draw(st.booleans()),
        draw(st.sampled_from([torch.float64, torch.float32])),
        draw(st.integers(1, 3)),
        draw(st.integers(0, 2**16)),
    )


def assert_close(actual, expected, dtype):
    torch.testing.assert_close(list(actual), list(expected), **ROUNDING[dtype])


def rows_of(hidden, index) -> tuple[Tensor, ...]:
    """States of some of the sequences."""
    return tuple(state[:, index] for state in states_of(hidden))


def as_hx(states):
    """The states as a module takes them."""
    return tuple(states) if len(states) == 2 else states[0]


@examples
@given(calls())
def test_equals_torch(call):
    call.prepare()
    theirs, ours = build_pair(call.options, call.input_size, call.hidden_size, dtype=call.dtype)
    sequences = call.sequences()
    hx = make_hx(theirs, call.batch, requires_grad=True) if call.given_hx else None
    results, cotangents = [], None
    for module in theirs, ours:
        outputs = tensors_of(module(call.input(sequences), hx))
        cotangents = cotangents or [torch.randn_like(o) for o in outputs]
        leaves = [*sequences, *states_of(hx), *module.parameters()]
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, cotangents)])
    assert_close(results[1], results[0], call.dtype)


@examples
@given(calls(packed=True))
def test_packed_equals_each_sequence_alone(call):
    call.prepare()
    module, sequences = call.module(), call.sequences()
    hx = make_hx(module, call.batch) if call.given_hx else None
    output, hidden = module(call.input(sequences), hx)
    cotangents = [torch.randn(len(s), output.data.shape[-1], dtype=call.dtype) for s in sequences]
    together = torch.autograd.grad(
        unpack_sequence(output), [*sequences, *module.parameters()], cotangents, retain_graph=True
    )
    weights = [torch.zeros_like(p) for p in module.parameters()]
    for n, (sequence, whole) in enumerate(zip(sequences, unpack_sequence(output), strict=True)):
        states = rows_of(hx, slice(n, n + 1)) if call.given_hx else ()
        alone, alone_hidden = module(sequence[:, None], as_hx(states) if states else None)
        assert_close([whole], [alone[:, 0]], call.dtype)
        assert_close(rows_of(hidden, slice(n, n + 1)), states_of(alone_hidden), call.dtype)
        gradient, *more = torch.autograd.grad(alone[:, 0], [sequence, *module.parameters()], cotangents[n])
        assert_close([together[n]], [gradient], call.dtype)
        weights = [w + m for w, m in zip(weights, more, strict=True)]
    assert_close(together[call.batch :], weights, call.dtype)


@examples
@given(calls(packed=False, bidirectional=False), st.data())
def test_a_sequence_in_two_parts_with_the_state_carried_over(call, data):
    call.prepare()
    module = call.module()
    input = torch.stack(call.sequences(), 1).detach().requires_grad_()
    steps = len(input)
    hx = make_hx(module, call.batch) if call.given_hx else None
    at = data.draw(st.integers(1, steps), label="first part's steps")
    whole, last = module(input, hx)
    first, hidden = module(input[:at], hx)
    parts = [first]
    if at < steps:
        second, hidden = module(input[at:], hidden)
        parts.append(second)
    results = [[whole, *states_of(last)], [torch.cat(parts), *states_of(hidden)]]
    assert_close(results[1], results[0], call.dtype)
    cotangents = [torch.randn_like(r) for r in results[0]]
    grads = [torch.autograd.grad(outputs, [input, *module.parameters()], cotangents) for outputs in results]
    assert_close(grads[1], grads[0], call.dtype)


@examples
@given(calls(packed=False, bidirectional=True, num_layers=(1,)))
def test_reversed_input_swaps_directions(call):
    call.prepare()
    module, swapped = call.module(), call.module()
    weights = dict(module.named_parameters())
    for name, parameter in swapped.named_parameters():
        other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
        parameter.data.copy_(weights[other].data)
    input = torch.stack(call.sequences(), 1)
    hx = make_hx(module, call.batch) if call.given_hx else None
    output, hidden = module(input, hx)
    flipped_hx = as_hx([s.flip(0) for s in states_of(hx)]) if call.given_hx else None
    back, back_hidden = swapped(input.flip(0), flipped_hx)
    width = output.shape[-1] // 2
    assert_close([torch.cat([back[..., width:], back[..., :width]], -1).flip(0)], [output], call.dtype)
    assert_close([s.flip(0) for s in states_of(back_hidden)], states_of(hidden), call.dtype)


@examples
@given(calls(), st.randoms(use_true_random=False))
def test_order_of_the_batch_does_not_matter(call, random):
    call.prepare()
    module, sequences = call.module(), call.sequences()
    hx = make_hx(module, call.batch) if call.given_hx else None
    order = list(range(call.batch))
    random.shuffle(order)
    output, hidden = module(call.input(sequences), hx)
    shuffled_hx = as_hx(rows_of(hx, order)) if call.given_hx else None
    shuffled, shuffled_hidden = module(call.input([sequences[n] for n in order]), shuffled_hx)
    assert_close(states_of(shuffled_hidden), rows_of(hidden, order), call.dtype)
    if call.packed:
        whole, other = unpack_sequence(output), unpack_sequence(shuffled)
        assert_close(other, [whole[n] for n in order], call.dtype)
    else:
        assert_close([shuffled], [output[:, order]], call.dtype)


@examples
@given(calls())
def test_gradients_do_not_depend_on_what_else_is_asked_for(call):
    call.prepare()
    module, sequences = call.module(), call.sequences()
    input = call.input(sequences)
    output = tensors_of(module(input))[0]
    cotangent = torch.randn_like(output)
    everything = torch.autograd.grad(output, [*sequences, *module.parameters()], cotangent, retain_graph=True)
    module.requires_grad_(False)
    output = tensors_of(module(call.input(sequences)))[0]
    inputs_alone = torch.autograd.grad(output, sequences, cotangent)
    assert all(torch.equal(a, b) for a, b in zip(inputs_alone, everything[: len(sequences)], strict=True))
    detached = [s.detach() for s in sequences]
    module.requires_grad_()
    output = tensors_of(module(call.input(detached)))[0]
    weights_alone = torch.autograd.grad(output, list(module.parameters()), cotangent)
    assert all(torch.equal(a, b) for a, b in zip(weights_alone, everything[len(sequences) :], strict=True))
