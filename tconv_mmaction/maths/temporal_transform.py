r"""The maths of the temporally factorised 3D convolution: from one 2D kernel to kT slices.

Ras et al., "Explainable 3D Convolutional Neural Networks by Learning Temporal Transformations", arXiv:2006.15983,
eq. 2 to 5. Slice b is slice b-1 resampled bilinearly, zero outside, at the positions

.. math::  \begin{bmatrix} x' \\ y' \end{bmatrix} = \begin{bmatrix}
           s\cos r & -s\sin r & t_x s\cos r - t_y s\sin r \\
           s\sin r & s\cos r & t_x s\sin r + t_y s\cos r \end{bmatrix}
           \begin{bmatrix} x \\ y \\ 1 \end{bmatrix}   \qquad (eq. 3, 4)

where -1 and 1 are the centres of the border pixels, x runs along the width and y along the height.

Resampling is linear in the slice, so one step of one filter is a (P, P) matrix, P = kH*kW, the same for all input
channels; the way from the first slice to the b-th is the product of the steps' matrices, and the whole kernel is one
batched product of the first slice with them.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor

# Larger scales and translations than this mean the same, "everything is outside"; infinities would meet zeros in
# products and give NaN. NaN itself stays NaN: a training that diverged must not look like a kernel of zeros.
LARGEST = 1e15


def bounded(values: Tensor) -> Tensor:
    """``values`` with infinities as large finite numbers."""
    return values.clamp(-LARGEST, LARGEST)


def affine_matrix(scale: Tensor, rotate: Tensor, translate_x: Tensor, translate_y: Tensor) -> Tensor:
    """Eq. 3: ``(...)`` scale, rotation (radians) and translations (half kernel extents) -> ``(..., 2, 3)``.

    >>> quarter_turn = affine_matrix(*(torch.tensor(v) for v in (1., torch.pi / 2, 0., 0.)))
    >>> quarter_turn[0, 1].item(), quarter_turn[1, 0].item()
    (-1.0, 1.0)
    """
    scale, x, y = bounded(scale), bounded(translate_x), bounded(translate_y)
    cos, sin = scale * rotate.cos(), scale * rotate.sin()
    rows = (cos, -sin, cos * x - sin * y, sin, cos, sin * x + cos * y)
    return torch.stack(torch.broadcast_tensors(*rows), dim=-1).unflatten(-1, (2, 3))


def hat(distance: Tensor) -> Tensor:
    """max(0, 1 - |d|), eq. 5, with the mean of the one-sided derivatives at its kinks d = 0 and |d| = 1.

    Both kinks are met by every sample of an identity transform. There ``abs`` has derivative 0, and ``maximum``
    splits the gradient evenly between equal arguments; ``relu`` or ``clamp`` would pick one side, and the first
    training steps would favour one direction of motion.
    """
    height = 1 - distance.abs()
    return torch.maximum(height, torch.zeros_like(height))


def centred_axis(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The pixels of an axis counted from its centre: half-integers, so that at the identity every sample lies exactly
    on a pixel in floating point too. Going through [-1, 1] and back would not."""
    return torch.arange(size, dtype=dtype, device=device) - (size - 1) / 2


def sample_positions(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """Where each pixel of the next slice reads: x and y ``(..., P)``, in pixels from the slice's centre.

    Args:
        theta: ``(..., 2, 3)`` affine matrices in coordinates where the border pixels' centres are at -1 and 1.
        size: (kH, kW) of the slice.
    """
    height, width = size
    v, u = torch.meshgrid(centred_axis(height, theta.dtype, theta.device),
                          centred_axis(width, theta.dtype, theta.device), indexing='ij')
    v, u = v.flatten(), u.flatten()
    # A side of one pixel has no extent: its coordinate is 0 and nothing moves along it.
    across = (width - 1) / (height - 1) if height > 1 else 0.
    along = (height - 1) / (width - 1) if width > 1 else 0.
    (xx, xy, x1), (yx, yy, y1) = (row.unsqueeze(-1).unbind(-2) for row in theta.unbind(-2))
    # sums of products, not a matrix product, which TF32 would round
    x = xx * u + xy * (across * v) + x1 * ((width - 1) / 2)
    y = yx * (along * u) + yy * v + y1 * ((height - 1) / 2)
    return x, y


def resampling_matrices(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """Bilinear resampling as matrices (eq. 5).

    Args:
        theta, size: as for :func:`sample_positions`.

    Returns:
        ``(..., kH*kW, kH*kW)``; entry (p, q) is the weight of pixel q of a slice in pixel p of the next slice.
    """
    x, y = sample_positions(theta, size)
    rows = hat(y.unsqueeze(-1) - centred_axis(size[0], theta.dtype, theta.device))  # ..., P, kH
    columns = hat(x.unsqueeze(-1) - centred_axis(size[1], theta.dtype, theta.device))  # ..., P, kW
    return (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)


def slice_transforms(theta: Tensor, size: Tuple[int, int], gain: Optional[Tensor] = None) -> Tensor:
    """From the first slice to all.

    Args:
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel; see :func:`sample_positions`.
        size: (kH, kW) of the slices.
        gain: ``(kT, O)``, a weight for every slice, or None for ones.

    Returns:
        ``(O, kT, kH*kW, kH*kW)``; without gains the first of them is the identity.
    """
    pixels = size[0] * size[1]
    identity = torch.eye(pixels, dtype=theta.dtype, device=theta.device).expand(theta.shape[1], -1, -1)
    products = [identity]
    for matrix in resampling_matrices(theta, size).unbind(0):
        products.append(torch.bmm(matrix, products[-1]) if len(products) > 1 else matrix)
    transforms = torch.stack(products, dim=1)
    return transforms if gain is None else transforms * gain.T[:, :, None, None]


def temporal_kernel(weight: Tensor, theta: Tensor, gain: Optional[Tensor] = None) -> Tensor:
    """All slices of the 3D kernel (eq. 2): each is the one before it, transformed.

    Args:
        weight: ``(O, I, kH, kW)``, the first slice K_1.
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel, shared by the input channels.
        gain: ``(kT, O)``; the kernel's slices are then g_b T_b K_1.

    Returns:
        ``(O, I, kT, kH, kW)``.

    A filter that follows something moving to the right, a whole pixel of its 3x3 kernel per frame: t_x = -1 (half of
    the kernel's extent is one pixel, and what is read from further left comes to lie further right).

    >>> first = torch.zeros(1, 1, 3, 3)
    >>> first[..., 1, 0] = 1
    >>> theta = affine_matrix(torch.ones(2, 1), torch.zeros(2, 1), -torch.ones(2, 1), torch.zeros(2, 1))
    >>> temporal_kernel(first, theta)[0, 0, :, 1]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    out_channels, in_channels, height, width = weight.shape
    transforms = slice_transforms(theta, (height, width), gain).flatten(1, 2)
    return torch.bmm(weight.flatten(2), transforms.mT).view(out_channels, in_channels, -1, height, width)
