r"""A 3D convolution as a spatial and a temporal one, the building block of S3D.

Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018 (arXiv:1712.04851). A t x k x k convolution from
C to O channels becomes

.. math::  conv_{1 \times k \times k}\,(C \to O) - BN - ReLU - conv_{t \times 1 \times 1}\,(O \to O)

where the spatial part carries the stride in space, the temporal part the stride in time. With t = 1 there is no
temporal part, nor the norm and activation before it: an ordinary convolution is left. The norm and activation *after*
the layer are the caller's, as for ``nn.Conv3d``.
"""
import inspect
import math
from typing import Dict, Optional

import torch
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.model import constant_init, kaiming_init
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from .conv_base import ConvBase, NoSingleWeight
from .registry import register_layer

NORM_CFG, ACT_CFG, TEMPORAL_CFG = dict(type='BN3d'), dict(type='ReLU'), dict(type='Conv3d')  # never changed
# A residual branch has no ReLU at its end, so the one inside must let everything through that the 2D net computed:
# the norm before it is shifted up by this many standard deviations. Values further below are cut off.
OPEN_RELU = 10.


def complete_conv_cfg(cfg: dict, **defaults) -> dict:
    """``cfg`` of a convolution with those of ``defaults`` (norm_cfg, act_cfg) that its class takes and ``cfg`` lacks.

    Layers that hold norms or activations then use the network's unless they are told otherwise.

    Raises:
        ValueError: if ``cfg`` has no 'type', or one that is not registered.
    """
    kind = cfg.get('type') if isinstance(cfg, dict) else None
    cls = kind if inspect.isclass(kind) else MODELS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(f"A convolution is given as dict(type='Conv3d'), dict(type='Conv3T') or another registered "
                         f'type; got {cfg!r}.')
    accepted = inspect.signature(cls).parameters
    return {**{key: value for key, value in defaults.items() if key in accepted}, **cfg}


@register_layer
class SeparableConv3d(NoSingleWeight, ConvBase):
    """Spatial convolution, norm, activation, temporal convolution.

    ``spatial`` is an ``nn.Conv3d`` of one frame (t = 1) or mmcv's ConvModule of it; ``temporal`` is the t x1x1
    convolution or None. ``has_norm`` is True if ``temporal`` brings its own norm, so that none belongs after it.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation: as for ``nn.Conv3d``.
        groups: 1; the two parts would need different ones.
        bias: of the temporal convolution (of the spatial one, if that is all there is).
        norm_cfg, act_cfg: between the parts; None leaves it out.
        temporal_cfg: type of the temporal convolution, ``dict(type='Conv3d')`` or ``dict(type='MultiBranchConv3d')``.

    Raises:
        ValueError: if a number is out of range or ``groups`` is not 1.

    >>> layer = SeparableConv3d(16, 32, 3, padding=1)
    >>> layer(torch.randn(2, 16, 8, 14, 14)).shape
    torch.Size([2, 32, 8, 14, 14])
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = True, padding_mode: str = 'zeros',
                 norm_cfg: Optional[dict] = NORM_CFG, act_cfg: Optional[dict] = ACT_CFG,
                 temporal_cfg: dict = TEMPORAL_CFG) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        self._refuse_single_weight()
        if groups != 1:
            raise ValueError(f'SeparableConv3d: groups must be 1, got {groups}: its parts have different channels.')
        depth = self.kernel_size[0]
        if depth == 1:
            self.spatial = nn.Conv3d(in_channels, out_channels, self.kernel_size, self.stride, self.padding,
                                     self.dilation, bias=bias, padding_mode=padding_mode)
            self.temporal = None
        else:
            named = isinstance(self.padding, str)  # 'same' and 'valid' mean the same for both parts
            self.spatial = ConvModule(
                in_channels, out_channels, (1, *self.kernel_size[1:]), stride=(1, *self.stride[1:]),
                padding=self.padding if named else (0, *self.padding[1:]), dilation=(1, *self.dilation[1:]),
                bias=norm_cfg is None, conv_cfg=dict(type='Conv3d', padding_mode=padding_mode), norm_cfg=norm_cfg,
                act_cfg=act_cfg)
            self.temporal = build_conv_layer(
                complete_conv_cfg(temporal_cfg, norm_cfg=norm_cfg), out_channels, out_channels, (depth, 1, 1),
                stride=(self.stride[0], 1, 1),
                padding=self.padding if named else (self.padding[0], 0, 0), dilation=(self.dilation[0], 1, 1),
                bias=bias, padding_mode=padding_mode)
        self.has_norm = getattr(self.temporal, 'has_norm', False)
        self.init_weights()

    def init_weights(self) -> None:
        """He initialisation, fresh norms; a temporal convolution with an initialisation of its own keeps that."""
        if self.temporal is None:
            kaiming_init(self.spatial)
            return
        self.spatial.init_weights()
        if hasattr(self.temporal, 'init_weights'):
            self.temporal.init_weights()
        else:
            kaiming_init(self.temporal)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        self.check_input(x)
        x = self.spatial(x)
        return x if self.temporal is None else self.temporal(x)

    @torch.no_grad()
    def zero_init(self) -> None:
        """Make the layer's output zero where it ends in a norm of its own (``has_norm``)."""
        for norm in self.temporal.modules() if self.has_norm else ():
            if isinstance(norm, _BatchNorm):
                constant_init(norm, 0)

    @torch.no_grad()
    def inflate_from_2d(self, weight2d: Tensor, bn: Optional[Dict[str, Tensor]] = None, bias: Optional[Tensor] = None,
                        activated: bool = True) -> Optional[Dict[str, Tensor]]:
        """Start as a 2D convolution: its kernel in the spatial part, the identity as the temporal part's centre tap.

        The 2D net's norm goes before the ReLU inside. Where the layer's own norm and a ReLU follow, that ReLU changes
        nothing, because relu(relu(x)) = relu(x); where none follows (``activated=False``, the end of a residual
        branch), the inner norm is shifted up until the ReLU is open, and the norm after the layer shifts back. That
        norm is an identity in eval mode, with the mean and variance that a ReLU leaves of a normal distribution, so
        that the first training steps do not undo it.

        Args:
            weight2d: ``(O, I, kH, kW)``.
            bn: the batch norm after it in the 2D net; None leaves all norms as they are.
            bias: of the 2D convolution, ``(O)``.
            activated: whether an activation follows the norm after this layer.

        Returns:
            What the norm after this layer should hold, or None if it should hold ``bn`` itself.
        """
        conv = self.spatial if self.temporal is None else self.spatial.conv
        conv.weight.copy_(weight2d.unsqueeze(2))
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
        elif bias is not None and bn is None:
            raise ValueError('SeparableConv3d: the 2D convolution has a bias, and no norm is copied to hold it.')
        elif bias is not None:
            bn = dict(bn, running_mean=bn['running_mean'] - bias)
        if self.temporal is None:
            return bn
        identity = torch.eye(self.out_channels)[:, :, None, None, None]
        after = None
        inner = self.spatial.norm
        if bn is not None and inner is not None:
            shift = torch.zeros_like(bn['bias'])
            if not activated and self.spatial.with_activation:
                shift = bn['bias'].abs() + OPEN_RELU * bn['weight'].abs()
            inner.load_state_dict(dict(bn, bias=bn['bias'] + shift), strict=False)
            mean, var = bn['bias'] + shift, bn['weight'].square()
            if self.spatial.with_activation:
                mean, var = rectified_normal(mean, var)
            after = dict(weight=(var + inner.eps).sqrt(), bias=mean - shift, running_mean=mean, running_var=var)
            if 'num_batches_tracked' in bn:
                after['num_batches_tracked'] = bn['num_batches_tracked']
        if self.has_norm:
            self.temporal.inflate_from_3d(identity, after)
        else:
            self.temporal.weight.zero_()
            centre = self.kernel_size[0] // 2
            self.temporal.weight[:, :, centre:centre + 1].copy_(identity)
            if self.temporal.bias is not None:
                self.temporal.bias.zero_()
        return after


def rectified_normal(mean: Tensor, var: Tensor):
    """Mean and variance of max(0, x) for normal x, elementwise, for ``var >= 0``."""
    mean64, std = mean.double(), var.double().sqrt().clamp(min=1e-12)
    z = mean64 / std
    density, below = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(z)
    first = mean64 * below + std * density
    second = (mean64.square() + std.square()) * below + mean64 * std * density
    return first.to(mean), (second - first.square()).clamp(min=0).to(var)
