"""A 3D convolution with a kernel that is computed from other parameters, in one autograd node.

``F.conv3d(x, build(parameters))`` makes two tensors of the kernel's size anew in every step, the kernel and its
gradient. For the large kernels of a network's last stages the memory that the system has to hand out for them (page by
page) costs more than the arithmetic that fills them. Here the kernel is written into a workspace that a layer keeps
between steps, and a rule may turn the kernel's gradient into the parameters' gradient in place.

A rule has these functions:

* ``shape(*parameters)``: of the kernel, ``(O, I/groups, kT, kH, kW)``;
* ``build(out, *parameters)``: write the kernel into ``out``, without autograd;
* ``gradients(grad, *parameters)``: a tuple of the parameters' gradients from the kernel's; may overwrite ``grad``;
* ``differentiable(*parameters)``: the kernel, built by operations that autograd knows (for second derivatives);
* ``basis_in_time(parameter)``, if there is one parameter and the kernel is a matrix ``(kT, coefficients)`` times its
  third axis: that matrix. Minimal filtering then needs no kernel.
"""
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import matrix_backward as gemm_backward
from . import single_clip
from . import minimal_filtering as winograd
from ..conditions import differentiable_gradients, is_eager_cpu

Triple = Tuple[int, int, int]


class Workspace:
    """One tensor, lent to every forward pass.

    ``stamp`` counts the loans: a backward pass that finds the tensor lent again since (a layer that is used twice, or
    with gradient checkpointing) builds its kernel anew.
    """

    def __init__(self) -> None:
        self.tensor: Optional[Tensor] = None
        self.stamp = 0

    def borrow(self, shape: Sequence[int], like: Tensor) -> Tensor:
        held = self.tensor
        if held is None or held.shape != tuple(shape) or held.dtype != like.dtype:
            with torch.inference_mode(False):
                self.tensor = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.stamp += 1
        return self.tensor

    def still_lent(self, stamp: int) -> Optional[Tensor]:
        """The tensor as it was filled in the loan of that number; None if it was lent again since, or cleared."""
        return self.tensor if self.stamp == stamp else None

    def clear(self) -> None:
        self.tensor = None

    def __deepcopy__(self, memo) -> 'Workspace':
        return Workspace()

    def __reduce__(self):
        return Workspace, ()  # a copy or a pickle of a layer carries no kernel


def kernel_gradients_by_autograd(rule, x: Tensor, parameters: Sequence[Tensor], grad: Tensor, geometry: tuple,
                                 wanted: Sequence[bool]) -> Tuple[Optional[Tensor], ...]:
    """The gradients of ``x`` and the parameters where a second derivative is wanted: autograd's."""
    stride, padding, dilation, groups = geometry
    y = F.conv3d(x, rule.differentiable(*parameters), None, stride, padding, dilation, groups)
    return differentiable_gradients([y], (x, *parameters), [grad], wanted)


class _BuiltKernelConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, workspace, rule, geometry, *parameters):  # setup_context would make each call take longer
        shape, stamp = rule.shape(*parameters), None
        stride, padding, dilation, groups = geometry
        outputs = winograd.choose(x.shape, x.dtype, shape, *geometry)
        basis = rule.basis_in_time(*parameters) if outputs is not None and hasattr(rule, 'basis_in_time') else None
        if basis is None:
            kernel = workspace.borrow(shape, parameters[0])
            rule.build(kernel, *parameters)
            stamp = workspace.stamp
        ctx.workspace, ctx.rule, ctx.geometry, ctx.outputs, ctx.stamp = workspace, rule, geometry, outputs, stamp
        ctx.basis = basis
        ctx.save_for_backward(x, *parameters)
        if basis is not None:
            return winograd.convolve(x, parameters[0], outputs, *geometry, basis)
        if outputs is not None:
            return winograd.convolve(x, kernel, outputs, *geometry)
        return single_clip.conv3d(x, kernel, None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, grad):
        x, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            wanted = ctx.needs_input_grad[0], *ctx.needs_input_grad[4:]
            grad_x, *grads = kernel_gradients_by_autograd(ctx.rule, x, parameters, grad, ctx.geometry, wanted)
            return grad_x, None, None, None, *grads
        wants = ctx.needs_input_grad[0], any(ctx.needs_input_grad[4:])
        if ctx.basis is not None:
            grad_x, of_weight = winograd.convolve_backward(
                grad, x, parameters[0], ctx.outputs, *ctx.geometry, *wants, ctx.basis)
            return grad_x, None, None, None, of_weight
        kernel = ctx.workspace.still_lent(ctx.stamp)
        if kernel is None:
            kernel = ctx.workspace.borrow(ctx.rule.shape(*parameters), parameters[0])
            ctx.rule.build(kernel, *parameters)
            ctx.stamp = ctx.workspace.stamp
        if ctx.outputs is not None:
            grad_x, grad_kernel = winograd.convolve_backward(grad, x, kernel, ctx.outputs, *ctx.geometry, *wants)
        elif gemm_backward.pays(x, grad, kernel, ctx.geometry[3]):
            grad_x, grad_kernel = gemm_backward.gemm_backward(grad, x, kernel, *ctx.geometry[:3], *wants)
        else:
            grad_x, grad_kernel = single_clip.conv3d_backward(grad, x, kernel, *ctx.geometry, *wants)
        grads = ctx.rule.gradients(grad_kernel, *parameters) if wants[1] else (None, ) * len(parameters)
        return grad_x, None, None, None, *grads


def built_kernel_conv3d(x: Tensor, workspace: Workspace, rule, stride: Triple, padding: Triple, dilation: Triple,
                        groups: int, *parameters: Tensor) -> Tensor:
    """``F.conv3d(x, rule.differentiable(*parameters), None, stride, padding, dilation, groups)``.

    Args:
        x: ``(N, I, T, H, W)``.
        workspace: of the layer whose kernel this is.
        rule: see the module's text.
        parameters: tensors that the kernel is built from.
    """
    return _BuiltKernelConv.apply(x, workspace, rule, (stride, padding, dilation, groups), *parameters)


def can_build_in_place(x: Tensor, weight: Tensor) -> bool:
    """Whether a call is one that :func:`built_kernel_conv3d` is for: a training step on CPU in one floating type."""
    return x.dim() == 5 and x.shape[0] > 0 and torch.is_grad_enabled() and is_eager_cpu(x, weight)
