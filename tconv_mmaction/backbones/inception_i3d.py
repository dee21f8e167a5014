"""I3D: Inception-v1 with 3D convolutions and TensorFlow's SAME padding.

Carreira and Zisserman, "Quo Vadis, Action Recognition?" (arXiv:1705.07750), and as an option with the strides in
time of Mänttäri et al., "Interpreting Video Features" (ACCV 2020, arXiv:2002.00367). SAME padding follows from the size
n of the input,

    total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0),    before = total // 2,    after = total - before,

and leaves ceil(n / s), so that every clip fits. Convolutions are padded with zeros, max pools with minus infinity.

**Time.** ``temporal_strides`` are those of the first convolution and of the pools before Mixed_4b and Mixed_5b. The
original (2, 2, 2) leaves T/8 frames: 1024x2x7x7 from 16x224x224. (1, 1, 2), for finer Grad-CAM, leaves T/2: 1024x8x7x7.

**Parameters.** 12,287,264; 12,465,614 with the classifier for 174 classes, 12,293,414 for 6. The classifier of the
papers is an average pool over space, dropout 0.5, a 1x1x1 convolution with bias, and the mean over time. Mean and
convolution are linear and change places, so mmaction2's ``I3DHead(in_channels=1024, dropout_ratio=0.5)`` gives the same
scores from as many parameters. Only in training its dropout differs: it drops a channel for all time steps at once.

**Weights.** Modules have the names of the widely used PyTorch I3D files ('Conv3d_1a_7x7.conv3d.weight',
'Mixed_3b.b1a.bn.running_var', ..., 'logits.conv3d.bias'), so those load by ``pretrained=``, and :mod:`.key_maps` takes
the classifier along. They expect pixels in [-1, 1]: ``mean=[127.5] * 3, std=[127.5] * 3``.
"""
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules.utils import _triple

from .layer_chain import LayerChain

NORM_CFG = dict(type='BN3d', eps=1e-3, momentum=.01)  # never changed
# 1x1; 1x1 -> 3x3; 1x1 -> 3x3; pool -> 1x1
MIXED = {
    'Mixed_3b': (64, (96, 128), (16, 32), 32),
    'Mixed_3c': (128, (128, 192), (32, 96), 64),
    'Mixed_4b': (192, (96, 208), (16, 48), 64),
    'Mixed_4c': (160, (112, 224), (24, 64), 64),
    'Mixed_4d': (128, (128, 256), (24, 64), 64),
    'Mixed_4e': (112, (144, 288), (32, 64), 64),
    'Mixed_4f': (256, (160, 320), (32, 128), 128),
    'Mixed_5b': (256, (160, 320), (32, 128), 128),
    'Mixed_5c': (384, (192, 384), (48, 128), 128),
}


def same_padding(size: int, kernel: int, stride: int) -> Tuple[int, int]:
    """Rows before and after that SAME padding adds to ``size`` rows."""
    size = int(size)  # ONNX's tracer hands a tensor in
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


class SameConv3d(nn.Conv3d):
    """``nn.Conv3d`` with SAME padding instead of ``padding``."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, ceil(T / s), ceil(H / s), ceil(W / s))."""
        pads = [same_padding(*args) for args in zip(x.shape[-3:], self.kernel_size, self.stride)]
        if any(before != after for before, after in pads):  # otherwise the convolution pads, without a copy of the clip
            x = F.pad(x, [n for pair in reversed(pads) for n in pair])
            pads = [(0, 0)] * 3
        return F.conv3d(x, self.weight, self.bias, self.stride, [before for before, _ in pads], self.dilation,
                        self.groups)


class SameMaxPool3d(nn.Module):
    """Max pool with SAME padding, which never wins: it is minus infinity.

    Args:
        kernel_size, stride: (t, h, w), or one number for all three.
    """

    def __init__(self, kernel_size, stride) -> None:
        super().__init__()
        self.kernel_size, self.stride = _triple(kernel_size), _triple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C, ceil(T / s), ceil(H / s), ceil(W / s))."""
        pads = [same_padding(*args) for args in zip(x.shape[-3:], self.kernel_size, self.stride)]
        if any(before != after and stride == 1 for (before, after), stride in zip(pads, self.stride)):
            x = F.pad(x, [n for pair in reversed(pads) for n in pair], value=float('-inf'))
            pads = [(0, 0)] * 3
        # with a stride, the one row that may be at the end only is what rounding the size up stands for
        return F.max_pool3d(x, self.kernel_size, self.stride, [before for before, _ in pads], ceil_mode=True)

    def extra_repr(self) -> str:
        return f'kernel_size={self.kernel_size}, stride={self.stride}'


class Unit3d(nn.Module):
    """SAME convolution without bias, norm, ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.
        norm_cfg: of the norm.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, stride=1, *, norm_cfg: dict) -> None:
        super().__init__()
        self.conv3d = SameConv3d(in_channels, out_channels, kernel_size, stride, bias=False)
        self.bn = build_norm_layer(norm_cfg, out_channels)[1]
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        return self.relu(self.bn(self.conv3d(x)))


class Mixed(nn.Module):
    """Four branches, concatenated over channels.

    Args:
        in_channels: of the input.
        widths: of the outputs, a row of ``MIXED``.
        norm_cfg: of all norms.
    """

    def __init__(self, in_channels: int, widths: tuple, norm_cfg: dict) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.b0 = Unit3d(in_channels, first, norm_cfg=norm_cfg)
        self.b1a = Unit3d(in_channels, second[0], norm_cfg=norm_cfg)
        self.b1b = Unit3d(*second, 3, norm_cfg=norm_cfg)
        self.b2a = Unit3d(in_channels, third[0], norm_cfg=norm_cfg)
        self.b2b = Unit3d(*third, 3, norm_cfg=norm_cfg)
        self.b3a = SameMaxPool3d(3, 1)
        self.b3b = Unit3d(in_channels, fourth, norm_cfg=norm_cfg)
        self.out_channels = first + second[1] + third[1] + fourth

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, out_channels, T, H, W)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


@MODELS.register_module()
class InceptionI3d(LayerChain):
    """I3D without its classifier.

    Args:
        in_channels: 3, or 2 for optical flow.
        temporal_strides: of Conv3d_1a_7x7, MaxPool3d_4a_3x3 and MaxPool3d_5a_2x2, each 1 or 2: (2, 2, 2) is the
            original, (1, 1, 2) arXiv:2002.00367.
        out_layers: outputs, by name ('Mixed_5c').
        norm_cfg: of all norms.
        frozen_stages: from -1 (none) to 3: all before Mixed_3b (0), then Mixed_3, 4 and 5.
        norm_eval, with_cp, init_cfg: see :class:`.layer_chain.LayerChain`.
        pretrained: a checkpoint of this net or of the layout above.

    Raises:
        ValueError: for a value that does not fit.
    """

    stages = (('Conv3d_1a_7x7', 'MaxPool3d_2a_3x3', 'Conv3d_2b_1x1', 'Conv3d_2c_3x3', 'MaxPool3d_3a_3x3'),
              ('Mixed_3b', 'Mixed_3c', 'MaxPool3d_4a_3x3'),
              ('Mixed_4b', 'Mixed_4c', 'Mixed_4d', 'Mixed_4e', 'Mixed_4f', 'MaxPool3d_5a_2x2'),
              ('Mixed_5b', 'Mixed_5c'))

    def __init__(self, in_channels: int = 3, temporal_strides: Sequence[int] = (2, 2, 2),
                 out_layers: Sequence[str] = ('Mixed_5c', ),
                 norm_cfg: dict = NORM_CFG, frozen_stages: int = -1,
                 norm_eval: bool = False, with_cp: bool = False, pretrained: Optional[str] = None,
                 init_cfg: Union[dict, list, None] = None) -> None:
        super().__init__(in_channels, out_layers, frozen_stages, norm_eval, with_cp, pretrained, init_cfg)
        if len(temporal_strides) != 3 or any(stride not in (1, 2) for stride in temporal_strides):
            raise ValueError('temporal_strides must be three numbers, each 1 or 2 (Conv3d_1a_7x7, MaxPool3d_4a_3x3, '
                             f'MaxPool3d_5a_2x2), got {temporal_strides!r}.')
        conv, before_4b, before_5b = temporal_strides
        self.Conv3d_1a_7x7 = Unit3d(in_channels, 64, 7, (conv, 2, 2), norm_cfg=norm_cfg)
        self.MaxPool3d_2a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3d(64, 64, norm_cfg=norm_cfg)
        self.Conv3d_2c_3x3 = Unit3d(64, 192, 3, norm_cfg=norm_cfg)
        self.MaxPool3d_3a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_4a_3x3 = SameMaxPool3d(3, (before_4b, 2, 2))
        self.MaxPool3d_5a_2x2 = SameMaxPool3d(2, (before_5b, 2, 2))
        channels = 192
        for name, widths in MIXED.items():
            block = Mixed(channels, widths, norm_cfg)
            self.add_module(name, block)
            channels = block.out_channels
        self.freeze()
