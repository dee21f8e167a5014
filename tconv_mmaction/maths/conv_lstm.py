r"""The steps of a convolutional LSTM.

Shi et al., "Convolutional LSTM Network" (NeurIPS 2015), without peepholes, as in Mänttäri et al. (ACCV 2020): with
\* for convolution, sigma for the logistic function and \circ for the elementwise product,

.. math::  i, f, o = \sigma(W_{ih} * x_t + W_{hh} * h_{t-1} + b), \quad g = \tanh(\ldots), \quad
           c_t = f \circ c_{t-1} + i \circ g, \quad h_t = o \circ \tanh(c_t)

each gate with its rows of W and b, stacked in the order i, f, g, o.
"""
from typing import List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

State = Tuple[Tensor, Tensor]
Pair = Tuple[int, int]


class Cell(NamedTuple):
    """Parameters of ConvLSTM2d: ``weight_ih (4F, C, kH, kW)``, ``weight_hh (4F, F, kH, kW)``, ``bias (4F)``."""
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor
    stride: Pair
    padding: Pair


def lstm_update(gates: Tensor, c: Optional[Tensor]) -> State:
    """The elementwise part of a step: ``gates (N, 4F, H, W)`` and ``c (N, F, H, W)``, or None for zeros, to (h, c).

    ``c`` is a sum over all steps, so it is kept in float32 or better; h has the dtype of the gates.
    """
    i, f, g, o = gates.chunk(4, dim=1)
    new = (torch.sigmoid(i) * torch.tanh(g)).to(torch.promote_types(gates.dtype, torch.float32))
    if c is not None:
        new = torch.sigmoid(f) * c + new
    return (torch.sigmoid(o) * torch.tanh(new)).to(gates.dtype), new


def steps(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Tuple[List[Tensor], State]:
    """Outputs ``(N, F, H', W')`` of every step, and the state after the last.

    Args:
        cell: the parameters.
        frames: ``(T, N, C, H, W)``.
        state: h and c ``(N, F, H', W')`` before the first step, or None for zeros.
        together: of how many steps one convolution makes the inputs' part of the gates.
    """
    h, c = state if state is not None else (None, None)
    # W_hh 0 = 0, so the first step of a stream needs no convolution; but a clip of one step alone would leave
    # weight_hh without a gradient, at which DistributedDataParallel stops.
    skip_first = len(frames) > 1
    outputs = []
    for chunk in frames.split(together):
        gates = F.conv2d(chunk.flatten(0, 1), cell.weight_ih, cell.bias, cell.stride, cell.padding)
        for step in gates.unflatten(0, (len(chunk), -1)).unbind():  # one backward node, not one per slice
            if h is None and not skip_first:
                h = step.new_zeros(step.shape[0], cell.weight_hh.shape[1], *step.shape[2:])
            if h is not None:
                step = step + F.conv2d(h, cell.weight_hh, None, 1, cell.padding)
            h, c = lstm_update(step, c)
            outputs.append(h)
    return outputs, (h, c)
