"""LSTM and RNN: torch.nn's recurrent modules with their parameters, options, checks and errors, on the fused op.

They extend torch.nn.RNNBase and not torch.nn.LSTM or torch.nn.RNN, because the compiler front end breaks the graph at
instances of these; so isinstance(module, torch.nn.LSTM) is False. Construction, initialisation, repr and state_dict are
RNNBase's own: the same seed gives the same weights as torch.nn, and state_dicts load both ways.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.fx.proxy import TraceError
from torch.nn.utils.rnn import PackedSequence

from . import autograd


class _Recurrent(nn.RNNBase):
    """What LSTM and RNN share: weights that are read anew in each call, and the way from the user's input to the op.

    RNNBase keeps a flat list of the weights beside the attributes and repairs it when the two drift apart (after a
    parametrization, functional_call, an assignment). Here there are only the attributes: `_flat_weights` is computed
    from them, assigning it assigns them, and what RNNBase does to maintain its list does nothing.
    """

    recompute = False  # of modules made by convert() or from older pickles

    # RNNBase's own writes into the flat list as well.
    __setattr__ = nn.Module.__setattr__

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights: Sequence[Tensor | None]) -> None:
        for name, weight in zip(self._flat_weights_names, weights, strict=True):
            if weight is not None and weight is not getattr(self, name, None):
                setattr(self, name, weight)

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    def _weights_have_changed(self) -> bool:
        return False

    def _set_recompute(self, recompute: bool) -> None:
        if not isinstance(recompute, bool):
            raise TypeError(f"recompute should be of type bool, got: {type(recompute).__name__}")
        self.recompute = recompute

    def extra_repr(self) -> str:
        return super().extra_repr() + ", recompute=True" * self.recompute

    def flatten_parameters(self) -> None:
        """Does nothing: the op reads the weights where they lie. It is here for code written for torch.nn."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch.nn's pickles carry the flat list; kept, it would hold on to weights that are no longer the module's.
        self.__dict__.pop("_flat_weights", None)
        self._flat_weight_refs = []

    def _weights(self) -> list[Tensor]:
        """The weights in RNNBase's flat order, each evaluated once: a parametrization may be costly, or random."""
        # For a plain Parameter getattr would first fail in the class and the instance: felt by calls of one step.
        plain = self._parameters
        return [plain[name] if name in plain else getattr(self, name) for name in self._flat_weights_names]

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Runs the layers over `input`; the class says what goes in, what comes out and what is raised."""
        if _is_traced(input, hx):
            return self._record_call(input, hx)
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)

        rank = input.dim()
        if rank not in (2, 3):
            raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {rank}D instead")
        states = () if hx is None else self._padded_states(hx, rank)
        if rank == 2:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        output, states = self._recurrent(input, None, states)
        if rank == 2:
            output, states = output.squeeze(1), tuple(state.squeeze(1) for state in states)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, self._hidden(states)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        data, batch_sizes, sorted_indices, unsorted_indices = input
        states = () if hx is None else self._packed_states(self.permute_hidden(hx, sorted_indices))
        output, states = self._recurrent(data, batch_sizes, states)
        hidden = self.permute_hidden(self._hidden(states), unsorted_indices)
        return PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices), hidden

    def _recurrent(
        self, input: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Checks time-major or packed input, and states of three dimensions or none, and hands them to the op."""
        weights = self._weights()
        self._check(input, batch_sizes, states, weights[0])
        try:
            output, h_n, c_n = autograd.recurrent(
                self.mode,
                input,
                batch_sizes,
                states,
                weights,
                has_biases=self.bias,
                num_layers=self.num_layers,
                bidirectional=self.bidirectional,
                dropout=self.dropout if self.training else 0.0,
                recompute=self.recompute,
            )
        except (AttributeError, RuntimeError):
            # A bias set to None, say. Looked for only now, so that a call that is well does not pay for it.
            for name, weight in zip(self._flat_weights_names, weights, strict=True):
                if not isinstance(weight, Tensor):
                    raise TypeError(f"{name} must be a tensor, got {type(weight).__name__}") from None
            raise
        return output, (h_n,) if c_n is None else (h_n, c_n)

    def _check(self, input: Tensor, batch_sizes: Tensor | None, states: tuple[Tensor, ...], weight: Tensor) -> None:
        """RNNBase's checks, and those of the op below torch.nn, in their order. weight is any of the call's weights:
        RNNBase's own methods would evaluate them all again."""
        dtypes_may_differ = torch._C._is_any_autocast_enabled()
        if input.dtype != weight.dtype and not dtypes_may_differ:
            # torch.nn.LSTM checks a packed input nowhere and stumbles over its dtype in the first product.
            error = RuntimeError if self.mode == "LSTM" and batch_sizes is not None else ValueError
            raise error(
                f"{type(self).__name__}: input dtype ({input.dtype}) does not match weight dtype ({weight.dtype}). "
                f"Convert the input: input.to({weight.dtype}), or the model: model.to({input.dtype})"
            )
        if batch_sizes is not None:
            if input.dim() != 2:
                raise RuntimeError(f"packed input must have 2 dimensions, got {input.dim()}")
            _check_batch_sizes(batch_sizes, bool(states))
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )
        if batch_sizes is None and input.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if input.device != weight.device:
            raise RuntimeError(f"input is on {input.device}, but the weights are on {weight.device}")
        # While compiling, the values in batch_sizes are unknown: then the op alone compares the states with them.
        if states and (batch_sizes is None or not torch.compiler.is_compiling()):
            batch = input.shape[1] if batch_sizes is None else int(batch_sizes[0])
            rows = self.num_layers * (2 if self.bidirectional else 1)
            self._check_states(states, (rows, batch, self.proj_size or self.hidden_size))
        for state in states:
            if state.dtype != weight.dtype and not dtypes_may_differ:
                raise RuntimeError(f"hx has dtype {state.dtype}, but input and weights have {weight.dtype}")
            if state.device != weight.device:
                raise RuntimeError(f"hx is on {state.device}, but input and weights are on {weight.device}")

    def _record_call(self, input: Any, hx: Any) -> Proxy:
        """Stands as one node in a graph traced by torch.fx, which makes leaves of torch.nn's modules only."""
        proxy = next(x for x in (input, hx, *(hx if isinstance(hx, tuple | list) else ())) if isinstance(x, Proxy))
        path = proxy.tracer.path_of_module(self)
        if not path:
            raise TraceError(f"{type(self).__name__} cannot be traced by itself, only as a part of another module")
        return proxy.tracer.create_proxy("call_module", path, (input,) if hx is None else (input, hx), {})


class LSTM(_Recurrent):
    """A multi-layer long short-term memory network: torch.nn.LSTM on lstmfast's kernels.

        i, f, g, o = split(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)            with proj_size > 0:  h_t = W_hr (sigmoid(o) * tanh(c_t))

    lstmfast.reference holds the sources and the equations in full. With T steps, B sequences, D directions, L layers,
    H = hidden_size and P = proj_size or H:

    Arguments: as torch.nn.LSTM, and recompute: train long sequences in little memory, for the time of another forward
    (docs/ecosystem.md). It is an attribute, too, that may be set at any time.

    Inputs:
        input: [T, B, input_size], [B, T, input_size] with batch_first, [T, input_size] for one sequence, or a
            PackedSequence; float32, float64, bfloat16 or float16, the dtype of the weights unless under autocast.
        hx: None for zeros, or (h_0, c_0), as a tuple or list: h_0 [L*D, B, P] and c_0 [L*D, B, H], batch_first or not;
            without the dimension B for one sequence.

    Outputs:
        output, (h_n, c_n): output [T, B, D*P] in the layout of the input (a PackedSequence for a PackedSequence), h_n
        and c_n in the layout of h_0 and c_0.

    Parameters, for every layer k: weight_ih_l{k} [4*H, input_size or D*P], weight_hh_l{k} [4*H, P], bias_ih_l{k} and
    bias_hh_l{k} [4*H], weight_hr_l{k} [P, H] with a projection; with the suffix _reverse for the other direction.

    Raises (constructor): ValueError or TypeError, for arguments out of range or of a wrong type.
    Raises (call): ValueError if input is neither 2-D nor 3-D, or its dtype is not the weights'; RuntimeError if a
    size of input or hx, or the dtype or device of hx, does not fit, or the sequence has no step.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )
        self._set_recompute(recompute)

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        rows, batch, _ = self.get_expected_hidden_size(input, batch_sizes)
        return rows, batch, self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: tuple[Tensor, Tensor], batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        self._check_states(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: tuple[Tensor, Tensor], permutation: Tensor | None) -> tuple[Tensor, Tensor]:
        if permutation is None:
            return hx
        return hx[0].index_select(1, permutation), hx[1].index_select(1, permutation)

    def _padded_states(self, hx: Sequence[Tensor], rank: int) -> tuple[Tensor, Tensor]:
        if hx[0].dim() != rank or hx[1].dim() != rank:
            raise RuntimeError(
                f"For {'batched' if rank == 3 else 'unbatched'} {rank}-D input, hx and cx should also be {rank}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        # For one sequence torch.nn rebuilds the pair, and so takes anything that has two tensors to index.
        return (hx[0].unsqueeze(1), hx[1].unsqueeze(1)) if rank == 2 else pair_of_states(hx)

    def _packed_states(self, hx: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        return pair_of_states(hx)

    def _check_states(self, states: tuple[Tensor, Tensor], expected: tuple[int, int, int]) -> None:
        self.check_hidden_size(states[0], expected, "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(states[1], (*expected[:2], self.hidden_size), "Expected hidden[1] size {}, got {}")

    def _hidden(self, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return states


class RNN(_Recurrent):
    """A multi-layer Elman network: torch.nn.RNN on lstmfast's kernels.

        h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)          f: tanh or, with nonlinearity="relu", relu

    lstmfast.reference holds the source and the equations in full. With T steps, B sequences, D directions, L layers and
    H = hidden_size:

    Arguments: as torch.nn.RNN, nonlinearity is the fourth; and recompute, as LSTM.

    Inputs:
        input: [T, B, input_size], [B, T, input_size] with batch_first, [T, input_size] for one sequence, or a
            PackedSequence; float32, float64, bfloat16 or float16, the dtype of the weights unless under autocast.
        hx: None for zeros, or h_0 [L*D, B, H], batch_first or not; [L*D, H] for one sequence.

    Outputs:
        output, h_n: output [T, B, D*H] in the layout of the input (a PackedSequence for a PackedSequence), h_n in the
        layout of h_0.

    Parameters, for every layer k: weight_ih_l{k} [H, input_size or D*H], weight_hh_l{k} [H, H], bias_ih_l{k} and
    bias_hh_l{k} [H]; with the suffix _reverse for the other direction.

    Raises (constructor): ValueError or TypeError, for arguments out of range or of a wrong type, and ValueError for an
    unknown nonlinearity or a proj_size, which only LSTM has.
    Raises (call): as LSTM.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        proj_size: None = None,
        recompute: bool = False,
    ) -> None:
        if proj_size is not None:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(
            "RNN_TANH" if nonlinearity == "tanh" else "RNN_RELU",
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity
        self._set_recompute(recompute)

    def _padded_states(self, hx: Tensor, rank: int) -> tuple[Tensor]:
        if hx.dim() != rank:
            raise RuntimeError(
                f"For {'batched' if rank == 3 else 'unbatched'} {rank}-D input, hx should also be {rank}-D "
                f"but got {hx.dim()}-D tensor"
            )
        return (hx.unsqueeze(1) if rank == 2 else hx,)

    def _packed_states(self, hx: Tensor) -> tuple[Tensor]:
        return (hx,)

    def _check_states(self, states: tuple[Tensor], expected: tuple[int, int, int]) -> None:
        self.check_hidden_size(states[0], expected)

    def _hidden(self, states: tuple[Tensor, ...]) -> Tensor:
        return states[0]


def pair_of_states(hx: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(h_0, c_0) as a tuple, with the exceptions of the op below torch.nn.LSTM where hx is something else."""
    if not isinstance(hx, tuple | list) or not all(isinstance(state, Tensor) for state in hx):
        raise TypeError(f"hx must be a tuple or list of two tensors (h_0, c_0), got {_describe(hx)}")
    if len(hx) != 2:
        raise RuntimeError(f"lstm expects two hidden states, got {len(hx)}")
    return hx[0], hx[1]


def _check_batch_sizes(batch_sizes: Tensor, hx_is_given: bool) -> None:
    """torch.nn checks none of this. It counts the sequences by batch_sizes[0], makes initial states of as many rows,
    and hands batch_sizes to its op, which reads int64; these are the exceptions that come of it."""
    shape, dtype = list(batch_sizes.shape), batch_sizes.dtype
    if not shape or shape[0] == 0:
        raise IndexError(f"batch_sizes must have an entry for each step, got shape {shape}")
    if len(shape) > 1 or dtype != torch.int64:
        is_a_count = len(shape) == 1 and not dtype.is_floating_point
        error = RuntimeError if is_a_count or hx_is_given else TypeError
        raise error(f"batch_sizes must be a 1-D int64 tensor, got shape {shape} and dtype {dtype}")


def _describe(hx: Any) -> str:
    name = type(hx).__name__
    return f"{name} of {', '.join(type(x).__name__ for x in hx)}" if isinstance(hx, tuple | list) else name


def _is_traced(input: Any, hx: Any) -> bool:
    if isinstance(input, Proxy) or isinstance(hx, Proxy):
        return True
    return isinstance(hx, tuple | list) and any(isinstance(state, Proxy) for state in hx)
