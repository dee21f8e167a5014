r"""Activation maximisation: the input that a channel of a layer, or a class, answers to most.

Erhan et al. (2009), as in Olah et al., "Feature Visualization" (2017), which the papers on 3TConv use (explainable
sec. 4.2, 4.3): gradient ascent on the input from noise. For 3TConv a single frame is optimised and stacked in time, so
that what moves is the filter and not the input; for 3DConv the whole clip. What is minimised by Adam, per channel:

.. math:: -\operatorname{mean}(A_k) + l_2 \operatorname{mean}(x^2) + tv \operatorname{mean}(|\partial_{x,y} x|^2)
          + tv_t \operatorname{mean}(|\partial_t x|^2)

The ascent finds high-frequency noise, which strides and poolings let through, unless it is kept from it:

* what is optimised are the Fourier coefficients of the input, each divided by its frequency: that is the spectrum of
  natural pictures, and Adam's steps are then as large for a shape as for a grain (``parametrization='fourier'``);
* the colours are optimised along axes in which natural colours are uncorrelated (``colours``), and may be kept within
  what pixels can be (``value_range``);
* at each step the input is shifted by a few pixels and zoomed by a few percent, both at random: no pattern can settle
  on the pixel grid (``jitter``, ``scales``).
"""
from typing import Callable, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .access.adapters import as_score_function
from .access.feature_maps import layer_output
from .access.modules import Layer, find_layer, frozen

MODES = ('frame', 'clip')
PARAMETRIZATIONS = ('fourier', 'pixel')


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


def frequency_scale(size: Sequence[int]) -> Tensor:
    """(T, H, W) one over the frequency of each Fourier coefficient, cycles per sample.

    The constant has the scale of the lowest frequency that there is.
    """
    axes = torch.meshgrid(*(torch.fft.fftfreq(n) for n in size), indexing='ij')
    return 1 / torch.stack(axes).square().sum(0).sqrt().clamp(min=1 / max(size))


def _fourier(noise: Tensor) -> Tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A leaf of Fourier coefficients that starts as the noise's, and what makes inputs (N, C, T, H, W) of about the
    noise's standard deviation of it, so that Adam's steps are as large as those of pixels are."""
    size = noise.shape[2:]
    whole = frequency_scale(size).to(noise)
    scale = (whole / whole.square().mean().sqrt())[..., :size[2] // 2 + 1]  # as many as a real transform has

    def inputs(leaf: Tensor) -> Tensor:
        return torch.fft.irfftn(torch.view_as_complex(leaf) * scale, size, dim=(2, 3, 4), norm='ortho')

    return torch.view_as_real(torch.fft.rfftn(noise, dim=(2, 3, 4), norm='ortho')).contiguous(), inputs


def _zoomed(x: Tensor, zoom: float) -> Tensor:
    """Frames (N, C, T, H, W), zoomed around their centre, bilinear; what is missing at the border is mirrored."""
    if zoom == 1:
        return x
    images = x.transpose(1, 2).flatten(0, 1)  # N*T, C, H, W
    theta = x.new_tensor([[1 / zoom, 0, 0], [0, 1 / zoom, 0]]).expand(len(images), -1, -1)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode='reflection', align_corners=False)
    return images.view(x.transpose(1, 2).shape).transpose(1, 2)


def colour_axes(clip: Tensor) -> Tensor:
    """(C, C) the symmetric root of the covariance of a clip's colours (N, C, T, H, W), its largest column sum 1."""
    pixels = clip.detach().transpose(0, 1).flatten(1).double()
    covariance = pixels.cov().view(len(pixels), len(pixels))
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return (root / root.norm(dim=0).max().clamp(min=1e-12)).to(clip)


def maximize_activation(model: nn.Module, layer: Optional[Layer], channels: Union[int, Sequence[int]],
                        shape: Sequence[int] = (3, 16, 112, 112), mode: str = 'clip', steps: int = 256,
                        lr: float = 0.05, l2: float = 0.01, tv: float = 0.1, tv_time: float = 0.1, jitter: int = 4,
                        init_std: float = 0.1, seed: int = 0, parametrization: str = 'fourier',
                        scales: Tuple[float, float] = (0.9, 1.1), value_range: Optional[Tuple[float, float]] = None,
                        colours: Optional[Tensor] = None, relative: bool = False) -> MaximizedActivation:
    """Inputs that maximise the mean activation of channels of a layer.

    Args:
        model: (N, C, T, H, W) -> scores, or a recognizer of mmaction2. What comes after the layer is not run.
        layer: a module of the model or its dotted name; None for the class scores (a recognizer's logits), whose
            channels are the classes.
        channels: output channels, optimised side by side, one input each.
        shape: (C, T, H, W) of an input.
        mode: 'frame' for one image, stacked T times (what the papers do for 3T networks), or 'clip'.
        steps, lr: of Adam.
        l2, tv, tv_time: weights of the regularisers: energy, total variation in space, in time (clip mode only).
        jitter: largest shift in pixels, per step, the same for all frames; 0 for none.
        init_std: standard deviation of the noise at the start.
        seed: of that noise, the jitter and the zoom; channels of equal number start alike, whatever stands beside them.
        parametrization: 'fourier', or 'pixel' to optimise the pixels themselves.
        scales: smallest and largest zoom, drawn at each step; (1, 1) for none.
        value_range: smallest and largest value of an input, by a sigmoid; by default only ``l2`` bounds it.
        colours: (C, C), what is optimised times this are the colours (:func:`colour_axes` of a clip); by default the
            colours themselves.
        relative: the regularisers weigh as much as the activation is large, at each step: then the same weights do for
            layers of any scale (``tv=2`` for the figures of ``tconv saliency``).

    Raises:
        KeyError: if there is no such layer; the message lists close names.
        IndexError: if the layer has no such channel.
        ValueError: if a setting is out of range.
    """
    for what, value, known in (('mode', mode, MODES), ('parametrization', parametrization, PARAMETRIZATIONS)):
        if value not in known:
            raise ValueError(f'{what} must be one of {known}, got {value!r}.')
    channels = (channels,) if isinstance(channels, int) else tuple(int(channel) for channel in channels)
    shape = tuple(shape)
    if len(shape) != 4 or min(shape) < 1 or not channels or steps < 0 or jitter < 0:
        raise ValueError(f'shape must be (C, T, H, W) of at least 1 each, channels not empty, steps and jitter not '
                         f'negative; got shape={shape}, channels={channels}, steps={steps}, jitter={jitter}.')
    if not 0 < scales[0] <= scales[1] or value_range is not None and not value_range[0] < value_range[1]:
        raise ValueError(f'scales must be 0 < smallest <= largest and value_range smallest < largest, got {scales} and '
                         f'{value_range}.')
    if layer is not None:
        find_layer(model, layer)
    score_fn = as_score_function(model, 'logits')
    reference = next(model.parameters(), torch.zeros(()))
    frames = 1 if mode == 'frame' else shape[1]
    noise = torch.stack([torch.randn(shape[0], frames, *shape[2:], generator=torch.Generator().manual_seed(
        seed + channel)) for channel in channels]).to(reference)
    draws = torch.Generator().manual_seed(seed)
    shifts = torch.randint(-jitter, jitter + 1, (steps, 2), generator=draws).tolist()
    zooms = (scales[0] + (scales[1] - scales[0]) * torch.rand(steps, generator=draws)).tolist()
    rows = torch.arange(len(channels), device=reference.device)
    index = torch.tensor(channels, device=reference.device)
    start = init_std * noise
    leaf, inputs = (start, lambda x: x) if parametrization == 'pixel' else _fourier(start)
    leaf.requires_grad_()

    def made() -> Tensor:
        x = inputs(leaf)
        if colours is not None:
            x = torch.einsum('dc,ncthw->ndthw', colours.to(x), x)
        if value_range is not None:
            low, high = value_range
            x = low + (high - low) * x.sigmoid()
        return x

    def activation(x: Tensor) -> Tensor:
        x = x.expand(-1, -1, shape[1], -1, -1)
        features = score_fn(x) if layer is None else layer_output(model, score_fn, layer, x)
        if not (0 <= min(channels) and max(channels) < features.size(1)):
            name = 'class scores' if layer is None else layer if isinstance(layer, str) else type(layer).__name__
            raise IndexError(f'layer {name!r} has {features.size(1)} channels (0 to {features.size(1) - 1}), got '
                             f'{channels}.')
        return features[rows, index].flatten(1).mean(1) if features.dim() > 2 else features[rows, index]

    curve = []
    optimizer = torch.optim.Adam([leaf], lr=lr)
    with frozen(model), torch.enable_grad():
        for shift, zoom in zip(shifts, zooms):
            x = made()
            value = activation(_zoomed(x.roll(shift, (3, 4)), zoom))
            weight = value.detach().abs() if relative else 1.
            loss = (weight * _penalty(x, l2, tv, tv_time) - value).sum()
            leaf.grad, = torch.autograd.grad(loss, leaf)
            optimizer.step()
            curve.append(value.detach())
        with torch.no_grad():
            x = made()
            curve.append(activation(x))
    clip = x.detach().expand(-1, -1, shape[1], -1, -1).contiguous()
    return MaximizedActivation(clip, torch.stack(curve), channels)
