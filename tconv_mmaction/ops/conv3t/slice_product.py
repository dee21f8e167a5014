"""The last product of the kernel generator, with the backward pass that is fast on CPU.

All slices of one filter are a small matrix T (kT*kH*kW, kH*kW) times its first slice, for every filter another T and
the same T for all input channels: ``kernel[o] = first[o] @ T[o]^T``. Autograd writes the gradients as ``g @ T`` and
``g^T @ first``. Batched MKL products are faster the other way round, with the long side (the input channels) last;
that is all that is special here.
"""
from typing import Iterable, Tuple

import torch
from torch import Tensor

from ..memory import scratch


def _product(first: Tensor, transforms: Tensor) -> Tensor:
    return torch.bmm(first, transforms.mT)


def _gradients(grad: Tensor, first: Tensor, transforms: Tensor) -> Tuple[Tensor, Tensor]:
    return torch.bmm(transforms.mT, grad.mT).mT, torch.bmm(first.mT, grad).mT


class _SliceProduct(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(first: Tensor, transforms: Tensor) -> Tensor:
        return _product(first, transforms)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return _gradients(grad, *ctx.saved_tensors)  # of operations that autograd knows: second derivatives work


def slice_product(first: Tensor, transforms: Tensor) -> Tensor:
    """``first (O, I, P)`` and ``transforms (O, K, P)`` -> ``(O, I, K)``; differentiable any number of times."""
    if first.device.type != 'cpu' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _product(first, transforms)
    return _SliceProduct.apply(first, transforms)


class SliceRule:
    """The product as a rule of :mod:`.built_kernel`: ``first (O, I, kH, kW)``, ``transforms (O, kT*kH*kW, kH*kW)``.

    :mod:`.patch_products` takes the slices one by one, with the input channels last, where batched products are
    fastest; the first slice's transform must then be the identity, and gets no gradient.

    Args:
        fixed: leading rows of the transforms that are constant, and get no gradient.
    """

    def __init__(self, fixed: int = 0) -> None:
        self.fixed = fixed

    def transforms(self, first: Tensor, transforms: Tensor) -> Tensor:
        """``(O, kT*kH*kW, kH*kW)``."""
        return transforms

    def transform_gradients(self, of_transforms: Tensor, first: Tensor, transforms: Tensor) -> tuple:
        """The gradients of the parameters other than ``first`` from that of the transforms from row ``fixed`` on."""
        if not self.fixed:
            return of_transforms,
        padded = torch.zeros_like(transforms)
        padded[:, self.fixed:] = of_transforms
        return padded,

    def shape(self, first: Tensor, transforms: Tensor) -> tuple:
        return (*first.shape[:2], transforms.shape[1] // transforms.shape[2], *first.shape[2:])

    def build(self, out: Tensor, first: Tensor, *others: Tensor) -> None:
        self.ways = self.transforms(first, *others)
        torch.bmm(first.flatten(2), self.ways.mT, out=out.view(*first.shape[:2], -1))

    def gradients(self, grad: Tensor, first: Tensor, *others: Tensor) -> tuple:
        # batched products are fastest with the long side, the input channels, last
        grad, flat = grad.contiguous().flatten(2), first.flatten(2)
        of_first = scratch.borrow('windows', first.dtype, (flat.shape[0], flat.shape[2], flat.shape[1]))
        of_first = torch.bmm(self.ways.mT, grad.mT, out=of_first).mT
        of_first = torch.empty_like(first).copy_(of_first.reshape(first.shape))  # never a view of scratch memory
        of_ways = torch.bmm(flat.mT, grad[:, :, self.fixed:]).mT
        return of_first, *self.transform_gradients(of_ways, first, *others)

    def build_slices(self, out: Tensor, first: Tensor, *others: Tensor) -> None:
        """Write the slices into ``out (kT, O, kH*kW, I)``."""
        self.ways = self.transforms(first, *others)
        out[0].copy_(first.flatten(2).mT)
        for slice_, way in zip(out[1:], self.ways.unflatten(1, (len(out), -1)).unbind(1)[1:]):
            torch.bmm(way, out[0], out=slice_)

    def slice_gradients(self, grads: Iterable[Tuple[int, Tensor]], slices: Tensor, first: Tensor,
                        *others: Tensor) -> tuple:
        """The parameters' gradients from those of :meth:`build_slices`: numbers of slices, each with its gradient."""
        depth, _, pixels, _ = slices.shape
        ways = self.ways.unflatten(1, (depth, -1))
        of_first, of_ways = None, torch.zeros_like(ways)
        for b, grad in grads:
            if b:
                of_ways[:, b] = torch.bmm(grad, slices[0].mT)
                grad = torch.bmm(ways[:, b].mT, grad) if of_first is None else of_first.baddbmm_(ways[:, b].mT, grad)
            of_first = grad if of_first is None or b else of_first.add_(grad)
        if of_first is None:
            of_first = torch.zeros_like(slices[0])
        of_ways = of_ways.flatten(1, 2)[:, self.fixed:]
        return of_first.mT.reshape(first.shape), *self.transform_gradients(of_ways, first, *others)

    def differentiable(self, first: Tensor, transforms: Tensor) -> Tensor:
        return _product(first.flatten(2), transforms).view(self.shape(first, transforms))
