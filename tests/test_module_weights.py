"""Weights that are not what they were: reassigned, removed, parametrized, handed in by functional_call."""

import copy

import pytest
import torch
from cases import Options, build_pair, gradients, tensors_of
from module_pairs import HIDDEN_SIZE, INPUT_SIZE, ROUNDING, assert_same_results, both_cells, randn
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import lstmfast


@both_cells
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hh_l1_reverse"])
def test_reassigned_weight(options, name):
    theirs, ours = build_pair(Options(options.cell, 2, bidirectional=True), INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    new = nn.Parameter(torch.randn_like(getattr(ours, name)))
    for module in (theirs, ours):
        setattr(module, name, new)
    assert getattr(ours, name) is new
    assert_same_results(ours, theirs, x)
    ours(x)[0].sum().backward()
    assert new.grad is not None


@both_cells
def test_weight_replaced_by_a_tensor_of_a_graph(options):
    """As weight dropping does: the parameter goes, and each call sets a tensor computed from another parameter."""
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x, raw = randn(5, 2, INPUT_SIZE), nn.Parameter(theirs.weight_hh_l0.detach().clone())
    results = []
    for module in (theirs, ours):
        del module.weight_hh_l0
        module.weight_hh_l0 = raw * torch.tensor([1.0, 0.0, 2.0, 0.0])
        output, *_ = tensors_of(module(x))
        results.append([output, *gradients([output], [raw])])
    torch.testing.assert_close(*results, **ROUNDING)
    assert "weight_hh_l0" not in dict(ours.named_parameters())


def test_assigning_the_flat_list_assigns_the_weights():
    theirs, ours = build_pair(Options(num_layers=2), INPUT_SIZE, HIDDEN_SIZE)
    theirs.reset_parameters()
    ours._flat_weights = theirs._flat_weights
    assert ours.weight_hh_l1 is theirs.weight_hh_l1
    assert_same_results(ours, theirs, randn(5, 2, INPUT_SIZE))


@both_cells
def test_missing_weight_is_an_error(options):
    _, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    del ours.weight_hh_l0
    assert ours._flat_weights[1] is None
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        ours(randn(5, 2, INPUT_SIZE))


@both_cells
@pytest.mark.parametrize("name", ["weight_hh_l0", "bias_hh_l0"])
def test_weight_that_is_no_tensor_is_an_error(options, name):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    for module, message in ((theirs, "NoneType"), (ours, f"{name} must be a tensor, got NoneType")):
        setattr(module, name, None)
        with pytest.raises(TypeError, match=message):
            module(randn(5, 2, INPUT_SIZE))


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.evaluations = 0

    def forward(self, weight):
        self.evaluations += 1
        return 2 * weight


@both_cells
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_parametrization_of_any_weight(options, name):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    results = []
    for module in (theirs, ours):
        parametrize.register_parametrization(module, name, Doubled())
        output, *_ = tensors_of(module(x))
        results.append([output, *gradients([output], list(module.parameters()))])
    torch.testing.assert_close(results[1], results[0], **ROUNDING)

    parametrization = ours.parametrizations[name][0]
    before = parametrization.evaluations
    ours(x)
    assert parametrization.evaluations == before + 1
    other = "weight_hh_l0" if name == "weight_ih_l0" else "weight_ih_l0"
    setattr(ours, other, getattr(ours, other))
    assert parametrization.evaluations == before + 1

    assert_same_results(copy.deepcopy(ours), theirs, x)
    for module in (theirs, ours):
        parametrize.remove_parametrizations(module, name)
    assert type(ours) in (lstmfast.LSTM, lstmfast.RNN)
    assert_same_results(ours, theirs, x)


@both_cells
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_norm(options):
    for normalise in (nn.utils.weight_norm, parametrizations.weight_norm):
        theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
        x = randn(5, 2, INPUT_SIZE)
        results = []
        for module in (theirs, ours):
            normalise(module, "weight_hh_l0")
            normalise(module, "weight_ih_l0")
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(1.5)
            output, *_ = tensors_of(module(x))
            results.append([output, *gradients([output], list(module.parameters()))])
        torch.testing.assert_close(results[1], results[0], **ROUNDING)


@both_cells
def test_spectral_norm(options):
    for normalise in (nn.utils.spectral_norm, parametrizations.spectral_norm):
        theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
        for module in (theirs, ours):
            normalise(module, "weight_hh_l0")
        # In training each evaluation is a step of the power iteration, and torch.nn makes more of them per call.
        ours(randn(5, 2, INPUT_SIZE))[0].sum().backward()
        ours.load_state_dict(theirs.state_dict())
        assert_same_results(ours.eval(), theirs.eval(), randn(5, 2, INPUT_SIZE))


@both_cells
def test_functional_call(options):
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    x = randn(5, 2, INPUT_SIZE)
    ours(x)
    weights = {name: torch.randn_like(p, requires_grad=True) for name, p in ours.named_parameters()}
    results = []
    for module in (theirs, ours):
        output, *_ = tensors_of(torch.func.functional_call(module, weights, (x,)))
        results.append([output, *gradients([output], list(weights.values()))])
    torch.testing.assert_close(results[1], results[0], **ROUNDING)
    theirs.zero_grad()
    assert_same_results(ours, theirs, x)


@both_cells
def test_replica_of_data_parallel(options):
    """nn.DataParallel runs copies of the module that hold tensors of a graph in the place of Parameters."""
    theirs, ours = build_pair(options, INPUT_SIZE, HIDDEN_SIZE)
    replica = ours._replicate_for_data_parallel()
    for name, parameter in ours.named_parameters():
        setattr(replica, name, parameter * 1)
    assert_same_results(replica, theirs, randn(5, 2, INPUT_SIZE))
