"""Calls of lstmfast.LSTM and RNN: results, gradients and graphs are those of torch.nn's modules."""

import pytest
import torch
from cases import CELLS, Options, all_options, build_pair, gradients, make_hx, make_packed, states_of, tensors_of
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, ROUNDING, assert_same_results, both_cells, randn
from torch import nn
from torch.nn.utils.rnn import PackedSequence


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("layout", ["time_first", "batch_first", "one_sequence", "one_sequence_batch_first"])
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_padded(options, layout, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, batch_first=layout.endswith("batch_first"))
    x = randn(*((5, INPUT_SIZE) if layout.startswith("one") else (5, 2, INPUT_SIZE)), requires_grad=True)
    hx = None
    if given_hx:
        batch = None if layout.startswith("one") else 5 if layout == "batch_first" else 2
        hx = make_hx(theirs, batch, requires_grad=True)
    expected, actual = tensors_of(theirs(x, hx)), tensors_of(ours(x, hx))
    torch.testing.assert_close(actual, expected, **ROUNDING)
    leaves = [x, *states_of(hx)]
    torch.testing.assert_close(
        gradients(actual, [*leaves, *ours.parameters()]),
        gradients(expected, [*leaves, *theirs.parameters()]),
        **ROUNDING,
    )


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("lengths", [(5,), (5, 5, 2), (1, 6, 3, 3)], ids=["one", "sorted", "unsorted"])
@pytest.mark.parametrize("options", all_options(), ids=str)
def test_packed(options, lengths, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    packed, leaf = make_packed(lengths, INPUT_SIZE, requires_grad=True)
    hx = make_hx(theirs, len(lengths), requires_grad=True) if given_hx else None
    theirs_out, ours_out = theirs(packed, hx), ours(packed, hx)
    assert type(ours_out[0]) is PackedSequence
    for index in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert getattr(ours_out[0], index) is getattr(packed, index)
    expected, actual = tensors_of(theirs_out), tensors_of(ours_out)
    torch.testing.assert_close(actual, expected, **ROUNDING)
    # Both results share the graph that packed the input.
    leaves = [leaf, *states_of(hx)]
    expected_gradients = gradients(expected, [*leaves, *theirs.parameters()], retain_graph=True)
    torch.testing.assert_close(gradients(actual, [*leaves, *ours.parameters()]), expected_gradients, **ROUNDING)


@both_cells
def test_result_types(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    for input in (randn(2, INPUT_SIZE), randn(2, 2, INPUT_SIZE), make_packed((2, 1), INPUT_SIZE)[0]):
        result = ours(input)
        assert type(result) is tuple
        assert type(result[1]) is (tuple if options.cell == "LSTM" else torch.Tensor)


def test_hx_may_be_a_list():
    theirs, ours = build_pair(Options(), INPUT_SIZE, HIDDEN_SIZE)
    for input in (randn(5, 2, INPUT_SIZE), make_packed((3, 2), INPUT_SIZE)[0], make_packed((2, 3), INPUT_SIZE)[0]):
        assert_same_results(ours, theirs, input, list(make_hx(ours, 2)))
    assert_same_results(ours, theirs, randn(5, INPUT_SIZE), list(make_hx(ours, None)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_any_strides(cell, batch_first):
    theirs, ours = build_pair(Options(cell, num_layers=2), INPUT_SIZE, HIDDEN_SIZE, batch_first=batch_first)
    for module in (theirs, ours):
        for name, weight in list(module.named_parameters()):
            spread = torch.empty(*weight.shape, 2, dtype=torch.float64)[..., 0].copy_(weight.detach())
            setattr(module, name, nn.Parameter(spread.mT.contiguous().mT if spread.dim() == 2 else spread))
    hx = tuple(s.mT.contiguous().mT for s in states_of(make_hx(ours, 2)))
    hx = hx if cell == "LSTM" else hx[0]
    shape = (2, 5, INPUT_SIZE) if batch_first else (5, 2, INPUT_SIZE)
    inputs = [
        randn(shape[2], shape[1], shape[0]).permute(2, 1, 0),
        randn(*shape[:2], 2 * INPUT_SIZE)[..., ::2],
        randn(*shape).flip(0),
        randn(1, 1, INPUT_SIZE).expand(shape),
    ]
    for x in inputs:
        assert_same_results(ours, theirs, x, hx)


@pytest.mark.parametrize("given_hx", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_empty_batch(options, given_hx):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 0, INPUT_SIZE, requires_grad=True)
    hx = make_hx(ours, 0) if given_hx else None
    expected, actual = tensors_of(theirs(x, hx)), tensors_of(ours(x, hx))
    assert [t.shape for t in actual] == [t.shape for t in expected]
    sum(t.sum() for t in actual).backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in ours.parameters())


@both_cells
def test_backward_in_eval_mode_and_retained_graph(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    for module in (theirs, ours):
        loss = module.eval()(x)[0].square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
    for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, theirs_p.grad, **ROUNDING)


@both_cells
def test_backward_twice_without_retained_graph_is_an_error(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    loss = ours(randn(5, 2, INPUT_SIZE))[0].sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@both_cells
def test_no_graph_without_grad_mode(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not any(t.requires_grad for t in tensors_of(ours(randn(5, 2, INPUT_SIZE))))


@both_cells
def test_gradients_of_any_subset(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    for wanted in ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]:
        for module in (theirs, ours):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name == wanted)
                parameter.grad = None
            tensors_of(module(x))[0].square().sum().backward()
        assert [n for n, p in ours.named_parameters() if p.grad is not None] == [wanted]
        torch.testing.assert_close(getattr(ours, wanted).grad, getattr(theirs, wanted).grad, **ROUNDING)
    for parameter in ours.parameters():
        parameter.requires_grad_(False)
    assert not ours(x)[0].requires_grad


@both_cells
def test_dropout_only_in_training_and_between_layers(options):
    theirs, ours = build_pair(Options(options.cell, num_layers=2), INPUT_SIZE, HIDDEN_SIZE, dropout=0.5)
    x = randn(5, 2, INPUT_SIZE)
    assert_same_results(ours.eval(), theirs.eval(), x)
    ours.train()
    assert not torch.equal(ours(x)[0], ours(x)[0])
    torch.manual_seed(3)
    first = ours(x)[0]
    torch.manual_seed(3)
    assert torch.equal(ours(x)[0], first)
    for module in (ours, theirs.train()):
        module.dropout = 1.0
    assert_same_results(ours, theirs, x)
