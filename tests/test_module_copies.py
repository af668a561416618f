"""Copies, pickles, devices and dtypes of a module."""

import copy
import io
import pickle

import pytest
import torch
from cases import Options, all_options, build, build_pair, tensors_of
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, assert_same_results, both_cells, randn
from torch import nn

import lstmfast


@both_cells
def test_copies(options, tmp_path):
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    torch.save(ours, tmp_path / "module.pt")
    copies = [
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(tmp_path / "module.pt", weights_only=False),
    ]
    for other in copies:
        assert type(other) is type(ours)
        assert repr(other) == repr(ours)
        assert all(a is not b for a, b in zip(other.parameters(), ours.parameters(), strict=True))
        assert_same_results(other, theirs, x)
    shallow = copy.copy(ours)
    assert all(a is b for a, b in zip(shallow.parameters(), ours.parameters(), strict=True))
    assert_same_results(shallow, theirs, x)


@both_cells
def test_pickle_holds_each_weight_once(options):
    _, ours = build_pair(options, 64, 64)
    assert "_flat_weights" not in ours.__getstate__()
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    size = sum(p.numel() * p.element_size() for p in ours.parameters())
    assert len(buffer.getvalue()) < 1.2 * size + 8192


@both_cells
@pytest.mark.parametrize("age", ["1.7", "0.4"])
def test_states_of_old_pickles(options, age):
    """Before 1.8 there was no proj_size; early pickles hold tensors in _all_weights, and no flat list."""
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    state = theirs.__getstate__()
    del state["proj_size"]
    if age == "0.4":
        del state["_flat_weights"], state["_flat_weights_names"]
        state["_all_weights"] = [[getattr(theirs, name) for name in names] for names in theirs._all_weights]
    revived = type(ours).__new__(type(ours))
    revived.__setstate__(state)
    assert revived.proj_size == 0
    assert "_flat_weights" not in vars(revived)
    assert revived._all_weights == theirs._all_weights
    assert_same_results(revived, theirs, randn(5, 2, INPUT_SIZE))
    revived.weight_hh_l0 = nn.Parameter(torch.zeros_like(revived.weight_hh_l0))
    assert_same_results(copy.deepcopy(revived), revived, randn(5, 2, INPUT_SIZE))


@both_cells
def test_share_memory(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    assert ours.share_memory() is ours
    assert all(p.is_shared() for p in ours.parameters())
    assert_same_results(ours, theirs, randn(5, 2, INPUT_SIZE))


@pytest.mark.parametrize("options", all_options(num_layers=(2,)), ids=str)
def test_meta_device(options):
    theirs = build(nn, options, INPUT_SIZE, HIDDEN_SIZE)
    ours = build(lstmfast, options, INPUT_SIZE, HIDDEN_SIZE, device="meta")
    assert all(p.is_meta for p in ours.parameters())
    x = torch.randn(5, 2, INPUT_SIZE)
    actual = tensors_of(ours(x.to("meta")))
    assert all(t.is_meta for t in actual)
    assert [t.shape for t in actual] == [t.shape for t in tensors_of(theirs(x))]
    ours.to_empty(device="cpu").load_state_dict(theirs.state_dict())
    torch.testing.assert_close(tensors_of(ours(x)), tensors_of(theirs(x)))


@both_cells
def test_to_another_dtype(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE, dtype=torch.float32)
    ours.double()
    assert ours.weight_hh_l0.dtype == ours._flat_weights[1].dtype == torch.float64
    assert_same_results(ours, theirs.double(), randn(5, 2, INPUT_SIZE))
