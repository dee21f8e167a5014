"""3T layers that start with the motion that the training clips have, instead of at the identity.

``tconv motion CONFIG OUT.npz`` measures how the clips of a training list move, as the network sees them
(:mod:`tconv_mmaction.datasets.clip_motion`). Every filter of every 3T layer then starts with one velocity drawn from
these, the same at every step. A layer behind strides sees slower motion: with S pixels and F frames of the clip to one
of its own, a shift of v pixels per frame is v F / S pixels of its input, and the turn and log zoom are F times as
large. In the parameters of :class:`Conv3T` (they say where a slice reads, the content moves the other way), for a
kernel of kW pixels across:

    translate_x = -(v F / S) / ((kW - 1) / 2)      rotate = -clockwise turn F      scale = exp(-log zoom F)
"""
from pathlib import Path
from typing import Dict, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from ..layers import Conv3T
from ..layers.conv3t import TEMPORAL_PARAMETERS

LARGEST_SHIFT, LARGEST_LOG_ZOOM = 1.5, 0.5  # per step, as in the motion fit: what leaves the slice is lost
Ratio = Tuple[float, float, float]


def read_motion(file: Union[str, Path]) -> Tuple[np.ndarray, Tuple[int, ...]]:
    """``motion (n, 4)`` and the clip's (C, T, H, W) of a file of ``tconv motion``.

    Raises:
        FileNotFoundError, ValueError: if it is not there, or another kind of file.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f'{file} is not there. Write it with: tconv motion CONFIG {file}')
    try:
        with np.load(file) as saved:
            motion, shape = saved['motion'], tuple(int(n) for n in saved['clip_shape'])
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f'{file} is no file of tconv motion ({type(error).__name__}: {error}).') from error
    if motion.ndim != 2 or motion.shape[1] != 4 or not len(motion) or not np.isfinite(motion).all() or len(shape) != 4:
        raise ValueError(f'{file}: motion must be (n, 4) finite numbers and clip_shape (C, T, H, W), got '
                         f'{motion.shape} and {shape}.')
    return motion, shape


@torch.no_grad()
def layer_ratios(model: nn.Module, clip_shape: Sequence[int]) -> Dict[str, Ratio]:
    """{3T layer: frames, rows and columns of the clip to one of the layer's input}, by running one clip of zeros."""
    ratios: Dict[str, Ratio] = {}

    def note(name):
        def hook(module, inputs, output):
            ratios[name] = tuple(clip / own for clip, own in zip(clip_shape[1:], inputs[0].shape[-3:]))
        return hook

    layers = {name: module for name, module in model.named_modules()
              if isinstance(module, Conv3T) and module.kernel_size[0] > 1}
    handles = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        parameter = next(model.parameters())
        model(parameter.new_zeros(1, *clip_shape))
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return ratios


def velocities(motion: Tensor, ratio: Ratio, kernel_size: Sequence[int]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """scale, rotate, translate_x, translate_y (n,) of a layer for ``motion (n, 4)`` of the clips; see the module."""
    frames, rows, columns = ratio
    log_zoom, turn, right, down = motion.unbind(1)

    def half_kernels(pixels, per_pixel, side):
        return (-pixels * frames / per_pixel / ((side - 1) / 2 or 1)).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)

    return ((-log_zoom * frames).clamp(-LARGEST_LOG_ZOOM, LARGEST_LOG_ZOOM).exp(), -turn * frames,
            half_kernels(right, columns, kernel_size[2]), half_kernels(down, rows, kernel_size[1]))


@torch.no_grad()
def start_moving(model: nn.Module, motion: Union[np.ndarray, Tensor], clip_shape: Sequence[int],
                 seed: Optional[int] = None) -> Dict[str, Ratio]:
    """Let every filter of every 3T layer of ``model`` start with a velocity drawn from ``motion``; in place.

    Args:
        model: a backbone that takes clips (N, C, T, H, W).
        motion: (n, 4) log zoom, clockwise turn in radians, pixels right and down per frame of the clip.
        clip_shape: (C, T, H, W) of the clips that these are pixels and frames of.
        seed: of the draws; None: PyTorch's generator.

    Returns:
        {layer: frames, rows and columns of the clip to one of the layer's}.

    Raises:
        ValueError: if no 3T layer with kT > 1 is there, or one has ``transform='free'``.

    >>> from tconv_mmaction.backbones import LeNet5
    >>> net = LeNet5(dict(type='Conv3T'), clip_shape=(16, 28, 28))
    >>> ratios = start_moving(net, torch.tensor([[0., 0., 1., 0.]]), (1, 16, 28, 28))
    >>> ratios['conv2'], net.conv1.translate_x[0, 0].item(), net.conv2.translate_x[0, 0].item()
    ((2.0, 2.0, 2.0), -0.5, -0.5)
    """
    motion = torch.as_tensor(np.asarray(motion), dtype=torch.float32)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ratios = layer_ratios(model, clip_shape)
    if not ratios:
        raise ValueError(f'{type(model).__name__} has no Conv3T layer with kT > 1: there is nothing to start moving.')
    for name, ratio in ratios.items():
        layer = model.get_submodule(name)
        if layer.transform != 'affine':
            raise ValueError(f"layer {name!r} has transform={layer.transform!r}; only transform='affine' has "
                             'velocities to start with.')
        drawn = motion[torch.randint(len(motion), (layer.out_channels, ), generator=generator)]
        for key, values in zip(TEMPORAL_PARAMETERS, velocities(drawn, ratio, layer.kernel_size)):
            getattr(layer, key).copy_(values.expand(layer.kernel_size[0] - 1, -1))
        layer.is_init = True  # MMEngine would call the layer's own init_weights afterwards
    return ratios


@WEIGHT_INITIALIZERS.register_module()
class MotionOfClips:
    """``init_cfg=dict(type='MotionOfClips', file='motion.npz')`` of a backbone: :func:`start_moving` by a file.

    It goes together with ``pretrained`` or ``dict(type='Pretrained', ...)``: these give the first slices.

    Args:
        file: written by ``tconv motion``.
        seed: of the draws; None: PyTorch's generator, as every other start.
    """

    def __init__(self, file: str, seed: Optional[int] = None) -> None:
        self.motion, self.clip_shape = read_motion(file)
        self.seed, self.wholemodule = seed, False

    def __call__(self, module: nn.Module) -> None:
        start_moving(module, self.motion, self.clip_shape, self.seed)
