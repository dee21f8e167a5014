"""Temporally factorised 3D convolution, 3TConv.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels" (arXiv:1912.04075) and "Explainable 3D Convolutional
Neural Networks by Learning Temporal Transformations" (arXiv:2006.15983). The maths is in :mod:`.temporal_transform`.
"""
import torch
from torch import Tensor, nn

from ..ops.conv3d import packed_kernel as packed_conv
from ..ops.conv3t import slices_times_patches as patch_products
from ..ops.conv3d import minimal_filtering as winograd
from ..ops.conv3t.affine_slices import AffineRule
from ..ops.conv3d.kernel_in_place import Workspace, built_kernel_conv3d, can_build_in_place
from .conv_base import ConvBase, without_autocast
from ..ops.conditions import is_eager_cpu, saves_tensors_itself
from ..ops.conv3t.factored import factored_conv3t
from ..ops.kept_kernel import KernelCache
from ..ops.conv3t.slices_times_patches import patch_products_conv3d
from .registry import register_layer
from ..ops.conv3t.slice_product import SliceRule
from ..ops.conv3t.slice_transforms import slice_transforms
from ..maths.temporal_transform import affine_matrix, few_slices, temporal_kernel

LARGE = 1 << 23  # elements of the factored path's activation for one clip: 32 MB in float32
LARGE_FOR_CHANNELS = 30  # times the square of the channels
TEMPORAL_PARAMETERS = ('scale', 'rotate', 'translate_x', 'translate_y')


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
            ``theta (kT-1, O, 2, 3)``, which start as the identity (arXiv:2006.15983, sec. 3.2).
        evaluation: 'kernel' builds the 3D kernel and convolves with it, 'factored' mixes the channels once and
            transforms the result (:mod:`.factored_conv3t`); both compute the same. 'auto' chooses, see
            :meth:`prefers_factored`.

    In eval mode the kernel is built once and kept until a parameter changes. A network may compute the transforms of
    all its layers at once: :func:`.shared_transforms.share_transforms`.

    Raises:
        ValueError: if a number is out of range, channels are not divisible by groups, or a 1x1 spatial kernel comes
            with kT > 1, where an affine transform has nothing to act on.
    """

    transforms_for_this_pass = None  # (O, kT*kH*kW, kH*kW), while a network shares them

    def __init__(self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1,
                 groups: int = 1, bias: bool = True, padding_mode: str = 'zeros', transform: str = 'affine',
                 evaluation: str = 'auto', device=None, dtype=None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode)
        if transform not in ('affine', 'free'):
            raise ValueError(f"Conv3T: transform must be 'affine' or 'free', got {transform!r}.")
        if evaluation not in ('auto', 'kernel', 'factored'):
            raise ValueError(f"Conv3T: evaluation must be 'auto', 'kernel' or 'factored', got {evaluation!r}.")
        depth, height, width = self.kernel_size
        if depth > 1 and height == width == 1:
            raise ValueError(
                f'Conv3T: kernel_size={self.kernel_size} has a single pixel per slice, and an affine transform of one '
                "pixel cannot express motion. Use a spatial kernel (in mmaction2's ResNet3d: inflate_style='3x3x3'), "
                'or nn.Conv3d for purely temporal kernels.')
        self.transform, self.evaluation = transform, evaluation
        self._cache, self._workspace = KernelCache(), Workspace()

        def parameter(*shape):
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight = parameter(out_channels, in_channels // groups, 1, height, width)
        if transform == 'affine':
            for name in TEMPORAL_PARAMETERS:
                setattr(self, name, parameter(depth - 1, out_channels))
        else:
            self.theta = parameter(depth - 1, out_channels, 2, 3)
        self.register_parameter('bias', parameter(out_channels) if bias else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """K_1 ~ N(0, 1) and identity transforms, as in the paper; the bias as in ``nn.Conv3d``."""
        nn.init.normal_(self.weight)
        if self.transform == 'affine':
            nn.init.ones_(self.scale)
            for name in TEMPORAL_PARAMETERS[1:]:
                nn.init.zeros_(getattr(self, name))
        else:
            self.theta.copy_(torch.eye(2, 3, device=self.theta.device))
        if self.bias is not None:
            depth, height, width = self.kernel_size
            bound = (self.in_channels // self.groups * depth * height * width)**-0.5
            nn.init.uniform_(self.bias, -bound, bound)

    # mmcv's ConvModule and mmengine's BaseModule leave a layer that has this method to itself.
    init_weights = reset_parameters

    def matrices(self) -> Tensor:
        """The transforms as ``(kT-1, O, 2, 3)``, in float32 or better."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        if self.transform == 'free':
            return self.theta.to(dtype)
        return affine_matrix(*(getattr(self, name).to(dtype) for name in TEMPORAL_PARAMETERS))

    def kernel(self) -> Tensor:
        """The 3D kernel ``(O, I/groups, kT, kH, kW)``; computed in float32 or better, also under autocast."""
        with without_autocast(self.weight.device):
            theta = self.matrices()
            return temporal_kernel(self.weight.squeeze(2).to(theta.dtype), theta).to(self.weight.dtype)

    def prefers_factored(self, x: Tensor) -> bool:
        """Whether 'auto' evaluates ``x`` without a 3D kernel.

        The factored path does (I + (kT-1)*P) / (I*kT) of the kernel path's multiply-adds, P = kH*kW, but moves an
        activation P times the output. Measured on CPU (docs/benchmarks.md), it wins above 128 input channels per group
        in training, where the kernel path also pays for the kernel's gradient, unless that activation is large for one
        clip: more than ``LARGE`` elements, or, where the kernel path saves products itself (:mod:`.winograd`), than
        ``LARGE_FOR_CHANNELS`` times the square of the channels. In eval mode, where the kernel is cached, it wins from
        512 channels and 128 positions N*T*H*W on, if clips have more frames than the kernel: in shorter ones the
        kernel path has little to do for the taps that see padding. It is never chosen with a spatial stride (it would
        compute 4 times the positions), on other devices, under autocast, and while torch.compile, torch.export or
        torch.jit trace.
        """
        depth, height, width = self.kernel_size
        channels, positions = self.in_channels // self.groups, x.numel() // self.in_channels
        if not (channels > 128 and depth > 1 and height * width <= 9 and self.stride[1:] == (1, 1)
                and x.device.type == 'cpu' and x.dtype == self.weight.dtype
                and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)):
            return False
        if not (self.training or self._needs_graph()):
            return channels >= 512 and positions >= 128 and x.shape[-3] > depth
        large, shape, kernel = LARGE, (1, *x.shape)[-5:], (self.out_channels, channels, *self.kernel_size)
        if not isinstance(self.padding, str) and winograd.choose(
                shape, x.dtype, kernel, self.stride, self.padding, self.dilation, self.groups) is not None:
            large = LARGE_FOR_CHANNELS * channels**2
        return positions * self.out_channels * height * width <= large * shape[0]

    def _needs_graph(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def _rule(self, x: Tensor) -> tuple:
        """How this layer's slices are made for ``x``, and what from."""
        depth, height, width = self.kernel_size
        if self.transform == 'affine' and depth > 1 and height == width and is_eager_cpu(x, self.weight):
            if self.transforms_for_this_pass is not None and saves_tensors_itself():
                return SliceRule(height * width), self.weight.squeeze(2), self.transforms_for_this_pass
            return AffineRule(), self.weight, *(getattr(self, name) for name in TEMPORAL_PARAMETERS)
        theta = self.matrices()
        transforms = slice_transforms(theta, (height, width)).flatten(1, 2)
        return SliceRule(height * width), self.weight.squeeze(2).to(theta.dtype), transforms

    def can_share_transforms(self) -> bool:
        """Whether :func:`.shared_transforms.share_transforms` may compute this layer's with those of others."""
        depth, height, width = self.kernel_size
        if self.transform != 'affine' or depth == 1 or height != width:
            return False
        # what something else has put in the parameters' places, or is yet to gather (FSDP), is left alone
        temporal = [getattr(self, name) for name in TEMPORAL_PARAMETERS]
        if not (all(type(p) is nn.Parameter and p.device.type == 'cpu' for p in (self.weight, *temporal))
                and all(p.shape == (depth - 1, self.out_channels) for p in temporal) and self.weight.dim() == 5):
            return False
        return (not few_slices(self.weight.squeeze(2)) and is_eager_cpu(self.weight.detach(), self.scale)
                and self._needs_graph())

    def _forward_factored(self, x: Tensor) -> Tensor:
        if not isinstance(self.padding, str) and self.padding_mode == 'zeros' and x.dim() == 5:
            padding = self.padding
        else:
            x, padding = self.pad(x), (0, 0, 0)
        autocast = x.device.type if torch.is_autocast_enabled(x.device.type) else None
        with without_autocast(x.device):
            rule, weight, *others = self._rule(x)
            clips = x if x.dim() == 5 else x[None]
            y = factored_conv3t(clips.to(weight.dtype), rule, self.stride, padding, self.dilation, self.groups, weight,
                                *others)
            if self.bias is not None:
                y = y + self.bias.to(y.dtype)[:, None, None, None]
        y = y.to(torch.get_autocast_dtype(autocast) if autocast else x.dtype)
        return y if x.dim() == 5 else y[0]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, O, T', H', W')."""
        self.check_input(x)
        tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if self.evaluation == 'factored' or (self.evaluation == 'auto' and not tracing and self.prefers_factored(x)):
            if self.kernel_size[0] > 1 and x.shape[0]:  # one slice is a plain convolution, and so is an empty batch
                return self._forward_factored(x)
        if self._needs_graph() and can_build_in_place(x, self.weight) and self.padding_mode == 'zeros':
            first = self.weight.squeeze(2)
            if not isinstance(self.padding, str):
                geometry = self.stride, self.padding, self.dilation, self.groups
                if few_slices(first):
                    y = winograd.few_channels_conv3d(x, self.kernel(), *geometry)
                else:
                    rule, *parameters = self._rule(x)
                    if self.groups == 1 and patch_products.pays(x, rule.shape(*parameters), *geometry[:3]):
                        y = patch_products_conv3d(x, self._workspace, rule, *geometry[:3], *parameters)
                    else:
                        y = built_kernel_conv3d(x, self._workspace, rule, *geometry, *parameters)
                return y if self.bias is None else y + self.bias[:, None, None, None]
        if self.training or tracing or self._needs_graph():
            kernel = self.kernel()
            return self.convolve(x, kernel, self.bias)
        return self._forward_cached(x)

    def _forward_cached(self, x: Tensor) -> Tensor:
        parameters = list(self.parameters())
        shape = (*self.weight.shape[:2], *self.kernel_size)
        if (self.padding_mode == 'zeros' and not isinstance(self.padding, str)
                and packed_conv.pays(x, shape, self.stride, self.groups)):
            geometry = self.stride, self.padding, self.dilation, self.groups
            packed = self._cache.get(parameters, lambda: packed_conv.pack(self.kernel(), x, *geometry), 'packed')
            if packed is not None:
                y = packed_conv.packed_conv3d(x, packed, *geometry)
                return y if self.bias is None else y.add_(self.bias[:, None, None, None])
        return self.convolve(x, self._cache.get(parameters, lambda: self.kernel().detach()), self.bias)

    def train(self, mode: bool = True):
        self._cache.clear()
        self._workspace.clear()
        return super().train(mode)

    def __getstate__(self) -> dict:
        state = {**self.__dict__, '_cache': KernelCache()}  # a copy or pickle need not carry the kernel
        state.pop('transforms_for_this_pass', None)
        return state

    @torch.no_grad()
    def switch_to_deploy(self) -> nn.Conv3d:
        """A plain ``nn.Conv3d`` that computes the same."""
        conv = self.plain_conv(self.bias is not None).to(self.weight)
        conv.weight.copy_(self.kernel())
        if self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv.train(self.training)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        state_dict = dict(state_dict)  # a 2D weight is unsqueezed here, not in the caller's dict
        weight = state_dict.get(prefix + 'weight')
        if weight is not None and weight.shape == self.weight.squeeze(2).shape:
            state_dict[prefix + 'weight'] = weight.unsqueeze(2)
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
        return (super().extra_repr() + ('' if self.bias is not None else ', bias=False')
                + ('' if self.transform == 'affine' else f', transform={self.transform!r}')
                + ('' if self.evaluation == 'auto' else f', evaluation={self.evaluation!r}'))
