"""The steps of a convolutional LSTM with a written-out backward pass through time, for CPU.

What :func:`tconv_mmaction.maths.conv_lstm.steps` computes, in one autograd node: the gates become their activations in
place, the gradients of all gates go into one buffer of a chunk's size, and large states are convolved by minimal
filtering (:mod:`..conv3d.minimal_filtering`). With a' for the derivative of a nonlinearity, and dh_t, dc_t the
gradients of h_t and c_t,

    dc_t = dc_{t+1} f_{t+1} + dh_t o_t (1 - tanh(c_t)^2)
    d(i, f, g, o)_t = (dc_t g_t i'_t, dc_t c_{t-1} f'_t, dc_t i_t g'_t, dh_t tanh(c_t) o'_t)
    dh_{t-1} = (what uses h_{t-1}) + W_hh^T d(i, f, g, o)_t
"""
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...maths.conv_lstm import Cell, State, steps
from ..conv3d import minimal_filtering
from ..second_derivatives import gradients_by_autograd, leave_to_autograd

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class _Recurrence:
    """The convolution of the states with one ``weight``, its gradients summed over the steps."""

    def __init__(self, weight: Tensor, padding: Tuple[int, int], state: Tensor) -> None:
        self.weight, self.padding = weight, padding
        geometry = (1, 1), padding, (1, 1), 1
        outputs = minimal_filtering.choose(state.shape, state.dtype, weight.shape, *geometry)
        self.fast = None
        if outputs is not None:
            self.fast = minimal_filtering.MinimalFilter(weight, outputs, padding[0], *geometry[:3])
        self.total: Optional[Tensor] = None

    def add_to(self, gates: Tensor, h: Tensor) -> None:
        if self.fast is not None:
            self.fast.add_to(gates, h)
        else:
            gates.add_(F.conv2d(h, self.weight, None, 1, self.padding))

    def backward(self, grad: Tensor, h: Tensor, wants_h: bool, wants_weight: bool) -> Optional[Tensor]:
        if self.fast is not None:
            first = self.total is None
            if wants_weight and first:
                self.total = torch.empty_like(self.fast.kernels)
            grad_h = torch.empty_like(h) if wants_h else None
            self.fast.backward(grad, h, grad_h, self.total if wants_weight else None, replace=first)
            return grad_h
        if not (wants_h or wants_weight):
            return None
        grad_h, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, h, self.weight, None, (1, 1), self.padding, (1, 1), False, (0, 0), 1, (wants_h, wants_weight, False))
        if wants_weight:
            self.total = grad_weight if self.total is None else self.total.add_(grad_weight)
        return grad_h

    def weight_gradient(self) -> Tensor:
        if self.total is None:  # a stream's first step alone convolves no state
            return torch.zeros_like(self.weight)
        if self.fast is None:
            return self.total
        return self.fast.weight_gradient(self.total).clone(memory_format=torch.contiguous_format)


def _forward(cell: Cell, frames: Tensor, h: Optional[Tensor], c: Optional[Tensor], together: int,
             keep: bool) -> Tuple[Tensor, Tensor, List[Tensor]]:
    """All outputs (T, N, F, H', W'); c after every step, or the last if not ``keep``; activated gates per chunk."""
    outputs = cells = recurrence = None
    kept = []
    for first in range(0, len(frames), together):
        chunk = frames[first:first + together]
        gates = F.conv2d(chunk.flatten(0, 1), cell.weight_ih, cell.bias, cell.stride, cell.padding)
        gates = gates.contiguous().unflatten(0, (len(chunk), -1))
        if outputs is None:
            features = cell.weight_hh.shape[1]
            outputs = gates.new_empty(len(frames), gates.shape[1], features, *gates.shape[3:])
            cells = gates.new_empty(len(frames) if keep else 1, *outputs.shape[1:])
            recurrence = _Recurrence(cell.weight_hh, cell.padding, outputs[0])
        for t, step in enumerate(gates, first):
            if h is not None:
                recurrence.add_to(step, h)
            i, f, g, o = step.chunk(4, dim=1)
            step[:, :2 * features].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            new = cells[t if keep else 0]
            if c is None:
                torch.mul(i, g, out=new)
            else:
                torch.mul(f, c, out=new).addcmul_(i, g)
            h, c = torch.tanh(new, out=outputs[t]).mul_(o), new
        if keep:
            kept.append(gates)
    return outputs, cells, kept


class _ThroughTime(torch.autograd.Function):

    @staticmethod
    def forward(ctx, frames, h, c, weight_ih, weight_hh, bias, stride, padding, together):
        cell = Cell(weight_ih, weight_hh, bias, stride, padding)
        outputs, cells, gates = _forward(cell, frames, h, c, together, keep=True)
        ctx.geometry, ctx.together = (stride, padding), together
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(frames, h, c, weight_ih, weight_hh, bias, outputs, cells, *gates)
        # copies, so that a state that is kept keeps no clip
        return outputs, outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx, grad_outputs, grad_h, grad_c):
        saved = ctx.saved_tensors  # checkpointing allows one look at them
        frames, h_start, c_start, *parameters, outputs, cells = saved[:8]
        gates = saved[8:]
        cell = Cell(*parameters, *ctx.geometry)
        nothing = (None, ) * 3
        if grad_outputs is None and grad_h is None and grad_c is None:
            return (None, ) * 6 + nothing
        if leave_to_autograd(grad_outputs, grad_h, grad_c):

            def reference(clip: Tensor, h: Optional[Tensor], c: Optional[Tensor], *others: Tensor) -> List[Tensor]:
                again, last = steps(Cell(*others, *ctx.geometry), clip, None if h is None else (h, c), ctx.together)
                return [torch.stack(again), *last]

            inputs = frames, h_start, c_start, *parameters
            return *gradients_by_autograd(reference, inputs, (grad_outputs, grad_h, grad_c),
                                          ctx.needs_input_grad[:6]), *nothing

        wants_frames, wants_h, wants_c, wants_ih, wants_hh, wants_bias = ctx.needs_input_grad[:6]
        stride, padding = ctx.geometry
        recurrence = _Recurrence(cell.weight_hh, padding, outputs[0])
        grad_frames = frames.new_empty(frames.shape) if wants_frames else None
        grad_ih = grad_bias = None
        dh, dc = grad_h, grad_c  # of the state after the step, from the steps behind it
        buffer = torch.empty_like(gates[0])
        tanh_c, scratch = torch.empty_like(outputs[0]), torch.empty_like(outputs[0])
        least = torch.finfo(outputs.dtype).tiny
        t = len(frames)
        for number in range(len(gates) - 1, -1, -1):
            of_gates = buffer[:len(gates[number])]
            for step, grad in zip(reversed(gates[number].unbind()), reversed(of_gates.unbind())):
                t -= 1
                h, c = (outputs[t - 1], cells[t - 1]) if t else (h_start, c_start)
                if grad_outputs is not None:
                    dh = grad_outputs[t] if dh is None else dh + grad_outputs[t]
                i, f, g, o = step.chunk(4, dim=1)
                grad_i, grad_f, grad_g, grad_o = grad.chunk(4, dim=1)
                if dh is None:  # only the last c was used
                    grad_o.zero_()
                else:
                    # h = o tanh(c), and a quotient takes less time than tanh; below the least o, h is nothing as well
                    torch.div(outputs[t], torch.clamp(o, min=least, out=scratch), out=tanh_c)
                    _sigmoid_backward(torch.mul(dh, tanh_c, out=scratch), o, grad_input=grad_o)
                    through = torch.ops.aten.tanh_backward(torch.mul(dh, o, out=scratch), tanh_c)
                    dc = through if dc is None else through.add_(dc)
                _sigmoid_backward(torch.mul(dc, g, out=scratch), i, grad_input=grad_i)
                _tanh_backward(torch.mul(dc, i, out=scratch), g, grad_input=grad_g)
                if c is None:
                    grad_f.zero_()
                else:
                    _sigmoid_backward(torch.mul(dc, c, out=scratch), f, grad_input=grad_f)
                dc = dc * f
                dh = None if h is None else recurrence.backward(grad, h, t > 0 or wants_h, wants_hh)
            if not (wants_frames or wants_ih or wants_bias):
                continue
            chunk = frames[t:t + len(of_gates)]
            of_chunk, of_ih, of_bias = torch.ops.aten.convolution_backward(
                of_gates.flatten(0, 1), chunk.flatten(0, 1), cell.weight_ih, [len(cell.bias)], stride, padding, (1, 1),
                False, (0, 0), 1, (wants_frames, wants_ih, wants_bias))
            if wants_frames:
                grad_frames[t:t + len(of_gates)] = of_chunk.view(chunk.shape)
            grad_ih = of_ih if grad_ih is None else grad_ih.add_(of_ih)
            grad_bias = of_bias if grad_bias is None else grad_bias.add_(of_bias)
        return (grad_frames, dh if wants_h else None, dc if wants_c else None, grad_ih,
                recurrence.weight_gradient() if wants_hh else None, grad_bias, *nothing)


def steps_through_time(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Tuple[Tensor, State]:
    """What :func:`tconv_mmaction.maths.conv_lstm.steps` gives, with the outputs in one tensor ``(T, N, F, H', W')``."""
    h, c = state if state is not None else (None, None)
    if torch.is_grad_enabled():
        outputs, h, c = _ThroughTime.apply(frames, h, c, *cell, together)
        return outputs, (h, c)
    outputs, cells, _ = _forward(cell, frames, h, c, together, keep=False)
    return outputs, (outputs[-1].clone(), cells[-1])
