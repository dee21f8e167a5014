"""The kernel of a 3T layer as a rule of :mod:`..conv3d.kernel_in_place`: all slices are products of one.

All slices of one filter are a small matrix T (kT*kH*kW, kH*kW) times its first slice, for every filter another T and
the same T for all input channels: ``kernel[o] = first[o] @ T[o]^T``. Batched products are fastest with the long side
(the input channels) last, so the gradients are written that way round.

A rule belongs to one call: ``build`` leaves in it what ``gradients`` needs. :mod:`.affine_slices` is the rule that
computes T from a layer's parameters; :func:`with_gain` weighs the slices of any of them.
"""
from typing import Iterable, Tuple

import torch
from torch import Tensor

from ..memory import borrow


class SliceRule:
    """From ``first (O, I, 1, kH, kW)`` or ``(O, I, kH, kW)`` and ``transforms (O, kT*kH*kW, kH*kW)``.

    Args:
        fixed: leading rows of the transforms that are constant, and get no gradient: none, or the kH*kW of the first
            slice, which are then the identity.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed

    def anew(self) -> 'SliceRule':
        """The same rule without what ``build`` leaves in it: for another pass through one graph, be it by another
        thread at the same time."""
        return SliceRule(self.fixed)

    def transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        """``(O, kT*kH*kW, kH*kW)``, without autograd."""
        return others[0]

    def transform_gradients(self, of_transforms: Tensor, first: Tensor, *others: Tensor) -> Tuple[Tensor, ...]:
        """The gradients of ``others`` from that of the transforms from row ``fixed`` on."""
        if not self.fixed:
            return of_transforms,
        padded = torch.zeros_like(others[0])
        padded[:, self.fixed:] = of_transforms
        return padded,

    def differentiable_transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        """:meth:`transforms` by operations that autograd knows."""
        return others[0]

    def depth(self, first: Tensor, *others: Tensor) -> int:
        """kT."""
        return others[0].shape[1] // others[0].shape[2]

    def shape(self, first: Tensor, *others: Tensor) -> tuple:
        return (*first.shape[:2], self.depth(first, *others), *first.shape[-2:])

    def build(self, out: Tensor, first: Tensor, *others: Tensor) -> None:
        self.found = self.transforms(first, *others)
        torch.bmm(first.flatten(2), self.found.mT, out=out.view(*first.shape[:2], -1))

    def gradients(self, grad: Tensor, first: Tensor, *others: Tensor) -> tuple:
        grad, flat = grad.contiguous().flatten(2), first.flatten(2)
        of_first = borrow('windows', first.dtype, (flat.shape[0], flat.shape[2], flat.shape[1]))
        of_first = torch.bmm(self.found.mT, grad.mT, out=of_first).mT
        of_first = torch.empty_like(first).copy_(of_first.reshape(first.shape))  # never a view of borrowed memory
        of_transforms = torch.bmm(flat.mT, grad[:, :, self.fixed:]).mT
        return of_first, *self.transform_gradients(of_transforms, first, *others)

    def _source(self, slices: Tensor, first: Tensor) -> Tensor:
        """The first slice ``(O, kH*kW, I)``, input channels last; where its transform is the identity it is built."""
        return slices[0] if self.fixed else first.flatten(2).mT.contiguous()

    def build_slices(self, out: Tensor, first: Tensor, *others: Tensor) -> None:
        """Write the slices into ``out (kT, O, kH*kW, I)``."""
        self.found = self.transforms(first, *others)
        if self.fixed:
            out[0].copy_(first.flatten(2).mT)
        source, start = self._source(out, first), 1 if self.fixed else 0
        for slice_, transform in zip(out[start:], self.found.unflatten(1, (len(out), -1)).unbind(1)[start:]):
            torch.bmm(transform, source, out=slice_)

    def slice_gradients(self, grads: Iterable[Tuple[int, Tensor]], slices: Tensor, first: Tensor,
                        *others: Tensor) -> tuple:
        """The parameters' gradients from those of :meth:`build_slices`: numbers of slices, each with its gradient."""
        transforms = self.found.unflatten(1, (len(slices), -1))
        source = self._source(slices, first)
        of_first, of_transforms = None, torch.zeros_like(transforms)
        for b, grad in grads:
            if b or not self.fixed:
                of_transforms[:, b] = torch.bmm(grad, source.mT)
                if of_first is None:
                    of_first = torch.bmm(transforms[:, b].mT, grad)
                else:
                    of_first.baddbmm_(transforms[:, b].mT, grad)
            else:
                of_first = grad if of_first is None else of_first.add_(grad)
        if of_first is None:
            of_first = torch.zeros_like(source)
        of_transforms = of_transforms.flatten(1, 2)[:, self.fixed:]
        return of_first.mT.reshape(first.shape), *self.transform_gradients(of_transforms, first, *others)

    def differentiable(self, first: Tensor, *others: Tensor) -> Tensor:
        transforms = self.differentiable_transforms(first, *others)
        return torch.bmm(first.flatten(2), transforms.mT).view(self.shape(first, *others))


class _GainRule(SliceRule):
    """``rule`` with a weight for every slice, ``gain (kT, O)``, as the last parameter: K_b = g_b T_b K_1."""

    def __init__(self, rule: SliceRule) -> None:
        super().__init__(fixed=0)  # the first slice's transform is g_0 times the identity
        self.rule = rule

    def anew(self) -> SliceRule:
        return _GainRule(self.rule.anew())

    def depth(self, first: Tensor, *others: Tensor) -> int:
        return len(others[-1])

    @staticmethod
    def _weigh(transforms: Tensor, gain: Tensor) -> Tensor:
        weighed = transforms.unflatten(1, (len(gain), -1)) * gain.T[:, :, None, None]
        return weighed.flatten(1, 2)

    def transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        *others, gain = others
        self.unweighed = self.rule.transforms(first, *others)
        return self._weigh(self.unweighed, gain)

    def transform_gradients(self, of_transforms: Tensor, first: Tensor, *others: Tensor) -> Tuple[Tensor, ...]:
        *others, gain = others
        of_gain = (of_transforms * self.unweighed).unflatten(1, (len(gain), -1)).sum((2, 3)).T
        of_unweighed = self._weigh(of_transforms, gain)[:, self.rule.fixed:]
        return *self.rule.transform_gradients(of_unweighed, first, *others), of_gain

    def differentiable_transforms(self, first: Tensor, *others: Tensor) -> Tensor:
        *others, gain = others
        return self._weigh(self.rule.differentiable_transforms(first, *others), gain)


def with_gain(rule: SliceRule) -> SliceRule:
    """``rule`` with one more parameter at the end, ``gain (kT, O)``."""
    return _GainRule(rule)
