"""Every private PyTorch operator of oneDNN that this package uses, and whether this build has it.

They are the operators of torch.compile's CPU graphs: matrix products, and convolutions with a kernel that stays in
oneDNN's own layout. PyTorch takes float32 products to MKL, which uses half of an AMD processor's AVX-512 (220 GFLOP/s
on two cores, where oneDNN reaches 480) and a little less than oneDNN of its AVX2, too.
"""
import functools
import math
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Triple

MISSING = AttributeError, NotImplementedError, RuntimeError, TypeError  # what a build without an operator raises


_AVAILABLE = torch.backends.mkldnn.is_available()


def has_onednn() -> bool:
    """Whether PyTorch computes with oneDNN now; ``torch.backends.mkldnn.enabled`` turns it off."""
    return _AVAILABLE and torch.backends.mkldnn.enabled


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, 'none', [], '')


@functools.cache
def has_products() -> bool:
    """Whether this build has the operator, and it computes what is meant."""
    a, b = (torch.arange(size, dtype=torch.float32, device='cpu').view(shape).sin_()
            for size, shape in ((320, (8, 40)), (640, (40, 16))))
    try:
        return torch.backends.mkldnn.is_available() and torch.allclose(_by_onednn(a, b), a @ b, rtol=1e-4, atol=1e-4)
    except MISSING:
        return False


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of ``(M, K)`` and ``(K, N)`` on CPU, without autograd. Fastest with contiguous rows in both."""
    if a.dtype == torch.float32 and a.numel() and b.numel() and torch.backends.mkldnn.enabled and has_products():
        return _by_onednn(a, b)
    return torch.mm(a, b)


def pack(kernel: Tensor, size: Sequence[int], stride: Triple, padding: Triple, dilation: Triple,
         groups: int) -> Tensor:
    """The kernel ``(O, I/groups, kT, kH, kW)`` as oneDNN wants it for clips of ``size`` (N, I, T, H, W)."""
    return torch._C._nn.mkldnn_reorder_conv3d_weight(
        kernel.detach().to_mkldnn(), padding, stride, dilation, groups, tuple(size))


def packed_conv3d(x: Tensor, packed: Tensor, stride: Triple, padding: Triple, dilation: Triple, groups: int) -> Tensor:
    """``F.conv3d`` of ``x (N, I, T, H, W)`` with a kernel from :func:`pack` for that size; not differentiable."""
    y = torch.ops.mkldnn._convolution_pointwise(x, packed, None, padding, stride, dilation, groups, 'none', [], '')
    return y.contiguous()


@functools.cache
def has_packed() -> bool:
    """Whether this build has the operators for packed kernels."""
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float32, device='cpu')
    ones = (1, 1, 1)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return bool(packed_conv3d(x, pack(x, x.shape, ones, (0, 0, 0), ones, 1), ones, (0, 0, 0), ones, 1) == 1)
    except MISSING:
        return False


@functools.lru_cache(maxsize=4096)
def prefers_packed(size: Tuple[int, ...], kernel: Tuple[int, ...], stride: Triple) -> bool:
    """Whether the kernel weighs more than what goes in and out, so that a convolution is mostly its rearrangement.

    512 -> 512 3^3 on 1x4x4 takes half of the time with a kernel that was rearranged once (docs/benchmarks.md).

    Args:
        size, kernel: shapes of the input and the kernel.
    """
    elements = math.prod(size)
    return math.prod(kernel) > elements + elements // size[1] // math.prod(stride) * kernel[0]


def packed_if_right(kernel: Tensor, x: Tensor, stride: Triple, padding: Triple, dilation: Triple,
                    groups: int) -> Optional[Tensor]:
    """:func:`pack` for clips like ``x``, or None if this build has no such operator or computes something else."""
    with torch.inference_mode(False), torch.no_grad():
        try:
            packed = pack(kernel, x.shape, stride, padding, dilation, groups)
            got = packed_conv3d(x, packed, stride, padding, dilation, groups)
        except MISSING:
            return None
        want = F.conv3d(x, kernel, None, stride, padding, dilation, groups)
        largest = float(want.nan_to_num(0, 0, 0).abs().max())  # a kernel may hold NaN, and so its results
        close = torch.allclose(got, want, rtol=1e-3, atol=1e-3 * largest, equal_nan=True)
    return packed if close else None
