"""What convolutions whose kernel is computed share with ``nn.Conv3d``: arguments, checks, padding, repr.

They are no subclasses of ``nn.Conv3d`` on purpose: code that meets one knows ``weight`` and ``bias`` only
(``TSMOptimWrapperConstructor`` would leave the other parameters out of the optimizer without a word; for a module
of a type it does not know it raises).
"""
import contextlib
from typing import Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _triple

from ..ops.conditions import PLAIN, eager
from ..ops.conv3d import single_clip
from ..ops.geometry import Geometry, fits


class _Parameters(dict):
    """A module's parameters that say why there is no 'weight' (torch's old spectral_norm looks here)."""

    owner = 'This layer'

    def __missing__(self, name: str):
        raise KeyError(no_single_weight(self.owner, name))


def no_single_weight(owner: str, name: str) -> str:
    return (f'{owner} has no {name!r}: its kernel is computed from several parameters. Apply what needs a single '
            'weight (spectral_norm, weight_norm, pruning, efficient_conv_bn_eval) to the convolutions inside it or to '
            'the plain ones of switch_to_deploy(model), or leave this layer out.')


class NoSingleWeight:
    """A mixin for layers with several weights: code that takes a convolution for one ``weight`` is told so.

    That is mmcv's ``efficient_conv_bn_eval`` and ``with_spectral_norm``, torch's ``weight_norm`` and ``prune``.
    """

    def _refuse_single_weight(self) -> None:
        """To be called after ``nn.Module.__init__``."""
        parameters = _Parameters(self._parameters)
        parameters.owner = type(self).__name__
        object.__setattr__(self, '_parameters', parameters)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ('weight', '_conv_forward'):
                raise AttributeError(no_single_weight(type(self).__name__, name)) from None
            raise


PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')


def check_positive(name: str, value) -> Tuple[int, int, int]:
    """``value`` as (t, h, w); raises ValueError unless it is one or three positive integers."""
    triple = _triple(value)
    if len(triple) != 3 or any(not isinstance(v, int) or v < 1 for v in triple):
        raise ValueError(f'{name} must be a positive integer or three of them (t, h, w), got {value!r}.')
    return tuple(triple)


def without_autocast(device: torch.device):
    """A context in which ``device`` computes in the types it is given."""
    # there is no autocast on the meta device, and asking to turn it off is an error
    return contextlib.nullcontext() if device.type == 'meta' else torch.autocast(device.type, enabled=False)


class ConvBase(nn.Module):
    """Holds the arguments of ``nn.Conv3d`` and applies a kernel with them."""

    transposed = False  # mmcv's ConvModule copies both from its convolution
    output_padding = (0, 0, 0)

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding: Union[str, int, tuple] = 0,
                 dilation=1, groups: int = 1, padding_mode: str = 'zeros') -> None:
        super().__init__()
        name = type(self).__name__
        for key, value in dict(in_channels=in_channels, out_channels=out_channels, groups=groups).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}: {key} must be a positive integer, got {value!r}.')
        for key, value in dict(in_channels=in_channels, out_channels=out_channels).items():
            if value % groups:
                raise ValueError(f'{name}: {key}={value} must be divisible by groups={groups}.')
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = check_positive(f'{name}: kernel_size', kernel_size)
        self.stride = check_positive(f'{name}: stride', stride)
        self.dilation = check_positive(f'{name}: dilation', dilation)
        if isinstance(padding, str):
            if padding not in ('valid', 'same'):
                raise ValueError(f"{name}: padding must be 'valid', 'same' or integers, got {padding!r}.")
            if padding == 'same' and self.stride != (1, 1, 1):
                raise ValueError(f"{name}: padding='same' needs stride 1, got stride={stride!r}; give the padding "
                                 'in pixels instead.')
            self.padding = padding
        else:
            self.padding = tuple(_triple(padding))
            if len(self.padding) != 3 or any(not isinstance(p, int) or p < 0 for p in self.padding):
                raise ValueError(f'{name}: padding must be a non-negative integer or three of them (t, h, w), '
                                 f'got {padding!r}.')
        if padding_mode not in PADDING_MODES:
            raise ValueError(f'{name}: padding_mode must be one of {PADDING_MODES}, got {padding_mode!r}.')
        self.padding_mode = padding_mode

    def _pads(self) -> Tuple[Tuple[int, int], ...]:
        """(before, after) for t, h and w."""
        if self.padding == 'valid':
            return ((0, 0),) * 3
        if self.padding == 'same':
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            return tuple((total // 2, total - total // 2) for total in totals)
        return tuple((p, p) for p in self.padding)

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError if ``x`` (N, C, T, H, W) has the wrong rank or channels, or kernel or padding do not fit."""
        name = type(self).__name__
        if x.dim() not in (4, 5):
            raise ValueError(f'{name} expects (N, C, T, H, W) or (C, T, H, W), got shape {tuple(x.shape)}.')
        if x.shape[-4] != self.in_channels:
            raise ValueError(f'{name} was built for in_channels={self.in_channels}, got an input of '
                             f'{x.shape[-4]} channels: shape {tuple(x.shape)}.')
        for axis, size, k, d, (before, after) in zip(('frames (T)', 'rows (H)', 'columns (W)'), x.shape[-3:],
                                                     self.kernel_size, self.dilation, self._pads()):
            need = max(1, d * (k - 1) + 1 - before - after)  # padding around nothing is no clip
            if size < need:
                raise ValueError(
                    f'{name}: an input of {size} {axis} is too short for a kernel of {k} with dilation {d} and padding '
                    f'{before}+{after}: at least {need} needed. Use longer or larger clips (clip_len, Resize), more '
                    'padding, or a smaller kernel_size.')

            if self.padding_mode in ('reflect', 'circular') and size < max(before, after) + (
                    self.padding_mode == 'reflect'):
                least = f'more than {max(before, after)}' if self.padding_mode == 'reflect' else f'at least {before}'
                raise ValueError(
                    f"{name}: padding_mode={self.padding_mode!r} takes its {before}+{after} {axis} of padding from the "
                    f'input and needs {least} of them, got {size}: shape {tuple(x.shape)}. Use larger clips, less '
                    "padding, or padding_mode='replicate'.")

    def lay_out(self, x: Tensor) -> Tuple[Tensor, Geometry]:
        """``x`` as clips (N, C, T, H, W), and the geometry of the convolution on them.

        Paddings that are not the same number of zeros before and behind are put around the clips.
        """
        clips, pads = x if x.dim() == 5 else x[None], self._pads()
        if self.padding_mode == 'zeros' and all(before == after for before, after in pads):
            return clips, Geometry(self.stride, tuple(before for before, _ in pads), self.dilation, self.groups)
        flat = [p for pair in reversed(pads) for p in pair]  # F.pad counts from the last axis
        clips = F.pad(clips, flat, mode='constant' if self.padding_mode == 'zeros' else self.padding_mode)
        return clips, Geometry(self.stride, (0, 0, 0), self.dilation, self.groups)

    def checked(self, x: Tensor) -> Tuple[Tensor, Geometry]:
        """:meth:`check_input` and :meth:`lay_out`; what they find for clips of one size is found once."""
        if self.padding_mode == 'zeros' and type(self.padding) is tuple and type(x) in PLAIN and eager():
            size = x.shape
            if len(size) == 5 and size[1] == self.in_channels and fits(size[2:], self.kernel_size, self.dilation,
                                                                       self.padding):
                return x, Geometry(self.stride, self.padding, self.dilation, self.groups)
        self.check_input(x)  # everything else, and what says why it does not fit
        return self.lay_out(x)

    def convolve(self, x: Tensor, kernel: Tensor, bias: Optional[Tensor]) -> Tensor:
        """``F.conv3d`` with this layer's stride, padding, dilation and groups: for layers that just make a kernel."""
        clips, geometry = self.lay_out(x)
        y = single_clip.conv3d(clips, kernel, bias, *geometry)
        return y if x.dim() == 5 else y[0]

    def plain_conv(self, bias: bool) -> nn.Conv3d:
        """An uninitialised ``nn.Conv3d`` of the same shape, for ``switch_to_deploy``."""
        return nn.Conv3d(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding,
                         self.dilation, self.groups, bias, self.padding_mode)

    def extra_repr(self) -> str:
        text = f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}'
        for key, default in (('padding', (0, 0, 0)), ('dilation', (1, 1, 1)), ('groups', 1), ('padding_mode', 'zeros')):
            value = getattr(self, key)
            if value != default:
                text += f', {key}={value!r}'
        return text
