"""ResNet18 up to layer3 in fourteen kinds, from scratch or from the same 2D weights, for small clips.

Stride 2 in time in the stem, none after it (the clips are short), so 8 frames become 4; 2D has no temporal kernels and
keeps all 8 frames. 3D repeats the 2D kernel along time and divides by kT, 3T takes it unscaled as K_1, (2+1)D starts as
the 2D net with a temporal average (S3D's block: 1x3x3, BN, ReLU, 3x1x1).
"""
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from tconv_mmaction.cli.study_nets import resnet18_to_layer3
from tconv_mmaction.layers import Conv3T

MOTION_STD = (0.5, 0.3, 0.1)  # shift, turn in radians, logarithm of the scale
TRANSFORMS = ('scale', 'rotate', 'translate_x', 'translate_y')


class Net(NamedTuple):
    """``mult``: learning rate of the transforms and gains over that of the other weights; 0: they are frozen."""
    title: str
    layer: str
    moving: bool = False
    gain: bool = False
    mult: float = 1.
    init: str = 'he'
    gain_std: float = 0.

    def temporal_cfg(self) -> dict:
        """Of the convolutions; K_1 comes from the 2D net, so ``init`` matters from scratch only."""
        if self.layer != 'Conv3T':
            return dict(type='Conv3d' if self.layer == '2d' else self.layer)
        return dict(type='Conv3T', init=self.init, gain=self.gain, gain_std=self.gain_std,
                    motion_std=MOTION_STD if self.moving else (0., 0., 0.))


NETS: Dict[str, Net] = {
    '3d': Net('3D', 'Conv3d'),
    '3t': Net('3T, identity', 'Conv3T'),
    '3t_moving': Net('3T, moving start', 'Conv3T', moving=True),
    '3t_gain': Net('3T, gain per slice', 'Conv3T', gain=True),
    '2d': Net('2D per frame', '2d'),
    's3d': Net('(2+1)D', 'SeparableConv3d'),
    '3t_moving_gain': Net('3T, moving start and gain', 'Conv3T', moving=True, gain=True),
    '3t_frozen': Net('3T, transforms frozen at the identity', 'Conv3T', mult=0.),
    '3t_x10': Net('3T, identity, transforms at 10 times the rate', 'Conv3T', mult=10.),
    '3t_moving_x10': Net('3T, moving start, transforms at 10 times the rate', 'Conv3T', moving=True, mult=10.),
    '3t_gain_std': Net('3T, gains from 1 + N(0, 1)', 'Conv3T', gain=True, gain_std=1.),
    '3t_moving_gain_std': Net('3T, moving start, gains from 1 + N(0, 1)', 'Conv3T', moving=True, gain=True,
                              gain_std=1.),
    '3t_paper': Net("3T, the paper's start: N(0, 1), identity", 'Conv3T', init='paper'),
    '3t_conv3d': Net("3T, nn.Conv3d's start, identity", 'Conv3T', init='conv3d'),
}


def build(name: str, classes: int, width: int, pretrained: Optional[str] = None) -> nn.Module:
    """Clips (N, 3, T, H, W) -> scores (N, classes). ``width``: channels of the stem, 64 in ResNet18."""
    net = NETS[name]
    if net.layer == '2d':
        return resnet18_to_layer3((1, 1, 1, 1), net.temporal_cfg(), width, classes, pretrained=pretrained)
    return resnet18_to_layer3((7, 3, 3, 3), net.temporal_cfg(), width, classes, 2, 3, pretrained)


def layers_3t(model: nn.Module) -> List[Conv3T]:
    return [module for module in model.modules() if isinstance(module, Conv3T)]


def parameter_groups(model: nn.Module, name: str, lr: float, head_lr: float) -> List[dict]:
    """The backbone's weights, the head's, and the transforms and gains; those that are frozen take no part and have
    no gradient."""
    mult = NETS[name].mult
    temporal = [p for layer in layers_3t(model) for key in (*TRANSFORMS, 'gain')
                for p in [getattr(layer, key, None)] if p is not None]
    if not mult:
        for parameter in temporal:
            parameter.requires_grad_(False)
    known = {id(p) for p in temporal}
    other = [p for p in model.backbone.parameters() if id(p) not in known]
    groups = [dict(params=other, lr=lr), dict(params=list(model.head.parameters()), lr=head_lr)]
    return groups + ([dict(params=temporal, lr=mult * lr)] if temporal and mult else [])


@torch.no_grad()
def motion(model: nn.Module) -> Tuple[Optional[dict], List[Tensor]]:
    """Mean absolute shift, turn (radians), logarithm of the scale over all 3T layers, and all of them as tensors."""
    layers = layers_3t(model)
    if not layers:
        return None, []
    values = [torch.cat([value.flatten() for value in parts]) for parts in (
        [p for layer in layers for p in (layer.translate_x, layer.translate_y)],
        [layer.rotate for layer in layers], [layer.scale.abs().clamp_min(1e-6).log() for layer in layers])]
    return {name: float(f'{value.abs().mean():.4g}') for name, value in zip(('shift', 'turn', 'log_scale'), values)}, \
        [value.clone() for value in values]
