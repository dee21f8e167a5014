"""Convolutions of one small clip, which PyTorch leaves to a slow implementation on CPU.

Its rule (``use_mkldnn`` in ATen/native/Convolution.cpp) keeps a float32 batch of one from oneDNN if channels times
frames times rows are at most 20480 and the kernel has at most three rows or columns: one clip of 30x150x224 in all
stages of a 3D-ResNet. A batch of two is computed by oneDNN and takes less time than the one single clip
(docs/benchmarks.md), so an empty clip is put beside it. The rounding is oneDNN's.
"""
import math
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _triple

from ..conditions import PLAIN, cpu_refusal
from ..onednn import has_onednn

SMALL = 20480  # PyTorch's: elements of N, C, T and H
LEAST_WORK = 1 << 22  # products at stride 1, below which there is little to gain
LEAST_OUTPUTS = 32  # positions, below which arranging the kernel for oneDNN takes what is gained


def is_left_out(x: Tensor, kernel: Sequence[int], groups: int) -> bool:
    """Whether ``x (N, C, T, H, W)`` is one clip that PyTorch would keep from oneDNN. ``kernel``: its shape."""
    if type(x) not in PLAIN or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False  # first: no shape is looked at while a graph for any batch is traced
    return (x.dim() == 5 and len(x) == 1 and groups == 1 and 0 < math.prod(x.shape[:4]) <= SMALL
            and min(kernel[-2:]) <= 3 and x.dtype == torch.float32 and cpu_refusal(x) is None
            and has_onednn() and x[0, 0].numel() * math.prod(kernel) >= LEAST_WORK)


def pairs(x: Tensor, kernel: Sequence[int], stride, groups: int) -> bool:
    """Whether an empty clip beside ``x`` makes the convolution faster. ``kernel``: its shape."""
    if not is_left_out(x, kernel, groups):
        return False
    return math.prod(-(-size // step) for size, step in zip(x.shape[2:], _triple(stride))) >= LEAST_OUTPUTS


def _pair(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(tensor.shape)])


def conv3d(x: Tensor, weight: Tensor, bias: Optional[Tensor], stride, padding, dilation, groups: int) -> Tensor:
    """``F.conv3d``, by oneDNN also for one small clip. ``stride``, ``padding`` and ``dilation`` as there."""
    if pairs(x, weight.shape, stride, groups):
        return F.conv3d(_pair(x), weight, bias, stride, padding, dilation, groups)[:1]
    return F.conv3d(x, weight, bias, stride, padding, dilation, groups)


def conv3d_backward(grad: Tensor, x: Tensor, weight: Tensor, stride, padding, dilation, groups: int, wants_x: bool,
                    wants_weight: bool) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """The gradients of ``x`` and ``weight`` of :func:`conv3d` without bias from that of its output, or None."""
    single = pairs(x, weight.shape, stride, groups)
    if single:
        grad, x = _pair(grad), _pair(x)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0, 0), groups, (wants_x, wants_weight, False))
    return grad_x[:1] if single and wants_x else grad_x, grad_weight
