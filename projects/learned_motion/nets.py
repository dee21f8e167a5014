"""LeNet-5 for 16 grey frames in eight kinds, and the 2D LeNet-5 whose filters some of them start from."""
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from mmaction.registry import MODELS
from torch import Tensor, nn

from tconv_mmaction.layers import Conv3T
from tconv_mmaction.utils.complexity import BackboneAndHead

FRAMES, SIDE, CLASSES = 16, 28, 10
MOTION_STD = (0.5, 0.3, 0.1)  # shift, turn in radians, logarithm of the scale
TRANSFORMS = ('scale', 'rotate', 'translate_x', 'translate_y')


class Net(NamedTuple):
    title: str
    layer: dict


def _3t(**settings) -> dict:
    return dict(type='Conv3T', init='conv3d', **settings)


NETS: Dict[str, Net] = {
    '3d': Net('3D', dict(type='Conv3d')),
    '3t': Net('3T, identity', _3t()),
    '3t_moving': Net('3T, moving start', _3t(motion_std=MOTION_STD)),
    '3t_gain': Net('3T, gains from 1', _3t(gain=True)),
    '3t_gain_std': Net('3T, gains from 1 + N(0, 1)', _3t(gain=True, gain_std=1.)),
    '3t_moving_gain': Net('3T, moving start, gains from 1', _3t(motion_std=MOTION_STD, gain=True)),
    '3t_moving_gain_std': Net('3T, moving start, gains from 1 + N(0, 1)',
                              _3t(motion_std=MOTION_STD, gain=True, gain_std=1.)),
}


def build(name: str) -> nn.Module:
    """Clips (N, 1, 16, 28, 28) of 0 to 1 -> scores (N, 10); drawn from PyTorch's generator."""
    backbone = MODELS.build(dict(type='LeNet5', temporal_cfg=NETS[name].layer, clip_shape=(FRAMES, SIDE, SIDE)))
    head = MODELS.build(dict(type='I3DHead', num_classes=CLASSES, in_channels=84, spatial_type='avg',
                             dropout_ratio=0., init_std=0.063))
    head.init_weights()
    return BackboneAndHead(backbone, head)


def layers_3t(model: nn.Module) -> List[Conv3T]:
    return [module for module in model.modules() if isinstance(module, Conv3T)]


def parameter_groups(model: nn.Module, lr: float, mult: float, weight_decay: float) -> List[dict]:
    """Adam's groups: transforms and gains at ``mult`` times the rate and without decay, which would pull them to 0."""
    temporal = [value for layer in layers_3t(model) for key in (*TRANSFORMS, 'gain')
                for value in [getattr(layer, key)] if value is not None]
    known = {id(value) for value in temporal}
    other = [value for value in model.parameters() if id(value) not in known]
    groups = [dict(params=other, lr=lr, weight_decay=weight_decay)]
    return groups + ([dict(params=temporal, lr=mult * lr, weight_decay=0.)] if temporal else [])


class LeNet2d(nn.Module):
    """The same two convolutions on single frames (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(400, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = nn.functional.max_pool2d(conv(x), 2).relu()
        return self.fc(x.flatten(1))


@torch.no_grad()
def inflate(model: nn.Module, flat: LeNet2d) -> None:
    """K_1 and biases of the 3T layers from the 2D net, K_1 over kT so that a still clip gives what a frame gives."""
    for name in ('conv1', 'conv2'):
        layer, source = getattr(model.backbone, name), getattr(flat, name)
        layer.weight.copy_(source.weight[:, :, None] / layer.kernel_size[0])
        layer.bias.copy_(source.bias)


def mean_motion(model: nn.Module) -> Optional[Tuple[float, float, float]]:
    """Mean absolute shift (half kernels), turn (radians) and logarithm of the scale over all 3T layers."""
    layers = layers_3t(model)
    if not layers:
        return None
    parts = ([p for layer in layers for p in (layer.translate_x, layer.translate_y)],
             [layer.rotate for layer in layers], [layer.scale.abs().clamp_min(1e-6).log() for layer in layers])
    return tuple(float(f'{torch.cat([v.detach().flatten() for v in part]).abs().mean():.4g}') for part in parts)


def kernels(model: nn.Module) -> Dict[str, Tensor]:
    """{'conv1', 'conv2': (O, I, T, H, W)}, copies."""
    convs = {name: getattr(model.backbone, name) for name in ('conv1', 'conv2')}
    return {name: (conv.weight if isinstance(conv, nn.Conv3d) else conv.kernel()).detach().clone()
            for name, conv in convs.items()}


