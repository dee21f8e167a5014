"""Inference with a convolution kernel that stays in oneDNN's own layout.

On CPU a convolution first rearranges its kernel, in every call. Where the kernel is larger than the activations, in
the last stages of a network with short clips or small batches, that is much of the work: 512 -> 512 3^3 on 1x4x4
takes half of the time with a kernel that was rearranged once (docs/benchmarks.md). A kernel that is kept anyway can
be kept so. The operators are those of torch.compile's frozen CPU graphs; where a PyTorch build has none, the plain
kernel is kept.
"""
import math
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .single_clip import is_left_out

Triple = Tuple[int, int, int]


def pays(x: Tensor, kernel: Sequence[int], stride: Triple, groups: int) -> bool:
    """Whether the kernel weighs more than what goes in and out, or PyTorch would keep ``x (N, I, T, H, W)`` from oneDNN
    (:mod:`.single_clip`); on CPU, in float32, without a graph. ``kernel``: its shape."""
    if x.device.type != 'cpu' or x.dtype != torch.float32 or x.dim() != 5 or torch.is_grad_enabled():
        return False
    if x.numel() == 0 or torch.is_autocast_enabled('cpu') or not torch.backends.mkldnn.is_available():
        return False
    outputs = x.numel() // x.shape[1] // math.prod(stride) * kernel[0]
    return math.prod(kernel) > x.numel() + outputs or is_left_out(x, kernel, groups)


def pack(kernel: Tensor, x: Tensor, stride: Triple, padding: Triple, dilation: Triple, groups: int) -> Optional[Tensor]:
    """The kernel ``(O, I/groups, kT, kH, kW)`` as oneDNN wants it for clips like ``x``, or None if it cannot be had.

    It serves clips of other sizes as well.
    """
    try:
        packed = torch._C._nn.mkldnn_reorder_conv3d_weight(
            kernel.detach().to_mkldnn(), padding, stride, dilation, groups, tuple(x.shape))
        with torch.no_grad():  # does this build have the operator, and does it compute what is meant?
            got = packed_conv3d(x[:1], packed, stride, padding, dilation, groups)
            want = F.conv3d(x[:1], kernel, None, stride, padding, dilation, groups)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None
    return packed if torch.allclose(got, want, rtol=1e-3, atol=1e-3 * float(want.abs().max()), equal_nan=True) else None


def packed_conv3d(x: Tensor, packed: Tensor, stride: Triple, padding: Triple, dilation: Triple, groups: int) -> Tensor:
    """``F.conv3d`` of ``x (N, I, T, H, W)`` with a kernel from :func:`pack`; not differentiable."""
    y = torch.ops.mkldnn._convolution_pointwise(x, packed, None, padding, stride, dilation, groups, 'none', [], '')
    return y.contiguous()
