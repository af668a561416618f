"""Derivatives beyond the gradient: tangents, tangents of the gradient, and the gradients of each sample apart.

With J the Jacobian of a call, u a cotangent and v a tangent, the op gives J'u. What else torch asks for is

    J v                  the tangent of the call (forward-mode AD), and the gradient of <v, J'u> by u
    d/de J(. + e v)' u   the tangent of the gradient, and the gradient of <v, J'u> by input, states and weights

(second derivatives do not depend on their order), so that double backward, forward mode and forward over reverse mode
are one computation, `Stack.tangent` followed by `Stack.gradient_tangent`.

Both walk through time, and most of their work does not: what a step's neighbours are is known once the call has been
computed, so all pre-activations, the cell's derivatives and all products with weights are taken for the whole sequence
at once. What remains for the walk are a product with W_hh and the cell's Jacobian, a few numbers per unit. Tangents of
the gradient obey the same recurrence as the gradient, with more sources.

The cell comes from `lstmfast.reference` and is differentiated by torch; nothing here knows its equations. It must be
elementwise in its units, use h only through the pre-activations, and be affine in its private state.

Everything is made of differentiable operations: recorded or transformed, it gives the derivatives of the next order.
Plain double backward on the CPU, which nobody differentiates further, takes compiled walks (`second_order.py`).

Sizes as elsewhere: T steps, B sequences, R rows = T * B or those of a packed batch, I, H, O = P or H, G gates, S states
of the cell, D directions. Time and sequence are one dimension, rows, in the order of time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from .. import reference
from ..ops import CELLS, Options


class Walk:
    """The rows of a batch in one direction's order: whose state goes where."""

    def __init__(self, alive: list[int], reverse: bool, device: torch.device):
        self.alive, self.reverse = alive, reverse
        self.batch = alive[0]
        self._device = device
        self._is_padded = alive[-1] == self.batch
        self._earlier, self._later = (None, None) if self._is_padded else self._neighbours()

    def backwards(self) -> Walk:
        """The same rows from the other end: the previous row there is the following one here."""
        other = Walk.__new__(Walk)
        vars(other).update(vars(self), reverse=not self.reverse)
        return other

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """For each row (t, n) where (t - 1, n) and (t + 1, n) are in cat(boundary [B], rows); boundary n if nowhere."""
        sizes = torch.tensor(self.alive)
        offsets = self.batch + sizes.cumsum(0) - sizes
        step = torch.arange(len(sizes)).repeat_interleave(sizes)
        sequence = self.batch + torch.arange(len(step)) - offsets[step]
        earlier = torch.where(step > 0, offsets[step - 1] + sequence, sequence)
        later_sizes, later_offsets = torch.cat((sizes[1:], sizes.new_zeros(1))), offsets.roll(-1)
        later = torch.where(sequence < later_sizes[step], later_offsets[step] + sequence, sequence)
        return earlier.to(self._device), later.to(self._device)

    def previous(self, rows: Tensor, initial: Tensor) -> Tensor:
        """[R, .]: for each row the one before it, for a sequence's first row that of initial [B, .]."""
        if self._is_padded:
            kept = rows.shape[0] - self.batch
            return torch.cat((rows[self.batch :], initial) if self.reverse else (initial, rows[:kept]))
        return torch.cat((initial, rows)).index_select(0, self._later if self.reverse else self._earlier)

    def first(self, rows: Tensor) -> Tensor:
        """[B, .]: the row that each sequence starts with."""
        if not self.reverse:
            return rows[: self.batch]
        if self._is_padded:
            return rows[rows.shape[0] - self.batch :]
        ends = torch.nonzero(self._later < self.batch).squeeze(1)
        return rows.index_select(0, ends[self._later[ends].argsort()])

    def last(self, rows: Tensor) -> Tensor:
        return self.backwards().first(rows)

    def pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """[2R, .]: of each step the rows of the first, then those of the second."""
        if self._is_padded:
            return torch.stack([t.unflatten(0, (-1, self.batch)) for t in (first, second)], 1).flatten(0, 2)
        parts = zip(first.split(self.alive), second.split(self.alive), strict=True)
        return torch.cat([part for both in parts for part in both])

    def halves(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """What pairs() has put together."""
        if self._is_padded:
            first, second = pairs.unflatten(0, (-1, 2, self.batch)).unbind(1)
            return first.flatten(0, 1), second.flatten(0, 1)
        parts = pairs.split([n for n in self.alive for _ in range(2)])
        return torch.cat(parts[::2]), torch.cat(parts[1::2])

    def scan(
        self, step: Callable[..., tuple[Tensor, ...]], initial: tuple[Tensor, ...], *rows: Tensor | None
    ) -> list[Tensor]:
        """Each part of the state after every row, [R, .], where state = step(state, *parts of rows), in this order."""
        parts = [itertools.repeat(None) if r is None else r.split(self.alive) for r in rows]
        if self.reverse:
            parts = [p if isinstance(p, itertools.repeat) else p[::-1] for p in parts]
        state, states = initial, []
        for alive, *part in zip(self.alive[::-1] if self.reverse else self.alive, *parts, strict=False):
            # Longer sequences come first. Those that are not alive have ended, or not yet begun: their state stays.
            if alive == self.batch:
                state = step(state, *part)
                states.append(state)
            else:
                new = step(tuple(s[:alive] for s in state), *part)
                states.append(new)
                state = tuple(torch.cat((n, s[alive:])) for n, s in zip(new, state, strict=True))
        return [torch.cat(each[::-1] if self.reverse else each) for each in zip(*states, strict=True)]

    def affine_scan(self, factor: Tensor, addend: Tensor, initial: Tensor) -> Tensor:
        """state = factor * state + addend, after every row."""
        return self.scan(lambda state, f, a: (torch.addcmul(a, f, state[0]),), (initial,), factor, addend)[0]


class Weights(NamedTuple):
    """The weights of one layer in one direction, or their tangents or gradients."""

    ih: Tensor | None
    hh: Tensor | None
    b_ih: Tensor | None = None
    b_hh: Tensor | None = None
    hr: Tensor | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None], has_biases: bool) -> Weights:
        biases = tensors[2:4] if has_biases else (None, None)
        return cls(*tensors[:2], *biases, tensors[-1] if len(tensors) % 2 else None)

    def flat(self, like: Weights) -> list[Tensor | None]:
        """In the op's order, without those that `like` does not have."""
        return [mine for mine, there in zip(self, like, strict=True) if there is not None]


class Run:
    """One layer in one direction, linearised about the values of a call.

    x [R, I], h [R, O], h0 [B, O], c0 [B, H] or None: inputs and results of the run.
    jacobian [R, S, G + S - 1, H]: derivatives of the cell's results (m, private state) by its arguments (G gates,
    private state); m [R, H] is h before the projection.
    """

    def __init__(
        self, cell: str, walk: Walk, x: Tensor, h: Tensor, h0: Tensor, c0: Tensor | None = None, *, w: Weights
    ):
        self.walk, self.x, self.h, self.h0, self.c0, self.w = walk, x, h, h0, c0, w
        self.gates, self.states = CELLS[cell]["gates"], CELLS[cell]["states"]
        self._step = reference.CELLS[cell]
        self.h_before = walk.previous(h, h0)
        bias = None if w.b_ih is None else w.b_ih + w.b_hh
        pre = torch.addmm(linear(x, w.ih, bias), self.h_before, w.hh.t())
        self.arguments: tuple[Tensor, ...] = (pre,)
        if c0 is not None:
            zero = torch.zeros_like(pre[:, : c0.shape[1]])
            addend, pull = torch.func.vjp(lambda c: self._cell(pre, c)[1], zero)
            (factor,) = pull(torch.ones_like(zero))
            self.arguments = (pre, walk.previous(walk.affine_scan(factor, addend, c0), c0))
        results, pull = torch.func.vjp(self._cell, *self.arguments)
        self.m = results[0]
        derivatives = []
        for chosen in range(self.states):
            seeds = tuple(torch.full_like(r, float(i == chosen)) for i, r in enumerate(results))
            derivatives.append(self._side_by_side(*pull(seeds)))
        self.jacobian = torch.stack(derivatives, 1)

    def _cell(self, pre: Tensor, *own: Tensor) -> tuple[Tensor, ...]:
        return self._step(pre, (None, *own))

    def _side_by_side(self, pre: Tensor, *own: Tensor) -> Tensor:
        """[., G + S - 1, H] from [., G * H] and [., H]."""
        gates = pre.unflatten(-1, (self.gates, -1))
        return torch.cat((gates, own[0].unsqueeze(-2)), -2) if own else gates

    def tangent(self, dx: Tensor | None, dh0: Tensor | None, dc0: Tensor | None, dw: Weights) -> None:
        """Computes d_h [R, O], d_h_before, d_c, d_m and d_arguments from the tangents of the run's inputs."""
        w, walk = self.w, self.walk
        source = products((dx, w.ih), (self.x, dw.ih), (self.h_before, dw.hh))
        if source is None:
            source = torch.zeros_like(self.arguments[0])
        for bias in (dw.b_ih, dw.b_hh):
            source = source if bias is None else source + bias
        w_hh, w_hr = w.hh.t(), None if w.hr is None else w.hr.t()

        def step(state, source, jacobian, h_source):
            dh, _, *own = state
            dpre = torch.addmm(source, dh, w_hh)
            dm, *own = (jacobian * self._side_by_side(dpre, *own).unsqueeze(-3)).sum(-2).unbind(-2)
            if w_hr is None:
                return (dm, dpre, *own)
            dh = dm @ w_hr
            return (dh if h_source is None else dh + h_source, dpre, *own)

        dh0 = torch.zeros_like(self.h0) if dh0 is None else dh0
        initial = (dh0, source.new_zeros(walk.batch, source.shape[1]))
        if self.c0 is not None:
            dc0 = torch.zeros_like(self.c0) if dc0 is None else dc0
            initial = (*initial, dc0)
        self.d_h, d_pre, *d_own = walk.scan(step, initial, source, self.jacobian, products((self.m, dw.hr)))
        self.d_h_before = walk.previous(self.d_h, dh0)
        self.d_c = d_own[0] if d_own else None
        self.d_arguments = (d_pre, *(walk.previous(d, dc0) for d in d_own))
        self.d_m = None
        if w_hr is not None:
            self.d_m = (self.jacobian[:, 0] * self._side_by_side(*self.d_arguments)).sum(-2)

    def gradient(self, dy: Tensor, dh_n: Tensor | None, dc_n: Tensor | None) -> list[Tensor]:
        """Computes the gradients of the gates dpre [R, G*H], of h dh [R, O] and of the cell's results d_results, from
        those of the run's results; returns the gradients of h0 and c0."""
        by_state, self.dh, self.d_results, self.dpre = self._walk_back(dy, dh_n, dc_n)
        return by_state

    def gradient_tangent(self, d_dy: Tensor, d_dh_n: Tensor | None, d_dc_n: Tensor | None, dw: Weights) -> list[Tensor]:
        """Computes d_dpre and d_dh, the tangents of dpre and dh; returns those of the gradients of h0 and c0."""

        def pull(*arguments: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(self._cell, *arguments)[1](self.d_results)

        # The tangent of a gradient along v is the gradient of the product with v: second derivatives are symmetric.
        by_arguments = torch.func.vjp(pull, *self.arguments)[1](self.d_arguments)
        by_state, self.d_dh, _, self.d_dpre = self._walk_back(
            d_dy,
            d_dh_n,
            d_dc_n,
            by_m=_product_back(self.dh, dw.hr),
            by_arguments=self._side_by_side(*by_arguments),
            by_h=_product_back(self.dpre, dw.hh),
        )
        return by_state

    def _walk_back(
        self,
        dy: Tensor,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        by_m: Tensor | None = None,
        by_arguments: Tensor | None = None,
        by_h: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor, tuple[Tensor, ...], Tensor]:
        """The recurrence of the gradient, with what is added on its way to the gradients of m, of the cell's arguments
        and of the h before. Returns the gradients (of h0 and c0, of h, of the cell's results, of the gates)."""
        after, w = self.walk.backwards(), self.w

        def step(state, dy, jacobian, by_m, by_arguments, by_h):
            arriving, _, *own = state
            dh = dy + arriving
            dm = dh if w.hr is None else dh @ w.hr
            dm = dm if by_m is None else dm + by_m
            d_arguments = (jacobian * torch.stack((dm, *own), 1).unsqueeze(2)).sum(1)
            d_arguments = d_arguments if by_arguments is None else d_arguments + by_arguments
            dpre = d_arguments[:, : self.gates].flatten(1)
            leaving = dpre @ w.hh if by_h is None else torch.addmm(by_h, dpre, w.hh)
            return (leaving, dpre, *d_arguments[:, self.gates :].unbind(1))

        dh_n = or_zeros(dh_n, self.h0)
        initial = (dh_n, torch.zeros_like(self.arguments[0][: self.walk.batch]))
        if self.c0 is not None:
            dc_n = or_zeros(dc_n, self.c0)
            initial = (*initial, dc_n)
        by_h_before, dpre, *by_own = after.scan(step, initial, dy, self.jacobian, by_m, by_arguments, by_h)
        dh = dy + after.previous(by_h_before, dh_n)
        dm = dh if w.hr is None else dh @ w.hr
        d_results = (dm if by_m is None else dm + by_m, *(after.previous(rows, dc_n) for rows in by_own))
        return [self.walk.first(rows) for rows in (by_h_before, *by_own)], dh, d_results, dpre


class Stack:
    """A call, layer by layer, in float32 or float64.

    saved: (output, hidden) of the call. None: they are computed anew, as differentiable functions of the arguments, by
    forward(options, input, mask, *tensors) -> (output, ...).
    """

    def __init__(
        self,
        options: Options,
        input: Tensor,
        mask: Tensor | None,
        tensors: Sequence[Tensor],
        saved: tuple[Tensor, Tensor] | None,
        forward: Callable[..., tuple[Tensor, ...]],
    ):
        self.options, self._mask = options, mask
        self._rows_shape = input.shape[:-1]
        packed = options.batch_sizes is not None
        alive = options.batch_sizes.tolist() if packed else [input.shape[1]] * input.shape[0]
        forwards = Walk(alive, False, input.device)
        walks = (forwards, forwards.backwards())[: options.directions]
        hx, weights = options.split(tensors)
        self.layers: list[list[Run]] = []
        x = self._flat(input)
        for index in range(options.num_layers):
            mine = self._of_layer(weights, index)
            states = [t[self._runs(index)] for t in hx]
            x = self._drop(x, index)
            if saved is None:
                one = replace(options, num_layers=1, dropout=0.0)
                output = forward(one, self._shaped(x), None, *states, *mine)[0]
            else:
                output = saved[0] if index == options.num_layers - 1 else saved[1][index]
            output = self._flat(output)
            runs = []
            for direction, (walk, h) in enumerate(zip(walks, output.chunk(options.directions, -1), strict=True)):
                w = Weights.of(self._of_run(mine, direction), options.has_biases)
                sizes = (w.hh.shape[1], (w.hh if w.hr is None else w.hr).shape[1])[: CELLS[options.cell]["states"]]
                initial = [t[direction] for t in states] or [h.new_zeros(walk.batch, size) for size in sizes]
                runs.append(self._run(index * options.directions + direction, walk, x, h, initial, w))
            self.layers.append(runs)
            x = output

    def _run(self, index: int, walk: Walk, x: Tensor, h: Tensor, initial: Sequence[Tensor], w: Weights) -> Run:
        """Layer and direction number `index`."""
        return Run(self.options.cell, walk, x, h, *initial, w=w)

    def _flat(self, t: Tensor) -> Tensor:
        return t if self.options.batch_sizes is not None else t.flatten(0, 1)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self._rows_shape, rows.shape[-1])

    def _of_layer(self, of_weights: Sequence, layer: int) -> Sequence:
        count = len(of_weights) // self.options.num_layers
        return of_weights[layer * count : (layer + 1) * count]

    def _of_run(self, of_layer: Sequence, direction: int) -> Sequence:
        count = len(of_layer) // self.options.directions
        return of_layer[direction * count : (direction + 1) * count]

    def _runs(self, layer: int) -> slice:
        """A layer's runs in [L*D, B, .]."""
        return slice(layer * self.options.directions, (layer + 1) * self.options.directions)

    def _by_run(self, states: Tensor | None, layer: int) -> Sequence[Tensor | None]:
        return [None] * self.options.directions if states is None else states[self._runs(layer)].unbind()

    def _drop(self, rows: Tensor, layer: int) -> Tensor:
        """The output of the layer below on its way to `layer`, or a gradient on its way back."""
        if self._mask is None or layer == 0:
            return rows
        return reference.drop(rows, self.options.dropout, self._flat(self._mask[layer - 1]))

    def tangent(self, d_input: Tensor | None, d_tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Tangents of (output, h_n[, c_n]) for those of input, *hx, *weights; None is zero."""
        d_hx, d_weights = self.options.split(d_tensors)
        d_h0, d_c0 = (*d_hx, None, None)[:2]
        self._d_x: list[Tensor | None] = []
        self._d_w: list[list[Weights]] = []
        dx = None if d_input is None else self._flat(d_input)
        for index, runs in enumerate(self.layers):
            dx = dx if dx is None else self._drop(dx, index)
            mine = self._of_layer(d_weights, index)
            dw = [Weights.of(self._of_run(mine, direction), self.options.has_biases) for direction in range(len(runs))]
            states = self._by_run(d_h0, index), self._by_run(d_c0, index)
            for run, dh0, dc0, each in zip(runs, *states, dw, strict=True):
                run.tangent(dx, dh0, dc0, each)
            self._d_x.append(dx)
            self._d_w.append(dw)
            dx = torch.cat([run.d_h for run in runs], -1)
        runs = [run for layer in self.layers for run in layer]
        results = [self._shaped(dx), torch.stack([run.walk.last(run.d_h) for run in runs])]
        if runs[0].c0 is not None:
            results.append(torch.stack([run.walk.last(run.d_c) for run in runs]))
        return tuple(results)

    def gradient(
        self, grads: Sequence[Tensor | None], wanted: Sequence[bool], samples: int
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Gradients of (input, *hx), and those of the weights for each sample apart, [samples, ...]; None where not
        wanted. A sequence of a batch is one of `samples` in turn."""
        dy, dh_n, dc_n = self._cotangents(grads)
        of_states: list[tuple[Tensor, ...]] = []
        of_weights: list[Tensor | None] = []
        wanted_weights = wanted[1 + self.options.states :]
        for index, runs in reversed(list(enumerate(self.layers))):
            states = dy.chunk(len(runs), -1), self._by_run(dh_n, index), self._by_run(dc_n, index)
            by_run = [run.gradient(*each) for run, *each in zip(runs, *states, strict=True)]
            of_states.insert(0, tuple(torch.stack(each) for each in zip(*by_run, strict=True)))
            mine = self._of_layer(wanted_weights, index)
            of_layer: list[Tensor | None] = []
            for direction, run in enumerate(runs):
                w = Weights.of(self._of_run(mine, direction), self.options.has_biases)
                bias = run.dpre.unflatten(0, (-1, samples)).sum(0) if w.b_ih or w.b_hh else None
                of_layer += Weights(
                    _outer_of_samples(run.dpre, run.x, samples) if w.ih else None,
                    _outer_of_samples(run.dpre, run.h_before, samples) if w.hh else None,
                    bias if w.b_ih else None,
                    bias if w.b_hh else None,
                    _outer_of_samples(run.dh, run.m, samples) if w.hr else None,
                ).flat(run.w)
            of_weights = of_layer + of_weights
            if index > 0 or wanted[0]:
                dy = self._drop(products(*((run.dpre, run.w.ih.t()) for run in runs)), index)
        of_hx = [torch.cat(each) for each in zip(*of_states, strict=True)][: self.options.states]
        of_arguments = [self._shaped(dy), *of_hx]
        return [g if w else None for g, w in zip(of_arguments, wanted[: len(of_arguments)], strict=True)], of_weights

    def gradient_tangent(
        self, grads: Sequence[Tensor | None], d_grads: Sequence[Tensor | None], wanted_input: bool
    ) -> list[Tensor | None]:
        """Tangents of the gradients of (input, *hx, *weights), along those last given to tangent() and, for the
        gradients (grad_output, grad_h_n, grad_c_n) that enter, along d_grads; None is zero."""
        dy, dh_n, dc_n = self._cotangents(grads)
        d_dy, d_dh_n, d_dc_n = self._cotangents(d_grads)
        of_states: list[tuple[Tensor, ...]] = []
        of_weights: list[Tensor | None] = []
        for index, runs in reversed(list(enumerate(self.layers))):
            d_x, d_w = self._d_x[index], self._d_w[index]
            states = dy.chunk(len(runs), -1), self._by_run(dh_n, index), self._by_run(dc_n, index)
            d_states = d_dy.chunk(len(runs), -1), self._by_run(d_dh_n, index), self._by_run(d_dc_n, index)
            for run, *each in zip(runs, *states, strict=True):
                run.gradient(*each)
            by_run = [run.gradient_tangent(*each) for run, *each in zip(runs, *d_states, d_w, strict=True)]
            of_states.insert(0, tuple(torch.stack(each) for each in zip(*by_run, strict=True)))
            of_layer: list[Tensor | None] = []
            for run in runs:
                bias = run.d_dpre.sum(0)
                of_layer += Weights(
                    _outer((run.d_dpre, run.x), (run.dpre, d_x)),
                    _outer((run.d_dpre, run.h_before), (run.dpre, run.d_h_before)),
                    bias,
                    bias,
                    None if run.w.hr is None else _outer((run.d_dh, run.m), (run.dh, run.d_m)),
                ).flat(run.w)
            of_weights = of_layer + of_weights
            if index > 0 or wanted_input:
                dy = self._drop(products(*((run.dpre, run.w.ih.t()) for run in runs)), index)
                pairs = [(run.d_dpre, run.w.ih.t()) for run in runs]
                pairs += [(run.dpre, None if dw.ih is None else dw.ih.t()) for run, dw in zip(runs, d_w, strict=True)]
                d_dy = products(*pairs)
                d_dy = self._drop(d_dy, index)
        of_hx = [torch.cat(each) for each in zip(*of_states, strict=True)][: self.options.states]
        return [self._shaped(d_dy) if wanted_input else None, *of_hx, *of_weights]

    def _cotangents(self, grads: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(grad_output [R, D*O], never None, grad_h_n, grad_c_n)."""
        output, h_n, c_n = grads
        if output is None:
            return torch.cat([torch.zeros_like(run.h) for run in self.layers[-1]], -1), h_n, c_n
        return self._flat(output), h_n, c_n


def products(*pairs: tuple[Tensor | None, Tensor | None]) -> Tensor | None:
    """The sum of rows @ weight', where neither is None; None if there is no such pair."""
    total = None
    for rows, weight in pairs:
        if rows is not None and weight is not None:
            total = rows @ weight.t() if total is None else torch.addmm(total, rows, weight.t())
    return total


def _outer(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor | None]) -> Tensor:
    """The sum of left' @ right, without the second if its right is None."""
    total = first[0].t() @ first[1]
    return total if second[1] is None else torch.addmm(total, second[0].t(), second[1])


def _product_back(rows: Tensor, weight: Tensor | None) -> Tensor | None:
    return None if weight is None else rows @ weight


def or_zeros(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t


def _outer_of_samples(left: Tensor, right: Tensor, samples: int) -> Tensor:
    """[samples, J, K] from [R, J] and [R, K], whose rows are the samples in turn."""
    return torch.einsum("rsj,rsk->sjk", left.unflatten(0, (-1, samples)), right.unflatten(0, (-1, samples)))
