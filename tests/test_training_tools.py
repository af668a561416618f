"""What training code does to a layer: accumulation, clipping, optimizers, averages, reparametrization, tying, hooks."""

import copy

import pytest
import torch
from cases import CELLS, Options, build_pair, tensors_of
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import lstmfast

OPTIONS = [Options(cell, 2, bidirectional=True) for cell in CELLS] + [Options("LSTM", 2, projected=True)]
both = pytest.mark.parametrize("options", OPTIONS, ids=str)
ROUNDING = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture
def x():
    return torch.randn(6, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def loss_of(module, x):
    return sum(o.square().mean() for o in tensors_of(module(x)))


def compare(pair, train):
    """Does the same to torch.nn's module and to ours, and compares all parameters afterwards."""
    for module in pair:
        torch.manual_seed(1)
        train(module)
    theirs, ours = (m.state_dict() for m in pair)
    assert theirs.keys() == ours.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], **ROUNDING)


OPTIMIZERS = {
    "foreach AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "foreach SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@both
def test_optimizers(options, optimizer, x):
    def train(module):
        stepper = OPTIMIZERS[optimizer](module.parameters())

        def closure():
            stepper.zero_grad()
            loss = loss_of(module, x)
            loss.backward()
            return loss

        for _ in range(3):
            stepper.step(closure)

    compare(build_pair(options, 5, 6), train)


@both
def test_accumulation_and_clipping(options, x):
    def train(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for part in x.split(2, dim=1):  # two backward passes into the same .grad
            (loss_of(module, part) / 2).backward()
        clip_grad_norm_(module.parameters(), 0.01, foreach=True)
        clip_grad_value_(module.parameters(), 0.005)
        optimizer.step()

    compare(build_pair(options, 5, 6), train)


@both
def test_moving_averages(options, x):
    def train(module):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(module, x).backward()
            optimizer.step()
            average.update_parameters(module)
        loss_of(average, x)  # the copy must run as well
        module.load_state_dict(average.module.state_dict())

    compare(build_pair(options, 5, 6), train)


@pytest.mark.parametrize("make", [weight_norm, spectral_norm, orthogonal], ids=lambda f: f.__name__)
@both
def test_parametrizations(options, make, x):
    def train(module):
        name = "weight_hh_l1"
        torch.manual_seed(2)
        make(module, name)
        if make is spectral_norm:
            module.eval()  # in training each reading of the weight is a power iteration, and torch.nn reads it often
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(module, x).backward()
            optimizer.step()
        parametrize.remove_parametrizations(module, name)

    compare(build_pair(options, 5, 6), train)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@both
def test_weight_norm_of_old(options, x):
    # Before parametrizations: a hook that assigns the weight, then a plain tensor, before each call.
    def train(module):
        nn.utils.weight_norm(module, "weight_hh_l0")
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(module, x).backward()
            optimizer.step()
        nn.utils.remove_weight_norm(module, "weight_hh_l0")

    compare(build_pair(options, 5, 6), train)


@both
def test_pruning(options, x):
    _, module = build_pair(options, 5, 6)
    plain = copy.deepcopy(module)
    prune.l1_unstructured(module, "weight_hh_l0", amount=0.5)
    mask = module.weight_hh_l0_mask
    with torch.no_grad():
        plain.weight_hh_l0.mul_(mask)
    assert torch.equal(module(x)[0], plain(x)[0])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    loss_of(module, x).backward()
    optimizer.step()
    loss_of(module, x)
    assert torch.equal(module.weight_hh_l0 != 0, mask.bool() & (module.weight_hh_l0_orig != 0))
    prune.remove(module, "weight_hh_l0")
    assert isinstance(module.weight_hh_l0, nn.Parameter)
    module(x)


@pytest.mark.parametrize("cell", CELLS)
def test_one_parameter_in_two_layers(cell, x):
    class Pair(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second
            second.weight_hh_l0 = first.weight_hh_l0
            second.bias_hh_l0 = first.bias_ih_l0

        def forward(self, x):
            return self.second(self.first(x)[0])

    pairs = [
        Pair(*layers) for layers in zip(build_pair(Options(cell), 5, 6), build_pair(Options(cell), 6, 6), strict=True)
    ]

    def train(module):
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(module, x).backward()
            optimizer.step()
        assert module.second.weight_hh_l0 is module.first.weight_hh_l0

    compare(pairs, train)


@both
def test_one_module_with_several_callers(options, x):
    def train(module):
        first, _ = module(x)
        second, _ = module(x.flip(0))
        (first.square().mean() + second.tanh().mean() + module(x[:2])[0].mean()).backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()

    compare(build_pair(options, 5, 6), train)


@both
def test_hooks(options, x):
    seen = []

    def halve(parameter):
        parameter.grad.mul_(0.5)

    def train(module):
        handles = [
            module.register_forward_pre_hook(lambda m, args: (2 * args[0],)),
            module.register_forward_hook(lambda m, args, result: (3 * result[0], result[1])),
            module.register_full_backward_pre_hook(lambda m, grads: tuple(g if g is None else 2 * g for g in grads)),
            module.register_full_backward_hook(lambda m, inputs, outputs: seen.append([g.norm() for g in inputs])),
            module.weight_hh_l0.register_hook(lambda g: 0.5 * g),
            module.weight_ih_l0.register_post_accumulate_grad_hook(halve),
            module.register_state_dict_post_hook(lambda m, state, prefix, meta: state.update(extra=torch.ones(1))),
        ]
        leaf = x.clone().requires_grad_()
        module(leaf)[0].square().mean().backward()
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        state = module.state_dict()
        assert "extra" in state
        before = module.register_load_state_dict_pre_hook(lambda m, state, *rest: state.pop("extra"))
        after = module.register_load_state_dict_post_hook(lambda m, keys: keys.unexpected_keys.clear())
        module.load_state_dict({**state, "not there": torch.ones(1)})
        handles += [before, after]
        for handle in handles:
            handle.remove()

    compare(build_pair(options, 5, 6), train)
    theirs, ours = seen
    torch.testing.assert_close(ours, theirs, **ROUNDING)


@pytest.mark.parametrize("use_reentrant", [False, True])
@both
def test_checkpointing_every_layer_of_a_stack(options, use_reentrant, x):
    def train(modules):
        y = x.clone().requires_grad_()
        for module in modules:
            y = checkpoint(lambda t, m=module: m(t)[0], y, use_reentrant=use_reentrant)
        y.square().mean().backward()
        torch.optim.SGD(modules.parameters(), lr=0.1).step()

    width = (2 if options.bidirectional else 1) * (options.proj_size(6) or 6)
    first, second = build_pair(options, 5, 6, dropout=0.3), build_pair(options, width, 6, dropout=0.3)
    compare([nn.ModuleList(layers) for layers in zip(first, second, strict=True)], train)


def test_deterministic_algorithms_are_accepted(x):
    # Bits are compared in test_determinism.py.
    torch.use_deterministic_algorithms(True)
    try:
        module = lstmfast.LSTM(5, 6, 2, dropout=0.5, dtype=torch.float64)
        grads = []
        for _ in range(2):
            torch.manual_seed(1)
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(module(leaf)[0].square().sum(), leaf, create_graph=True)
            grads.append(torch.autograd.grad(slope.square().sum(), list(module.parameters())))
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
