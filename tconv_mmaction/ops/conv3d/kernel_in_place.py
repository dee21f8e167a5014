"""A 3D convolution with a kernel that is computed from other parameters, in one autograd node.

``F.conv3d(x, build(parameters))`` makes two tensors of the kernel's size anew in every step, the kernel and its
gradient. For the large kernels of a network's last stages the memory that the system has to hand out for them (page by
page) costs more than the arithmetic that fills them. Here the kernel is written into memory that is lent again
(:class:`..memory.Loan`), and a rule may turn the kernel's gradient into the parameters' gradient in place.

A rule belongs to one call and has these functions:

* ``shape(*parameters)``: of the kernel, ``(O, I/groups, kT, kH, kW)``;
* ``build(out, *parameters)``: write the kernel into ``out``, without autograd;
* ``gradients(grad, *parameters)``: a tuple of the parameters' gradients from the kernel's; may overwrite ``grad``;
* ``anew()``: the same rule without what ``build`` left in it, for another pass through the same graph;
* ``differentiable(*parameters)``: the kernel, built by operations that autograd knows: the reference;
* ``basis_in_time(parameter)``, if there is one parameter and the kernel is a matrix ``(kT, coefficients)`` times its
  third axis: that matrix. Minimal filtering then needs no kernel.

That the results are those of ``F.conv3d`` with the reference's kernel is what tests/ops holds, for every rule.
"""
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Geometry
from ..memory import Loan
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from . import matrix_backward, minimal_filtering, single_clip


def kernel_gradients_by_autograd(rule, x: Tensor, parameters: Sequence[Tensor], grad: Tensor, geometry: Geometry,
                                 wanted: Sequence[bool]) -> Tuple[Optional[Tensor], ...]:
    """The gradients of ``x`` and the parameters where a second derivative is wanted: autograd's."""

    def reference(clips: Tensor, *others: Tensor) -> Tensor:
        return F.conv3d(clips, rule.differentiable(*others), None, *geometry)

    return gradients_by_autograd(reference, (x, *parameters), [grad], wanted)


class _KernelInPlace(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, rule, geometry, tile, *parameters):  # setup_context would make each call take longer
        shape = rule.shape(*parameters)
        basis = rule.basis_in_time(*parameters) if tile is not None and hasattr(rule, 'basis_in_time') else None
        ctx.rule, ctx.geometry, ctx.tile, ctx.basis, ctx.loan = rule, geometry, tile, basis, None
        ctx.save_for_backward(x, *parameters)
        if basis is not None:
            return minimal_filtering.convolve(x, parameters[0], tile, *geometry, basis)
        ctx.loan = Loan(shape, parameters[0].dtype)
        kernel = ctx.loan.tensor
        rule.build(kernel, *parameters)
        if tile is not None:
            return minimal_filtering.convolve(x, kernel, tile, *geometry)
        return single_clip.conv3d(x, kernel, None, *geometry)

    @staticmethod
    def backward(ctx, grad):
        x, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]
        if leave_to_autograd(grad):
            grad_x, *grads = kernel_gradients_by_autograd(ctx.rule, x, parameters, grad, ctx.geometry, wanted)
            return grad_x, None, None, None, *grads
        wants = wanted[0], any(wanted[1:])
        if ctx.basis is not None:
            grad_x, of_weight = minimal_filtering.convolve_backward(
                grad, x, parameters[0], ctx.tile, *ctx.geometry, *wants, ctx.basis)
            return grad_x, None, None, None, of_weight
        loan, rule = ctx.loan.take(), ctx.rule
        if loan is None:  # a second pass through this graph: the first has given the kernel back, or is at it
            loan, rule = Loan(ctx.rule.shape(*parameters), parameters[0].dtype), ctx.rule.anew()
            rule.build(loan.tensor, *parameters)
        kernel = loan.tensor
        if ctx.tile is not None:
            grad_x, grad_kernel = minimal_filtering.convolve_backward(grad, x, kernel, ctx.tile, *ctx.geometry, *wants)
        elif matrix_backward.profitable(x, grad, kernel, ctx.geometry.groups):
            grad_x, grad_kernel = matrix_backward.matrix_backward(grad, x, kernel, *ctx.geometry[:3], *wants)
        else:
            grad_x, grad_kernel = single_clip.conv3d_backward(grad, x, kernel, *ctx.geometry, *wants)
        grads = rule.gradients(grad_kernel, *parameters) if wants[1] else (None, ) * len(parameters)
        return grad_x, None, None, None, *grads


def kernel_in_place_conv3d(x: Tensor, rule, geometry: Geometry, tile: Optional[int], *parameters: Tensor) -> Tensor:
    """``F.conv3d(x, rule.differentiable(*parameters), None, *geometry)``.

    Args:
        x: ``(N, I, T, H, W)``.
        rule: see the module's text.
        geometry: of the convolution.
        tile: outputs per tile of minimal filtering, from :func:`.minimal_filtering.choose`; None for the convolution
            itself.
        parameters: tensors that the kernel is built from.
    """
    return _KernelInPlace.apply(x, rule, geometry, tile, *parameters)
