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
    """Columns mu, u_1, ..., u_(length-1): ``(length, length)``, orthonormal, float64."""
    frame = torch.arange(length, dtype=torch.float64)[:, None] + 0.5
    order = torch.arange(length, dtype=torch.float64)[None, :]
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


def analysis_matrix(length: int, eta: float) -> Tensor:
    """``[eta mu, U]^T``, from the filter to the free tensor: ``(coefficients, length)``, float64.

    It inverts :func:`synthesis_matrix`; with ``eta=inf`` it does so for filters whose frames add up to zero.
    """
    basis = cosine_basis(length)
    if math.isinf(eta):
        return (basis[:, 1:] if length > 1 else basis).T
    basis[:, 0] *= eta
    return basis.T


def over_pixels(matrix: Tensor, pixels: int, filters: int = 1) -> Tensor:
    """``matrix`` in the form in which :func:`apply_in_time` is fastest for that many filters of that many pixels.

    One large product with zeros in it is several times as fast as one small product per pair of channels.
    """
    if matrix.numel() == 1 or pixels > 16:
        return matrix
    if pixels == 1:  # temporal filters: four of them in a row
        together = 4 if filters % 4 == 0 else 1
        return torch.kron(torch.eye(together, dtype=matrix.dtype, device=matrix.device), matrix)
    return torch.kron(matrix, torch.eye(pixels, dtype=matrix.dtype, device=matrix.device))


def _is_flat(matrix: Tensor, tensor: Tensor) -> bool:
    return matrix.shape[1] != tensor.shape[2] or tensor.shape[3] == tensor.shape[4] == 1


def apply_in_time(matrix: Tensor, tensor: Tensor) -> Tensor:
    """Multiply the temporal axis of ``tensor (O, I, T, kH, kW)`` by ``matrix (T', T)`` -> ``(O, I, T', kH, kW)``.

    ``matrix`` may come from :func:`over_pixels`.
    """
    if matrix.numel() == 1:
        return tensor * matrix
    if _is_flat(matrix, tensor):
        flat = tensor.reshape(-1, matrix.shape[1]) @ matrix.T
        return flat.view(*tensor.shape[:2], -1, *tensor.shape[3:])
    return (matrix @ tensor.flatten(3)).view(*tensor.shape[:2], matrix.shape[0], *tensor.shape[3:])


class BasisRule:
    """:func:`apply_in_time` as a rule of :mod:`.built_kernel`: writes into given memory, and works there in backward.

    Args:
        matrix: as for :func:`apply_in_time`.
        length: frames of the kernel, T'.
    """

    PART = 1 << 18  # elements at a time in the backward pass: a copy of them fits the cache

    def __init__(self, matrix: Tensor, length: int) -> None:
        self.matrix, self.length = matrix, length

    def shape(self, weight: Tensor) -> tuple:
        return (*weight.shape[:2], self.length, *weight.shape[3:])

    def build(self, out: Tensor, weight: Tensor) -> None:
        if self.matrix.numel() == 1:
            torch.mul(weight, self.matrix, out=out)
        elif _is_flat(self.matrix, weight):
            torch.mm(weight.reshape(-1, self.matrix.shape[1]), self.matrix.T, out=out.view(-1, self.matrix.shape[0]))
        else:
            out.copy_(apply_in_time(self.matrix, weight))

    def gradients(self, grad: Tensor, weight: Tensor) -> tuple:
        grad, matrix = grad.contiguous(), self.matrix
        if matrix.numel() == 1:
            return grad.mul_(matrix),
        if not _is_flat(matrix, weight):
            return (matrix.T @ grad.flatten(3)).view(weight.shape),
        rows = grad.view(-1, matrix.shape[0])
        if matrix.shape[0] != matrix.shape[1]:
            return (rows @ matrix).view(weight.shape),
        for part in rows.split(max(1, self.PART // rows.shape[1])):
            part.copy_(part @ matrix)
        return grad,

    def basis_in_time(self, weight: Tensor) -> Tensor:
        """``(T', coefficients)``: the matrix without what :func:`over_pixels` made of it."""
        # of one pixel there may be several filters one after the other, of several pixels the pixels alternate
        step = 1 if weight.shape[3] == weight.shape[4] == 1 else self.matrix.shape[0] // self.length
        return self.matrix[::step, ::step][:self.length, :weight.shape[2]]

    def differentiable(self, weight: Tensor) -> Tensor:
        return apply_in_time(self.matrix, weight)
