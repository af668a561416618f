"""What torch is doing while a call runs: recording, transforming, mapping, and which gradients it asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _C

_BATCHED = torch._C._dispatch_key_parse("Batched")


def is_transformed() -> bool:
    """Whether a functorch transform or a forward-mode level is active: the op itself would drop tangents silently."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_recorded() -> bool:
    return torch.is_grad_enabled() or is_transformed()


def asked_for(needs: Sequence[bool], leading: Sequence[bool]) -> list[bool]:
    """ctx.needs_input_grad, less what the running call of torch.autograd does not want: a gradient penalty, or a map of
    saliency, asks for the gradient of the input alone. leading: which of the first arguments are tensors; all others
    are."""
    asked = None if torch.compiler.is_compiling() else _C.asked_for()
    if asked is None:
        return list(needs)
    asked = iter(asked)
    tensors = (*leading, *(True,) * (len(needs) - len(leading)))
    return [is_tensor and next(asked) and need for need, is_tensor in zip(needs, tensors, strict=True)]


def is_batched(cotangent: Tensor) -> bool:
    """Whether torch.autograd.grad(is_grads_batched=True) maps the backward; the op has no rule for its tensors."""
    return torch._C._dispatch_keys(cotangent).has(_BATCHED)


def vmap_wants_different_masks() -> bool:
    """Whether vmap(randomness="different") is active, under which torch refuses the draw in place."""
    if not torch._C._are_functorch_transforms_active():
        return False
    vmap = torch._C._functorch.TransformType.Vmap
    return any(
        i.key() == vmap and torch._C._functorch.CVmapInterpreterPtr(i).randomness().name == "Different"
        for i in torch._C._functorch.get_interpreter_stack() or ()
    )
