"""LeNet-5 for short grey clips, with 3D or 3T convolutions.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels", arXiv:1912.04075, the network of the Video-MNIST
experiments. With mmaction2's ``I3DHead(in_channels=84)`` as the last linear layer and 30x28x28 clips of ten classes:

========  =======  =======
channels  Conv3d   Conv3T
========  =======  =======
6, 16     263,906  254,058
12, 22    375,668  348,612
18, 28    496,430  444,966
========  =======  =======
"""
from typing import Optional, Sequence

from mmaction.registry import MODELS
from mmcv.cnn import build_conv_layer
from mmengine.model import BaseModule
from torch import Tensor, nn


@MODELS.register_module()
class LeNet5(BaseModule):
    """conv 5x5x5 - ReLU - pool 2 - conv 5x5x5 - ReLU - pool 2 - linear 120 - ReLU - linear 84 - ReLU.

    Args:
        temporal_cfg: the type of both convolutions, ``dict(type='Conv3T')`` or ``dict(type='Conv3d')``.
        channels: output channels of the two convolutions.
        in_channels: channels of the clip.
        clip_shape: (T, H, W) of the clips, in frames and pixels; the first linear layer is built for it.

    Raises:
        ValueError: if ``channels`` are not two, or ``clip_shape`` leaves nothing after the second pool.
    """

    def __init__(self, temporal_cfg: dict, channels: Sequence[int] = (6, 16), in_channels: int = 1,
                 clip_shape: Sequence[int] = (30, 28, 28), init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if len(channels) != 2:
            raise ValueError(f'LeNet5 has two convolutions: channels must be two numbers, got {channels!r}.')
        # pad 2 keeps the size, the pool halves it, the second convolution takes 4 away and the pool halves again
        after = [(size // 2 - 4) // 2 for size in clip_shape]
        if len(clip_shape) != 3 or min(after) < 1:
            raise ValueError(f'LeNet5 needs clips of at least (T, H, W) = (12, 12, 12), got clip_shape={clip_shape!r}.')
        self.in_channels, self.clip_shape = in_channels, tuple(clip_shape)
        self.conv1 = build_conv_layer(temporal_cfg, in_channels, channels[0], kernel_size=5, padding=2)
        self.conv2 = build_conv_layer(temporal_cfg, channels[0], channels[1], kernel_size=5)
        self.pool = nn.MaxPool3d(2)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(channels[1] * after[0] * after[1] * after[2], 120)
        self.fc2 = nn.Linear(120, 84)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, T, H, W) -> (N, 84, 1, 1, 1), the shape that mmaction2's 3D heads pool over."""
        if x.dim() != 5 or tuple(x.shape[1:]) != (self.in_channels, *self.clip_shape):
            raise ValueError(
                f'LeNet5 was built for clips (N, {self.in_channels}, {", ".join(map(str, self.clip_shape))}), got '
                f'{tuple(x.shape)}. Set in_channels and clip_shape=(T, H, W) to what the pipeline makes.')
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))  # N, C2, T', H', W'
        x = self.relu(self.fc1(x.flatten(1)))
        x = self.relu(self.fc2(x))
        return x[..., None, None, None]
