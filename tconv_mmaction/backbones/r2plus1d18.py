"""R(2+1)D with 18 layers, as torchvision builds it.

Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition" (arXiv:1711.11248). A t x3x3
convolution from C to O channels is a 1x3x3 one to M channels, BN, ReLU, and a 3x1x1 one to O, with

    M = floor(27 C O / (9 C + 3 O)),

so that both have as many weights as the 3x3x3 convolution. Here, as in torchvision, C and O are those of the *block*,
and both of its convolutions have the same M: 144, 144, 230, 288, 460, 576, 921, 1152. Networks of another width
(``base_channels``) follow the same rule.

31,313,976 parameters with mmaction2's ``I3DHead(in_channels=512, dropout_ratio=0.)`` of 27 classes, 31,351,938 of 101.
mmaction2's ResNet2Plus1d is another network (a different M per convolution, a max pool, 33,241,596 parameters).

All modules have torchvision's names, so its weights (``r2plus1d_18``, Kinetics-400) load into the backbone by
``pretrained=`` and nothing but the classifier is left over; :mod:`.key_maps` takes that along too. They expect clips of
16 frames of 112x112 pixels with mean [110.2, 100.6, 96.0] and std [58.1, 56.5, 55.3].
"""
from typing import Optional, Sequence, Union

from mmaction.registry import MODELS
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from .layer_chain import LayerChain

NORM_CFG = dict(type='BN3d')  # never changed


def conv2plus1d(in_channels: int, mid_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> nn.Sequential:
    """1x3x3 convolution, norm, ReLU, 3x1x1 convolution; each with its part of the stride."""
    return nn.Sequential(
        nn.Conv3d(in_channels, mid_channels, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        build_norm_layer(norm_cfg, mid_channels)[1],
        nn.ReLU(inplace=True),
        nn.Conv3d(mid_channels, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False))


class BasicBlock2Plus1d(nn.Module):
    """Two (2+1)D convolutions and the shortcut, a 1x1x1 convolution where the size changes.

    Args:
        in_channels, out_channels: of the block.
        stride: of its first convolution and its shortcut, in time and space.
        norm_cfg: of all norms.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> None:
        super().__init__()
        mid = 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)

        def norm() -> nn.Module:
            return build_norm_layer(norm_cfg, out_channels)[1]

        self.conv1 = nn.Sequential(conv2plus1d(in_channels, mid, out_channels, stride, norm_cfg), norm(),
                                   nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(conv2plus1d(out_channels, mid, out_channels, 1, norm_cfg), norm())
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), norm())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


@MODELS.register_module()
class R2Plus1d18(LayerChain):
    """torchvision's R(2+1)D-18 without its classifier; any clip, T/8 x H/16 x W/16 (rounded up) at the end.

    Args:
        in_channels: channels of the clip.
        base_channels: of the stem and ``layer1``; the next layers have 2, 4 and 8 times as many. Between the stem's
            two convolutions, where the paper's rule does not give torchvision's 45 channels, there are
            ``round(45 base_channels / 64)``, at least one.
        out_layers: outputs, of 'stem', 'layer1', ..., 'layer4'.
        norm_cfg: of all norms.
        frozen_stages: from -1 (none) to 4: the stem (0) and the layers up to this one.
        norm_eval, with_cp, init_cfg: see :class:`.layer_chain.LayerChain`.
        pretrained: a checkpoint of this net or torchvision's.

    Raises:
        ValueError: for a value that does not fit.

    >>> import torch
    >>> R2Plus1d18(base_channels=8)(torch.rand(1, 3, 8, 32, 32)).shape
    torch.Size([1, 64, 1, 2, 2])
    """

    stages = (('stem', ), ('layer1', ), ('layer2', ), ('layer3', ), ('layer4', ))

    def __init__(self, in_channels: int = 3, out_layers: Sequence[str] = ('layer4', ),
                 norm_cfg: dict = NORM_CFG, frozen_stages: int = -1, norm_eval: bool = False,
                 with_cp: bool = False, pretrained: Optional[str] = None,
                 init_cfg: Union[dict, list, None] = None, base_channels: int = 64) -> None:
        super().__init__(in_channels, out_layers, frozen_stages, norm_eval, with_cp, pretrained, init_cfg)
        if isinstance(base_channels, bool) or not isinstance(base_channels, int) or base_channels < 1:
            raise ValueError(f'base_channels must be a whole number of at least 1, got {base_channels!r}.')
        mid_channels = max(1, round(45 * base_channels / 64))
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, mid_channels, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            build_norm_layer(norm_cfg, mid_channels)[1],
            nn.ReLU(inplace=True),
            nn.Conv3d(mid_channels, base_channels, (3, 1, 1), 1, (1, 0, 0), bias=False),
            build_norm_layer(norm_cfg, base_channels)[1],
            nn.ReLU(inplace=True))
        inputs = base_channels
        for i in range(4):
            outputs = base_channels * 2**i
            self.add_module(f'layer{i + 1}', nn.Sequential(
                BasicBlock2Plus1d(inputs, outputs, 2 if i else 1, norm_cfg),
                BasicBlock2Plus1d(outputs, outputs, 1, norm_cfg)))
            inputs = outputs
        self.freeze()
