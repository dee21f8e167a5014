r"""From the parameters of a 3T layer to its kernel in a handful of operations, and back.

What :func:`.temporal_transform.affine_matrix`, :func:`.slice_transforms.slice_transforms` and :func:`.slice_product` do
one after the other, as one rule of :mod:`.built_kernel`, for slices as high as wide. A layer has a few thousand such
numbers, so on CPU what counts is how many operations handle them. With pixels as complex numbers :math:`z_p` from the
slice's centre, h = (k-1)/2 and x along the real axis, eq. 3 and 4 of arXiv:2006.15983 are

.. math::  z'_p = s\, e^{ir} (z_p + h\, (t_x + i t_y))

and with the loss's derivatives :math:`g_p = \partial_{x'} - i \partial_{y'}` of one filter's step

.. math::  G = \sum_p z_p g_p + h (t_x + i t_y) \sum_p g_p, \quad \partial_s = \Re(e^{ir} G), \quad
           \partial_r = -s \Im(e^{ir} G), \quad \partial_{t_x} - i \partial_{t_y} = h s e^{ir} \sum_p g_p

The distances to the columns of pixels are kept for one column more on either side: next to column u is the distance
plus and minus one, and with the sign of all three the slope of bilinear interpolation, with the mean of the one-sided
derivatives at its kinks, is (sign(d-1) + sign(d+1)) / 2 - sign(d).
"""
from typing import Dict, Tuple

import torch
from torch import Tensor

from .slice_product import SliceRule
from .slice_transforms import sum_of_products
from ...maths.temporal_transform import affine_matrix, temporal_kernel

_CONSTANTS: Dict[tuple, Tuple[Tensor, ...]] = {}  # a few small tensors; making them anew costs more than using them


def _constants(size: int, dtype: torch.dtype) -> Tuple[Tensor, ...]:
    """The pixels ``(P, 1)``; the sums over pixels of :math:`z_p g_p / 2` and :math:`g_p / 2` as a matrix ``(2, P)``;
    the columns, one more on either side, ``(k + 2, 1)``; one step that moves nothing ``(P, P)``."""
    key = size, dtype
    if key not in _CONSTANTS:
        with torch.inference_mode(False), torch.no_grad():
            # half-integers: at the identity every sample lies exactly on a pixel in floating point, too
            columns = torch.arange(-1, size + 1, dtype=dtype, device='cpu') - (size - 1) / 2
            v, u = torch.meshgrid(columns[1:-1], columns[1:-1], indexing='ij')
            pixels = torch.complex(u.contiguous(), v.contiguous()).view(-1, 1)
            sums = torch.stack([pixels[:, 0], torch.ones_like(pixels[:, 0])]) / 2
            _CONSTANTS[key] = (pixels, sums, columns.view(-1, 1),
                               torch.eye(size * size, dtype=dtype, device='cpu'))
    return _CONSTANTS[key]


class AffineRule(SliceRule):
    """One call's kernel from ``weight (O, I, 1, k, k)`` and the four ``(kT-1, O)`` parameters, kT > 1; on CPU."""

    def shape(self, weight: Tensor, scale: Tensor, *moves: Tensor) -> tuple:
        return (*weight.shape[:2], len(scale) + 1, *weight.shape[3:])

    def transforms(self, weight: Tensor, scale: Tensor, rotate: Tensor, translate_x: Tensor,
                   translate_y: Tensor) -> Tensor:
        steps, filters = scale.shape
        size = weight.shape[-1]
        pixels, _, columns, identity = _constants(size, weight.dtype)
        self.unit = torch.polar(torch.ones_like(scale), rotate)
        self.turn = self.unit * scale
        self.move = torch.complex(translate_x, translate_y)
        moved = torch.add(pixels, self.move.view(-1), alpha=(size - 1) / 2).mul_(self.turn.view(-1))  # P, B
        self.distances = weight.new_empty(2, size * size, size + 2, steps * filters)  # x, y
        torch.sub(torch.view_as_real(moved).permute(2, 0, 1).unsqueeze(2), columns, out=self.distances)
        self.hats = self.distances[:, :, 1:-1].abs().neg_().add_(1).clamp_(min=0)
        along, down = self.hats
        matrices = (down.unsqueeze(2) * along.unsqueeze(1)).view(size**4, -1)
        self.steps = matrices.mT.contiguous().view(steps, filters, size * size, -1)
        # all slices' way from the first
        ways = weight.new_empty(filters, steps + 1, size * size, size * size)
        ways[:, 0] = identity
        product = ways[:, 1] = self.steps[0]
        for b in range(1, steps):
            product = ways[:, b + 1] = torch.bmm(self.steps[b], product)
        self.fixed, self.ways = size * size, ways.flatten(1, 2)
        return self.ways

    def transform_gradients(self, of_transforms: Tensor, weight: Tensor, scale: Tensor,
                            *moves: Tensor) -> Tuple[Tensor, ...]:
        steps, filters = scale.shape
        size = weight.shape[-1]
        _, sums, _, _ = _constants(size, weight.dtype)
        ways, of_ways = self.ways.unflatten(1, (steps + 1, -1)), of_transforms.unflatten(1, (steps, -1))
        of_steps = torch.empty_like(self.steps)
        of_product = of_ways[:, -1]
        for b in reversed(range(1, steps)):
            torch.bmm(of_product, ways[:, b].mT, out=of_steps[b])
            of_product = torch.baddbmm(of_ways[:, b - 1], self.steps[b].mT, of_product)
        of_steps[0] = of_product
        share = of_steps.view(steps * filters, -1).mT.contiguous().view(size * size, size, size, -1)
        along, down = self.hats
        of_hats = torch.empty_like(self.hats)
        sum_of_products(share.unbind(1), down.unsqueeze(2).unbind(1), of_hats[0])
        sum_of_products(share.unbind(2), along.unsqueeze(2).unbind(1), of_hats[1])
        sign = self.distances.sign_()
        slope = (sign[:, :, 2:] + sign[:, :, :-2]).sub_(sign[:, :, 1:-1], alpha=2)  # twice the slope
        x, y = of_hats.mul_(slope).sum(2)  # P, B
        turning, total = torch.mm(sums, torch.complex(x, y.neg_())).view(2, steps, filters)
        reach = (size - 1) / 2
        turned = self.unit * turning.addcmul_(self.move, total, value=reach)
        of_move = (self.turn * total).mul_(reach)
        return turned.real, turned.imag * -scale, of_move.real, -of_move.imag

    def differentiable(self, weight: Tensor, scale: Tensor, *moves: Tensor) -> Tensor:
        return temporal_kernel(weight.squeeze(2), affine_matrix(scale, *moves))
