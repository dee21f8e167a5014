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
from typing import Dict, Tuple

import torch
from torch import Tensor

from .slice_product import slice_product


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


def _axis(size: int, like: Tensor) -> Tensor:
    # Pixels counted from the slice's centre: half-integers, so that at the identity every sample lies exactly on a
    # pixel in floating point too. Going through [-1, 1] and back would not.
    return torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2


def _make_grid(size: Tuple[int, int], like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    height, width = size
    rows, columns = _axis(height, like), _axis(width, like)
    v, u = torch.meshgrid(rows, columns, indexing='ij')
    # A side of one pixel has no extent: its coordinate is 0 and nothing moves along it.
    across = (width - 1) / (height - 1) if height > 1 else 0.
    along = (height - 1) / (width - 1) if width > 1 else 0.
    one = torch.ones_like(u)
    factors = torch.stack([u, across * v, one * ((width - 1) / 2), along * u, v, one * ((height - 1) / 2)])
    return factors.view(2, 3, -1), rows[:, None], columns[:, None]


_GRIDS: Dict[tuple, Tuple[Tensor, Tensor, Tensor]] = {}  # a few small tensors; making them anew costs 40 operations


def _grid(size: Tuple[int, int], like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Factors of the entries of theta in the positions of all pixels ``(2, 3, P)``, x first; rows, columns."""
    if type(like) is not Tensor or like.device.type != 'cpu' or not _runs_eagerly():
        return _make_grid(size, like)
    key = size, like.dtype
    if key not in _GRIDS:
        with torch.inference_mode(False), torch.no_grad():
            _GRIDS[key] = _make_grid(size, like)
    return _GRIDS[key]


def _runs_eagerly() -> bool:
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def _distances(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """From every sample to every row ``(P, kH, B)`` and to every column ``(P, kW, B)``, in pixels.

    ``theta (..., 2, 3)`` is taken as B matrices. They come last here: P, kH and kW are a handful of numbers, and loops
    over the filters are the ones that run at full speed.
    """
    grid, rows, columns = _grid(size, theta)
    entries = theta.reshape(-1, 2, 3).permute(1, 2, 0)  # 2, 3, B
    x, y = (grid.unsqueeze(-1) * entries.unsqueeze(2)).sum(1)  # P, B; no matrix product, which TF32 would round
    return y.unsqueeze(1) - rows, x.unsqueeze(1) - columns


def _weights(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    rows, columns = _distances(theta, size)
    return _hat(rows), _hat(columns)


def _matrices(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    rows, columns = _weights(theta, size)
    pixels = size[0] * size[1]
    products = (rows.unsqueeze(2) * columns.unsqueeze(1)).view(pixels * pixels, -1)
    # in order in memory: batched products of anything else fall back to one call per matrix
    return products.mT.contiguous().view(*theta.shape[:-2], pixels, pixels)


class _ResamplingMatrices(torch.autograd.Function):
    """:func:`_matrices` with a written-out backward: fewer operations, all of them along the filters."""
    generate_vmap_rule = True

    @staticmethod
    def forward(theta: Tensor, size: Tuple[int, int]) -> Tensor:
        return _matrices(theta, size)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        theta, ctx.size = inputs
        ctx.save_for_backward(theta)

    @staticmethod
    def backward(ctx, grad: Tensor):
        theta, = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: leave it to autograd
            return *torch.autograd.grad(_matrices(theta, ctx.size), theta, grad, create_graph=True), None
        height, width = ctx.size
        distances = _distances(theta, ctx.size)
        rows, columns = map(_hat, distances)
        grad = grad.reshape(-1, (height * width)**2).mT.reshape(height * width, height, width, -1)
        shares = (grad * columns.unsqueeze(1)).sum(2), (grad * rows.unsqueeze(2)).sum(1)
        moves = []
        for distance, share in zip(distances, shares):
            # -sign(d) inside, half of it at |d| = 1, nothing outside
            slope = distance.sign() * (distance.abs().neg_().add_(1).sign_().add_(1).mul_(-0.5))
            moves.append(share.mul_(slope).sum(1))  # P, B
        y, x = moves
        return torch.bmm(_grid(ctx.size, theta)[0], torch.stack([x, y])).permute(2, 0, 1).reshape(theta.shape), None


def resampling_matrices(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """Bilinear resampling as matrices.

    Args:
        theta: ``(..., 2, 3)`` affine matrices in coordinates where the border pixels' centres are at -1 and 1.
        size: (kH, kW) of the slice.

    Returns:
        ``(..., kH*kW, kH*kW)``; entry (p, q) is the weight of pixel q of a slice in pixel p of the next slice.
    """
    if theta.device.type != 'cpu' or not _runs_eagerly():
        return _matrices(theta, size)
    return _ResamplingMatrices.apply(theta, size)


def slice_transforms(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """From the first slice to all: steps ``theta (kT-1, O, 2, 3)`` -> ``(O, kT*kH*kW, kH*kW)``, the identity first."""
    pixels = size[0] * size[1]
    composed = [torch.eye(pixels, dtype=theta.dtype, device=theta.device).expand(theta.shape[1], -1, -1)]
    for b, matrix in enumerate(resampling_matrices(theta, size)):  # O, P, P
        composed.append(torch.bmm(matrix, composed[-1]) if b else matrix)
    return torch.cat(composed, dim=1)


def few_slices(weight: Tensor) -> bool:
    """Whether :func:`temporal_kernel` moves the slices of ``(O, I, kH, kW)`` instead of multiplying matrices."""
    return weight.shape[1] < weight.shape[2] * weight.shape[3]


def temporal_kernel(weight: Tensor, theta: Tensor) -> Tensor:
    """All slices of the 3D kernel (eq. 2): each is the one before it, transformed.

    Args:
        weight: ``(O, I, kH, kW)``, the first slice K_1.
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel, shared by the input channels.

    Returns:
        ``(O, I, kT, kH, kW)``.
    """
    out_channels, in_channels, height, width = weight.shape
    if not few_slices(weight):
        kernel = slice_product(weight.flatten(2), slice_transforms(theta, (height, width)))  # O, I, kT*P
        return kernel.view(out_channels, in_channels, -1, height, width)
    slices = [weight.flatten(2)]  # O, I, P
    rows, columns = _weights(theta, (height, width))  # P, kH, (kT-1)*O
    rows, columns = (w.unflatten(-1, theta.shape[:2]).permute(2, 3, 1, 0) for w in (rows, columns))  # kT-1, O, k, P
    for row, column in zip(rows, columns):
        lines = torch.bmm(slices[-1].view(out_channels, -1, width), column)  # O, I*kH, P
        lines = lines.view(out_channels, in_channels, height, -1)
        slices.append((lines * row.unsqueeze(1)).sum(2))
    kernel = torch.stack(slices, dim=2)  # O, I, kT, P
    return kernel.reshape(out_channels, in_channels, -1, height, width)
