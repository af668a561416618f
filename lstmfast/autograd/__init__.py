"""From tensors to the compiled op and back: what is saved, who needs a gradient, and which way a call goes.

    functions.RecurrentFunction         the op, with its gradient: the common call
    recompute.RecomputeFunction         the same chunk by chunk, for long sequences in little memory
    functions.TransformableFunction     the same for functorch transforms (vmap, grad, jvp) and forward-mode AD
    functions.GradientFunction          the gradient as a function that can itself be differentiated and mapped
    op                                  the op itself: when nothing needs a gradient, and for the compiler
    derivatives, second_order           tangents, and derivatives of the gradient, on top of these functions

Only cotangents that torch.autograd.grad(is_grads_batched=True) maps, and transforms within a compiled function, go to
`lstmfast.reference` (fallback): right, and slow.
"""

from . import op  # noqa: F401  registers the gradient of torch.ops.lstmfast.forward
from .call import recurrent

__all__ = ["recurrent"]
