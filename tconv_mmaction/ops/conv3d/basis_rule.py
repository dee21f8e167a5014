"""The filter of a multi-branch layer: a small matrix times the temporal axis of the free tensor.

What :func:`tconv_mmaction.maths.temporal_basis.apply_in_time` computes, as one large product with zeros in it, which is
several times as fast as one small product per pair of channels; and as a rule of :mod:`.kernel_in_place`.
"""
import torch
from torch import Tensor

from ...maths.temporal_basis import apply_in_time, synthesis_matrix
from ..memory import constant


def over_pixels(matrix: Tensor, pixels: int, filters: int = 1) -> Tensor:
    """``matrix`` in the form in which :func:`multiply_in_time` is fastest for that many filters of that many pixels."""
    if matrix.numel() == 1 or pixels > 16:
        return matrix
    if pixels == 1:  # temporal filters: four of them in a row
        together = 4 if filters % 4 == 0 else 1
        return torch.kron(torch.eye(together, dtype=matrix.dtype, device=matrix.device), matrix)
    return torch.kron(matrix, torch.eye(pixels, dtype=matrix.dtype, device=matrix.device))


def basis_for(length: int, eta: float, weight: Tensor) -> Tensor:
    """:func:`..maths.temporal_basis.synthesis_matrix` for the free tensor ``weight (O, I, coefficients, kH, kW)``, in
    float32 or better, on its device, and in the form of :func:`over_pixels`; made once."""
    pixels, filters = weight.shape[3] * weight.shape[4], weight.shape[0] * weight.shape[1]
    dtype, device = torch.promote_types(weight.dtype, torch.float32), weight.device

    def build() -> Tensor:
        # in float64 first: a float32 basis turned into float64 would be good to 1e-8 only
        return over_pixels(synthesis_matrix(length, eta), pixels, filters).to(device, dtype)

    return constant(('basis', length, eta, pixels, filters % 4, dtype, device), build)


def _is_flat(matrix: Tensor, tensor: Tensor) -> bool:
    return matrix.shape[1] != tensor.shape[2] or tensor.shape[3] == tensor.shape[4] == 1


def multiply_in_time(matrix: Tensor, tensor: Tensor) -> Tensor:
    """``apply_in_time``, where ``matrix`` may come from :func:`over_pixels`."""
    if matrix.numel() == 1:
        return tensor * matrix
    if _is_flat(matrix, tensor):
        flat = tensor.reshape(-1, matrix.shape[1]) @ matrix.T
        return flat.view(*tensor.shape[:2], -1, *tensor.shape[3:])
    return (matrix @ tensor.flatten(3)).view(*tensor.shape[:2], matrix.shape[0], *tensor.shape[3:])


class BasisRule:
    """The product as a rule of :mod:`.kernel_in_place`: writes into given memory, and works there in backward.

    Args:
        matrix: as for :func:`multiply_in_time`.
        length: frames of the kernel, T'.
    """

    PART = 1 << 18  # elements at a time in the backward pass: a copy of them fits the cache

    def __init__(self, matrix: Tensor, length: int) -> None:
        self.matrix, self.length = matrix, length

    def anew(self) -> 'BasisRule':
        return self  # it keeps nothing

    def shape(self, weight: Tensor) -> tuple:
        return (*weight.shape[:2], self.length, *weight.shape[3:])

    def build(self, out: Tensor, weight: Tensor) -> None:
        if self.matrix.numel() == 1:
            torch.mul(weight, self.matrix, out=out)
        elif _is_flat(self.matrix, weight):
            torch.mm(weight.reshape(-1, self.matrix.shape[1]), self.matrix.T, out=out.view(-1, self.matrix.shape[0]))
        else:
            out.copy_(multiply_in_time(self.matrix, weight))

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
        return apply_in_time(self.basis_in_time(weight), weight)
