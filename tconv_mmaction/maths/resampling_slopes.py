r"""The derivatives of a resampling step with respect to its motion, written out.

A resampling matrix (eq. 5 of arXiv:2006.15983) is a product of hats, :math:`R_{pq} = h(y_p - y_q)\,h(x_p - x_q)`, and
the positions :math:`x_p, y_p` that it reads from are linear in the matrix :math:`\theta` of the step. So

.. math:: \partial_k R_{pq} = h'(y_p - y_q)\,h(x_p - x_q)\,\partial_k y_p + h(y_p - y_q)\,h'(x_p - x_q)\,\partial_k x_p.

Automatic differentiation gives the same numbers; forward mode goes through Python for ``torch.maximum`` and takes four
times as long for a whole fit.
"""
from typing import Tuple

import torch
from torch import Tensor

from .temporal_transform import centred_axis, hat, sample_positions


def hat_slope(distance: Tensor) -> Tensor:
    """The derivative of :func:`.temporal_transform.hat`: at its kinks the mean of the two one-sided ones.

    >>> hat_slope(torch.tensor([-1.5, -1., -0.5, 0., 0.5, 1.]))
    tensor([ 0.0000,  0.5000,  1.0000, -0.0000, -1.0000, -0.5000])
    """
    size = distance.abs()
    return -distance.sign() * (0.5 * (size < 1) + 0.5 * (size <= 1))


def affine_slopes(theta: Tensor) -> Tensor:
    """``(..., 2, 3)`` of :func:`.temporal_transform.affine_matrix` -> ``(..., 4, 2, 3)``: its derivatives with respect
    to log s, r, t_x and t_y."""
    (_, _, _), (sin, cos, _) = (row.unbind(-1) for row in theta.unbind(-2))  # times s
    zero = torch.zeros_like(cos)

    def shift(x, y):
        return torch.stack([zero, zero, x, zero, zero, y], dim=-1).unflatten(-1, (2, 3))

    turned = torch.stack([-theta[..., 1, :], theta[..., 0, :]], dim=-2)
    return torch.stack([theta, turned, shift(cos, sin), shift(-sin, cos)], dim=-3)


def inverse_slopes(back: Tensor, slopes: Tensor) -> Tensor:
    """Derivatives of the inverse of a step: ``back (..., 2, 3)`` is the inverse, ``slopes (..., K, 2, 3)`` are those of
    the step itself; d(M^-1) = -M^-1 dM M^-1 with both completed by the row 0, 0, 1."""
    back = back.unsqueeze(-3)
    along = back[..., :2] @ slopes  # the last column of dM meets the 1
    moved = along[..., :2] @ back
    return -torch.cat([moved[..., :2], moved[..., 2:] + along[..., 2:]], dim=-1)


def resampling_slopes(theta: Tensor, slopes: Tensor, size: Tuple[int, int]) -> Tensor:
    """The derivatives of :func:`.temporal_transform.resampling_matrices`.

    Args:
        theta: ``(..., 2, 3)``.
        slopes: ``(..., K, 2, 3)``, the derivatives of theta with respect to K numbers.
        size: (kH, kW) of the slice.

    Returns:
        ``(..., K, P, P)``, P = kH*kW.
    """
    x, y = (values.unsqueeze(-1) for values in sample_positions(theta, size))
    x_slope, y_slope = (values[..., None, None] for values in sample_positions(slopes, size))  # linear: of d theta
    rows = y - centred_axis(size[0], theta.dtype, theta.device)  # ..., P, kH
    columns = x - centred_axis(size[1], theta.dtype, theta.device)  # ..., P, kW
    down = hat_slope(rows).unsqueeze(-1) * hat(columns).unsqueeze(-2)  # ..., P, kH, kW
    right = hat(rows).unsqueeze(-1) * hat_slope(columns).unsqueeze(-2)
    down, right = (values.unsqueeze(-4) for values in (down, right))  # ..., 1, P, kH, kW
    return (down * y_slope).addcmul_(right, x_slope).flatten(-2)
