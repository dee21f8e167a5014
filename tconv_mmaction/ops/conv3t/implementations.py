"""How a :class:`tconv_mmaction.layers.Conv3T` may be computed: a call is the layer, clips (N, I, T, H, W) and geometry.

The layer is what has ``weight (O, I/groups, 1, kH, kW)``, ``temporal_tensors()``, ``gain``, ``bias``, ``matrices()``,
``kernel()`` and ``needs_graph()``. In eval mode the kernel is computed once and kept, in the form that is fastest for
the clip; a training step on CPU goes one of the ways from "moved_slices" on, or the factored one. What is "profitable"
rests on tools/benchmarks/evaluation_paths.py and inner_paths.py, measured on two cores. On a GPU a training step makes
the kernel in few launches: :mod:`.kernel_triton`, or without Triton a product with transforms that layers share
(:mod:`.shared_transforms`).
"""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...maths.temporal_transform import slice_transforms
from .. import onednn
from ..conditions import ACCURATE, PLAIN, cpu_refusal, plain_refusal, tensor_refusal
from ..context import context_refusal, once_per_call
from ..conv3d import minimal_filtering, single_clip
from ..conv3d.kernel_in_place import kernel_in_place_conv3d
from ..dispatch import Implementation, always, operator, supports_all
from ..geometry import Geometry
from ..kept_kernel import can_keep, kept_form
from . import kernel_triton
from . import slices_times_patches as patches
from .affine_slices import AffineRule
from .factored import factored_conv3t
from .made_kernel import made_kernel
from .moved_slices import few_channels, moved_slices
from .shared_transforms import KERNEL_PRODUCT, transforms_for_this_pass, transforms_of
from .slice_rule import SliceRule, with_gain

LARGE = 1 << 23  # elements of the factored path's activation for one clip: 32 MB in float32
LARGE_FOR_CHANNELS = 30  # times the square of the channels


@once_per_call
def _shape(layer, x: Tensor, geometry: Geometry) -> Tuple[int, ...]:
    return (*_tensors(layer, x, geometry)[0].shape[:2], *layer.kernel_size)


def _rule(layer) -> Tuple[SliceRule, Tuple[Tensor, ...]]:
    """How this layer's slices are made, and what from."""
    depth, height, width = layer.kernel_size
    others = layer.temporal_tensors()
    if layer.transform == 'affine' and height == width:
        rule, lent = AffineRule(), transforms_for_this_pass(layer, others)
        if lent is not None:
            rule, others = SliceRule(fixed=height * width), (lent, )
    else:
        rule = SliceRule(fixed=height * width)
        others = slice_transforms(layer.matrices(), (height, width)).flatten(1, 2),
    if layer.gain is None:
        return rule, (layer.weight, *others)
    return with_gain(rule), (layer.weight, *others, layer.gain)


def _with_bias(y: Tensor, bias: Optional[Tensor]) -> Tensor:
    return y if bias is None else y + bias[:, None, None, None]


@once_per_call
def _tensors(layer, x: Tensor, geometry: Geometry) -> Tuple[Tensor, ...]:
    return layer.kernel_tensors()


@once_per_call
def _needs_graph(layer, x: Tensor, geometry: Geometry) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(layer, x, geometry))


def _sliced(layer, x: Tensor) -> Optional[str]:
    if layer.kernel_size[0] == 1:
        return 'one slice is a plain convolution'
    if x.shape[0] == 0:
        return 'the batch is empty'
    return None


@once_per_call
def _factored_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    return _sliced(layer, x) or tensor_refusal(x, *_tensors(layer, x, geometry))


@once_per_call
def _training_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    """Why this is no training step on CPU that hand-written code may do."""
    if x.device.type != 'cpu':
        return f'tensors lie on {x.device.type}, this is for the CPU'
    if not _needs_graph(layer, x, geometry):  # first: in eval mode nothing else has to be looked at
        return 'no gradients of parameters are wanted'
    return _factored_refusal(layer, x, geometry)


def _prefers_factored(layer, x: Tensor, geometry: Geometry) -> bool:
    """Whether a clip takes less time without a 3D kernel.

    The factored path does (I + (kT-1)*P) / (I*kT) of the kernel path's multiply-adds, P = kH*kW, but moves an
    activation P times the output. Measured on CPU (docs/benchmarks.md), it wins above 128 input channels per group in
    training, where the kernel path also pays for the kernel's gradient, unless that activation is large for one clip:
    more than ``LARGE`` elements, or, where the kernel path saves products itself (minimal filtering), than
    ``LARGE_FOR_CHANNELS`` times the square of the channels. In eval mode, where the kernel is kept, it wins from 512
    channels and 128 positions N*T*H*W on, if clips have more frames than the kernel: in shorter ones the kernel path
    has little to do for the taps that see padding. It is not taken with a spatial stride (it would compute 4 times the
    positions), or on other devices.
    """
    out_channels, channels, depth, height, width = _shape(layer, x, geometry)
    positions = x.numel() // x.shape[1]
    if not (channels > 128 and height * width <= 9 and geometry.stride[1:] == (1, 1) and x.device.type == 'cpu'):
        return False
    if not (layer.training or _needs_graph(layer, x, geometry)):
        return channels >= 512 and positions >= 128 and x.shape[-3] > depth
    large = LARGE
    if minimal_filtering.choose((1, *x.shape[1:]), x.dtype, _shape(layer, x, geometry), *geometry) is not None:
        large = LARGE_FOR_CHANNELS * channels**2
    return positions * out_channels * height * width <= large * x.shape[0]


def _run_factored(layer, x: Tensor, geometry: Geometry) -> Tensor:
    rule, parameters = _rule(layer)
    return _with_bias(factored_conv3t(x, rule, geometry, *parameters), layer.bias)


def _has_few_channels(layer, x: Tensor, geometry: Geometry) -> bool:
    return few_channels(layer.weight)


def _moved_kernel(layer) -> Tensor:
    kernel = moved_slices(layer.weight.squeeze(2), layer.matrices())
    return kernel if layer.gain is None else kernel * layer.gain.T[:, None, :, None, None]


def _run_moved_slices(layer, x: Tensor, geometry: Geometry) -> Tensor:
    return _with_bias(minimal_filtering.filtered_gradients_conv3d(x, _moved_kernel(layer), geometry), layer.bias)


def _patches_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    return 'groups' if geometry.groups > 1 else _training_refusal(layer, x, geometry)


def _prefers_patches(layer, x: Tensor, geometry: Geometry) -> bool:
    if not x.numel() or not _needs_graph(layer, x, geometry):
        return False
    return patches.profitable(x, _shape(layer, x, geometry), *geometry[:3])


def _run_patches(layer, x: Tensor, geometry: Geometry) -> Tensor:
    rule, parameters = _rule(layer)
    return _with_bias(patches.slices_times_patches_conv3d(x, rule, geometry, *parameters), layer.bias)


@once_per_call
def _tile(layer, x: Tensor, geometry: Geometry) -> Optional[int]:
    return minimal_filtering.choose(x.shape, x.dtype, _shape(layer, x, geometry), *geometry)


def _filtering_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    why = _training_refusal(layer, x, geometry)
    if why is None and _tile(layer, x, geometry) is None:
        return 'minimal filtering does not save enough products here'
    return why


def _run_filtering(layer, x: Tensor, geometry: Geometry) -> Tensor:
    rule, parameters = _rule(layer)
    y = kernel_in_place_conv3d(x, rule, geometry, _tile(layer, x, geometry), *parameters)
    return _with_bias(y, layer.bias)


def _run_in_place(layer, x: Tensor, geometry: Geometry) -> Tensor:
    rule, parameters = _rule(layer)
    return _with_bias(kernel_in_place_conv3d(x, rule, geometry, None, *parameters), layer.bias)


@once_per_call
def _kept_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    why = context_refusal()
    if why is None and layer.training:
        return 'kernels are kept in eval mode only'
    if why is None and _needs_graph(layer, x, geometry):
        return 'gradients of parameters are wanted'
    if why is None and _tensors(layer, x, geometry)[0].is_meta:
        return 'tensors on the meta device have no numbers'
    if why is None and not can_keep(_tensors(layer, x, geometry)):
        return 'the weights are not plain parameters, or were made in inference mode: a change would not be seen'
    return why


def _wanted(layer, x: Tensor) -> Tuple[torch.dtype, bool]:
    """The type in which a convolution of ``x`` reads its kernel, and whether channels last: what is in another one is
    rearranged in every call. On a GPU; on the CPU the kernel is as its parameters are."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
    return dtype, x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()


def _kept(layer, x: Tensor) -> Tensor:
    if x.device.type == 'cpu':
        return kept_form(layer, layer.kernel_tensors(), 'kernel', layer.kernel)
    dtype, last = _wanted(layer, x)
    order = torch.channels_last_3d if last else torch.contiguous_format
    return kept_form(layer, layer.kernel_tensors(), ('kernel', dtype, last),
                     lambda: layer.kernel().to(dtype).contiguous(memory_format=order))


def _packed_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    why = _paired_refusal(layer, x, geometry)
    if why is None and x.dtype != torch.float32:
        return f'tensors are {x.dtype}'
    if why is None and not (onednn.has_onednn() and onednn.has_packed()):
        return 'this PyTorch has no convolution with a packed kernel'
    if why is None and torch.is_grad_enabled() and (x.requires_grad or _bias_learns(layer)):
        return 'gradients are wanted'
    return 'the input is empty' if why is None and not x.numel() else why


def _bias_learns(layer) -> bool:
    return layer.bias is not None and layer.bias.requires_grad


def _prefers_packed(layer, x: Tensor, geometry: Geometry) -> bool:
    kernel = _shape(layer, x, geometry)
    return onednn.prefers_packed(x.shape, kernel, geometry.stride) or single_clip.is_left_out(
        x, kernel, geometry.groups)


def _run_packed(layer, x: Tensor, geometry: Geometry) -> Tensor:
    packed = kept_form(layer, layer.kernel_tensors(), ('packed', tuple(x.shape), geometry),
                       lambda: onednn.packed_if_right(layer.kernel(), x.detach(), *geometry))
    if packed is None:
        return F.conv3d(x, _kept(layer, x), layer.bias, *geometry)
    y = onednn.packed_conv3d(x, packed, *geometry)
    return y if layer.bias is None else y.add_(layer.bias[:, None, None, None])


def _prefers_pairs(layer, x: Tensor, geometry: Geometry) -> bool:
    return single_clip.pairs(x, _shape(layer, x, geometry), geometry.stride, geometry.groups)


def _run_paired(layer, x: Tensor, geometry: Geometry) -> Tensor:
    return single_clip.conv3d(x, _kept(layer, x), layer.bias, *geometry)


@once_per_call
def _paired_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    return _kept_refusal(layer, x, geometry) or cpu_refusal(x, _tensors(layer, x, geometry)[0])


def _run_kept(layer, x: Tensor, geometry: Geometry) -> Tensor:
    return F.conv3d(x, _kept(layer, x), layer.bias, *geometry)


@once_per_call
def _gpu_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    if x.device.type == 'cpu':
        return 'tensors lie on cpu, this is for a GPU'
    return _sliced(layer, x) or plain_refusal(x, *_tensors(layer, x, geometry))


def _triton_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    return _gpu_refusal(layer, x, geometry) or kernel_triton.unsupported(
        layer.weight, layer.temporal_tensors(), _wanted(layer, x)[0])


def _run_triton(layer, x: Tensor, geometry: Geometry) -> Tensor:
    kernel = kernel_triton.conv3t_kernel(layer.weight.squeeze(2), layer.temporal_tensors(), layer.gain,
                                         *_wanted(layer, x))
    return F.conv3d(x, kernel, layer.bias, *geometry)


def _product_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    why = _gpu_refusal(layer, x, geometry)
    if why is None and (layer.transform != 'affine' or layer.kernel_size[1] != layer.kernel_size[2]):
        return 'its transforms are written out for affine ones of square slices'
    if why is None and (layer.weight.dtype not in ACCURATE or len({t.dtype for t in layer.kernel_tensors()}) > 1):
        return f'the parameters are {layer.weight.dtype}'
    return why


def _run_product(layer, x: Tensor, geometry: Geometry) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        parameters = layer.temporal_tensors()
        transforms = transforms_for_this_pass(layer, parameters)
        if transforms is None:
            transforms = transforms_of(layer.kernel_size[1], parameters)
        if layer.gain is not None:
            transforms = (transforms.unflatten(1, (len(layer.gain), -1)) * layer.gain.T[:, :, None, None]).flatten(1, 2)
        kernel = torch.bmm(layer.weight.flatten(2), transforms.mT).view(_shape(layer, x, geometry))
    return F.conv3d(x, kernel, layer.bias, *geometry)


def _made_refusal(layer, x: Tensor, geometry: Geometry) -> Optional[str]:
    if layer.kernel_size[0] == 1:
        return 'one slice is a plain convolution'
    why = cpu_refusal(*layer.kernel_tensors(), under_autocast=True)
    return f'a {type(x).__name__} is not a plain tensor' if why is None and type(x) not in PLAIN else why


def _run_made(layer, x: Tensor, geometry: Geometry) -> Tensor:
    with torch.autocast('cpu', enabled=False):
        if few_channels(layer.weight):
            kernel = _moved_kernel(layer)
        else:
            rule, parameters = _rule(layer)
            kernel = made_kernel(rule, *parameters)
    return single_clip.conv3d(x, kernel, layer.bias, *geometry)


def _run_reference(layer, x: Tensor, geometry: Geometry) -> Tensor:
    return F.conv3d(x, layer.kernel(), layer.bias, *geometry)


CONV3T = operator(
    'Conv3T',
    Implementation('factored', _factored_refusal, _prefers_factored, _run_factored),
    Implementation('packed_kernel', _packed_refusal, _prefers_packed, _run_packed),
    Implementation('paired_clip', _paired_refusal, _prefers_pairs, _run_paired),
    Implementation('kept_kernel', _kept_refusal, always, _run_kept),
    Implementation('moved_slices', _training_refusal, _has_few_channels, _run_moved_slices),
    Implementation('slices_times_patches', _patches_refusal, _prefers_patches, _run_patches),
    Implementation('minimal_filtering', _filtering_refusal, always, _run_filtering),
    Implementation('kernel_in_place', _training_refusal, always, _run_in_place),
    Implementation('made_kernel', _made_refusal, always, _run_made),
    Implementation('kernel_triton', _triton_refusal, always, _run_triton),
    Implementation(KERNEL_PRODUCT, _product_refusal, always, _run_product),
    Implementation('reference', supports_all, always, _run_reference),
)
