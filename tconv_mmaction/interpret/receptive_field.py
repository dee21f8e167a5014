r"""Effective receptive field: how far, in space and time, an output of a network really looks.

Luo et al., NeurIPS 2016, as in Kobayashi and Ye (WACV 2024), sec. 5 and supplement C: a gradient of 1 goes into the
centre neuron of the last feature map (all channels) for inputs from N(0, 1), and

.. math:: \bar G = \sqrt{E_I[G_I^2]}

is what arrives at the input.
"""
from typing import NamedTuple, Optional, Sequence

import torch
from mmaction.models.recognizers import Recognizer2D
from torch import Tensor, nn

from ..utils.wrappers import unwrap
from .access.modules import frozen


def _feature_map(output, clip_shape) -> Tensor:
    if isinstance(output, (tuple, list)) and output:
        output = output[-1]
    if not isinstance(output, Tensor) or output.dim() != 5:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f'the backbone must map a clip {tuple(clip_shape)} to a feature map (N, F, T, H, W), got '
                         f'{what}. The receptive field of a 2D network has one frame.')
    return output


def effective_receptive_field(backbone: nn.Module, shape: Sequence[int] = (3, 32, 224, 224), repeats: int = 10,
                              seed: int = 0, position: Optional[Sequence[int]] = None) -> Tensor:
    """Root mean squared gradient of the centre of the last feature map with respect to the input.

    The mean is over the random inputs and the colour channels. Inputs are drawn on the CPU from a generator of their
    own: the same on every device, and no other random number is touched. One input at a time is in memory. The
    backbone runs in eval mode, and comes back as it was.

    Args:
        backbone: (1, C, T, H, W) -> (1, F, T', H', W'), or a tuple of such maps, of which the last is taken; for a
            recognizer its ``backbone``.
        shape: (C, T, H, W).
        repeats: number of random inputs.
        seed: of the inputs.
        position: (t, h, w) of the neuron; by default the centre, size // 2 on each axis.

    Returns:
        (T, H, W) on the CPU, in float64.

    Raises:
        ValueError: if the shape is not (C, T, H, W), repeats < 1, or the output is no 3D feature map.
    """
    shape = tuple(shape)
    if len(shape) != 4 or min(shape) < 1 or repeats < 1:
        raise ValueError(f'shape must be (C, T, H, W) and repeats at least 1, got {shape} and {repeats}.')
    backbone = unwrap(backbone)
    if isinstance(backbone, Recognizer2D):
        raise ValueError('a 2D recognizer looks at one frame at a time: its receptive field has no extent in time.')
    backbone = getattr(backbone, 'backbone', backbone)
    reference = next(backbone.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(shape[1:], dtype=torch.float64)
    with frozen(backbone), torch.enable_grad():
        for _ in range(repeats):
            clip = torch.randn(1, *shape, generator=generator).to(reference).requires_grad_()
            features = _feature_map(backbone(clip), clip.shape)
            t, h, w = [n // 2 for n in features.shape[2:]] if position is None else position
            gradient, = torch.autograd.grad(features[0, :, t, h, w].sum(), clip)
            total += gradient[0].double().square().mean(0).cpu()
    return (total / repeats).sqrt()


class FieldMarginals(NamedTuple):
    """The views of Fig. 4 on a field (T, H, W), each a sum over the axes left out."""
    xy: Tensor  # (H, W)
    xt: Tensor  # (T, W)
    time: Tensor  # (T,), sum 1
    std: float  # frames: standard deviation of ``time`` as a distribution


def field_marginals(field: Tensor) -> FieldMarginals:
    """X-Y map, X-T map, distribution along time and its standard deviation in frames.

    Raises:
        ValueError: if the field is not (T, H, W), or 0 everywhere (the neuron sees nothing).
    """
    if field.dim() != 3:
        raise ValueError(f'field must be (T, H, W), got {tuple(field.shape)}.')
    total = field.sum()
    if not total > 0:
        raise ValueError('the field is 0 (or NaN) everywhere: no gradient reaches the input. Is a layer dead?')
    time = field.sum((1, 2)) / total
    t = torch.arange(len(time), dtype=time.dtype)
    mean = (t * time).sum()
    return FieldMarginals(field.sum(0), field.sum(1), time, float(((t - mean).square() * time).sum().sqrt()))
