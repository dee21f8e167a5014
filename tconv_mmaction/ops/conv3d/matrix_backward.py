"""The backward pass of a 3D convolution with a large kernel and small activations, as matrix products.

In the last stages of a network a kernel has millions of numbers and a clip a few hundred positions. There two products
with a matrix of patches beat oneDNN's gradients on processors without AVX-512 (docs/benchmarks.md).
"""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu_capability import has_avx512
from ..geometry import Triple

# the limits of profitable()
LEAST = 3 << 19  # elements of the kernel
PER_POSITION = 1 << 13
PART = 1 << 21  # patch elements of the clips that are taken together: 8 MB in float32


def profitable(x: Tensor, grad: Tensor, kernel: Tensor, groups: int) -> bool:
    """Whether the kernel is large, and larger than ``PER_POSITION`` numbers for each position of the output.

    The limits are where it began to pay on two cores: tools/benchmarks/inner_paths.py. A single clip, as a rule, has
    PyTorch's own gradients as fast, and so has everything where oneDNN has AVX-512.
    """
    positions = grad.numel() // grad.shape[1]
    large = kernel.numel() >= max(LEAST, PER_POSITION * positions)
    return large and groups == 1 and len(x) > 1 and not has_avx512()


def matrix_backward(grad: Tensor, x: Tensor, kernel: Tensor, stride: Triple, padding: Triple, dilation: Triple,
                  wants_x: bool, wants_kernel: bool) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Gradients of ``F.conv3d(x, kernel, None, stride, padding, dilation)``.

    Args:
        grad: of the output, ``(N, O, T', H', W')``.
        x: ``(N, I, T, H, W)``.
        kernel: ``(O, I, kT, kH, kW)``.
        wants_x, wants_kernel: which to compute.

    Returns:
        The gradients of ``x`` and of ``kernel``, or None.
    """
    _, out_channels, *out = grad.shape
    in_channels, taps = x.shape[1], kernel.shape[2:]
    matrix = kernel.flatten(1)
    padded = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
    grad_padded = torch.zeros_like(padded) if wants_x else None
    grad_matrix = None

    def windows(source: Tensor) -> Tensor:
        """The patches of all outputs, ``(I, kT, kH, kW, n, T', H', W')``; a view."""
        of_clip, of_channel, *steps = source.stride()
        return source.as_strided((in_channels, *taps, len(source), *out),
                                 (of_channel, *(s * d for s, d in zip(steps, dilation)), of_clip,
                                  *(s * d for s, d in zip(steps, stride))), source.storage_offset())

    together = max(1, PART // (matrix.shape[1] * out[0] * out[1] * out[2]))
    for n in range(0, len(x), together):
        contribution = grad[n:n + together].transpose(0, 1).reshape(out_channels, -1)
        if wants_kernel:
            patches = windows(padded[n:n + together]).reshape(matrix.shape[1], -1)
            if grad_matrix is None:
                grad_matrix = contribution @ patches.T
            else:
                grad_matrix.addmm_(contribution, patches.T)
        if wants_x:
            target = windows(grad_padded[n:n + together])  # the patches overlap, what one tap of each sees does not
            moved = (matrix.T @ contribution).view(target.shape)
            for a in range(taps[0]):
                for b in range(taps[1]):
                    for c in range(taps[2]):
                        target[:, a, b, c].add_(moved[:, a, b, c])
    if wants_x:
        grad_padded = grad_padded[(..., *(slice(p, p + size) for p, size in zip(padding, x.shape[2:])))]
    return grad_padded, None if grad_matrix is None else grad_matrix.view_as(kernel)
