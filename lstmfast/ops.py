"""The compiled ops ``torch.ops.lstmfast.forward`` and ``.backward``: loading and fake kernels.

Their arguments are those of one whole call, all layers and both directions; ``csrc/torch/checks.h`` says what each must
be. Results of ``forward``:

=========  ==========================================  ===========================================================
output     ``[T, B, D*O]``, or packed rows             O = proj_size or hidden_size, D directions
h_n        ``[L*D, B, O]``
c_n        ``[L*D, B, H]``                             empty for a cell without a private state
hidden     ``[L-1, *output.shape]``                    lower layers' outputs before dropout; empty unless saved
reserve    ``[L*D, rows, width]``, float32 or float64  what backward needs, in a private layout; empty unless saved
=========  ==========================================  ===========================================================

``float32_precision`` is "highest", "high" or "medium", in the sense of ``torch.set_float32_matmul_precision``, and read
for float32 where an arithmetic for less than "highest" exists: TF32 on CUDA, and on CPUs with AMX three products of
bfloat16 ("high") or one ("medium"). None means torch's setting at the time of the call: torch.backends.cudnn.rnn's on
CUDA, ``torch.get_float32_matmul_precision()`` on the CPU.
``backward`` returns an empty tensor for each gradient that ``output_mask`` (input, hx..., weights...) does not want.

``check``, ``forward_chunk`` and ``backward_chunk`` are for ``recompute=True`` alone (csrc/torch/ops.cpp). They have no
fake kernels and no gradient, since the compiler sees whole calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _C

forward = torch.ops.lstmfast.forward.default
backward = torch.ops.lstmfast.backward.default
forward_into = torch.ops.lstmfast.forward_into.default
check = torch.ops.lstmfast.check.default
forward_chunk = torch.ops.lstmfast.forward_chunk.default
backward_chunk = torch.ops.lstmfast.backward_chunk.default
tangent_walk = torch.ops.lstmfast.tangent_walk.default
gradient_tangent_walk = torch.ops.lstmfast.gradient_tangent_walk.default

CELLS: dict[str, dict[str, int]] = _C.cells()


@dataclass(eq=False, slots=True)
class Options:
    """What a call is, beside its tensors of floating point."""

    cell: str
    batch_sizes: Tensor | None
    has_biases: bool
    num_layers: int
    bidirectional: bool
    dropout: float
    states: int  # tensors of hx that were given: 0, 1 or 2
    float32_precision: str | None = None  # float32_precision(), as it was for forward

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def has_cell_state(self) -> bool:
        return CELLS[self.cell]["states"] > 1

    def split(self, tensors: Sequence) -> tuple[list, list]:
        """``tensors`` = (*hx, *weights), or what belongs to them, taken apart."""
        return list(tensors[: self.states]), list(tensors[self.states :])

    def arguments(self, input: Tensor, mask: Tensor | None, tensors: Sequence[Tensor]) -> tuple:
        """What both ops take."""
        hx, weights = self.split(tensors)
        structure = (self.has_biases, self.num_layers, self.bidirectional, self.dropout)
        return self.cell, input, self.batch_sizes, hx, weights, mask, *structure

    def are_sound(self, input: Tensor, mask: Tensor | None, tensors: Sequence[Tensor]) -> bool:
        """Whether the ops take them with these tensors, by the ops' own check."""
        try:
            with torch._C._AutoDispatchBelowAutograd():
                check(*self.arguments(input, mask, tensors))
        except (TypeError, ValueError, RuntimeError):
            return False
        return True

    def forward(
        self, input: Tensor, mask: Tensor | None, tensors: Sequence[Tensor], save_for_backward: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The op without autograd, whose kernel for it, being Python, takes half of a call of one step."""
        with torch._C._AutoDispatchBelowAutograd():
            return forward(*self.arguments(input, mask, tensors), save_for_backward, self.float32_precision)

    def backward(
        self,
        grads: Sequence[Tensor | None],
        input: Tensor,
        mask: Tensor | None,
        saved: Sequence[Tensor],
        tensors: Sequence[Tensor],
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients of input, *hx, *weights, None where not wanted; grads are those of output, h_n and c_n, saved is
        (output, hidden, reserve)."""
        with torch._C._AutoDispatchBelowAutograd():
            arguments = self.arguments(input, mask, tensors)
            d_input, d_hx, d_weights = backward(*grads, *arguments, *saved, wanted, self.float32_precision)
        return [d if w else None for d, w in zip((d_input, *d_hx, *d_weights), wanted, strict=True)]


_CPU_HAS_TILES = _C.has_tiles()


def float32_precision(input: Tensor) -> str | None:
    """torch's setting, read once for forward and backward of a call; None where it means nothing. A compiled graph
    passes None as well: its ops read the setting when they run."""
    if input.dtype != torch.float32 or not (input.is_cuda or _CPU_HAS_TILES) or torch.compiler.is_compiling():
        return None
    if input.is_cuda:
        return "high" if _C.allow_tf32() else "highest"
    return _C.float32_precision()


def _sizes(
    cell: str, weights: Sequence[Tensor], has_biases: bool, num_layers: int, bidirectional: bool
) -> tuple[int, int, int]:
    """(hidden_size, proj_size, directions) from the weights, as csrc/torch/checks.cpp reads and refuses them."""
    directions, plain = 2 if bidirectional else 1, 4 if has_biases else 2
    runs = num_layers * directions
    if len(weights) not in (runs * plain, runs * (plain + 1)) or runs < 1:
        raise ValueError(
            f"lstmfast: weights must hold {plain} ({plain + 1} with a projection) tensors for each of {num_layers} "
            f"layers and {directions} directions, got {len(weights)} tensors"
        )
    per_run = len(weights) // runs
    projects = per_run > plain
    for index in (0, per_run - 1) if projects else (0,):
        if weights[index].dim() != 2:
            raise ValueError(f"lstmfast: weights[{index}] must be 2-D, got {weights[index].dim()}-D")
    hidden = weights[0].shape[0] // CELLS[cell]["gates"]
    return hidden, weights[per_run - 1].shape[0] if projects else 0, directions


def _check_devices(input: Tensor, others: Sequence[Tensor | None]) -> None:
    """One tensor on the meta device is enough to come here instead of to the real op."""
    for t in others:
        if t is not None and t.device != input.device:
            raise RuntimeError(f"lstmfast: all tensors must be on the input's device {input.device}, got {t.device}")


@torch.library.register_fake("lstmfast::forward")
def _forward_fake(
    cell,
    input,
    batch_sizes,
    hx,
    weights,
    dropout_mask,
    has_biases,
    num_layers,
    bidirectional,
    dropout,
    save_for_backward,
    float32_precision=None,
):
    _check_devices(input, [*hx, *weights, dropout_mask])
    hidden_size, proj_size, directions = _sizes(cell, weights, has_biases, num_layers, bidirectional)
    rows_shape = input.shape[:-1]
    rows = rows_shape[0] if batch_sizes is not None else rows_shape[0] * rows_shape[1]
    if batch_sizes is None:
        batch = rows_shape[1]
    elif hx:
        batch = hx[0].shape[1]
    else:
        # The first entry of batch_sizes: data, which a fake kernel cannot see.
        batch = torch.library.get_ctx().new_dynamic_size()
    width = directions * (proj_size or hidden_size)
    runs = num_layers * directions
    states = CELLS[cell]["states"]
    output = input.new_empty((*rows_shape, width))
    h_n = input.new_empty((runs, batch, proj_size or hidden_size))
    c_n = input.new_empty((runs, batch, hidden_size) if states > 1 else (0,))
    if not save_for_backward:
        return output, h_n, c_n, input.new_empty((0,)), input.new_empty((0,))
    dtype = str(input.dtype).removeprefix("torch.")
    reserve_width = _C.reserve_width(cell, dtype, int(hidden_size), int(proj_size), input.device.type)
    compute_type = torch.float64 if input.dtype == torch.float64 else torch.float32
    reserve = input.new_empty((runs, rows, reserve_width), dtype=compute_type)
    return output, h_n, c_n, input.new_empty((num_layers - 1, *rows_shape, width)), reserve


@torch.library.register_fake("lstmfast::backward")
def _backward_fake(
    grad_output,
    grad_h_n,
    grad_c_n,
    cell,
    input,
    batch_sizes,
    hx,
    weights,
    dropout_mask,
    has_biases,
    num_layers,
    bidirectional,
    dropout,
    output,
    hidden,
    reserve,
    output_mask,
    float32_precision=None,
):
    grads = (grad_output, grad_h_n, grad_c_n)
    _check_devices(input, [*grads, *hx, *weights, dropout_mask, output, hidden, reserve])

    def gradient(t, wanted):
        return t.new_empty(t.shape if wanted else (0,))

    states = len(hx)
    return (
        gradient(input, output_mask[0]),
        [gradient(t, wanted) for t, wanted in zip(hx, output_mask[1 : 1 + states], strict=True)],
        [gradient(t, wanted) for t, wanted in zip(weights, output_mask[1 + states :], strict=True)],
    )
