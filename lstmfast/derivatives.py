"""Derivatives beyond the gradient: tangents, tangents of the gradient, and the gradients of each sample apart.

With J the Jacobian of a call, u a cotangent and v a tangent, the op gives J'u. What else torch asks for is

    J v                  the tangent of the call (forward-mode AD), and the gradient of <v, J'u> by u
    d/de J(. + e v)' u   the tangent of the gradient, and the gradient of <v, J'u> by input, states and weights

(second derivatives do not depend on their order), so that double backward, forward mode and forward over reverse mode
are one computation, `Stack.tangent` followed by `Stack.gradient_tangent`.

Both walk through time, and most of their work does not: what a step's neighbours are is known once the call has been
computed, so all pre-activations, the cell's derivatives and all products with weights are taken for the whole sequence
at once. What remains for the walk are a product with W_hh and the cell's Jacobian, a few numbers per unit. Tangents of
the gradient obey the same recurrence as the gradient, with more sources; moved to the gradient of the output, they are
a call of the fused backward op.

The cell comes from `lstmfast.reference` and is differentiated by torch; nothing here knows its equations. It must be
elementwise in its units, use h only through the pre-activations, and be affine in its private state.

Everything is made of differentiable operations: recorded or transformed, it gives the derivatives of the next order.

Sizes as elsewhere: T steps, B sequences, R rows = T * B or those of a packed batch, I, H, O = P or H, G gates, S states
of the cell, D directions. Time and sequence are one dimension, rows, in the order of time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .ops import CELLS, Options


class Saved(NamedTuple):
    """What forward leaves for backward: see `lstmfast.ops`."""

    output: Tensor
    hidden: Tensor
    reserve: Tensor


# gradient(options, grads, input, mask, saved, tensors, wanted): the op's gradient as a differentiable function.
Gradient = Callable[..., Sequence[Tensor | None]]


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
        """[R, .]: for each row the one before it in this order, or its sequence's row of initial [B, .] at the start."""
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

    def __init__(self, cell: str, walk: Walk, x: Tensor, h: Tensor, h0: Tensor, c0: Tensor | None, w: Weights):
        self.walk, self.x, self.w, self.h0, self.c0 = walk, x, w, h0, c0
        self.gates, self.states = CELLS[cell]["gates"], CELLS[cell]["states"]
        self._step = reference.CELLS[cell]
        self.h_before = walk.previous(h, h0)
        pre = _add(x @ w.ih.t() + self.h_before @ w.hh.t(), w.b_ih, w.b_hh)
        self.arguments: tuple[Tensor, ...] = (pre,)
        if c0 is not None:
            zero = torch.zeros_like(pre[:, : c0.shape[1]])
            addend, factor = torch.func.jvp(lambda c: self._cell(pre, c)[1], (zero,), (torch.ones_like(zero),))
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
        source = _add(
            torch.zeros_like(self.arguments[0]),
            _product(dx, w.ih),
            _product(self.x, dw.ih),
            _product(self.h_before, dw.hh),
            dw.b_ih,
            dw.b_hh,
        )
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
        self.d_h, d_pre, *d_own = walk.scan(step, initial, source, self.jacobian, _product(self.m, dw.hr))
        self.d_h_before = walk.previous(self.d_h, dh0)
        self.d_c = d_own[0] if d_own else None
        self.d_arguments = (d_pre, *(walk.previous(d, dc0) for d in d_own))
        self.d_m = None
        if w_hr is not None:
            self.d_m = (self.jacobian[:, 0] * self._side_by_side(*self.d_arguments)).sum(-2)

    def gradients(self, dy: Tensor, dh_n: Tensor | None, dc_n: Tensor | None) -> list[Tensor]:
        """Computes the gradients of the gates dpre [R, G*H], of h dh [R, O] and of the cell's results d_results, from
        those of the run's results; returns the gradients of h0 and c0."""
        after, w = self.walk.backwards(), self.w

        def step(state, dy, jacobian):
            carried, *own = state
            dh = dy + carried
            dm = dh if w.hr is None else dh @ w.hr
            by_arguments = (jacobian * torch.stack((dm, *own), 1).unsqueeze(2)).sum(1)
            dpre = by_arguments[:, : self.gates].flatten(1)
            return (dpre @ w.hh, *by_arguments[:, self.gates :].unbind(1))

        initial = (_or_zeros(dh_n, self.h0),)
        if self.c0 is not None:
            initial = (*initial, _or_zeros(dc_n, self.c0))
        carried = after.scan(step, initial, dy, self.jacobian)
        arriving = [after.previous(rows, end) for rows, end in zip(carried, initial, strict=True)]
        self.dh = dy + arriving[0]
        self.d_results = (self.dh if w.hr is None else self.dh @ w.hr, *arriving[1:])
        gates = self.jacobian[:, :, : self.gates] * torch.stack(self.d_results, 1).unsqueeze(2)
        self.dpre = gates.sum(1).flatten(1)
        return [self.walk.first(rows) for rows in carried]

    def sources(self, dw: Weights) -> tuple[Tensor, Tensor | None]:
        """What enters the tangents of the gate gradients beside the tangents of the gradients that they are made from:
        (by the gates [R, G*H], by the private state's gradient in the initial state [B, H] or None)."""

        def gradients(*arguments: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(self._cell, *arguments)[1](self.d_results)

        _, (by_pre, *by_own) = torch.func.jvp(gradients, self.arguments, self.d_arguments)
        if dw.hr is not None:
            dm = self.dh @ dw.hr
            by_pre = by_pre + (self.jacobian[:, 0, : self.gates] * dm.unsqueeze(1)).flatten(1)
            by_own = [own + self.jacobian[:, 0, -1] * dm for own in by_own]
        if not by_own:
            return by_pre, None
        after = self.walk.backwards()
        zero = torch.zeros_like(self.c0)
        carried = after.affine_scan(self.jacobian[:, 1, -1], by_own[0], zero)
        arriving = after.previous(carried, zero)
        by_pre = by_pre + (self.jacobian[:, 1, : self.gates] * arriving.unsqueeze(1)).flatten(1)
        return by_pre, self.walk.first(carried)


@dataclass
class Layer:
    """The runs of one layer, and the arguments with which the op's gradient of this layer alone can be called."""

    options: Options
    x: Tensor  # [R, I]
    hx: list[Tensor]
    weights: list[Tensor]
    saved: Saved
    runs: list[Run]


class Stack:
    """A call, layer by layer, in float32 or float64.

    saved None: the values are computed anew, as differentiable functions of the arguments, by
    forward(options, input, mask, tensors) -> (output, h_n, c_n, *Saved).
    """

    def __init__(
        self,
        options: Options,
        input: Tensor,
        mask: Tensor | None,
        tensors: Sequence[Tensor],
        saved: Saved | None,
        forward: Callable[..., tuple],
        gradient: Gradient,
    ):
        self.options, self._gradient, self._mask = options, gradient, mask
        self._rows_shape = input.shape[:-1]
        packed = options.batch_sizes is not None
        alive = options.batch_sizes.tolist() if packed else [input.shape[1]] * input.shape[0]
        forwards = Walk(alive, False, input.device)
        self._walks = (forwards, forwards.backwards())[: options.directions]
        hx, weights = options.split(tensors)
        per_layer = len(weights) // options.num_layers
        self.layers: list[Layer] = []
        x = self._flat(input)
        for index in range(options.num_layers):
            runs = slice(index * options.directions, (index + 1) * options.directions)
            mine = weights[index * per_layer : (index + 1) * per_layer]
            states = [t[runs] for t in hx]
            one = replace(options, num_layers=1, dropout=0.0)
            if index > 0:
                x = self._drop(x, index)
            if saved is None:
                of_layer = Saved(*forward(one, self._shaped(x), None, (*states, *mine))[-3:])
            else:
                output = saved.output if index == options.num_layers - 1 else saved.hidden[index]
                of_layer = Saved(output, output.new_empty((0, *output.shape)), saved.reserve[runs])
            layer = Layer(one, x, states, mine, of_layer, [])
            h = self._flat(of_layer.output)
            for walk, h_run, direction in zip(
                self._walks, h.chunk(options.directions, -1), range(options.directions), strict=True
            ):
                w = Weights.of(self._of_run(mine, direction), options.has_biases)
                initial = [t[direction] for t in states] or [
                    h.new_zeros(walk.batch, size) for size in (h_run.shape[1], (w.hh if w.hr is None else w.hr).shape[1])
                ]
                c0 = initial[1] if CELLS[options.cell]["states"] > 1 else None
                layer.runs.append(Run(options.cell, walk, x, h_run, initial[0], c0, w))
            self.layers.append(layer)
            x = h

    def _flat(self, t: Tensor) -> Tensor:
        return t if self.options.batch_sizes is not None else t.flatten(0, 1)

    def _shaped(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self._rows_shape, rows.shape[-1])

    def _of_run(self, of_layer: Sequence, direction: int) -> Sequence:
        count = len(of_layer) // self.options.directions
        return of_layer[direction * count : (direction + 1) * count]

    def _drop(self, rows: Tensor, layer: int) -> Tensor:
        """The output of the layer below on its way to `layer`, or a gradient on its way back."""
        if self._mask is None:
            return rows
        return reference.drop(rows, self.options.dropout, self._flat(self._mask[layer - 1]))

    def _by_run(self, of_state: Tensor | None, layer: int) -> list[Tensor | None]:
        """[L*D, B, .] for the runs of a layer."""
        directions = self.options.directions
        if of_state is None:
            return [None] * directions
        return list(of_state[layer * directions : (layer + 1) * directions])

    def tangent(self, d_input: Tensor | None, d_tensors: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """Tangents of (output, h_n[, c_n]) for those of input, *hx, *weights; None is zero."""
        d_hx, d_weights = self.options.split(d_tensors)
        d_hx += [None] * (2 - len(d_hx))
        self._d_x: list[Tensor | None] = []
        self._d_w: list[list[Weights]] = []
        per_layer = len(d_weights) // self.options.num_layers
        dx = None if d_input is None else self._flat(d_input)
        for index, layer in enumerate(self.layers):
            mine = d_weights[index * per_layer : (index + 1) * per_layer]
            dw = [
                Weights.of(self._of_run(mine, direction), self.options.has_biases)
                for direction in range(self.options.directions)
            ]
            dx = self._drop(dx, index) if index > 0 else dx
            self._d_x.append(dx)
            self._d_w.append(dw)
            states = zip(*(self._by_run(d, index) for d in d_hx), strict=True)
            for run, (dh0, dc0), each in zip(layer.runs, states, dw, strict=True):
                run.tangent(dx, dh0, dc0, each)
            dx = torch.cat([run.d_h for run in layer.runs], -1)
        runs = [run for layer in self.layers for run in layer.runs]
        results = [self._shaped(dx), torch.stack([run.walk.last(run.d_h) for run in runs])]
        if runs[0].c0 is not None:
            results.append(torch.stack([run.walk.last(run.d_c) for run in runs]))
        return tuple(results)

    def gradient(
        self, grads: Sequence[Tensor | None], wanted: Sequence[bool], samples: int
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Gradients of input and *hx, and the weights' [samples, ...] for each sample apart, None where not wanted.

        The B sequences are B / samples of each sample, the samples' side by side.
        """
        dy, dh_n, dc_n = self._cotangents(grads)
        of_states: list[list[Tensor]] = [[] for _ in range(self.options.states)]
        of_weights: list[Tensor | None] = []
        wanted_weights = wanted[1 + self.options.states :]
        per_layer = len(wanted_weights) // self.options.num_layers
        for index, layer in reversed(list(enumerate(self.layers))):
            by_state = self._gradients(index, dy, dh_n, dc_n)
            for each, gradient in zip(of_states, by_state, strict=False):  # hx may not have been given
                each.insert(0, gradient)
            mine = wanted_weights[index * per_layer : (index + 1) * per_layer]
            of_layer: list[Tensor | None] = []
            for direction, run in enumerate(layer.runs):
                w = Weights.of(self._of_run(mine, direction), self.options.has_biases)
                bias = _sum_of_samples(run.dpre, samples) if w.b_ih or w.b_hh else None
                of_layer += Weights(
                    _outer_of_samples(run.dpre, run.x, samples) if w.ih else None,
                    _outer_of_samples(run.dpre, run.h_before, samples) if w.hh else None,
                    bias if w.b_ih else None,
                    bias if w.b_hh else None,
                    _outer_of_samples(run.dh, run.m, samples) if w.hr else None,
                ).flat(run.w)
            of_weights = of_layer + of_weights
            dy = sum(run.dpre @ run.w.ih for run in layer.runs)
            dy = self._drop(dy, index) if index > 0 else dy
        of_arguments = [self._shaped(dy), *(torch.cat(each) for each in of_states)]
        return [g if w else None for g, w in zip(of_arguments, wanted[: len(of_arguments)], strict=True)], of_weights

    def gradient_tangent(
        self, grads: Sequence[Tensor | None], d_grads: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Tangents of the gradients of (input, *hx, *weights), along those last given to tangent() and, for the
        gradients (grad_output, grad_h_n, grad_c_n) that enter, along d_grads; None is zero."""
        dy, dh_n, dc_n = self._cotangents(grads)
        d_dy, d_dh_n, d_dc_n = self._cotangents(d_grads)
        of_states: list[list[Tensor]] = [[] for _ in range(self.options.states)]
        of_weights: list[Tensor] = []
        for index, layer in reversed(list(enumerate(self.layers))):
            self._gradients(index, dy, dh_n, dc_n)
            d_x, d_w = self._d_x[index], self._d_w[index]
            sources = [run.sources(dw) for run, dw in zip(layer.runs, d_w, strict=True)]
            # To the hidden state of the step before, from what is known already of the gate gradients' tangents.
            to_h = [
                _add(by_pre @ run.w.hh, _product_back(run.dpre, dw.hh))
                for run, dw, (by_pre, _) in zip(layer.runs, d_w, sources, strict=True)
            ]
            entering = d_dy + torch.cat(
                [
                    run.walk.backwards().previous(rows, torch.zeros_like(run.h0))
                    for run, rows in zip(layer.runs, to_h, strict=True)
                ],
                -1,
            )
            d_dx, *others = self._gradient(
                layer.options,
                (self._shaped(entering), *self._of_layer(index, d_dh_n, d_dc_n)),
                self._shaped(layer.x),
                None,
                layer.saved,
                (*layer.hx, *layer.weights),
                (True,) * (1 + len(layer.hx) + len(layer.weights)),
            )
            d_dx = self._flat(d_dx)
            d_hx, d_weights = self.options.split(others)
            of_layer = []
            for direction, (run, dw, (by_pre, by_own)) in enumerate(zip(layer.runs, d_w, sources, strict=True)):
                d_dx = _add(d_dx, by_pre @ run.w.ih, _product_back(run.dpre, dw.ih))
                more = Weights(
                    _add(by_pre.t() @ run.x, None if d_x is None else run.dpre.t() @ d_x),
                    by_pre.t() @ run.h_before + run.dpre.t() @ run.d_h_before,
                    by_pre.sum(0),
                    by_pre.sum(0),
                    None if run.w.hr is None else run.dh.t() @ run.d_m,
                ).flat(run.w)
                of_layer += [d + m for d, m in zip(self._of_run(d_weights, direction), more, strict=True)]
            for state, each in enumerate(of_states):
                more = [
                    run.walk.first(rows) if state == 0 else by_own
                    for run, rows, (_, by_own) in zip(layer.runs, to_h, sources, strict=True)
                ]
                each.insert(0, d_hx[state] + torch.stack(more))
            of_weights = of_layer + of_weights
            dy = sum(run.dpre @ run.w.ih for run in layer.runs)
            if index > 0:
                dy, d_dx = self._drop(dy, index), self._drop(d_dx, index)
            d_dy = d_dx
        return [self._shaped(d_dy), *(torch.cat(each) for each in of_states), *of_weights]

    def _cotangents(self, grads: Sequence[Tensor | None]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(grad_output [R, D*O], never None, grad_h_n, grad_c_n)."""
        output, h_n, c_n = grads
        return self._flat(torch.zeros_like(self.layers[-1].saved.output) if output is None else output), h_n, c_n

    def _of_layer(self, index: int, *states: Tensor | None) -> list[Tensor | None]:
        directions = self.options.directions
        return [None if s is None else s[index * directions : (index + 1) * directions] for s in states]

    def _gradients(self, index: int, dy: Tensor, dh_n: Tensor | None, dc_n: Tensor | None) -> list[Tensor]:
        """Run.gradients for the runs of a layer; returns the layer's gradients of h0 and c0, [D, B, .]."""
        layer = self.layers[index]
        arguments = zip(
            layer.runs,
            dy.chunk(len(layer.runs), -1),
            self._by_run(dh_n, index),
            self._by_run(dc_n, index),
            strict=True,
        )
        by_run = [run.gradients(*grads) for run, *grads in arguments]
        return [torch.stack(each) for each in zip(*by_run, strict=True)]


def _add(first: Tensor, *others: Tensor | None) -> Tensor:
    for other in others:
        first = first if other is None else first + other
    return first


def _product(rows: Tensor | None, weight: Tensor | None) -> Tensor | None:
    return None if rows is None or weight is None else rows @ weight.t()


def _product_back(rows: Tensor, weight: Tensor | None) -> Tensor | None:
    return None if weight is None else rows @ weight


def _or_zeros(t: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if t is None else t


def _sum_of_samples(rows: Tensor, samples: int) -> Tensor:
    return rows.unflatten(0, (-1, samples)).sum(0)


def _outer_of_samples(left: Tensor, right: Tensor, samples: int) -> Tensor:
    """[samples, J, K] from [R, J] and [R, K], whose rows are the samples in turn."""
    return torch.einsum("rsj,rsk->sjk", left.unflatten(0, (-1, samples)), right.unflatten(0, (-1, samples)))
