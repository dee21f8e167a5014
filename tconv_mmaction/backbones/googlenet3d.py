"""GoogLeNet (Inception-v1) in time, with 3D or 3T convolutions.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels" (arXiv:1912.04075) and "Explainable 3D Convolutional
Neural Networks by Learning Temporal Transformations" (arXiv:2006.15983), after Szegedy et al. (arXiv:1409.4842).

Channels are torchvision's (its "5x5" branch is 3x3), modules have torchvision's names. The 7x7 stem, the 3x3 after it
and the two 3x3 of every inception block reach over as many frames as pixels and are of type ``temporal_cfg``: 20
layers. The other 39 convolutions are 1x1x1. Every convolution is followed by batch norm and ReLU. The first two pools
are 1x3x3 with stride (1, 2, 2), those after 3b and 4e 3x3x3 with stride 2; none is padded.

30x150x224 clips (T, H, W) become 15x18x27 (inception3), 7x8x13 (inception4), 3x3x6 (inception5).

With ``GoogLeNetHead``, both auxiliary classifiers counted:

============  ===========  ============
temporal_cfg  27 classes   101 classes
============  ===========  ============
Conv3T         7,419,121    7,646,671
Conv3d        14,078,833   14,306,383
============  ===========  ============
"""
import re
from typing import Optional, Sequence, Union

import torch
from mmaction.registry import MODELS
from mmengine.logging import print_log
from torch import Tensor, nn

from .blocks import conv_norm_act
from .inflation import is_2d, load_pretrained, read_state_dict
from .layer_chain import LayerChain

POINTWISE, NORM_CFG = dict(type='Conv3d'), dict(type='BN3d', eps=1e-5)  # never changed
# 1x1; 1x1 -> 3x3; 1x1 -> 3x3; pool -> 1x1
INCEPTION = {
    'inception3a': (64, (96, 128), (16, 32), 32),
    'inception3b': (128, (128, 192), (32, 96), 64),
    'inception4a': (192, (96, 208), (16, 48), 64),
    'inception4b': (160, (112, 224), (24, 64), 64),
    'inception4c': (128, (128, 256), (24, 64), 64),
    'inception4d': (112, (144, 288), (32, 64), 64),
    'inception4e': (256, (160, 320), (32, 128), 128),
    'inception5a': (256, (160, 320), (32, 128), 128),
    'inception5b': (384, (192, 384), (48, 128), 128),
}
EPS_OF_TORCHVISION = 1e-3


class Inception3d(nn.Module):
    """Four branches, concatenated over channels; frames and pixels keep their number.

    Args:
        in_channels: of the input.
        widths: of the outputs, a row of ``INCEPTION``.
        temporal_cfg: type of the two 3x3x3 convolutions.
        norm_cfg: of all norms.
    """

    def __init__(self, in_channels: int, widths: tuple, temporal_cfg: dict, norm_cfg: dict) -> None:
        super().__init__()
        first, second, third, fourth = widths

        def conv(inputs: int, outputs: int, kernel: int, cfg: dict = POINTWISE) -> nn.Module:
            return conv_norm_act(inputs, outputs, (kernel, ) * 3, 1, cfg, norm_cfg, dict(type='ReLU'))

        self.branch1 = conv(in_channels, first, 1)
        self.branch2 = nn.Sequential(conv(in_channels, second[0], 1), conv(*second, 3, temporal_cfg))
        self.branch3 = nn.Sequential(conv(in_channels, third[0], 1), conv(*third, 3, temporal_cfg))
        self.branch4 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), conv(in_channels, fourth, 1))
        self.out_channels = first + second[1] + third[1] + fourth

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, out_channels, T, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


@MODELS.register_module()
class GoogLeNet3d(LayerChain):
    """GoogLeNet whose 3x3 (and 7x7) convolutions are ``temporal_cfg``.

    **ImageNet weights.** torchvision's GoogLeNet file was trained on pixels in [-1, 1]; torchvision's model itself
    turns the usual ImageNet normalisation into that (its ``transform_input``). There are two exact ways: keep the
    ImageNet mean and std of the data preprocessor and set ``transform_input=True``, or leave it False and set
    ``mean=[127.5] * 3, std=[127.5] * 3`` in the data preprocessor. (Folding the transform into the stem's weights
    is not exact: the zeros around the clip would need another value for every channel.) Its batch norms were trained
    with eps 1e-3: ``norm_cfg=dict(type='BN3d', eps=1e-3)`` keeps that. Its pools round up, the paper's do not.

    Args:
        temporal_cfg: type of the 20 convolutions in time: 'Conv3d', 'Conv3T', or another registered layer.
        in_channels: channels of the clip.
        transform_input: take clips normalised with ImageNet's mean and std (of pixels from 0 to 1: 0.485, 0.456, 0.406
            and 0.229, 0.224, 0.225) to [-1, 1]. Needs 3 channels, R, G, B.
        out_layers: outputs. ``GoogLeNetHead`` takes ('inception4a', 'inception4d', 'inception5b'), mmaction2's
            ``I3DHead`` the last alone.
        norm_cfg: of all norms.
        frozen_stages: from -1 (none) to 3: the stem (0), then inception3, 4, 5.
        norm_eval, with_cp, init_cfg: see :class:`.layer_chain.LayerChain`.
        pretrained: a checkpoint. A 2D one in torchvision's layout is inflated, see :mod:`.inflation`; a 3D one is
            loaded as it is. ``init_cfg=dict(type='Pretrained', checkpoint=...)`` does the same.
        pretrained2d: what ``pretrained`` holds, 2D or 3D weights; None looks.
        inflation_cfg: ``dict(divide_3t=..., copy_norm=...)`` for 2D checkpoints.

    Raises:
        ValueError: for a value that does not fit.
    """

    stages = (('conv1', 'maxpool1', 'conv2', 'conv3', 'maxpool2'),
              ('inception3a', 'inception3b', 'maxpool3'),
              ('inception4a', 'inception4b', 'inception4c', 'inception4d', 'inception4e', 'maxpool4'),
              ('inception5a', 'inception5b'))
    # A pool of 3 with stride 2 needs 2n + 1 to leave n, the padded stem 2n - 1: in time 1 <- 3 <- 7 <- 13, in space
    # 1 <- 3 <- 7 <- 15 <- 31 <- 61.
    smallest_clip = (13, 61, 61)

    def __init__(self, temporal_cfg: dict = POINTWISE, in_channels: int = 3, transform_input: bool = False,
                 out_layers: Sequence[str] = ('inception5b', ), norm_cfg: dict = NORM_CFG,
                 frozen_stages: int = -1, norm_eval: bool = False, with_cp: bool = False,
                 pretrained: Optional[str] = None, pretrained2d: Optional[bool] = None,
                 inflation_cfg: Optional[dict] = None, init_cfg: Union[dict, list, None] = None) -> None:
        super().__init__(in_channels, out_layers, frozen_stages, norm_eval, with_cp, pretrained, init_cfg)
        if transform_input and in_channels != 3:
            raise ValueError(f'transform_input is for the 3 channels R, G, B, got in_channels={in_channels}.')
        self.transform_input, self.pretrained2d = transform_input, pretrained2d
        self.inflation_cfg = dict(inflation_cfg or {})

        def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, cfg: dict = POINTWISE) -> nn.Module:
            return conv_norm_act(inputs, outputs, (kernel, ) * 3, stride, cfg, norm_cfg, dict(type='ReLU'))

        self.conv1 = conv(in_channels, 64, 7, 2, temporal_cfg)
        self.maxpool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3, 1, temporal_cfg)
        self.maxpool2 = nn.MaxPool3d((1, 3, 3), (1, 2, 2))
        self.maxpool3, self.maxpool4 = nn.MaxPool3d(3, 2), nn.MaxPool3d(3, 2)
        channels = 192
        for name, widths in INCEPTION.items():
            block = Inception3d(channels, widths, temporal_cfg, norm_cfg)
            self.add_module(name, block)
            channels = block.out_channels
        self.freeze()

    @staticmethod
    def key_from_2d(name: str) -> Optional[str]:
        """torchvision's module names are the ones here; None for the classifiers 'fc', 'aux1' and 'aux2'."""
        return name if re.match(r'(conv\d|inception\d[a-e])\.', name) else None

    def load(self, source: str, prefix: str) -> None:
        """Load one checkpoint, see :func:`.inflation.load_pretrained`."""
        load_pretrained(self, source, self.key_from_2d, self.pretrained2d, prefix, **self.inflation_cfg)
        eps = getattr(self.conv1.norm, 'eps', None)
        if eps not in (None, EPS_OF_TORCHVISION) and is_2d(read_state_dict(source, prefix)):
            print_log(f"torchvision's GoogLeNet has eps={EPS_OF_TORCHVISION} in its batch norms, this net eps={eps}: "
                      'features differ a little. norm_cfg=dict(type="BN3d", eps=1e-3) makes them equal.', 'current')

    def forward(self, x: Tensor):
        """(N, in_channels, T, H, W) -> (N, C, T', H', W') of the one layer in ``out_layers``, or a tuple of several."""
        if self.transform_input and x.dim() == 5 and x.shape[1] == 3:
            mean = x.new_tensor([.485, .456, .406])[:, None, None, None]
            std = x.new_tensor([.229, .224, .225])[:, None, None, None]
            x = (x * std + mean - .5) / .5
        return super().forward(x)
