r"""From the parameters of a 3T layer to its slices' transforms in a handful of operations, and back.

What :func:`tconv_mmaction.maths.temporal_transform.affine_matrix` and ``slice_transforms`` do one after the other, as
one rule (:mod:`.slice_rule`), for slices as high as wide. A layer has a few thousand such numbers, so what counts is
how many operations handle them. With pixels as complex numbers :math:`z_p` from the slice's centre, h = (k-1)/2 and x
along the real axis, eq. 3 and 4 of arXiv:2006.15983 are

.. math::  z'_p = s\, e^{ir} (z_p + h\, (t_x + i t_y))

and with the loss's derivatives :math:`g_p = \partial_{x'} - i \partial_{y'}` of one filter's step

.. math::  G = \sum_p z_p g_p + h (t_x + i t_y) \sum_p g_p, \quad \partial_s = \Re(e^{ir} G), \quad
           \partial_r = -s \Im(e^{ir} G), \quad \partial_{t_x} - i \partial_{t_y} = h s e^{ir} \sum_p g_p

The distances to the columns of pixels are kept for one column more on either side: next to column u is the distance
plus and minus one, and with the sign of all three the slope of bilinear interpolation, with the mean of the one-sided
derivatives at its kinks, is (sign(d-1) + sign(d+1)) / 2 - sign(d).
"""
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from ...maths.temporal_transform import affine_matrix, bounded, centred_axis, slice_transforms
from ..memory import constant
from .slice_rule import SliceRule


def _constants(size: int, like: Tensor) -> Tuple[Tensor, ...]:
    """The pixels ``(P, 1)``; the sums over pixels of :math:`z_p g_p / 2` and :math:`g_p / 2` as a matrix ``(2, P)``;
    the columns, one more on either side, ``(k + 2, 1)``; one step that moves nothing ``(P, P)``."""
    dtype, device = like.dtype, like.device

    def build() -> Tuple[Tensor, ...]:
        columns = centred_axis(size + 2, dtype, device)
        v, u = torch.meshgrid(columns[1:-1], columns[1:-1], indexing='ij')
        pixels = torch.complex(u.contiguous(), v.contiguous()).view(-1, 1)
        sums = torch.stack([pixels.view(-1), torch.ones_like(pixels).view(-1)]) / 2
        return pixels, sums, columns.view(-1, 1), torch.eye(size * size, dtype=dtype, device=device)

    return constant(('affine slices', size, dtype, device), build)


def sum_of_products(these: Sequence[Tensor], those: Sequence[Tensor], out: Optional[Tensor] = None) -> Tensor:
    """The sum of elementwise products, without autograd."""
    total = torch.mul(these[0], those[0], out=out)
    for this, that in zip(these[1:], those[1:]):
        total.addcmul_(this, that)
    return total


class AffineRule(SliceRule):
    """From ``weight (O, I, 1, k, k)`` and the four ``(kT-1, O)`` parameters, kT > 1."""

    def anew(self) -> SliceRule:
        return AffineRule()

    def depth(self, first: Tensor, *others: Tensor) -> int:
        return len(others[0]) + 1

    def transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        scale, rotate, translate_x, translate_y = others
        steps, filters = scale.shape
        size = first.shape[-1]
        pixels, _, columns, identity = _constants(size, first)
        self.unit = torch.polar(torch.ones_like(scale), rotate)
        self.rotation = self.unit * bounded(scale)  # and scale
        self.translation = bounded(torch.view_as_real(torch.complex(translate_x, translate_y)))
        self.translation = torch.view_as_complex(self.translation)
        moved = torch.add(pixels, self.translation.view(-1), alpha=(size - 1) / 2).mul_(self.rotation.view(-1))  # P, B
        self.distances = first.new_empty(2, size * size, size + 2, steps * filters)  # x, y
        torch.sub(torch.view_as_real(moved).permute(2, 0, 1).unsqueeze(2), columns, out=self.distances)
        self.hats = self.distances[:, :, 1:-1].abs().neg_().add_(1).clamp_(min=0)
        along, down = self.hats
        matrices = (down.unsqueeze(2) * along.unsqueeze(1)).view(size**4, -1)
        # in order in memory: batched products of anything else fall back to one call per matrix
        self.steps = matrices.mT.contiguous().view(steps, filters, size * size, -1)
        transforms = first.new_empty(filters, steps + 1, size * size, size * size)
        transforms[:, 0] = identity
        product = transforms[:, 1] = self.steps[0]
        for b in range(1, steps):
            product = transforms[:, b + 1] = torch.bmm(self.steps[b], product)
        self.fixed, self.products = size * size, transforms
        return transforms.flatten(1, 2)

    def transform_gradients(self, of_transforms: Tensor, first: Tensor, *others: Tensor) -> Tuple[Tensor, ...]:
        scale = others[0]
        steps, filters = scale.shape
        size = first.shape[-1]
        _, sums, _, _ = _constants(size, first)
        of_products, products = of_transforms.unflatten(1, (steps, -1)), self.products
        of_steps = torch.empty_like(self.steps)
        of_product = of_products[:, -1]
        for b in reversed(range(1, steps)):
            torch.bmm(of_product, products[:, b].mT, out=of_steps[b])
            of_product = torch.baddbmm(of_products[:, b - 1], self.steps[b].mT, of_product)
        of_steps[0] = of_product
        of_steps = of_steps.view(steps * filters, -1).mT.contiguous().view(size * size, size, size, -1)
        along, down = self.hats
        of_hats = torch.empty_like(self.hats)
        sum_of_products(of_steps.unbind(1), down.unsqueeze(2).unbind(1), of_hats[0])
        sum_of_products(of_steps.unbind(2), along.unsqueeze(2).unbind(1), of_hats[1])
        sign = self.distances.sign_()  # of signs the signs, if this is not the first backward pass
        slope = (sign[:, :, 2:] + sign[:, :, :-2]).sub_(sign[:, :, 1:-1], alpha=2)  # twice the slope
        x, y = of_hats.mul_(slope).sum(2)  # P, B
        of_rotation, total = torch.mm(sums, torch.complex(x, y.neg_())).view(2, steps, filters)
        reach = (size - 1) / 2
        turned = self.unit * of_rotation.addcmul_(self.translation, total, value=reach)
        of_translation = (self.rotation * total).mul_(reach)
        return turned.real, turned.imag * -bounded(scale), of_translation.real, -of_translation.imag

    def differentiable_transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        return slice_transforms(affine_matrix(*others), tuple(first.shape[-2:])).flatten(1, 2)
