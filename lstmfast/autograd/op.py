"""The gradient of the op itself: for the compiler, which wants one node, and for those who call the op directly.

To be imported for what it registers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._library.autograd import Info, make_autograd_impl
from torch.autograd import forward_ad

from .. import ops
from ..ops import Options
from .functions import gradient


def _setup_context(ctx, inputs, output):
    cell, input, batch_sizes, hx, weights, mask, *structure, saved, float32_precision = inputs
    output, _, _, hidden, reserve = output
    ctx.save_for_backward(input, mask, output, hidden, reserve, *hx, *weights)
    ctx.options = Options(cell, batch_sizes, *structure, len(hx), float32_precision)
    ctx.saved = saved
    ctx.mark_non_differentiable(hidden, reserve)
    ctx.set_materialize_grads(False)


def _op_backward(ctx, grad_output, grad_h_n, grad_c_n, *_):
    if not ctx.saved:
        raise RuntimeError("lstmfast::forward was called with save_for_backward=False: it has no gradient")
    input, mask, output, hidden, reserve, *tensors = ctx.saved_tensors
    options: Options = ctx.options
    needs, (hx, weights) = ctx.needs_input_grad, options.split(tensors)
    wanted = (needs[1], *_flags(needs[3], len(hx)), *_flags(needs[4], len(weights)))
    grads = (grad_output, grad_h_n, grad_c_n if options.has_cell_state else None)
    d_input, *d_tensors = gradient(options, grads, input, mask, (output, hidden, reserve), tensors, wanted)
    d_hx, d_weights = options.split(d_tensors)
    # As many as there were arguments: the dispatcher leaves out those that equal their defaults.
    return (None, d_input, None, d_hx, d_weights, *(None,) * (len(needs) - 5))


def _flags(needs, count: int) -> list[bool]:
    return list(needs) if isinstance(needs, (list, tuple)) else [bool(needs)] * count


def _refuse_tangents(*args):
    """torch's kernel for autograd of an op written in Python has no forward mode: it would drop tangents silently."""
    tensors = torch.utils._pytree.arg_tree_leaves(*args)
    if any(isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "torch.ops.lstmfast has no forward-mode derivative of its own: call lstmfast.lstm, lstmfast.rnn or a module"
        )


def _register(op, backward, setup_context) -> None:
    kernel = make_autograd_impl(op, Info(backward, setup_context))

    def checked(keyset, *args):
        if forward_ad._current_level >= 0:
            _refuse_tangents(*args)
        return kernel(keyset, *args)

    _library.impl(op.name().removesuffix(".default"), checked, "Autograd", with_keyset=True)


# torch.library.register_autograd, with a check before.
_library = torch.library.Library("lstmfast", "IMPL")
_register(ops.forward, _op_backward, _setup_context)
