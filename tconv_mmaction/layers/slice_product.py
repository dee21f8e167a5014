"""The last product of the kernel generator, with the backward pass that is fast on CPU.

All slices of one filter are a small matrix T (kT*kH*kW, kH*kW) times its first slice, for every filter another T and
the same T for all input channels: ``kernel[o] = first[o] @ T[o]^T``. Autograd writes the gradients as ``g @ T`` and
``g^T @ first``. Batched MKL products are faster the other way round, with the long side (the input channels) last;
that is all that is special here.
"""
from typing import Tuple

import torch
from torch import Tensor


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
    """The product as a rule of :mod:`.built_kernel`: ``first (O, I, kH, kW)``, ``transforms (O, kT*kH*kW, kH*kW)``."""

    def shape(self, first: Tensor, transforms: Tensor) -> tuple:
        return (*first.shape[:2], transforms.shape[1] // transforms.shape[2], *first.shape[2:])

    def build(self, out: Tensor, first: Tensor, transforms: Tensor) -> None:
        torch.bmm(first.flatten(2), transforms.mT, out=out.view(*first.shape[:2], -1))

    def gradients(self, grad: Tensor, first: Tensor, transforms: Tensor) -> tuple:
        grad_first, grad_transforms = _gradients(grad.contiguous().flatten(2), first.flatten(2), transforms)
        return grad_first.reshape(first.shape), grad_transforms

    def differentiable(self, first: Tensor, transforms: Tensor) -> Tensor:
        return _product(first.flatten(2), transforms).view(self.shape(first, transforms))
