"""The explanations by name: what tools take as ``--method``, and what :mod:`.deletion_insertion` compares.

An explanation is a map of a clip for a class: one number per frame (N, T), or per place at each of the method's own
time steps (N, T', H', W'). More means more important for the class.

>>> sorted(METHODS)  # doctest: +ELLIPSIS
['centre', 'grad_cam', 'grad_cam_clip', 'hires_cam', 'integrated_gradients', 'occlusion', 'random', ...]

To add one, write a function and register it; the tools then know it:

>>> @register_method('brightness', 'how bright each pixel is, whatever the class')
... def brightness(model, clip, target, layer):
...     return clip.mean(1)
>>> explain_clip(nn.Flatten(), torch.ones(1, 1, 2, 1, 1), 'brightness', 0).flatten().tolist()
[1.0, 1.0]
>>> del METHODS['brightness']
"""
import warnings
import zlib
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.default_layer import last_map_layer
from .access.modules import Layer, check_clip, choose_target, frozen
from .grad_cam import grad_cam, upsample_maps
from .integrated_gradients import integrated_gradients
from .occlusion import occlusion, temporal_occlusion
from .saliency import saliency
from .smooth_grad import smooth_grad
from .temporal_mask import find_temporal_mask


class Method(NamedTuple):
    """How a map is made: ``run(model, clip, target (N,), layer, **settings)`` -> (N, T) or (N, T', H', W')."""
    run: Callable[..., Tensor]
    summary: str  # one line for the help of tools
    layer: bool = False  # whether it looks at a layer of the network
    baseline: bool = False  # whether it knows nothing of the network: what others are compared with


METHODS: Dict[str, Method] = {}


def register_method(name: str, summary: str, layer: bool = False, baseline: bool = False) -> Callable:
    """Decorator: the function becomes the method of that name."""

    def register(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        METHODS[name] = Method(run, summary, layer, baseline)
        return run

    return register


def _without_layer(function: Callable[..., Tensor], model: nn.Module, clip: Tensor, target: Tensor, _layer,
                   **settings) -> Tensor:
    return function(model, clip, target, **settings)


def _cam(weights: str, model: nn.Module, clip: Tensor, target: Tensor, layer: Layer) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.* has one time step', category=UserWarning)
        return grad_cam(model, clip, target, layer, weights)


for _name, _weights, _summary in (
        ('grad_cam', 'frame', 'Grad-CAM, a weight per channel and time step (Maenttaeri et al., eq. 2)'),
        ('grad_cam_clip', 'clip', 'Grad-CAM, a weight per channel (Selvaraju et al.)'),
        ('hires_cam', 'pixel', 'HiResCAM: gradient times activation (Draelos and Carin)')):
    register_method(_name, _summary, layer=True)(partial(_cam, _weights))
for _name, _function, _summary in (
        ('saliency', saliency, 'absolute gradient by the clip (Simonyan et al.)'),
        ('smooth_grad', smooth_grad, 'the gradient averaged over noisy copies (Smilkov et al.)'),
        ('integrated_gradients', integrated_gradients, 'gradients on the way from black (Sundararajan et al.)'),
        ('temporal_occlusion', temporal_occlusion, 'drop of the score when a frame is greyed'),
        ('occlusion', occlusion, 'drop of the score when a box of space and time is greyed (Zeiler and Fergus)')):
    register_method(_name, _summary)(partial(_without_layer, _function))


@register_method('temporal_mask', 'the shortest mask that freezes the class away (Maenttaeri et al., eq. 1)')
def _temporal_mask(model: nn.Module, clip: Tensor, target: Tensor, _layer, **settings) -> Tensor:
    return find_temporal_mask(model, clip, target, **settings).mask


def seeds_of(clip: Tensor, seed: int = 0) -> List[int]:
    """A seed per clip (N, C, T, H, W), of its numbers: different clips have different draws, alone and in a batch."""
    return [zlib.crc32(np.ascontiguousarray(row.detach().cpu().float().numpy()).tobytes(), seed) for row in clip]


@register_method('centre', 'the middle of the clip and of its frames, whatever is in them', baseline=True)
def _centre(_model, clip: Tensor, _target, _layer) -> Tensor:
    sides = [torch.linspace(-1, 1, n, device=clip.device, dtype=clip.dtype) if n > 1 else clip.new_zeros(1)
             for n in clip.shape[2:]]
    t, y, x = torch.meshgrid(*sides, indexing='ij')
    return (-(t**2 + y**2 + x**2)).expand(len(clip), -1, -1, -1)


@register_method('random', 'numbers drawn at random', baseline=True)
def _random(_model, clip: Tensor, _target, _layer, seed: int = 0) -> Tensor:
    draws = [torch.rand(clip.shape[2:], generator=torch.Generator().manual_seed(own), dtype=torch.float64)
             for own in seeds_of(clip, seed)]
    return torch.stack(draws).to(clip.device) if draws else clip.new_zeros(0, *clip.shape[2:])


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: if there is none, with those that there are.
    """
    if name not in METHODS:
        raise ValueError(f'there is no method {name!r}; there is {", ".join(map(repr, METHODS))}.')
    return METHODS[name]


def explain_clip(model: nn.Module, clip: Tensor, method: str = 'grad_cam',
                 target: Union[int, str, Tensor, List[int]] = 'prediction', layer: Optional[Layer] = None,
                 **settings) -> Tensor:
    """The map of a method, by its name.

    Args:
        model: a recognizer of mmaction2, or (N, C, T, H, W) -> (N, K): logits, but softmax scores for the methods that
            take the score away (masks and occlusion).
        clip: (N, C, T, H, W).
        method: a name of ``METHODS``.
        target: a class for all clips, one for each, or 'prediction'.
        layer: for the methods that look at one; by default :func:`.last_map_layer`'s.
        settings: of the method.

    Returns:
        (N, T), or (N, T', H', W') at the method's own resolution (:func:`over_frames`, :func:`.upsample_maps`).

    Raises:
        ValueError: for an unknown method, and what the method raises.
    """
    entry = find_method(method)
    check_clip(clip)
    score_fn = as_score_function(model, 'logits')
    with frozen(model), torch.no_grad():
        index = choose_target(score_fn(clip), target)
    if entry.layer and layer is None:
        layer = last_map_layer(model, score_fn, clip)
    return entry.run(model, clip, index, layer, **settings)


def over_frames(maps: Tensor, frames: int) -> Tensor:
    """What a map says of each frame: (N, T), of (N, T) as it is, of (N, T', H', W') the mean over each time step.

    The mean is that of the values with their signs: where they add up to the score, it is the frame's share.
    Between time steps it is linear.

    Raises:
        ValueError: if the map has neither shape, or is one of frames for another number of frames.
    """
    if maps.dim() == 4:
        return upsample_maps(maps.mean((2, 3), keepdim=True), (frames, 1, 1))[..., 0, 0]
    if maps.dim() != 2 or maps.size(1) != frames:
        raise ValueError(f"a map must be (N, {frames}) or (N, T', H', W'), got {tuple(maps.shape)}.")
    return maps
