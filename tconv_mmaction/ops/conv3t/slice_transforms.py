r"""From the first slice of a 3T filter to all of its slices, as one matrix per filter.

Bilinear resampling of a (kH, kW) slice is linear in it: a step is a (P, P) matrix, P = kH*kW, the same for all input
channels, and the way from the first slice to the b-th is the product of the steps' matrices. They are small, so on CPU
their cost is the number of operations: all steps and filters are handled at once, the filters last in memory (P, kH and
kW are a handful of numbers), and the derivative is written out.
"""
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .bilinear import hat, hat_slope, hat_values, pixel_grid
from ..conditions import runs_eagerly


def _distances(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """From every sample to every row ``(P, kH, B)`` and to every column ``(P, kW, B)``, in pixels.

    ``theta (..., 2, 3)`` is taken as B matrices.
    """
    grid, rows, columns = pixel_grid(size, theta)
    entries = theta.reshape(-1, 2, 3).permute(1, 2, 0)  # 2, 3, B
    x, y = (grid.unsqueeze(-1) * entries.unsqueeze(2)).sum(1)  # P, B; no matrix product, which TF32 would round
    return y.unsqueeze(1) - rows, x.unsqueeze(1) - columns


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """Weights of rows ``(P, kH, B)`` and columns ``(P, kW, B)`` -> matrices ``(B, P, P)``."""
    matrices = (rows.unsqueeze(2) * columns.unsqueeze(1)).flatten(0, 2)
    # in order in memory: batched products of anything else fall back to one call per matrix
    return matrices.mT.contiguous().view(matrices.shape[1], rows.shape[0], rows.shape[0])


def resampling_matrices(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """Bilinear resampling as matrices.

    Args:
        theta: ``(..., 2, 3)`` affine matrices in coordinates where the border pixels' centres are at -1 and 1.
        size: (kH, kW) of the slice.

    Returns:
        ``(..., kH*kW, kH*kW)``; entry (p, q) is the weight of pixel q of a slice in pixel p of the next slice.
    """
    return _products(*map(hat, _distances(theta, size))).unflatten(0, theta.shape[:-2])


def _composed(matrices: Tensor) -> List[Tensor]:
    """Steps ``(kT-1, O, P, P)`` -> their products from the first slice to each other, ``(O, P, P)``."""
    products: List[Tensor] = []
    for matrix in matrices:
        products.append(torch.bmm(matrix, products[-1]) if products else matrix)
    return products


def _plain(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    identity = torch.eye(size[0] * size[1], dtype=theta.dtype, device=theta.device).expand(theta.shape[1], -1, -1)
    return torch.stack([identity, *_composed(resampling_matrices(theta, size))], dim=1)


def sum_of_products(these: Sequence[Tensor], those: Sequence[Tensor], out: Optional[Tensor] = None) -> Tensor:
    """The sum of elementwise products, without autograd."""
    total = torch.mul(these[0], those[0], out=out)
    for this, that in zip(these[1:], those[1:]):
        total.addcmul_(this, that)
    return total


class _SliceTransforms(torch.autograd.Function):

    @staticmethod
    def forward(ctx, theta, size):
        distances = _distances(theta, size)
        rows, columns = map(hat_values, distances)
        steps = _products(rows, columns).unflatten(0, theta.shape[:2])
        filters, pixels = theta.shape[1], steps.shape[-1]
        out = theta.new_empty(filters, len(theta) + 1, pixels, pixels)
        out[0, 0].zero_().fill_diagonal_(1)
        out[1:, 0] = out[0, 0]
        for b, product in enumerate(_composed(steps)):
            out[:, b + 1] = product
        ctx.size = size
        ctx.save_for_backward(theta, *distances, rows, columns, steps, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        theta, to_rows, to_columns, rows, columns, steps, out = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: leave it to autograd
            return *torch.autograd.grad(_plain(theta, ctx.size), theta, grad, create_graph=True), None
        of_steps = torch.empty_like(steps)
        of_product = grad[:, len(steps)]
        for b in reversed(range(1, len(steps))):
            torch.bmm(of_product, out[:, b].mT, out=of_steps[b])
            of_product = torch.baddbmm(grad[:, b], steps[b].mT, of_product)
        of_steps[0] = of_product
        pixels = steps.shape[-1]
        share = of_steps.view(-1, pixels * pixels).mT.reshape(pixels, *ctx.size, -1)
        y = sum_of_products(share.unbind(2), columns.unsqueeze(2).unbind(1)).mul_(hat_slope(to_rows)).sum(1)  # P, B
        x = sum_of_products(share.unbind(1), rows.unsqueeze(2).unbind(1)).mul_(hat_slope(to_columns)).sum(1)
        return torch.bmm(pixel_grid(ctx.size, theta)[0], torch.stack([x, y])).permute(2, 0, 1).view(theta.shape), None


def slice_transforms(theta: Tensor, size: Tuple[int, int]) -> Tensor:
    """From the first slice to all.

    Args:
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel; see :func:`resampling_matrices`.
        size: (kH, kW) of the slices.

    Returns:
        ``(O, kT, kH*kW, kH*kW)``, the identity first; differentiable any number of times.
    """
    if theta.device.type != 'cpu' or not len(theta) or not runs_eagerly():
        return _plain(theta, size)
    return _SliceTransforms.apply(theta, size)
