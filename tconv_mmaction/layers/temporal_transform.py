r"""The maths of the temporally factorised 3D convolution: from one 2D kernel to kT slices.

Ras et al., "Explainable 3D Convolutional Neural Networks by Learning Temporal Transformations", arXiv:2006.15983,
eq. 2 to 5. Slice b is slice b-1 resampled bilinearly, zero outside, at the positions

.. math::  \begin{bmatrix} x' \\ y' \end{bmatrix} = \begin{bmatrix}
           s\cos r & -s\sin r & t_x s\cos r - t_y s\sin r \\
           s\sin r & s\cos r & t_x s\sin r + t_y s\cos r \end{bmatrix}
           \begin{bmatrix} x \\ y \\ 1 \end{bmatrix}   \qquad (eq. 3, 4)

where -1 and 1 are the centres of the border pixels, x runs along the width and y along the height.

Resampling is linear in the slice, so one step of one filter is a (kH*kW, kH*kW) matrix, the same for all input
channels. The steps are the matrices' product and the whole kernel is one batched matrix product.
"""
from typing import Tuple

import torch
from torch import Tensor


def affine_matrix(scale: Tensor, rotate: Tensor, translate_x: Tensor, translate_y: Tensor) -> Tensor:
    """Eq. 3: ``(...)`` scale, rotation (radians) and translations (half kernel sizes) -> ``(..., 2, 3)``."""
    cos, sin = scale * rotate.cos(), scale * rotate.sin()
    rows = (cos, -sin, cos * translate_x - sin * translate_y,
            sin, cos, sin * translate_x + cos * translate_y)  # yapf: disable
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def _hat(distance: Tensor) -> Tensor:
    """max(0, 1 - |d|), eq. 5, with the mean of the one-sided derivatives at its kinks d = 0 and |d| = 1.

    Both kinks are met by every sample of an identity transform. There ``abs`` has derivative 0, and ``maximum``
    splits the gradient evenly between equal arguments; ``relu`` or ``clamp`` would pick one side, and the first
    training steps would favour one direction of motion.
    """
    height = 1 - distance.abs()
    return torch.maximum(height, torch.zeros_like(height))


def resampling_matrices(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """Bilinear resampling as matrices.

    Args:
        theta: ``(..., 2, 3)`` affine matrices in coordinates where the border pixels' centres are at -1 and 1.
        size: (kH, kW) of the slice.

    Returns:
        ``(..., kH*kW, kH*kW)``; entry (p, q) is the weight of pixel q of a slice in pixel p of the next slice.
    """
    height, width = size
    # Pixels counted from the slice's centre: half-integers, so that at the identity every sample lies exactly on a
    # pixel in floating point too. Going through [-1, 1] and back would not.
    v = torch.arange(height, dtype=theta.dtype, device=theta.device) - (height - 1) / 2  # kH
    u = torch.arange(width, dtype=theta.dtype, device=theta.device) - (width - 1) / 2  # kW
    # A side of one pixel has no extent: its coordinate is 0 and nothing moves along it.
    across = (width - 1) / (height - 1) if height > 1 else 0.
    along = (height - 1) / (width - 1) if width > 1 else 0.
    t = theta[..., None, None]  # ..., 2, 3, 1, 1
    x = t[..., 0, 0, :, :] * u + t[..., 0, 1, :, :] * (across * v)[:, None] + t[..., 0, 2, :, :] * ((width - 1) / 2)
    y = t[..., 1, 0, :, :] * (along * u) + t[..., 1, 1, :, :] * v[:, None] + t[..., 1, 2, :, :] * ((height - 1) / 2)
    x, y = x.flatten(-2), y.flatten(-2)  # ..., P with P = kH*kW
    rows, columns = _hat(y[..., None] - v), _hat(x[..., None] - u)  # ..., P, kH and ..., P, kW
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)  # ..., P, P


def temporal_kernel(weight: Tensor, theta: Tensor) -> Tensor:
    """All slices of the 3D kernel (eq. 2): each is the one before it, transformed.

    Args:
        weight: ``(O, I, kH, kW)``, the first slice K_1.
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel, shared by the input channels.

    Returns:
        ``(O, I, kT, kH, kW)``.
    """
    out_channels, in_channels, height, width = weight.shape
    steps, pixels = theta.shape[0], height * width
    first = weight.flatten(2)  # O, I, P
    matrices = resampling_matrices(theta, (height, width))  # kT-1, O, P, P
    if in_channels < pixels:  # few slices: moving them is cheaper than multiplying the matrices (7x7 stems)
        slices = [first]
        for matrix in matrices:
            slices.append(slices[-1] @ matrix.mT)
        kernel = torch.stack(slices, dim=2)  # O, I, kT, P
    else:
        composed = [torch.eye(pixels, dtype=weight.dtype, device=weight.device).expand(out_channels, -1, -1)]
        for b, matrix in enumerate(matrices):
            composed.append(matrix @ composed[-1] if b else matrix)
        stacked = torch.stack(composed, dim=1).flatten(1, 2)  # O, kT*P, P
        kernel = torch.bmm(first, stacked.mT)  # O, I, kT*P
    return kernel.reshape(out_channels, in_channels, steps + 1, height, width)
