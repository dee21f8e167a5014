r"""All slices of a 3T kernel with few input channels: each is the one before it, resampled by taps.

A step's (kH*kW, kH*kW) matrix has at most four entries per row, and with few input channels (the 7x7 stem has 3, its
matrices 49 x 49) most of the work of multiplying by it would be making it. Bilinear weights are a product of weights of
rows and of columns, so one step is

.. math::  K_{b+1}[i, p] = \sum_y R_b[y, p] \sum_x C_b[x, p]\, K_b[i, y, x]

per output channel. The backward pass is written out: it keeps the inner sums, takes all steps' derivatives with respect
to the transforms at once, and has its operands in the order in memory that batched products need. The reference is
:func:`tconv_mmaction.maths.temporal_transform.temporal_kernel`.
"""
from typing import List, Tuple

import torch
from torch import Tensor

from ...maths.temporal_transform import centred_axis, temporal_kernel
from ..memory import constant
from ..second_derivatives import gradients_by_autograd, leave_to_autograd


def _grid(size: Tuple[int, int], like: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Factors of the entries of theta in the positions of all pixels ``(2, 3, P)``, x first; rows, columns."""
    height, width = size

    def build() -> Tuple[Tensor, Tensor, Tensor]:
        rows, columns = (centred_axis(n, like.dtype, like.device) for n in size)
        v, u = torch.meshgrid(rows, columns, indexing='ij')
        across = (width - 1) / (height - 1) if height > 1 else 0.  # a side of one pixel has no extent
        along = (height - 1) / (width - 1) if width > 1 else 0.
        one = torch.ones_like(u)
        factors = torch.stack([u, across * v, one * ((width - 1) / 2), along * u, v, one * ((height - 1) / 2)])
        return factors.view(2, 3, -1), rows[:, None], columns[:, None]

    return constant(('moved slices', size, like.dtype, like.device), build)


def _distances(theta: Tensor, size: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
    """From every row ``(S, O, kH, P)`` and every column ``(S, O, kW, P)`` to every sample, in pixels."""
    grid, rows, columns = _grid(size, theta)
    x, y = (theta.unsqueeze(-1) * grid).sum(3).unbind(2)  # S, O, P; no matrix product, which TF32 would round
    return y.unsqueeze(2) - rows, x.unsqueeze(2) - columns


def _hat(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).clamp_(min=0)


def _hat_slope(distance: Tensor) -> Tensor:
    """Of max(0, 1 - |d|): -sign(d) inside, half of it at |d| = 1, nothing outside and at 0."""
    return distance.abs().neg_().add_(1).sign_().add_(1).mul_(-0.5).mul_(distance.sign())


class _MovedSlices(torch.autograd.Function):

    @staticmethod
    def forward(ctx, weight, theta):
        out_channels, in_channels, height, width = weight.shape
        rows, columns = map(_hat, _distances(theta, (height, width)))
        slices: List[Tensor] = [weight.flatten(2)]  # O, I, P
        sums: List[Tensor] = []  # O, I, kH, P
        for row, column in zip(rows, columns):
            lines = torch.bmm(slices[-1].reshape(out_channels, in_channels * height, width), column)
            sums.append(lines.view(out_channels, in_channels, height, -1))
            slices.append((sums[-1] * row.unsqueeze(1)).sum(2))
        ctx.save_for_backward(weight, theta, rows, columns, *slices[1:-1], *sums)
        return torch.stack(slices, dim=2).unflatten(-1, (height, width))

    @staticmethod
    def backward(ctx, grad):
        weight, theta, rows, columns, *kept = ctx.saved_tensors
        if leave_to_autograd(grad):
            return gradients_by_autograd(temporal_kernel, (weight, theta), [grad], ctx.needs_input_grad)
        out_channels, in_channels, height, width = weight.shape
        steps = len(theta)
        slices, sums = [weight, *kept[:steps - 1]], kept[-steps:]
        grad = grad.flatten(3)  # O, I, kT, P
        of_slice = grad[:, :, steps]
        of_rows, of_columns = torch.empty_like(rows), torch.empty_like(columns)
        for b in reversed(range(steps)):
            spread = of_slice.unsqueeze(2)  # O, I, 1, P
            torch.sum(sums[b] * spread, 1, out=of_rows[b])
            of_lines = (rows[b].unsqueeze(1) * spread).reshape(out_channels, in_channels * height, -1)
            source = slices[b].reshape(out_channels, in_channels * height, width)
            torch.bmm(source.mT, of_lines, out=of_columns[b])
            of_slice = torch.bmm(of_lines, columns[b].mT).reshape(out_channels, in_channels, -1) + grad[:, :, b]
        y, x = (of_weights.mul_(_hat_slope(distance)).sum(2)  # S, O, P
                for distance, of_weights in zip(_distances(theta, (height, width)), (of_rows, of_columns)))
        factors = _grid((height, width), theta)[0]  # 2, 3, P
        of_theta = torch.stack([x @ factors[0].T, y @ factors[1].T], dim=2)
        return of_slice.reshape(weight.shape), of_theta


def few_channels(weight: Tensor) -> bool:
    """Whether the slices of ``(O, I, ..., kH, kW)`` are moved by taps, and not by products with matrices."""
    return weight.shape[1] < weight.shape[-2] * weight.shape[-1]


def moved_slices(weight: Tensor, theta: Tensor) -> Tensor:
    """All slices of the 3D kernel from the first, one after the other; where hand-written code may run.

    Args:
        weight: ``(O, I, kH, kW)``, the first slice K_1.
        theta: ``(kT-1, O, 2, 3)``, one transform per step and output channel.

    Returns:
        ``(O, I, kT, kH, kW)``; differentiable any number of times.
    """
    return _MovedSlices.apply(weight, theta)
