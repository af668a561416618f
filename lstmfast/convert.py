"""convert and to_torch: swap the recurrent modules of a model that one cannot, or does not want to, edit.

A module is swapped by assigning its __class__, as torch's own parametrizations do. It stays the object it was, and so
keep its Parameters (and the optimizers that hold them), hooks, training flag, and every reference to it in the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, overload

import torch
from torch import nn
from torch.nn.utils import parametrize

from .modules import LSTM, RNN

Model = TypeVar("Model", bound=nn.Module)
Classes = Mapping[type[nn.RNNBase], type[nn.RNNBase]]

_TO_LSTMFAST: Classes = {nn.LSTM: LSTM, nn.RNN: RNN}
_TO_TORCH: Classes = {LSTM: nn.LSTM, RNN: nn.RNN}
_TORCH_NAMES = ("LSTM", "RNN", "GRU", "LSTMCell", "RNNCell", "GRUCell")


@dataclass
class ConversionReport:
    """What a conversion did to the recurrent modules of a model.

    swapped: the qualified names of the modules that were swapped, in the order of named_modules(); "(root)" stands for
        the model itself. A module that the model holds under several names appears once, under the first.
    left: the qualified name of every other recurrent module, with one sentence on why it was left as it was. What was
        of the wanted kind already is in neither.
    """

    swapped: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}: {', '.join(self.swapped) or 'none'}"]
        lines += [f"left {name}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


@overload
def convert(model: Model, *, with_report: Literal[False] = False) -> Model: ...
@overload
def convert(model: Model, *, with_report: Literal[True]) -> tuple[Model, ConversionReport]: ...
def convert(model, *, with_report=False):
    """Turns every torch.nn.LSTM and torch.nn.RNN in `model`, or `model` itself, into lstmfast's, in place.

    Parameters are shared, not copied: optimizers, hooks, state_dict keys and the training flag are as before. Modules
    under a parametrization are swapped too. Subclasses, quantized and scripted modules and other recurrent modules are
    left. Modules that are not registered, such as those in a plain list, are not found. Code in the model that asks
    isinstance(module, torch.nn.LSTM) gets False afterwards.

    Returns model, or (model, ConversionReport) if with_report.
    Raises TypeError if model is not a torch.nn.Module.
    """
    return _swap_all(model, _TO_LSTMFAST, _is_of_torch, with_report)


@overload
def to_torch(model: Model, *, with_report: Literal[False] = False) -> Model: ...
@overload
def to_torch(model: Model, *, with_report: Literal[True]) -> tuple[Model, ConversionReport]: ...
def to_torch(model, *, with_report=False):
    """Turns every lstmfast.LSTM and lstmfast.RNN in `model`, or `model` itself, into torch.nn's, in place.

    The way back from convert(), and as well the way to hand on a model that was built with lstmfast to where only torch
    is installed. Subclasses are left. Returns and raises as convert().
    """
    return _swap_all(model, _TO_TORCH, _is_of_lstmfast, with_report)


def _swap_all(model, classes: Classes, is_candidate: Callable[[nn.Module], bool], with_report: bool):
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    report = ConversionReport()
    for name, module in model.named_modules():
        if is_candidate(module):
            reason = _reason_to_leave(module, classes)
            if reason is None:
                _swap(module, classes)
                report.swapped.append(name or "(root)")
            else:
                report.left[name or "(root)"] = reason
    return (model, report) if with_report else model


def _swap(module: nn.RNNBase, classes: Classes) -> None:
    cls = type(module)
    if parametrize.is_parametrized(module):
        # torch derives a class of its own for each parametrized module, which holds a property for each parametrized
        # weight and refers to its base nowhere else: the same class on the other base serves the other module.
        base = classes[cls.__bases__[0]]
        module.__class__ = type(f"Parametrized{base.__name__}", (base,), dict(vars(cls)))
    else:
        module.__class__ = classes[cls]
    # torch.nn keeps a flat list of the weights beside the attributes, lstmfast does not: see lstmfast.modules.
    vars(module).pop("_flat_weights", None)
    module._flat_weight_refs = []
    module._init_flat_weights()


def _is_of_lstmfast(module: nn.Module) -> bool:
    return isinstance(module, LSTM | RNN)


def _is_of_torch(module: nn.Module) -> bool:
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase) or _is_scripted(module) or _is_quantized(module)
    return recurrent and not _is_of_lstmfast(module)


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule) and module.original_name in _TORCH_NAMES


def _is_quantized(module: nn.Module) -> bool:
    cls = type(module)
    return cls.__module__.startswith("torch.ao.nn.") and cls.__name__ in _TORCH_NAMES


def _reason_to_leave(module: nn.Module, classes: Classes) -> str | None:
    """One sentence, or None if the module can be swapped."""
    if _is_scripted(module):
        return "It is compiled to TorchScript and no longer runs the Python class."
    if _is_quantized(module):
        return "It belongs to torch's quantization, which brings its own kernels."
    cls = parametrize.type_before_parametrizations(module)
    if cls in classes:
        # An instance's own forward would hide the new class's, and likely calls the old one's.
        return "Its forward was replaced on the instance." if "forward" in vars(module) else None
    for base in classes:
        if issubclass(cls, base):
            return f"{_qualified(cls)} is a subclass of {_qualified(base)}, and what it changes would be lost."
    if issubclass(cls, nn.RNNCellBase):
        return f"{_qualified(cls)} computes one step per call and leaves no loop over time to fuse."
    return f"{_qualified(cls)} has no counterpart in lstmfast."


def _qualified(cls: type) -> str:
    return f"torch.nn.{cls.__name__}" if cls.__module__.startswith("torch.nn.modules.") else cls.__qualname__
