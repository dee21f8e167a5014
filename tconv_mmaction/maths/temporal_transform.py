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
import torch
from torch import Tensor

from ..ops.conditions import differentiable_gradients, runs_eagerly
from ..ops.conv3t.moved_slices import moved_slices
from ..ops.conv3t.slice_product import slice_product
from ..ops.conv3t.slice_transforms import slice_transforms


def _entries(cos: Tensor, sin: Tensor, x: Tensor, y: Tensor) -> Tensor:
    rows = (cos, -sin, cos * x - sin * y, sin, cos, sin * x + cos * y)
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))


def _plain_affine(scale: Tensor, rotate: Tensor, translate_x: Tensor, translate_y: Tensor) -> Tensor:
    return _entries(scale * rotate.cos(), scale * rotate.sin(), translate_x, translate_y)


class _AffineMatrix(torch.autograd.Function):
    """:func:`_plain_affine` with a written-out derivative: a third of the operations, on a handful of numbers each."""

    @staticmethod
    def forward(ctx, scale, rotate, x, y):
        unit = rotate.cos(), rotate.sin()
        cos, sin = scale * unit[0], scale * unit[1]
        ctx.save_for_backward(scale, rotate, x, y, *unit, cos, sin)
        return _entries(cos, sin, x, y)

    @staticmethod
    def backward(ctx, grad):
        scale, rotate, x, y, unit_cos, unit_sin, cos, sin = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: leave it to autograd
            inputs = scale, rotate, x, y
            return differentiable_gradients([_plain_affine(*inputs)], inputs, [grad], ctx.needs_input_grad)
        (xx, xy, x1), (yx, yy, y1) = (row.unbind(-1) for row in grad.unbind(-2))
        of_cos = torch.addcmul(xx + yy, x1, x).addcmul_(y1, y)
        of_sin = torch.addcmul(yx - xy, y1, x).addcmul_(x1, y, value=-1)
        return (unit_cos * of_cos + unit_sin * of_sin, cos * of_sin - sin * of_cos, cos * x1 + sin * y1,
                cos * y1 - sin * x1)


def affine_matrix(scale: Tensor, rotate: Tensor, translate_x: Tensor, translate_y: Tensor) -> Tensor:
    """Eq. 3: ``(...)`` scale, rotation (radians) and translations (half kernel sizes) -> ``(..., 2, 3)``."""
    given = scale, rotate, translate_x, translate_y
    if scale.device.type != 'cpu' or not runs_eagerly() or len({t.shape for t in given}) > 1:
        return _plain_affine(*given)
    return _AffineMatrix.apply(*given)


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
        kernel = slice_product(weight.flatten(2), slice_transforms(theta, (height, width)).flatten(1, 2))  # O, I, kT*P
        return kernel.view(out_channels, in_channels, -1, height, width)
    return moved_slices(weight, theta)
