"""Saliency: the input pixels that change a class score, or one channel of a layer, the most.

Simonyan et al., "Deep inside convolutional networks" (2013): the absolute gradient, the largest over the colours; the
papers on 3TConv (iclr sec. 4.1, explainable sec. 4.2) take it for single channels. The gradients are captum's
(``captum.attr.Saliency``).
"""
from typing import Callable, List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.attribution import REDUCTIONS, attribute, captum_method, mean_positive, over_colours
from .access.feature_maps import layer_output
from .access.modules import Layer, check_clip, find_layer, frozen


def saliency(model: nn.Module, clip: Tensor, target: Union[int, str, Tensor, List[int]] = 'prediction',
             layer: Optional[Layer] = None, reduce: str = 'max') -> Tensor:
    """Absolute gradient of a class score, or of a channel's mean positive activation, with respect to the clip.

    Args:
        model: (N, C, T, H, W) -> (N, K), or a recognizer of mmaction2 (then of its logits).
        clip: (N, C, T, H, W).
        target: without ``layer`` the class; with it the output channel. One for all, one per clip, or 'prediction':
            the highest score, or the channel with the highest mean positive activation. (The plain mean of a first
            convolution is linear in the clip: its gradient would be the same for every clip.)
        layer: a module of the model or its dotted name.
        reduce: over the colours: 'max' as Simonyan et al., 'sum', or 'none' to keep them.

    Returns:
        (N, T, H, W), or (N, C, T, H, W) with ``reduce='none'``; never negative.

    Raises:
        ImportError: if captum is missing, with the command that installs it.
        KeyError: if there is no such layer; the message lists close names.
        ValueError: if target or reduce are not understood, or the output does not depend on the clip.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f'reduce must be one of {REDUCTIONS}, got {reduce!r}.')
    method = captum_method('Saliency')

    def gradient(forward, x, index):
        return method(forward).attribute(x, target=index, abs=True)

    return over_colours(attribute(model, clip, target, layer, gradient), reduce)


def strongest_frame(maps: Tensor) -> Tensor:
    """(N,) the frame of maps (N, T, H, W) whose positive part has the largest sum: the one to show, of many."""
    return maps.clamp(min=0).sum((2, 3)).argmax(1)


class ActiveChannels(NamedTuple):
    """The channels of a layer that clips activate most; both (N, count), the most active first."""
    channels: Tensor
    activations: Tensor  # mean over time and space of the positive part


@torch.no_grad()
def most_active_channels(model: nn.Module, clip: Tensor, layer: Layer, count: int = 5) -> ActiveChannels:
    """Which channels of a layer a clip activates most: mean over time and space of the positive part.

    Args:
        model: as for :func:`saliency`.
        clip: (N, C, T, H, W).
        layer: a module of the model or its dotted name.
        count: how many; all of them if the layer has fewer.

    Raises:
        KeyError: if there is no such layer.
        ValueError: if count is below 1.
    """
    if count < 1:
        raise ValueError(f'count must be at least 1 channel, got {count}.')
    check_clip(clip)
    find_layer(model, layer)
    with frozen(model):
        mean = mean_positive(layer_output(model, as_score_function(model, 'logits'), layer, clip))
    values, channels = mean.topk(min(count, mean.size(1)), dim=1)
    return ActiveChannels(channels, values)


def channel_saliency(model: nn.Module, clip: Tensor, layer: Layer, channels: Sequence[int],
                     method: Callable[..., Tensor] = saliency) -> Tensor:
    """Saliency of several channels for ONE clip (1, C, T, H, W): (channels, T, H, W).

    ``method`` may be :func:`.smooth_grad` or :func:`.integrated_gradients` instead: the gradient of a channel of a
    first layer is a pattern of its stride, the same wherever the channel is positive, and says little of the clip.
    """
    if clip.size(0) != 1:
        raise ValueError(f'channel_saliency takes one clip (1, C, T, H, W), got {tuple(clip.shape)}.')
    return torch.cat([method(model, clip, int(channel), layer) for channel in channels])
