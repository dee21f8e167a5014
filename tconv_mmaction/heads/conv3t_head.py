"""A 3T convolution as classifier: every class is one filter, and has one motion.

Ras et al., "Explainable 3D Convolutional Neural Networks by Learning Temporal Transformations" (arXiv:2006.15983, sec.
4.2): "if a 3TConv is used as the final layer, the temporal parameters will correspond directly with the classes". With
features x (N, C, T, H, W), the map of class k is m_k = (K_k * x)_k + b_k, K_k a 3T kernel, and its score

    lse:   log mean exp m_k over all positions    (a soft maximum: the class is somewhere, at some time)
    max:   max m_k
    relu:  mean of max(m_k, 0)

The plain mean is refused. But for the borders it is b_k + <sum of K_k, mean of x>: it does not depend on how the slices
of K_k lie to each other, so no motion could be learned.
"""
import math
from typing import Optional, Sequence, Tuple, Union

from mmaction.models.heads import BaseHead
from mmaction.registry import MODELS
from torch import Tensor, nn

from ..layers import Conv3T

POOLS = ('lse', 'max', 'relu')


@MODELS.register_module()
class Conv3THead(BaseHead):
    """Features (N, C, T, H, W) to class scores (N, K); losses, predictions and clip averaging are mmaction2's.

    Deployed, the layer is a plain convolution; TemporalParamsHook and ``temporal_parameters`` find it as
    ``cls_head.conv``, its channels are the classes.

    Args:
        num_classes: K.
        in_channels: C.
        kernel_size: of the 3T convolution, odd; an int or (kT, kH, kW). Features keep their size.
        pool: how a class's map becomes its score: 'lse', 'max' or 'relu'.
        dropout_ratio: of whole channels of the features.
        init, motion_std, gain, gain_std, transform: of the ``Conv3T``.
        loss_cls, topk, label_smooth_eps, average_clips: as for mmaction2's heads; None is cross entropy.

    Raises:
        ValueError: for an even kernel size, one without motion (kT = 1), or another pool.

    >>> import torch
    >>> Conv3THead(num_classes=10, in_channels=8)(torch.randn(2, 8, 6, 7, 7)).shape
    torch.Size([2, 10])
    """

    def __init__(self, num_classes: int, in_channels: int, kernel_size: Union[int, Sequence[int]] = 3,
                 pool: str = 'lse', dropout_ratio: float = 0.5, init: str = 'conv3d',
                 motion_std: Sequence[float] = (0., 0., 0.), gain: bool = False, gain_std: float = 0.,
                 transform: str = 'affine', loss_cls: Optional[dict] = None, topk: Union[int, Tuple[int, ...]] = (1, 5),
                 label_smooth_eps: float = 0., average_clips: Optional[str] = 'prob',
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(num_classes, in_channels, loss_cls or dict(type='CrossEntropyLoss'),
                         label_smooth_eps=label_smooth_eps, topk=topk, average_clips=average_clips, init_cfg=init_cfg)
        size = (kernel_size, ) * 3 if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(size) != 3 or any(side < 1 or side % 2 == 0 for side in size) or size[0] == 1:
            raise ValueError('Conv3THead: kernel_size must be odd, as a number or (kT, kH, kW), with kT of at least 3: '
                             f'one slice has no motion; got {kernel_size!r}.')
        if pool not in POOLS:
            raise ValueError(f'Conv3THead: pool must be one of {", ".join(POOLS)}, got {pool!r}. A plain mean would '
                             'not depend on the motion (see the module).')
        self.pool = pool
        self.dropout = nn.Dropout3d(dropout_ratio)
        self.conv = Conv3T(in_channels, num_classes, size, padding=tuple(side // 2 for side in size), init=init,
                           motion_std=motion_std, gain=gain, gain_std=gain_std, transform=transform)

    def class_maps(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, K, T, H, W): where and when there is evidence for each class."""
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f'Conv3THead needs feature maps (N, {self.in_channels}, T, H, W), got {tuple(x.shape)}. '
                             "Set in_channels to the backbone's last channels; 2D recognizers have no T.")
        return self.conv(self.dropout(x))

    def forward(self, x: Tensor, loss_aux: Optional[dict] = None, fcn_test: bool = False) -> Tensor:
        """(N, C, T, H, W) -> (N, K); with ``fcn_test`` the class maps.

        ``loss_aux`` and ``fcn_test`` are what mmaction2's recognizers pass to every head; the first is theirs to add.
        """
        maps = self.class_maps(x)
        if fcn_test:
            return maps
        if self.pool == 'max':
            return maps.amax((2, 3, 4))
        if self.pool == 'relu':
            return maps.relu().mean((2, 3, 4))
        return maps.flatten(2).logsumexp(2) - math.log(maps[0, 0].numel())
