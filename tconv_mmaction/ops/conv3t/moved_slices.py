r"""All slices of a 3T kernel with few input channels: each is the one before it, resampled by taps.

A step's (kH*kW, kH*kW) matrix has at most four entries per row, and with few input channels (the 7x7 stem has 3, its
matrices 49 x 49) most of the work of multiplying by it would be making it. Bilinear weights are a product of weights of
rows and of columns, so one step is

.. math::  K_{b+1}[i, p] = \sum_y R_b[y, p] \sum_x C_b[x, p]\, K_b[i, y, x]

per output channel. The backward pass is written out on CPU: it keeps the inner sums, takes all steps' derivatives with
respect to the transforms at once, and has its operands in the order in memory that batched products need.
"""
from typing import List, Tuple

import torch
from torch import Tensor

from .bilinear import hat, hat_slope, hat_values, pixel_grid
from ..conditions import runs_eagerly


def _distances(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """From every row ``(S, O, kH, P)`` and every column ``(S, O, kW, P)`` to every sample, in pixels."""
    grid, rows, columns = pixel_grid(size, theta)
    x, y = (theta.unsqueeze(-1) * grid).sum(3).unbind(2)  # S, O, P; no matrix product, which TF32 would round
    return y.unsqueeze(2) - rows, x.unsqueeze(2) - columns


def _steps(weight: Tensor, rows: Tensor, columns: Tensor) -> Tuple[List[Tensor], List[Tensor]]:
    """The slices ``(O, I, P)``, kT of them, and the inner sums ``(O, I, kH, P)`` between them."""
    out_channels, in_channels, height, width = weight.shape
    slices, sums = [weight.flatten(2)], []
    for row, column in zip(rows, columns):
        lines = torch.bmm(slices[-1].reshape(out_channels, in_channels * height, width), column)
        sums.append(lines.view(out_channels, in_channels, height, -1))
        slices.append((sums[-1] * row.unsqueeze(1)).sum(2))
    return slices, sums


def _plain(weight: Tensor, theta: Tensor) -> Tensor:
    rows, columns = map(hat, _distances(theta, weight.shape[2:]))
    slices, _ = _steps(weight, rows, columns)
    return torch.stack(slices, dim=2).unflatten(-1, weight.shape[2:])


class _MovedSlices(torch.autograd.Function):

    @staticmethod
    def forward(ctx, weight, theta):
        rows, columns = map(hat_values, _distances(theta, weight.shape[2:]))
        slices, sums = _steps(weight, rows, columns)
        ctx.save_for_backward(weight, theta, rows, columns, *slices[1:-1], *sums)
        return torch.stack(slices, dim=2).unflatten(-1, weight.shape[2:])

    @staticmethod
    def backward(ctx, grad):
        weight, theta, rows, columns, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: leave it to autograd
            wanted = [t for t in (weight, theta) if t.requires_grad]
            found = iter(torch.autograd.grad(_plain(weight, theta), wanted, grad, create_graph=True))
            return tuple(next(found) if t.requires_grad else None for t in (weight, theta))
        out_channels, in_channels, height, width = weight.shape
        steps = len(theta)
        slices, sums = [weight, *kept[:steps - 1]], kept[-steps:]
        grad = grad.flatten(3)  # O, I, kT, P
        of_slice = grad[:, :, steps]
        of_rows, of_columns = torch.empty_like(rows), torch.empty_like(columns)
        for b in reversed(range(steps)):
            shared = of_slice.unsqueeze(2)  # O, I, 1, P
            torch.sum(sums[b] * shared, 1, out=of_rows[b])
            of_lines = (rows[b].unsqueeze(1) * shared).reshape(out_channels, in_channels * height, -1)
            source = slices[b].reshape(out_channels, in_channels * height, width)
            torch.bmm(source.mT, of_lines, out=of_columns[b])
            of_slice = torch.bmm(of_lines, columns[b].mT).reshape(out_channels, in_channels, -1) + grad[:, :, b]
        moves = []
        for distance, share in zip(_distances(theta, weight.shape[2:]), (of_rows, of_columns)):
            moves.append(share.mul_(hat_slope(distance)).sum(2))  # S, O, P
        y, x = moves
        factors = pixel_grid(weight.shape[2:], theta)[0]  # 2, 3, P
        of_theta = torch.stack([x @ factors[0].T, y @ factors[1].T], dim=2)
        return of_slice.reshape(weight.shape), of_theta


def moved_slices(weight: Tensor, theta: Tensor) -> Tensor:
    """All slices of the 3D kernel from the first, one after the other.

    Args:
        weight: ``(O, I, kH, kW)``, the first slice K_1.
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel.

    Returns:
        ``(O, I, kT, kH, kW)``; differentiable any number of times.
    """
    if weight.device.type != 'cpu' or not len(theta) or not runs_eagerly():
        return _plain(weight, theta)
    return _MovedSlices.apply(weight, theta)
