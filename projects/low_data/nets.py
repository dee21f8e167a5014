"""The networks of the study: LeNet-5 with 3D, 3T and R(2+1)D-like convolutions, and how they start.

Starts (of convolutions; linear layers always start as in the configs):

conv3d    as nn.Conv3d starts: weights and biases uniform in +-1/sqrt(f), f = inputs of a filter (I kT kH kW)
he        weights uniform in +-sqrt(5/f), which is sqrt(5) times as wide; biases as conv3d
paper     3T only: K_1 ~ N(0, 1), biases as conv3d
normal    weights AND biases ~ N(0, 1): what the authors' 3D networks start from
...+motion   3T only: one random velocity per filter, the same at every step: shifts ~ N(0, 0.5), turns ~ N(0, 0.3)
             radians, scale = exp(N(0, 0.1)); without it all transforms start as the identity
"""
import math
from pathlib import Path
from typing import Sequence, Tuple

import torch
from mmaction.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/recognition/lenet5'
STARTS = ('conv3d', 'he', 'paper', 'normal')
MOTION_STD = (0.5, 0.3, 0.1)  # shift, turn in radians, logarithm of the scale


class R2Plus1dConv(nn.Module):
    """1 x k x k, ReLU, k x 1 x 1; as many parameters in the middle as the 3D convolution it replaces (Tran et al.)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__()
        k = kernel_size
        self.in_channels, self.out_channels, self.padding = in_channels, out_channels, padding
        middle = k**3 * in_channels * out_channels // (k * k * in_channels + k * out_channels)
        self.spatial = nn.Conv3d(in_channels, middle, (1, k, k), padding=(0, padding, padding))
        self.temporal = nn.Conv3d(middle, out_channels, (k, 1, 1), padding=(padding, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W'); both as 2D convolutions, which a CPU computes faster."""
        n, _, frames, height, width = x.shape
        y = x.transpose(1, 2).flatten(0, 1)
        y = nn.functional.conv2d(y, self.spatial.weight[:, :, 0], self.spatial.bias, padding=self.padding).relu()
        height, width = y.shape[-2:]
        y = y.reshape(n, frames, -1, height * width).transpose(1, 2)
        y = nn.functional.conv2d(y, self.temporal.weight[..., 0], self.temporal.bias, padding=(self.padding, 0))
        return y.unflatten(3, (height, width))


def parameters_of(kind: str, channels: Sequence[int]) -> int:
    """Of a LeNet-5-3D or -3T for ten classes and clips of 30x28x28."""
    total, inputs = 0, 1
    for out in channels:  # weights and bias, or the first slice, four steps of four parameters and bias
        total, inputs = total + out * (inputs * (125 if kind == '3D' else 25) + (1 if kind == '3D' else 17)), out
    return total + 121 * 84 + 85 * 10 + (125 * inputs + 1) * 120


@torch.no_grad()
def start_conv(conv: nn.Module, start: str) -> None:
    """Draw the parameters of one convolution anew.

    Raises:
        ValueError: for a start that is not in the list above, or not for this kind of convolution.
    """
    if isinstance(conv, R2Plus1dConv):
        start_conv(conv.spatial, start)
        start_conv(conv.temporal, start)
        return
    weights, _, motion = start.partition('+')
    is_3t = not isinstance(conv, nn.Conv3d)
    if weights not in STARTS or motion not in ('', 'motion') or (not is_3t and (weights == 'paper' or motion)):
        raise ValueError(f'a start of {type(conv).__name__} is one of {", ".join(STARTS)} ("paper" and "+motion" for '
                         f'3T only), got {start!r}.')
    bound = (conv.in_channels // conv.groups * math.prod(conv.kernel_size))**-0.5
    if weights in ('paper', 'normal'):
        nn.init.normal_(conv.weight)
    else:
        nn.init.uniform_(conv.weight, -bound * (5**0.5 if weights == 'he' else 1),
                         bound * (5**0.5 if weights == 'he' else 1))
    if weights == 'normal':
        nn.init.normal_(conv.bias)
    else:
        nn.init.uniform_(conv.bias, -bound, bound)
    if motion:
        out = conv.out_channels
        for name, std in zip(('translate_x', 'translate_y', 'rotate'), (MOTION_STD[0], *MOTION_STD[:2])):
            getattr(conv, name).copy_(torch.randn(out) * std)
        conv.scale.copy_((torch.randn(out) * MOTION_STD[2]).exp())


def build(kind: str, channels: Tuple[int, int], start: str) -> nn.Module:
    """The recognizer of the committed config with these channels, initialised, in train mode.

    Args:
        kind: '3D', '3T' or 'R(2+1)D'.
        channels: of the two convolutions.
        start: see above. For '3D conv3d' and '3T paper' nothing is drawn twice: it is what the configs do themselves.
    """
    config = Config.fromfile(next(CONFIGS.glob(f'lenet5-{"3t" if kind == "3T" else "3d"}_*.py')))
    config.model.backbone.channels = channels
    model = MODELS.build(config.model)
    model.init_weights()
    net = model.backbone
    if kind == 'R(2+1)D':
        net.conv1 = R2Plus1dConv(1, channels[0], 5, padding=2)
        net.conv2 = R2Plus1dConv(channels[0], channels[1], 5)
    if (kind, start) not in (('3D', 'conv3d'), ('3T', 'paper')):
        start_conv(net.conv1, start)
        start_conv(net.conv2, start)
    return model.train()
