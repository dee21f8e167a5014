"""Temporally factorised 3D convolution, 3TConv.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels" (arXiv:1912.04075) and "Explainable 3D Convolutional
Neural Networks by Learning Temporal Transformations" (arXiv:2006.15983). The maths is in
:mod:`tconv_mmaction.maths.temporal_transform`, how it is computed in :mod:`tconv_mmaction.ops.conv3t`.
"""
import math
from typing import Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..maths.temporal_transform import affine_matrix, bounded, temporal_kernel
from ..ops import conditions
from ..ops.conv3t.implementations import CONV3T
from ..ops.conv3t.moved_slices import few_channels
from ..ops.dispatch import dispatch
from ..ops.kept_kernel import Kept
from .conv_base import ConvBase, without_autocast
from .deploy import take_over
from .registry import register_layer

TEMPORAL_PARAMETERS = ('scale', 'rotate', 'translate_x', 'translate_y')
INITS = ('paper', 'conv3d', 'he')
EVALUATIONS = {'auto': ('auto', ), 'kernel': ('kept_kernel', 'reference'), 'factored': ('factored', )}


@register_layer
class Conv3T(ConvBase):
    """A 3D convolution whose temporal slices are learned affine transforms of one 2D kernel.

    Parameters of the layer: ``weight (O, I/groups, 1, kH, kW)``, the first slice, and per output channel and step
    ``scale``, ``rotate`` (radians), ``translate_x`` and ``translate_y`` (fractions of half the kernel's extent: 1 is
    from the centre to the border pixel), each ``(kT-1, O)``. That is O*I/groups*kH*kW + 4*(kT-1)*O numbers plus the
    bias, against O*I/groups*kT*kH*kW of ``nn.Conv3d``.

    A step with s > 1 reads further out, so what the filter matches shrinks from slice to slice; r > 0 reads from a
    position turned clockwise on the screen (y points down), so the content turns counter-clockwise; t_x > 0 moves
    it to the left by t_x * (kW-1)/2 pixels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as for
            ``nn.Conv3d``.
        transform: 'affine' for the four parameters above (eq. 3), or 'free' for unconstrained matrices
            ``theta (kT-1, O, 2, 3)`` (arXiv:2006.15983, sec. 3.2).
        init: of the first slice, with n = I/groups*kT*kH*kW. 'conv3d': uniform within 1/sqrt(n), as ``nn.Conv3d``
            starts; it learned better than N(0, 1) wherever they were compared, and mostly than 'he' (docs/conv3t.md).
            'he': uniform within sqrt(5/n), as activations keep their size under ReLU with it (He et al., ICCV 2015).
            'paper': K_1 ~ N(0, 1).
        motion_std: (t, r, log s), standard deviations of the motion that a filter starts with: one random velocity for
            each, the same at every step. Translations in half kernel extents, rotation in radians. (0, 0, 0) is the
            paper's identity.
        gain: also learn a weight for every slice, ``gain (kT, O)``, so that K_b = g_b T_b K_1: a filter can then be a
            temporal difference. Gains start at 1. A checkpoint without them loads as ones.
        evaluation: 'kernel' is PyTorch's convolution with the 3D kernel; 'factored' mixes the channels once and
            transforms the result (:mod:`tconv_mmaction.ops.conv3t.factored`); all compute the same. 'auto' takes what
            is fastest, see :func:`tconv_mmaction.ops.explain`.
        gain_std: standard deviation about 1 of the gains at the start.

    In eval mode the kernel is built once and kept until a parameter changes. A network may compute the transforms of
    all its layers at once: :func:`tconv_mmaction.layers.share_transforms`.

    Raises:
        ValueError: if a number is out of range, channels are not divisible by groups, or a 1x1 spatial kernel comes
            with kT > 1, where an affine transform has nothing to act on.

    >>> layer = Conv3T(16, 32, 3, padding=1)
    >>> layer(torch.randn(2, 16, 8, 28, 28)).shape
    torch.Size([2, 32, 8, 28, 28])
    >>> layer.kernel().shape, layer.scale.shape
    (torch.Size([32, 16, 3, 3, 3]), torch.Size([2, 32]))
    """

    _kept = Kept()

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = True, padding_mode: str = 'zeros', transform: str = 'affine',
                 init: str = 'conv3d', motion_std: Sequence[float] = (0., 0., 0.), gain: bool = False,
                 evaluation: str = 'auto', gain_std: float = 0., device=None, dtype=None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        if transform not in ('affine', 'free'):
            raise ValueError(f"Conv3T: transform must be 'affine' or 'free', got {transform!r}.")
        if evaluation not in EVALUATIONS:
            raise ValueError(f"Conv3T: evaluation must be 'auto', 'kernel' or 'factored', got {evaluation!r}.")
        if init not in INITS:
            raise ValueError(f"Conv3T: init must be 'paper', 'conv3d' or 'he', got {init!r}.")
        self.motion_std = _deviations('motion_std', motion_std, 3, '(translation, rotation, log scale)')
        self.gain_std, = _deviations('gain_std', (gain_std, ), 1, 'of the gains')
        if self.gain_std and not gain:
            raise ValueError(f'Conv3T: gain_std={gain_std} is of gains that this layer does not have; give gain=True.')
        depth, height, width = self.kernel_size
        if depth > 1 and height == width == 1:
            raise ValueError(
                f'Conv3T: kernel_size={self.kernel_size} has a single pixel per slice, and an affine transform of one '
                "pixel cannot express motion. Use a spatial kernel (in mmaction2's ResNet3d: inflate_style='3x3x3'), "
                'or nn.Conv3d for purely temporal kernels.')
        self.transform, self.evaluation, self.init = transform, evaluation, init

        def parameter(*shape):
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight = parameter(out_channels, in_channels // groups, 1, height, width)
        if transform == 'affine':
            for name in TEMPORAL_PARAMETERS:
                setattr(self, name, parameter(depth - 1, out_channels))
        else:
            self.theta = parameter(depth - 1, out_channels, 2, 3)
        self.register_parameter('gain', parameter(depth, out_channels) if gain else None)
        self.register_parameter('bias', parameter(out_channels) if bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The first slice as ``init`` says, the motion as ``motion_std``; the bias as in ``nn.Conv3d``."""
        depth, height, width = self.kernel_size
        inputs = self.in_channels // self.groups * depth * height * width
        if self.init == 'paper':
            nn.init.normal_(self.weight)
        else:
            bound = math.sqrt((1 if self.init == 'conv3d' else 5) / inputs)
            nn.init.uniform_(self.weight, -bound, bound)
        velocity = self._random_velocity()
        if self.transform == 'affine':
            for name, values in zip(TEMPORAL_PARAMETERS, velocity):
                getattr(self, name).copy_(values)
        else:
            self.theta.copy_(affine_matrix(*velocity))
        if self.gain is not None:
            nn.init.normal_(self.gain, 1., self.gain_std) if self.gain_std else nn.init.ones_(self.gain)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -inputs**-0.5, inputs**-0.5)

    # mmcv's ConvModule and mmengine's BaseModule leave a layer that has this method to itself.
    init_weights = reset_parameters

    def _random_velocity(self) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """scale, rotation and translations ``(kT-1, O)``; without ``motion_std`` it draws no random numbers."""
        of_translation, of_rotation, of_scale = self.motion_std

        def draw(std: float) -> Tensor:
            values = torch.zeros(self.out_channels, device=self.weight.device)
            return (values.normal_(0, std) if std else values).expand(self.kernel_size[0] - 1, -1)

        return draw(of_scale).exp(), draw(of_rotation), draw(of_translation), draw(of_translation)

    def temporal_tensors(self) -> Tuple[Tensor, ...]:
        """``scale``, ``rotate``, ``translate_x``, ``translate_y``, or ``theta``."""
        return self._tensors(('theta', ) if self.transform == 'free' else TEMPORAL_PARAMETERS)

    def kernel_tensors(self) -> Tuple[Tensor, ...]:
        """What the kernel is computed from, be it parameters or what stands in their places."""
        tensors = *self._tensors(('weight', )), *self.temporal_tensors()
        return tensors if self.gain is None else (*tensors, self.gain)

    def _tensors(self, names: Sequence[str]) -> Tuple[Tensor, ...]:
        own = self._parameters  # attributes of a module take ten times as long, and every call asks for all of them
        return tuple(own[name] if name in own else getattr(self, name) for name in names)

    def needs_graph(self) -> bool:
        """Whether gradients of what the kernel is computed from are wanted now."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.kernel_tensors())

    def shared_parameters(self) -> Optional[Tuple[Tensor, ...]]:
        """For :func:`tconv_mmaction.layers.share_transforms`: what may go through the maths with those of others."""
        depth, height, width = self.kernel_size
        if type(self) is not Conv3T or self.transform != 'affine' or depth == 1 or height != width:
            return None
        if not conditions.is_parameter(self.weight) or self.weight.dim() != 5:
            return None
        if self.weight.device.type == 'cpu' and few_channels(self.weight):  # such slices are moved without them
            return None
        return self.temporal_tensors() if self.needs_graph() else None

    def matrices(self) -> Tensor:
        """The transforms as ``(kT-1, O, 2, 3)``, in float32 or better."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        tensors = [t.to(dtype) for t in self.temporal_tensors()]
        return bounded(*tensors) if self.transform == 'free' else affine_matrix(*tensors)

    def _kernel_of(self, weight: Tensor) -> Tensor:
        if self.kernel_size[0] == 1:
            return weight if self.gain is None else weight * self.gain.T[:, None, :, None, None]
        with without_autocast(weight.device):
            theta = self.matrices()
            gain = None if self.gain is None else self.gain.to(theta.dtype)
            return temporal_kernel(weight.squeeze(2).to(theta.dtype), theta, gain).to(weight.dtype)

    def kernel(self) -> Tensor:
        """The 3D kernel ``(O, I/groups, kT, kH, kW)``; computed in float32 or better, also under autocast."""
        return self._kernel_of(self.weight)

    def calls(self, x: Tensor) -> Iterator[tuple]:
        """For :func:`tconv_mmaction.ops.explain`: what ``forward`` dispatches."""
        yield '', CONV3T, (self, *self.checked(x)), EVALUATIONS[self.evaluation]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        clips, geometry = self.checked(x)
        implementation = dispatch(CONV3T, self, clips, geometry, prefer=EVALUATIONS[self.evaluation])
        y = implementation.run(self, clips, geometry)
        return y if x.dim() == 5 else y[0]

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """With another ``weight`` and ``bias``: what mmcv's ``efficient_conv_bn_eval`` asks of a convolution."""
        return self.convolve(x, self._kernel_of(weight), bias)

    def train(self, mode: bool = True):
        self._kept = Kept()
        return super().train(mode)

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        state.pop('_kept', None)  # a copy or pickle need not carry the kernel
        return state

    @torch.no_grad()
    def switch_to_deploy(self) -> nn.Conv3d:
        """A plain ``nn.Conv3d`` that computes the same."""
        conv = self.plain_conv(self.bias is not None).to(self.weight)
        conv.weight.copy_(self.kernel())
        if self.bias is not None:
            conv.bias.copy_(self.bias)
        return take_over(self, conv).train(self.training)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        state_dict = dict(state_dict)  # what is changed here is not changed in the caller's dict
        weight = state_dict.get(prefix + 'weight')
        if weight is not None and weight.shape == self.weight.squeeze(2).shape:
            state_dict[prefix + 'weight'] = weight.unsqueeze(2)
        if self.gain is not None and weight is not None and prefix + 'gain' not in state_dict:
            state_dict[prefix + 'gain'] = torch.ones_like(self.gain)  # of a layer without gains
        for name, own in self._parameters.items():
            given = state_dict.get(prefix + name)
            if own is None or given is None or given.shape == own.shape:
                continue
            # mmengine loads with strict=False and would only log this
            shapes = f'{prefix}{name}: the checkpoint has {tuple(given.shape)}, this Conv3T needs {tuple(own.shape)}'
            if name == 'weight':
                out, inp, _, height, width = own.shape
                shapes += f' or the 2D {(out, inp, height, width)}'
                if given.dim() == 5 and given.shape[2] > 1:
                    shapes += ('. A trained 3D kernel has no 2D kernel K_1 to load; use Conv3d for this checkpoint, or '
                               'start from a 2D one')
            raise ValueError(shapes + '.')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        text = super().extra_repr() + ('' if self.bias is not None else ', bias=False')
        for name, default in (('transform', 'affine'), ('init', 'conv3d'), ('motion_std', (0., 0., 0.)),
                              ('evaluation', 'auto')):
            value = getattr(self, name)
            if value != default:
                text += f', {name}={value!r}'
        return text + ('' if self.gain is None else ', gain=True')


def _deviations(name: str, values: Sequence[float], count: int, of: str) -> Tuple[float, ...]:
    numbers = tuple(values) if isinstance(values, (tuple, list)) else ()
    if len(numbers) != count or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v < math.inf
                                    for v in numbers):
        raise ValueError(f'Conv3T: {name} must be {count} standard deviation{"s" if count > 1 else ""} {of}, each a '
                         f'number of at least 0; got {values!r}.')
    return tuple(float(v) for v in numbers)
