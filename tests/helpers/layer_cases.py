"""Layers that have a choice of implementations, small, away from the identity, in all their kinds; noise for them."""
import copy
from typing import Callable, Dict, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from tconv_mmaction.layers import Conv3T, ConvLSTM2d, MultiBranchConv3d


class LayerCase(NamedTuple):
    """An operator of ``ops.dispatch.OPERATORS``, a layer of it and the shape of a clip that fits."""
    operator: str
    build: Callable[[], nn.Module]
    shape: Tuple[int, ...]


CONV3T, CONV3D, LSTM = 'Conv3T', 'Conv3d with a computed kernel', 'ConvLSTM2d'
CASES: Dict[str, LayerCase] = {
    'affine': LayerCase(CONV3T, lambda: Conv3T(10, 10, 3, padding=1), (2, 10, 4, 5, 6)),
    'gain': LayerCase(CONV3T, lambda: Conv3T(10, 10, 3, padding=1, gain=True, gain_std=.3), (3, 10, 4, 5, 4)),
    'free': LayerCase(CONV3T, lambda: Conv3T(10, 10, 3, padding=1, transform='free'), (2, 10, 3, 4, 5)),
    'free and gain': LayerCase(CONV3T, lambda: Conv3T(10, 10, (2, 3, 3), padding='same', transform='free', gain=True,
                                                      gain_std=.3, bias=False), (2, 10, 3, 4, 5)),
    'few channels': LayerCase(CONV3T, lambda: Conv3T(2, 2, 3, padding=1), (2, 2, 4, 5, 6)),
    'groups': LayerCase(CONV3T, lambda: Conv3T(20, 20, 3, padding=1, groups=2), (2, 20, 3, 4, 5)),
    'odd': LayerCase(CONV3T, lambda: Conv3T(8, 6, (3, 3, 2), stride=(2, 1, 2), padding=(1, 0, 0), dilation=(1, 2, 1),
                                            bias=False), (2, 8, 6, 7, 6)),
    'reflect': LayerCase(CONV3T, lambda: Conv3T(10, 10, 3, padding=1, padding_mode='reflect'), (2, 10, 4, 5, 6)),
    'branches': LayerCase(CONV3D, lambda: MultiBranchConv3d(4, 4, (5, 3, 3), padding=(2, 1, 1), norm_cfg=None,
                                                            bias=True, eta=2.), (2, 4, 4, 5, 6)),
    'norms': LayerCase(CONV3D, lambda: MultiBranchConv3d(4, 4, 3, padding=1), (2, 4, 4, 5, 6)),
    'temporal': LayerCase(CONV3D, lambda: MultiBranchConv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), norm_cfg=None,
                                                            eta='inf'), (2, 4, 5, 3, 4)),
    'wide': LayerCase(CONV3D, lambda: MultiBranchConv3d(2, 4, (3, 5, 5), stride=2, padding=2, norm_cfg=None, groups=2,
                                                        padding_mode='circular'), (2, 2, 6, 7, 7)),
    'lstm': LayerCase(LSTM, lambda: ConvLSTM2d(3, 3, 3), (2, 3, 4, 5, 6)),
    'lstm with stride': LayerCase(LSTM, lambda: ConvLSTM2d(2, 3, (5, 3), stride=(2, 1), forget_bias=1.),
                                  (2, 2, 3, 6, 5)),
    'lstm with checkpoints': LayerCase(LSTM, lambda: ConvLSTM2d(3, 3, 3, checkpoint_steps=2), (2, 3, 5, 5, 4)),
}


def noise(shape, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same standard normal numbers for a shape and a seed in every type."""
    # NumPy's, since drawing with PyTorch is an error within torch.func.vmap
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape))).to(dtype)


class OneTensor(nn.Module):
    """A layer as a function to one tensor: of a ConvLSTM2d, outputs and state in one sum."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        if isinstance(found, Tensor):
            return found
        outputs, (h, c) = found
        return outputs + (.3 * h + .2 * c).unsqueeze(2)


def build(name: str, dtype: torch.dtype) -> OneTensor:
    """The layer of a case with the same numbers each time, drawn in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = CASES[name].build().double()
    with torch.no_grad():
        for i, parameter in enumerate(layer.parameters()):
            parameter.add_(noise(parameter.shape, i), alpha=.2)
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(noise(module.running_mean.shape, 77))
                module.running_var.copy_(1 + noise(module.running_var.shape, 78).abs())
    return OneTensor(layer).to(dtype)


def clip(name: str, dtype: torch.dtype) -> Tensor:
    return noise(CASES[name].shape, 99, dtype)


def shared(model: nn.Module) -> nn.Module:
    """A second module with the same parameters."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})
