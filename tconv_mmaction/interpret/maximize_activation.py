r"""Activation maximisation: the input that a channel of a layer answers to most.

Erhan et al. (2009), as in Olah et al., "Feature Visualization" (2017), which the papers on 3TConv use (explainable
sec. 4.2, 4.3): gradient ascent on the input from noise. For 3TConv a single frame is optimised and stacked in time, so
that what moves is the filter and not the input; for 3DConv the whole clip. What is minimised by Adam, per channel:

.. math:: -\operatorname{mean}(A_k) + l_2 \operatorname{mean}(x^2) + tv \operatorname{mean}(|\partial_{x,y} x|^2)
          + tv_t \operatorname{mean}(|\partial_t x|^2)

on an input that is shifted by a few random pixels at each step (jitter: no pattern can settle on the pixel grid).
"""
from typing import NamedTuple, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.feature_maps import layer_output
from .access.modules import Layer, find_layer, frozen

MODES = ('frame', 'clip')


class MaximizedActivation(NamedTuple):
    """One input per channel, in the network's (normalised) input space."""
    clip: Tensor  # (channels, C, T, H, W); with mode='frame' all frames are the same
    activation: Tensor  # (steps + 1, channels) mean activation before each step and at the end
    channels: Tuple[int, ...]


def _penalty(x: Tensor, l2: float, tv: float, tv_time: float) -> Tensor:
    """(N,) the named regularisers, each a mean over the elements of one input."""
    def mean_square(values):
        return values.square().flatten(1).mean(1) if values.numel() else x.new_zeros(x.size(0))

    total = l2 * mean_square(x)
    if tv:
        total = total + tv * (mean_square(x.diff(dim=3)) + mean_square(x.diff(dim=4)))
    if tv_time:
        total = total + tv_time * mean_square(x.diff(dim=2))
    return total


def maximize_activation(model: nn.Module, layer: Layer, channels: Union[int, Sequence[int]],
                        shape: Sequence[int] = (3, 16, 112, 112), mode: str = 'clip', steps: int = 256,
                        lr: float = 0.05, l2: float = 0.01, tv: float = 0.1, tv_time: float = 0.1, jitter: int = 4,
                        init_std: float = 0.1, seed: int = 0) -> MaximizedActivation:
    """Inputs that maximise the mean activation of channels of a layer.

    Args:
        model: (N, C, T, H, W) -> scores, or a recognizer of mmaction2. What comes after the layer is not run.
        layer: a module of the model or its dotted name.
        channels: output channels, optimised side by side, one input each.
        shape: (C, T, H, W) of an input.
        mode: 'frame' for one image, stacked T times (what the papers do for 3T networks), or 'clip'.
        steps, lr: of Adam.
        l2, tv, tv_time: weights of the regularisers: energy, total variation in space, in time (clip mode only).
        jitter: largest shift in pixels, per step, the same for all frames; 0 for none.
        init_std: standard deviation of the noise at the start.
        seed: of that noise and the jitter; channels of equal number start alike, whatever stands beside them.

    Raises:
        KeyError: if there is no such layer; the message lists close names.
        IndexError: if the layer has no such channel.
        ValueError: if a setting is out of range.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {MODES}, got {mode!r}.')
    channels = (channels,) if isinstance(channels, int) else tuple(int(channel) for channel in channels)
    shape = tuple(shape)
    if len(shape) != 4 or min(shape) < 1 or not channels or steps < 0 or jitter < 0:
        raise ValueError(f'shape must be (C, T, H, W) of at least 1 each, channels not empty, steps and jitter not '
                         f'negative; got shape={shape}, channels={channels}, steps={steps}, jitter={jitter}.')
    find_layer(model, layer)
    score_fn = as_score_function(model, 'logits')
    reference = next(model.parameters(), torch.zeros(()))
    frames = 1 if mode == 'frame' else shape[1]
    noise = [torch.randn(shape[0], frames, *shape[2:], generator=torch.Generator().manual_seed(seed + channel))
             for channel in channels]
    leaf = (init_std * torch.stack(noise)).to(reference).requires_grad_()
    shifts = torch.randint(-jitter, jitter + 1, (steps, 2), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = torch.arange(len(channels), device=reference.device)
    index = torch.tensor(channels, device=reference.device)

    def activation(x: Tensor) -> Tensor:
        features = layer_output(model, score_fn, layer, x.expand(-1, -1, shape[1], -1, -1))
        if not (0 <= min(channels) and max(channels) < features.size(1)):
            raise IndexError(f'layer {layer if isinstance(layer, str) else type(layer).__name__!r} has '
                             f'{features.size(1)} channels (0 to {features.size(1) - 1}), got {channels}.')
        return features[rows, index].flatten(1).mean(1)

    curve = []
    optimizer = torch.optim.Adam([leaf], lr=lr)
    with frozen(model), torch.enable_grad():
        for shift in shifts:
            value = activation(leaf.roll(shift, (3, 4)))
            loss = (_penalty(leaf, l2, tv, tv_time) - value).sum()
            leaf.grad, = torch.autograd.grad(loss, leaf)
            optimizer.step()
            curve.append(value.detach())
        with torch.no_grad():
            curve.append(activation(leaf))
    clip = leaf.detach().expand(-1, -1, shape[1], -1, -1).contiguous()
    return MaximizedActivation(clip, torch.stack(curve), channels)
