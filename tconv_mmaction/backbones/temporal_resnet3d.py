"""ResNets in time whose 3x3 convolutions have a temporal length per stage and a type of your choice.

One class for

* 3T-/3D-ResNet18 of Ras et al. (arXiv:1912.04075, 2006.15983): ``temporal_cfg=dict(type='Conv3T')`` or 'Conv3d',
  ``temporal_kernels=(7, 3, 3, 3, 3)`` and strides of 2 in time: ``conv1_stride_t=2, pool1_kernel=(3, 3, 3),
  pool1_stride_t=2, temporal_strides=(1, 2, 2, 2)``;
* I3D-ResNet of Kobayashi and Ye (WACV 2024): ``temporal_kernels=(t1, ..., t5)``, no strides in time;
* their S3D-ResNet: ``temporal_cfg=dict(type='SeparableConv3d')``;
* mmaction2's I3D and SlowOnly ResNets, whose checkpoints load without renaming, since modules have the same names.
  The zoo's nets have their temporal kernels in the bottlenecks' first convolution: ``inflate_style='3x1x1'``.

Only the stem (t1) and the 3x3 convolutions of stage l (t_l) reach over time; the 1x1x1 convolutions, also the
downsampling ones, are plain ``Conv3d``.
"""
import inspect
import re
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmaction.models.backbones.resnet3d import BasicBlock3d, Bottleneck3d, ResNet3d
from mmaction.registry import MODELS
from mmcv.cnn import ConvModule
from mmengine.logging import print_log
from mmengine.model import constant_init, initialize
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..layers import SeparableConv3d, accept_single_filters, share_transforms
from ..layers.separable_conv3d import TEMPORAL_CFG
from .blocks import conv_norm_act, recomputed
from .inflation import load_pretrained


class _TemporalBlock:
    """What the two kinds of blocks share: mmaction2 builds the block, then its convolutions in time are replaced."""

    def _set_time(self, names: Sequence[str], depth: int, temporal_cfg: dict) -> None:
        self.checkpointed, self.with_cp = self.with_cp, False  # ResNet3d's way needs an option PyTorch is removing
        for name in names:
            plain = getattr(self, name)
            setattr(self, name, conv_norm_act(
                plain.in_channels, plain.out_channels, (depth, *plain.kernel_size[1:]), plain.stride, temporal_cfg,
                plain.norm_cfg, plain.act_cfg, plain.dilation[1]))

    def forward(self, x: Tensor) -> Tensor:
        if not (self.checkpointed and torch.is_grad_enabled()):
            return super().forward(x)
        return recomputed(super().forward, self, x)

    def zero_residual(self) -> None:
        """Make the block start as an identity: the last norm of the residual branch gets gain 0."""
        last = self.conv3 if hasattr(self, 'conv3') else self.conv2
        if last.norm is not None:
            constant_init(last.norm, 0)
        elif hasattr(last.conv, 'zero_init'):
            last.conv.zero_init()
        else:  # the norms inside a multi-branch convolution, one per branch
            for module in last.conv.modules():
                if isinstance(module, _BatchNorm):
                    constant_init(module, 0)


class TemporalBasicBlock3d(_TemporalBlock, BasicBlock3d):
    """Two convolutions t x3x3."""

    def __init__(self, *args, temporal_kernel: int, temporal_cfg: dict, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._set_time(('conv1', 'conv2'), temporal_kernel if self.inflate else 1, temporal_cfg)


class TemporalBottleneck3d(_TemporalBlock, Bottleneck3d):
    """1x1x1, t x3x3, 1x1x1; or t x1x1, 1x3x3, 1x1x1 with ``inflate_style='3x1x1'``."""

    def __init__(self, *args, temporal_kernel: int, temporal_cfg: dict, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        depth = temporal_kernel if self.inflate else 1
        self._set_time(('conv1', ) if self.inflate_style == '3x1x1' else ('conv2', ), depth, temporal_cfg)


@MODELS.register_module()
class TemporalResNet3d(ResNet3d):
    """mmaction2's ResNet3d with a temporal length per stage and a type of convolution for everything in time.

    Args:
        depth: 18, 34, 50, 101 or 152.
        temporal_kernels: frames (t1, ..., t5) of the stem and of the stages, odd; one more than ``num_stages``.
        temporal_cfg: type of the 3x3 convolutions: 'Conv3d', 'Conv3T', 'SeparableConv3d', 'MultiBranchConv3d'. A
            norm_cfg and act_cfg inside the layer are this net's unless given here.
        stem_cfg: type of the stem. None is ``temporal_cfg``, but 'Conv3d' where that is 'SeparableConv3d': S3D does
            not decompose its stem.
        pool1_kernel: (t, h, w) of the pool after the stem, odd, padded by half; its strides are ``pool1_stride_t``
            and ``pool1_stride_s``.
        inflate_style: '3x3x3' puts t_l in the 3x3 convolution of a bottleneck, '3x1x1' in the 1x1 before it.
        with_pool2, zero_init_residual: as in ResNet3d, but off unless asked for.
        pretrained: a checkpoint. 2D ones (torchvision, mmaction2, mmpretrain) are inflated, see :mod:`.inflation`;
            3D ones load with ``pretrained2d=False``. ``init_cfg=dict(type='Pretrained', checkpoint=...)`` does the
            same and sees by itself which it is.
        inflation_cfg: ``dict(divide_3t=..., copy_norm=...)`` for 2D checkpoints.
        resnet3d: ResNet3d's other arguments, among them ``inflate`` (0 for stages or blocks without temporal
            kernels), ``temporal_strides``, ``conv1_stride_t``, ``out_indices``, ``frozen_stages``, ``norm_eval``,
            ``with_cp`` and ``norm_cfg``.

    Raises:
        TypeError: for an argument that ResNet3d does not know.
        ValueError: for a value or a number of values that does not fit.
    """

    arch_settings = {depth: (TemporalBasicBlock3d if block is BasicBlock3d else TemporalBottleneck3d, blocks)
                     for depth, (block, blocks) in ResNet3d.arch_settings.items()}

    def __init__(self, depth: int, temporal_kernels: Sequence[int] = (3, 3, 3, 3, 3),
                 temporal_cfg: dict = TEMPORAL_CFG, stem_cfg: Optional[dict] = None,
                 pool1_kernel: Sequence[int] = (1, 3, 3), inflate_style: str = '3x3x3', with_pool2: bool = False,
                 zero_init_residual: bool = False, inflation_cfg: Optional[dict] = None, **resnet3d) -> None:
        known = {name: p.default for name, p in inspect.signature(ResNet3d).parameters.items()
                 if p.default is not p.empty and name != 'conv1_kernel'}
        unknown = sorted(set(resnet3d) - set(known))
        if unknown:
            raise TypeError(f'TemporalResNet3d takes no {unknown}; the stem is (t1, 7, 7) by temporal_kernels. Beside '
                            f'its own arguments it takes those of ResNet3d: {sorted(known)}.')
        args = {**known, **resnet3d}
        stages = args['num_stages']
        if depth not in self.arch_settings:
            raise ValueError(f'depth must be one of {sorted(self.arch_settings)}, got {depth!r}.')
        if stages not in (1, 2, 3, 4):
            raise ValueError(f'num_stages must be 1, 2, 3 or 4, got {stages!r}.')
        for name, value, count, meaning in (
                ('temporal_kernels', temporal_kernels, stages + 1, f'for the stem and {stages} stages'),
                ('pool1_kernel', pool1_kernel, 3, '(t, h, w)')):
            if len(value) != count or any(not isinstance(k, int) or k < 1 or k % 2 == 0 for k in value):
                raise ValueError(f'{name} must be {count} odd positive integers {meaning}; even ones cannot be padded '
                                 f'alike at both ends. Got {value!r}.')
        for name in ('spatial_strides', 'temporal_strides', 'dilations'):
            if len(args[name]) != stages:
                raise ValueError(f'{name} must have one value for each of the {stages} stages, got {args[name]!r}.')
        if not args['out_indices'] or not all(0 <= i < stages for i in args['out_indices']):
            raise ValueError(f"out_indices must be stages from 0 to {stages - 1}, got {args['out_indices']!r}.")
        if not -1 <= args['frozen_stages'] <= stages:
            raise ValueError(f"frozen_stages must be from -1 to {stages}, got {args['frozen_stages']!r}.")
        for name, value, choices in (('style', args['style'], ('pytorch', 'caffe')),
                                     ('inflate_style', inflate_style, ('3x3x3', '3x1x1'))):
            if value not in choices:
                raise ValueError(f'{name} must be one of {choices}, got {value!r}.')
        # before the parent's __init__, which builds the layers from them
        self.temporal_kernels = tuple(temporal_kernels)
        self.temporal_cfg = dict(temporal_cfg)
        self.stem_cfg = None if stem_cfg is None else dict(stem_cfg)
        self.pool1_kernel = tuple(pool1_kernel)
        super().__init__(depth, conv1_kernel=(temporal_kernels[0], 7, 7), inflate_style=inflate_style,
                         with_pool2=with_pool2, zero_init_residual=zero_init_residual, **resnet3d)
        self.inflation_cfg = dict(inflation_cfg or {})
        accept_single_filters(self)  # multi-branch layers start from a checkpoint of the single-filter net
        self._freeze_stages()

    # -- ResNet3d's hooks for building ------------------------------------------------------------------------------

    def _make_stem_layer(self) -> None:
        super()._make_stem_layer()
        cfg = self.stem_cfg
        if cfg is None:
            kind = self.temporal_cfg.get('type')
            cfg = TEMPORAL_CFG if kind in ('SeparableConv3d', SeparableConv3d) else self.temporal_cfg
        plain = self.conv1
        self.conv1 = conv_norm_act(plain.in_channels, plain.out_channels, self.conv1_kernel, plain.stride, cfg,
                                   self.norm_cfg, self.act_cfg)
        self.maxpool = nn.MaxPool3d(self.pool1_kernel, (self.pool1_stride_t, *(self.pool1_stride_s, ) * 2),
                                    padding=tuple(k // 2 for k in self.pool1_kernel))

    def make_res_layer(self, block, inplanes, planes, blocks, **kwargs) -> nn.Module:
        stage = len(self.res_layers)  # built in order
        layer = super().make_res_layer(block, inplanes, planes, blocks,
                                       temporal_kernel=self.temporal_kernels[stage + 1],
                                       temporal_cfg=self.temporal_cfg, **kwargs)
        if kwargs['temporal_stride'] != 1 and layer[0].downsample is None:  # ResNet3d looks at the stride in space only
            layer[0].downsample = conv_norm_act(inplanes, planes * block.expansion, (1, 1, 1),
                                                (kwargs['temporal_stride'], 1, 1), self.conv_cfg, self.norm_cfg, None)
        return layer

    # -- weights ----------------------------------------------------------------------------------------------------

    @staticmethod
    def key_from_2d(name: str) -> Optional[str]:
        """Module of a 2D ResNet -> module here; None for the classifier and whatever else follows the stages.

        torchvision and mmpretrain: 'bn1', 'layer1.0.conv2', 'layer1.0.bn2', 'layer1.0.downsample.0' and '.1';
        mmaction2: 'conv1.conv', 'layer1.0.conv2.bn', as here.
        """
        if re.fullmatch(r'(layer\d\.\d+\.)?(conv\d|downsample)\.(conv|bn)', name):
            return name
        match = re.fullmatch(r'(layer\d\.\d+\.)?(?:(conv|bn)(\d)|downsample\.([01]))', name)
        if match is None:
            return None
        block, kind, number, index = match.groups(default='')
        return f'{block}conv{number}.{kind}' if kind else f'{block}downsample.{("conv", "bn")[int(index)]}'

    def init_weights(self, pretrained: Optional[str] = None) -> None:
        """Initialise from scratch, then load ``pretrained`` and what ``init_cfg`` says.

        Raises:
            ValueError: if both name a checkpoint, or it does not fit; see :func:`.inflation.load_pretrained`.
        """
        for module in self.modules():
            if isinstance(module, ConvModule):
                if hasattr(module.conv, 'init_weights'):  # ConvModule leaves these alone
                    module.conv.init_weights()
                module.init_weights()
        if self.zero_init_residual:
            for module in self.modules():
                if isinstance(module, _TemporalBlock):
                    module.zero_residual()
        sources = []
        if pretrained or self.pretrained:
            sources.append((pretrained or self.pretrained, self.pretrained2d, 'backbone.'))
        for cfg in self.init_cfg if isinstance(self.init_cfg, list) else filter(None, [self.init_cfg]):
            if cfg['type'] == 'Pretrained':
                sources.append((cfg['checkpoint'], None, cfg.get('prefix') or 'backbone.'))
            else:
                initialize(self, cfg)
        if len(sources) > 1:
            raise ValueError(f'Both pretrained and init_cfg name a checkpoint: {[s[0] for s in sources]}. Keep one.')
        for source, is_2d, prefix in sources:
            load_pretrained(self, source, self.key_from_2d, is_2d, prefix.rstrip('.') + '.', **self.inflation_cfg)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        """A shorter temporal kernel is taken over centred; another shape is an error, and not only a line in a log."""
        longer = []
        for name, module in self.named_modules():
            key = f'{prefix}{name}.weight'
            given = state_dict.get(key)
            if given is None or not isinstance(module, (nn.Conv3d, _BatchNorm)) or given.shape == module.weight.shape:
                continue
            own, shape = tuple(module.weight.shape), tuple(given.shape)
            missing = own[2] - shape[2] if len(own) == len(shape) == 5 else -1
            if (*shape[:2], *shape[3:]) == (*own[:2], *own[3:]) and missing > 0 and missing % 2 == 0:
                state_dict[key] = F.pad(given, (0, 0, 0, 0, missing // 2, missing // 2))
                longer.append(f'{key} ({shape[2]} -> {own[2]})')
                continue
            hint = 'Build the net that the checkpoint was made with: depth, temporal_kernels, inflate, inflate_style.'
            if shape == (*own[:2], *own[3:]) and len(own) == 5:
                hint = 'That is a 2D kernel: use pretrained=, init_cfg or tools/convert/inflate_2d.py to inflate it.'
            elif missing < 0 and len(shape) == 5 and (*shape[:2], *shape[3:]) == (*own[:2], *own[3:]):
                hint = 'A kernel is not cut. ' + hint
            raise ValueError(f'{key}: the checkpoint has {shape}, this net needs {own}. {hint}')
        if longer:
            print_log('Shorter temporal kernels of the checkpoint were centred, with zeros around them: '
                      + ', '.join(longer), logger='current')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # -- running ----------------------------------------------------------------------------------------------------

    def smallest_clip(self) -> Tuple[int, int, int]:
        """The smallest (T, H, W) that leaves something to compute: only ``pool2`` takes frames away without padding."""
        frames = 1
        if self.with_pool2:
            strides = (self.conv1_stride_t, self.pool1_stride_t if self.with_pool1 else 1, self.temporal_strides[0])
            frames += strides[0] * strides[1] * strides[2]
        return frames, 1, 1

    def forward(self, x: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """(N, C, T, H, W) -> (N, C', T', H', W') of the last of ``out_indices``, or a tuple of several."""
        smallest = self.smallest_clip()
        if x.dim() != 5 or x.shape[1] != self.in_channels or any(n < m for n, m in zip(x.shape[2:], smallest)):
            raise ValueError(f'TemporalResNet3d takes clips (N, {self.in_channels}, T, H, W), the smallest with '
                             f'(T, H, W) = {smallest}; got {tuple(x.shape)}.')
        with share_transforms(self):
            return super().forward(x)

    def train(self, mode: bool = True) -> 'TemporalResNet3d':
        super().train(mode)
        return self  # as every nn.Module does; ResNet3d returns None
