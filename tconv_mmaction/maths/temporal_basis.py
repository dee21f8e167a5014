r"""An orthonormal basis of temporal filters that starts with the average.

Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), eq. 3 to 7.
A filter of tau frames is written in the average filter and its orthogonal complement,

.. math::  \hat W_\tau = \mu A + U_\perp B = [\tfrac{1}{\eta} \mu, U_\perp] \tilde W_\tau, \qquad
           \mu = \tfrac{1}{\sqrt\tau} 1_\tau, \quad U_\perp^\top \mu = 0, \quad U_\perp^\top U_\perp = I

so that plain weight decay on W~ is eta^2 |A|^2 + |B|^2.

The paper leaves U free. Here it is the discrete cosine transform (type II): a closed formula, so it is the same on
every machine, and for three frames it gives the paper's own axes, the first differential (1, 0, -1) and the second
(1, -2, 1). Any other U would span the same space and give the same penalty.
"""
import math

import torch
from torch import Tensor


def cosine_basis(length: int) -> Tensor:
    """Columns mu, u_1, ..., u_(length-1): ``(length, length)``, orthonormal, float64, on the CPU.

    >>> (cosine_basis(3)[:, 1] * 2**.5).round(decimals=6).tolist()
    [1.0, 0.0, -1.0]
    """
    frame = torch.arange(length, dtype=torch.float64, device='cpu')[:, None] + 0.5
    order = torch.arange(length, dtype=torch.float64, device='cpu')[None, :]
    basis = (math.pi / length * frame * order).cos() * math.sqrt(2 / length)
    basis[:, 0] = math.sqrt(1 / length)
    return basis


def synthesis_matrix(length: int, eta: float) -> Tensor:
    """``[mu / eta, U]``, which takes the free tensor to the filter: ``(length, coefficients)``, float64.

    ``coefficients`` is ``length``, or ``length - 1`` with ``eta=inf``, which has no average component. One frame is
    the exception: its average is the whole filter, and the norm after it makes the filter the same for every finite
    eta, so eta=inf keeps it as well.
    """
    basis = cosine_basis(length)
    if math.isinf(eta):
        return basis[:, 1:] if length > 1 else basis
    basis[:, 0] /= eta
    return basis


def coefficients(length: int, eta: float) -> int:
    """How many numbers along time the free tensor of a filter of ``length`` frames has."""
    return length - 1 if math.isinf(eta) and length > 1 else length


def analysis_matrix(length: int, eta: float) -> Tensor:
    """``[eta mu, U]^T``, from the filter to the free tensor: ``(coefficients, length)``, float64.

    It inverts :func:`synthesis_matrix`; with ``eta=inf`` it does so for filters whose frames add up to zero.
    """
    basis = cosine_basis(length)
    if math.isinf(eta):
        return (basis[:, 1:] if length > 1 else basis).T
    basis[:, 0] *= eta
    return basis.T


def apply_in_time(matrix: Tensor, tensor: Tensor) -> Tensor:
    """Multiply the temporal axis of ``tensor (O, I, T, kH, kW)`` by ``matrix (T', T)`` -> ``(O, I, T', kH, kW)``."""
    return torch.tensordot(tensor, matrix, dims=([2], [1])).movedim(-1, 2)
