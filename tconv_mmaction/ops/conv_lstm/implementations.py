"""How a convolutional LSTM may be computed: a call is its parameters, frames (T, N, C, H, W), the state before them,
and of how many steps one convolution makes the inputs' part of the gates."""
from typing import Optional, Tuple

import torch
from torch import Tensor

from ...maths.conv_lstm import Cell, State, steps
from ..conditions import cpu_refusal
from ..dispatch import Implementation, always, operator, supports_all
from .through_time import steps_through_time
from .whole_clip import refusal as _gpu_refusal
from .whole_clip import whole_clip


def _refusal(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Optional[str]:
    if frames.shape[1] == 0:
        return 'the batch is empty'
    return cpu_refusal(frames, cell.weight_ih, cell.weight_hh, cell.bias, *(state or ()))


def _run_reference(cell: Cell, frames: Tensor, state: Optional[State], together: int) -> Tuple[Tensor, State]:
    outputs, state = steps(cell, frames, state, together)
    return torch.stack(outputs), state


CONV_LSTM = operator(
    'ConvLSTM2d',
    Implementation('through_time', _refusal, always, steps_through_time),
    Implementation('whole_clip', _gpu_refusal, always, whole_clip),
    Implementation('reference', supports_all, always, _run_reference),
)
