"""The transforms of all 3T layers of a network at once.

What it takes to come from a layer's few thousand temporal parameters to its transforms, and back, is some fifty small
operations in a training step. In a network of many small layers they weigh: 3T-GoogLeNet has 20. Here the parameters of
all layers with kernels of the same size go through them together, where the network's forward pass begins; see
:mod:`.affine_rule` for the maths.
"""
from contextlib import contextmanager
from itertools import groupby
from typing import Iterator, List

import torch
from torch import nn

from .affine_slices import AffineRule
from ...layers.conv3t import TEMPORAL_PARAMETERS, Conv3T
from ..conditions import differentiable_gradients, runs_eagerly
from .slice_transforms import slice_transforms
from ...maths.temporal_transform import affine_matrix


class _Together(torch.autograd.Function):

    @staticmethod
    def forward(ctx, size, *parameters):
        each = len(parameters) // 4  # all layers' scale, all layers' rotate, ...
        ctx.filters = [scale.shape[1] for scale in parameters[:each]]
        together = [torch.cat(parameters[i:i + each], 1) for i in range(0, 4 * each, each)]
        ctx.rule, ctx.weight = AffineRule(), together[0].new_empty(1, 1, 1, size, size)
        transforms = ctx.rule.transforms(ctx.weight, *together)
        ctx.set_materialize_grads(False)  # a layer that was left out gets no gradients, not zeros
        ctx.save_for_backward(*parameters)
        return transforms.split(ctx.filters)

    @staticmethod
    def backward(ctx, *grads):
        parameters = ctx.saved_tensors
        each = len(grads)
        if torch.is_grad_enabled():  # a second derivative is wanted: leave it to autograd
            layers = [parameters[i::each] for i in range(each)]
            size = (ctx.weight.shape[-1], ) * 2
            pairs = [(slice_transforms(affine_matrix(*layer), size).flatten(1, 2), grad)
                     for layer, grad in zip(layers, grads) if grad is not None]
            return None, *differentiable_gradients([y for y, _ in pairs], parameters, [g for _, g in pairs],
                                                   ctx.needs_input_grad[1:])
        shape = ctx.rule.ways.shape[1:]
        given = [parameters[0].new_zeros(filters, *shape) if grad is None else grad
                 for filters, grad in zip(ctx.filters, grads)]
        together = [torch.cat(parameters[i:i + each], 1) for i in range(0, 4 * each, each)]
        found = ctx.rule.transform_gradients(torch.cat(given)[:, ctx.rule.fixed:], ctx.weight, *together)
        parts = (part for of_all in found for part in of_all.split(ctx.filters, 1))
        return None, *(None if grad is None else part for part, grad in zip(parts, grads * 4))


def _layers(network: nn.Module) -> Iterator[List[Conv3T]]:
    """Those that can share, by the size and type of their kernels."""

    def kind(layer: Conv3T) -> tuple:
        return layer.kernel_size, str(layer.weight.dtype)

    found = [layer for layer in network.modules()
             if type(layer) is Conv3T and layer.transforms_for_this_pass is None and layer.can_share_transforms()]
    for _, layers in groupby(sorted(found, key=kind), kind):
        layers = list(layers)
        if len(layers) > 1:
            yield layers


@contextmanager
def share_transforms(network: nn.Module) -> Iterator[None]:
    """Compute the transforms of the network's Conv3T layers together, for a forward pass within this context.

    Results and gradients are those that the layers would have found by themselves. It takes effect on CPU, in a pass
    that needs gradients; layers in a checkpointed part of a network find their own. Within such a context of a larger
    network, a part's own adds nothing.

        def forward(self, x):
            with share_transforms(self):
                return self.layers(x)
    """
    sharing = []
    try:
        if torch.is_grad_enabled() and runs_eagerly():
            for layers in _layers(network):
                parameters = [getattr(layer, name) for name in TEMPORAL_PARAMETERS for layer in layers]
                transforms = _Together.apply(layers[0].kernel_size[-1], *parameters)
                sharing += layers
                for layer, own in zip(layers, transforms):
                    layer.transforms_for_this_pass = own
        yield
    finally:
        for layer in sharing:
            layer.transforms_for_this_pass = None
