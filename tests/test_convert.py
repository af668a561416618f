"""convert and to_torch swap the recurrent modules of a model in place and say what they left."""

import copy
import warnings

import pytest
import torch
from cases import Options, all_options, build, make_hx, make_packed, tensors_of
from torch import nn
from torch.nn.utils import parametrize

import lstmfast
from lstmfast.convert import ConversionReport

ROUNDING = {"rtol": 1e-10, "atol": 1e-11}


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True)
        self.rnn = nn.RNN(8, 5, nonlinearity="relu", batch_first=True)

    def forward(self, x):
        output, _ = self.lstm(x)
        return self.rnn(output.transpose(0, 1))[0]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.ModuleDict({"decoder": nn.LSTM(5, 2, proj_size=1)})])

    def forward(self, x):
        return self.layers[1]["decoder"](self.layers[0](self.encoder(x)))[0]


class Scaled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Subclass(nn.LSTM):
    pass


@pytest.mark.parametrize("options", all_options(), ids=str)
def test_root_is_swapped_there_and_back(options):
    module = build(nn, options, 3, 4, dtype=torch.float64)
    inputs = [(randn(5, 2, 3),), (randn(5, 2, 3), make_hx(module, 2)), (make_packed((2, 5), 3)[0],)]
    expected = [tensors_of(module(*args)) for args in inputs]
    text = repr(module)

    assert lstmfast.convert(module) is module
    assert type(module) is (lstmfast.LSTM if options.cell == "LSTM" else lstmfast.RNN)
    assert repr(module) == text
    torch.testing.assert_close([tensors_of(module(*args)) for args in inputs], expected, **ROUNDING)

    assert lstmfast.to_torch(module) is module
    assert type(module) is (nn.LSTM if options.cell == "LSTM" else nn.RNN)
    torch.testing.assert_close([tensors_of(module(*args)) for args in inputs], expected, rtol=0, atol=0)


def test_tree_is_swapped_in_place():
    model = Model().double().eval()
    x = randn(5, 2, 3)
    expected = model(x)
    modules, parameters, state = list(model.modules()), list(model.parameters()), copy.deepcopy(model.state_dict())

    _, report = lstmfast.convert(model, with_report=True)
    assert report == ConversionReport(["encoder.lstm", "encoder.rnn", "layers.1.decoder"], {})
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    assert not any(m.training for m in model.modules())
    torch.testing.assert_close(model(x), expected, **ROUNDING)

    _, report = lstmfast.to_torch(model, with_report=True)
    assert report == ConversionReport(["encoder.lstm", "encoder.rnn", "layers.1.decoder"], {})
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_optimizer_keeps_working():
    models = [Model().double(), Model().double()]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
    lstmfast.convert(models[1])
    for step in range(4):
        if step == 2:
            lstmfast.to_torch(models[1])
        x = randn(5, 2, 3)
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            losses.append(loss)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-8, atol=0)


def test_hooks_and_attributes_stay():
    module = nn.LSTM(3, 4)
    calls = []
    module.register_forward_hook(lambda *args: calls.append("forward"))
    module.register_full_backward_hook(lambda *args: calls.append("backward"))
    module.remark = "mine"
    module.weight_hh_l0.requires_grad_(False)
    lstmfast.convert(module)
    module(torch.randn(2, 1, 3, requires_grad=True))[0].sum().backward()
    assert calls == ["forward", "backward"]
    assert module.remark == "mine"
    assert module.weight_hh_l0.grad is None


def test_weights_changed_while_converted_are_seen_afterwards():
    module = lstmfast.convert(nn.LSTM(3, 4).double())
    module.weight_hh_l0 = nn.Parameter(randn(16, 4))
    x = randn(5, 2, 3)
    expected = tensors_of(module(x))
    lstmfast.to_torch(module)
    torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)
    assert module._flat_weights[1] is module.weight_hh_l0


def test_module_under_two_names_is_swapped_once():
    shared = nn.LSTM(3, 3)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Sequential(shared)})
    _, report = lstmfast.convert(model, with_report=True)
    assert report.swapped == ["a"]
    assert model["a"] is model["b"] is model["c"][0] is shared
    assert type(shared) is lstmfast.LSTM


def test_converting_twice_changes_nothing():
    model = lstmfast.convert(Model())
    _, report = lstmfast.convert(model, with_report=True)
    assert report == ConversionReport([], {})
    _, report = lstmfast.to_torch(Model(), with_report=True)
    assert report == ConversionReport([], {})


@pytest.mark.parametrize("name", ["LSTM", "RNN"])
def test_built_with_lstmfast_and_handed_on(name):
    module = getattr(lstmfast, name)(3, 4, 2, dtype=torch.float64)
    x = randn(5, 2, 3)
    expected = tensors_of(module(x))
    lstmfast.to_torch(module)
    torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)
    revived = copy.deepcopy(module)
    assert type(revived) is getattr(nn, name)
    torch.testing.assert_close(tensors_of(revived(x)), expected, **ROUNDING)


def test_unpickled_copies_keep_the_class(tmp_path):
    model = lstmfast.convert(Model().double())
    torch.save(model, tmp_path / "model.pt")
    x = randn(5, 2, 3)
    for revived in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert type(revived.encoder.lstm) is lstmfast.LSTM
        torch.testing.assert_close(revived(x), model(x))


@pytest.mark.parametrize("options", [Options("LSTM"), Options("RNN_TANH")], ids=str)
def test_parametrized_module(options):
    module = build(nn, options, 3, 4, dtype=torch.float64)
    for name in ("weight_hh_l0", "bias_ih_l0"):
        parametrize.register_parametrization(module, name, Scaled())
    x = randn(5, 2, 3)
    expected = tensors_of(module(x))
    parameters = list(module.parameters())

    _, report = lstmfast.convert(nn.Sequential(module), with_report=True)
    ours = lstmfast.LSTM if options.cell == "LSTM" else lstmfast.RNN
    assert report == ConversionReport(["0"], {})
    assert isinstance(module, ours)
    assert parametrize.type_before_parametrizations(module) is ours
    assert all(a is b for a, b in zip(module.parameters(), parameters, strict=True))
    torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)
    torch.testing.assert_close(tensors_of(copy.deepcopy(module)(x)), expected, **ROUNDING)
    with parametrize.cached():
        torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)
    with pytest.raises(RuntimeError, match="state_dict"):
        module.__getstate__()

    parametrize.register_parametrization(module, "weight_ih_l0", Scaled())
    lstmfast.to_torch(module)
    assert parametrize.type_before_parametrizations(module) in (nn.LSTM, nn.RNN)
    for name in ("weight_hh_l0", "bias_ih_l0", "weight_ih_l0"):
        parametrize.remove_parametrizations(module, name)
    assert type(module) in (nn.LSTM, nn.RNN)


def test_parametrized_copies_become_independent():
    """torch's deepcopy shares the class that holds the properties; removing one copy's must not break the other."""
    module = nn.LSTM(3, 4).double()
    parametrize.register_parametrization(module, "weight_hh_l0", Scaled())
    both = lstmfast.convert(nn.ModuleList([module, copy.deepcopy(module)]))
    x = randn(5, 2, 3)
    expected = tensors_of(both[1](x))
    parametrize.remove_parametrizations(both[0], "weight_hh_l0")
    for module in both:
        torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_norm_by_hook():
    module = nn.utils.weight_norm(nn.LSTM(3, 4).double(), "weight_hh_l0")
    x = randn(5, 2, 3)
    expected = tensors_of(module(x))
    lstmfast.convert(module)
    with torch.no_grad():
        module.weight_hh_l0_g.mul_(1)
    torch.testing.assert_close(tensors_of(module(x)), expected, **ROUNDING)


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.LSTM(3, 4))


def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.nn.quantized.dynamic.LSTM(3, 4)


def with_own_forward():
    module = nn.LSTM(3, 4)
    module.forward = lambda x: x
    return module


def parametrized_subclass():
    return parametrize.register_parametrization(Subclass(3, 4), "weight_hh_l0", Scaled())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.GRU(3, 4), "torch.nn.GRU has no counterpart in lstmfast."),
        (lambda: nn.RNNBase("LSTM", 3, 4), "torch.nn.RNNBase has no counterpart in lstmfast."),
        (lambda: nn.LSTMCell(3, 4), "torch.nn.LSTMCell computes one step per call"),
        (lambda: Subclass(3, 4), "Subclass is a subclass of torch.nn.LSTM"),
        (parametrized_subclass, "Subclass is a subclass of torch.nn.LSTM"),
        (with_own_forward, "Its forward was replaced on the instance."),
        (scripted, "It is compiled to TorchScript"),
        (quantized, "It belongs to torch's quantization"),
    ],
    ids=["GRU", "RNNBase", "LSTMCell", "subclass", "parametrized subclass", "own forward", "scripted", "quantized"],
)
def test_what_is_left_and_why(make, reason):
    module = make()
    cls = type(module)
    for model, name in ((module, "(root)"), (nn.Sequential(nn.Linear(2, 2), module, nn.LSTM(3, 4)), "1")):
        _, report = lstmfast.convert(model, with_report=True)
        assert type(module) is cls
        assert report.left[name].startswith(reason)
        assert report.left[name].count(".") >= 1
        assert report.left[name].endswith(".")
        assert report.swapped == (["2"] if name == "1" else [])


def test_subclass_of_lstmfast_is_left_by_to_torch():
    class Mine(lstmfast.LSTM):
        pass

    module = Mine(3, 4)
    _, report = lstmfast.to_torch(module, with_report=True)
    assert type(module) is Mine
    assert report.left["(root)"].startswith(
        "test_subclass_of_lstmfast_is_left_by_to_torch.<locals>.Mine is a subclass of"
    )


def test_report_reads_well():
    _, report = lstmfast.convert(nn.Sequential(nn.LSTM(3, 4), nn.RNN(3, 4), nn.GRU(3, 4)), with_report=True)
    assert str(report) == "swapped 2: 0, 1\nleft 2: torch.nn.GRU has no counterpart in lstmfast."
    assert str(ConversionReport()) == "swapped 0: none"


def test_only_modules_can_be_converted():
    for function in (lstmfast.convert, lstmfast.to_torch):
        with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got dict"):
            function({})


def test_converted_model_traces_with_fx():
    model = lstmfast.convert(Model().double())
    traced = torch.fx.symbolic_trace(model)
    x = randn(5, 2, 3)
    assert torch.equal(traced(x), model(x))
