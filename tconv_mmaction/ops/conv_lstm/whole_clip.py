"""The steps of a convolutional LSTM on a GPU: few launches, the convolutions of all steps together where they can be.

What :func:`tconv_mmaction.maths.conv_lstm.steps` computes, in one autograd node. The inputs' part of the gates is one
convolution for all steps (for as many as ``together`` says). A step is then the state's convolution and one launch for
everything behind it (:mod:`.cell`), and so is a step back: what the gradients of both weights need is collected, and
each is one convolution for all steps. Under autocast the weights are cast once for a clip, not at every step.
"""
from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...maths.conv_lstm import Cell, State, steps
from ..conditions import plain_refusal
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from . import cell as one_step

_convolution_backward = torch.ops.aten.convolution_backward


def refusal(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Optional[str]:
    """Why a call cannot be computed so, or None."""
    if frames.device.type == 'cpu':
        return 'tensors lie on cpu, this is for a GPU'
    if frames.shape[1] == 0:
        return 'the batch is empty'
    if frames.dtype == torch.float64 or cell.weight_hh.dtype == torch.float64:
        return 'the state is kept in float32, tensors are torch.float64'
    return plain_refusal(frames, cell.weight_ih, cell.weight_hh, cell.bias, *(state or ()))


def _forward(cell: Cell, frames: Tensor, h: Optional[Tensor], c: Optional[Tensor], together: int,
             keep: bool) -> Tuple[Tensor, Tensor, List[Tensor]]:
    """All outputs (T, N, F, H', W'); c after every step, or the last if not ``keep``; activated gates per chunk."""
    outputs = cells = None
    kept: List[Tensor] = []
    t = 0
    for chunk in frames.split(together):
        gates = F.conv2d(chunk.flatten(0, 1), cell.weight_ih, cell.bias, cell.stride, cell.padding).contiguous()
        gates = gates.unflatten(0, (len(chunk), -1))
        if outputs is None:
            shape = gates.shape[1], cell.weight_hh.shape[1], *gates.shape[3:]
            outputs = gates.new_empty(len(frames), *shape)
            cells = gates.new_empty(len(frames) if keep else 1, *shape, dtype=torch.float32)
        for step in gates:
            hidden = None if h is None else F.conv2d(h, cell.weight_hh, None, 1, cell.padding).contiguous()
            h, new = outputs[t], cells[t if keep else 0]
            one_step.forward(step, hidden, c, new, h)
            c, t = new, t + 1
        if keep:
            kept.append(gates)
    return outputs, cells, kept


class _WholeClip(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, together, stride, padding, frames, h, c, *parameters):
        ctx.dtype, ctx.together, ctx.geometry = dtype, together, (stride, padding)
        ctx.set_materialize_grads(False)
        with torch.autocast(frames.device.type, enabled=False):
            cell = Cell(*(p.to(dtype) for p in parameters), stride, padding)
            start = None if h is None else h.to(dtype).contiguous(), None if c is None else c.float().contiguous()
            outputs, cells, gates = _forward(cell, frames.to(dtype), *start, together, keep=True)
        ctx.save_for_backward(frames, h, c, *parameters, outputs, cells, *gates)
        # copies, so that a state that is kept keeps no clip
        return outputs, outputs[-1].clone(), cells[-1].clone()

    @staticmethod
    def backward(ctx, of_outputs, of_h, of_c):
        frames, h, c, *parameters, outputs, cells = (saved := ctx.saved_tensors)[:8]
        stride, padding = ctx.geometry
        nothing = (None, ) * 4
        if of_outputs is None and of_h is None and of_c is None:
            return *nothing, *(None, ) * 6
        if leave_to_autograd(of_outputs, of_h, of_c):

            def reference(clip: Tensor, h: Optional[Tensor], c: Optional[Tensor], *others: Tensor) -> List[Tensor]:
                state = None if h is None else (h.to(ctx.dtype), c)
                cell = Cell(*(p.to(ctx.dtype) for p in others), stride, padding)
                again, last = steps(cell, clip.to(ctx.dtype), state, ctx.together)
                return [torch.stack(again), *last]

            return *nothing, *gradients_by_autograd(reference, (frames, h, c, *parameters), (of_outputs, of_h, of_c),
                                                    ctx.needs_input_grad[4:])
        with torch.autocast(frames.device.type, enabled=False):
            cell = Cell(*(p.to(ctx.dtype) for p in parameters), stride, padding)
            start = None if h is None else h.to(ctx.dtype).contiguous(), None if c is None else c.float().contiguous()
            found = _backward(cell, frames.to(ctx.dtype), start, (outputs, cells, saved[8:]),
                              (of_outputs, of_h, of_c), ctx.needs_input_grad[4:])
        given = frames, h, c, *parameters
        return *nothing, *(g if g is None else g.to(t.dtype) for g, t in zip(found, given))


def _add(total: Optional[Tensor], part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _backward(cell: Cell, frames: Tensor, start: Tuple[Optional[Tensor], Optional[Tensor]], kept: tuple, grads: tuple,
              wanted: Tuple[bool, ...]) -> List[Optional[Tensor]]:
    """The gradients of frames, h, c, weight_ih, weight_hh and bias."""
    outputs, cells, chunks = kept
    of_outputs, of_next, of_c = grads
    of_outputs = None if of_outputs is None else of_outputs.contiguous()
    of_next = None if of_next is None else of_next.contiguous()
    wants_frames, wants_h, wants_c, wants_ih, wants_hh, wants_bias = wanted
    has_of_c = of_c is not None
    of_c = of_c.float().clone(memory_format=torch.contiguous_format) if has_of_c else torch.empty_like(cells[0])
    of_frames = torch.empty_like(frames, memory_format=torch.contiguous_format) if wants_frames else None
    of_ih = of_hh = of_bias = None
    t = len(frames)
    for gates in reversed(chunks):
        of_gates = torch.empty_like(gates)
        first, kernels = t - len(gates), one_step.takes_kernels(gates)
        to_cells = None if kernels else one_step.slopes(gates, cells[first - 1] if first else start[1], cells[first:t],
                                                        of_gates)
        for step, of_step in zip(reversed(gates.unbind()), reversed(of_gates.unbind())):
            t -= 1
            h, c = (outputs[t - 1], cells[t - 1]) if t else start
            of_output = None if of_outputs is None else of_outputs[t]
            if kernels:
                one_step.backward(step, c, cells[t], of_output, of_next, of_c, has_of_c, of_step)
            else:
                one_step.plain_backward(step, of_output, of_next, of_c, has_of_c, of_step, to_cells[t - first])
            has_of_c, of_next = True, None
            if h is not None and (t or wants_h):
                of_next = _convolution_backward(of_step, h, cell.weight_hh, None, (1, 1), cell.padding, (1, 1), False,
                                                (0, 0), 1, (True, False, False))[0].contiguous()
        if wants_hh:
            skip = 1 if t == 0 else 0  # the chunk's steps that had a state which this pass made
            if len(of_gates) > skip:
                of_hh = _add(of_hh, _weight_gradient(of_gates[skip:], outputs[t + skip - 1:t + len(gates) - 1], cell))
            if t == 0 and start[0] is not None:
                of_hh = _add(of_hh, _weight_gradient(of_gates[:1], start[0][None], cell))
        if wants_frames or wants_ih or wants_bias:
            chunk = frames[t:t + len(gates)]
            of_chunk, ih, bias = _convolution_backward(
                of_gates.flatten(0, 1), chunk.flatten(0, 1), cell.weight_ih, [len(cell.bias)], cell.stride,
                cell.padding, (1, 1), False, (0, 0), 1, (wants_frames, wants_ih, wants_bias))
            if wants_frames:
                of_frames[t:t + len(gates)] = of_chunk.view(chunk.shape)
            of_ih = _add(of_ih, ih) if wants_ih else None
            of_bias = _add(of_bias, bias) if wants_bias else None
    if wants_hh and of_hh is None:  # a stream's first step alone convolves no state
        of_hh = torch.zeros_like(cell.weight_hh)
    return [of_frames, of_next if wants_h else None, of_c if wants_c else None, of_ih, of_hh, of_bias]


def _weight_gradient(of_gates: Tensor, states: Tensor, cell: Cell) -> Tensor:
    """Of weight_hh, from the states ``(K, N, F, H, W)`` that K steps convolved."""
    return _convolution_backward(of_gates.flatten(0, 1), states.flatten(0, 1), cell.weight_hh, None, (1, 1),
                                 cell.padding, (1, 1), False, (0, 0), 1, (False, True, False))[1]


def whole_clip(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Tuple[Tensor, State]:
    """What :func:`tconv_mmaction.maths.conv_lstm.steps` gives, with the outputs in one tensor ``(T, N, F, H', W')``.

    Outputs and h are in the type of the frames, or autocast's; c is in float32.
    """
    device = frames.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else frames.dtype
    h, c = state if state is not None else (None, None)
    if torch.is_grad_enabled():
        outputs, h, c = _WholeClip.apply(dtype, together, cell.stride, cell.padding, frames, h, c, *cell[:3])
        return outputs, (h, c)
    with torch.autocast(device, enabled=False):
        inner = Cell(*(p.to(dtype) for p in cell[:3]), cell.stride, cell.padding)
        start = None if h is None else h.to(dtype).contiguous(), None if c is None else c.float().contiguous()
        outputs, cells, _ = _forward(inner, frames.to(dtype), *start, together, keep=False)
    return outputs, (outputs[-1].clone(), cells[-1].clone())
