"""The 3D kernel of a 3T layer with a written-out derivative, where another operation than ours convolves with it.

That is under autocast, which convolves in another type, and where only the clip's gradient is wanted.
"""
import torch
from torch import Tensor

from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from .slice_rule import SliceRule


class _MadeKernel(torch.autograd.Function):

    @staticmethod
    def forward(ctx, rule, *parameters):
        ctx.rule = rule
        ctx.save_for_backward(*parameters)
        kernel = parameters[0].new_empty(rule.shape(*parameters))
        rule.build(kernel, *parameters)
        return kernel

    @staticmethod
    def backward(ctx, grad):
        parameters = ctx.saved_tensors
        if leave_to_autograd(grad):
            return None, *gradients_by_autograd(ctx.rule.differentiable, parameters, [grad], ctx.needs_input_grad[1:])
        return None, *ctx.rule.gradients(grad, *parameters)


def made_kernel(rule: SliceRule, *parameters: Tensor) -> Tensor:
    """``rule.differentiable(*parameters)``, ``(O, I/groups, kT, kH, kW)``; on CPU, without autocast."""
    return _MadeKernel.apply(rule, *parameters)
