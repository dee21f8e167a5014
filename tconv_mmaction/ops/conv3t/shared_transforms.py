"""The transforms of all 3T layers of a network at once.

What it takes to come from a layer's few thousand temporal parameters to its transforms, and back, is some fifty small
operations in a training step. In a network of many small layers they weigh: 3T-GoogLeNet has 20. Here the parameters of
all layers with kernels of the same size go through them together, where the network's forward pass begins; see
:mod:`.affine_slices` for the maths.

What is lent belongs to one forward pass of one thread: it is in a context variable, with the parameters it was made of.
A layer takes it only while it still has the same parameters with the same values.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ...maths.temporal_transform import affine_matrix, slice_transforms
from .. import conditions
from ..conditions import ACCURATE, cpu_refusal, eager, plain_refusal, saves_tensors_itself
from ..dispatch import REFERENCE, requested
from ..memory import constant
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from . import kernel_triton
from .affine_slices import AffineRule

KERNEL_PRODUCT = 'kernel_product'  # the way of computing a layer on a GPU that these transforms are for


def _in_order(filters: Sequence[int], rows: int, device: torch.device) -> Tensor:
    """Where the numbers of ``(rows, all filters)`` stand if each layer's are to follow each other."""

    def build() -> Tensor:
        places = torch.arange(rows * sum(filters), device=device).view(rows, -1)
        return torch.cat([part.flatten() for part in places.split(list(filters), 1)])

    return constant(('shared transforms', tuple(filters), rows, device), build)


def _ordered(found: Sequence[Tensor], filters: Sequence[int]) -> List[Tensor]:
    """The columns of each ``(rows, all filters)`` by layer, every part in order in memory.

    Autograd keeps such gradients as they are, and copies others in an operation for each parameter.
    """
    rows = len(found[0])
    together = torch.stack([of_all.flatten() for of_all in found])[:, _in_order(filters, rows, found[0].device)]
    return [part.view(rows, -1) for of_all in together for part in of_all.split([rows * count for count in filters])]


class _Together(torch.autograd.Function):

    @staticmethod
    def forward(ctx, size, *parameters):
        each = len(parameters) // 4  # all layers' scale, all layers' rotate, ...
        ctx.filters = [scale.shape[1] for scale in parameters[:each]]
        # Copies, and not saved by save_for_backward: if a layer's parameters are changed before it runs, it does not
        # take what it is lent, and the others' gradients are still those of the values that were used.
        ctx.values = [torch.cat(parameters[i:i + each], 1) for i in range(0, 4 * each, each)]
        ctx.parameters, ctx.versions = parameters, [p._version for p in parameters]
        ctx.rule, ctx.weight = AffineRule(), ctx.values[0].new_empty(1, 1, 1, size, size)
        transforms = ctx.rule.transforms(ctx.weight, *ctx.values)
        ctx.set_materialize_grads(False)  # a layer that was left out gets no gradients, not zeros
        return transforms.split(ctx.filters)

    @staticmethod
    def backward(ctx, *grads):
        each = len(grads)
        if leave_to_autograd(*grads):
            used = [i for i, grad in enumerate(grads) if grad is not None]
            if any(p._version != version for i in used
                   for p, version in zip(ctx.parameters[i::each], ctx.versions[i::each])):
                raise RuntimeError('A temporal parameter was modified by an inplace operation between the forward pass '
                                   'and a backward pass that is to be differentiated again.')
            size = (ctx.weight.shape[-1], ) * 2

            def reference(*values: Tensor) -> List[Tensor]:
                return [slice_transforms(affine_matrix(*values[i::each]), size).flatten(1, 2) for i in range(each)]

            return None, *gradients_by_autograd(reference, ctx.parameters, grads, ctx.needs_input_grad[1:])
        shape = ctx.rule.products.shape[1:]
        given = [ctx.weight.new_zeros(filters, *shape).flatten(1, 2) if grad is None else grad
                 for filters, grad in zip(ctx.filters, grads)]
        found = ctx.rule.transform_gradients(torch.cat(given)[:, ctx.rule.fixed:], ctx.weight, *ctx.values)
        if ctx.weight.device.type == 'cpu':
            parts = [part for of_all in found for part in of_all.split(ctx.filters, 1)]
        else:
            parts = _ordered(found, ctx.filters)
        return None, *(None if grad is None else part for part, grad in zip(parts, grads * 4))


def transforms_of(size: int, parameters: Sequence[Tensor]) -> Tensor:
    """The transforms ``(O, kT*size**2, size**2)`` of one layer with slices of ``(size, size)``."""
    return _Together.apply(size, *parameters)[0]


class _Lent(NamedTuple):
    parameters: Tuple[Tensor, ...]
    states: tuple  # of the parameters, when the transforms were made
    transforms: Tensor


def _state(parameter: Tensor):
    """What tells whether a parameter has changed: on CPU its values; a GPU would have to be waited for."""
    return parameter.detach().clone() if parameter.device.type == 'cpu' else (parameter._version, parameter.data_ptr())


def _is_in_state(parameter: Tensor, state) -> bool:
    if isinstance(state, Tensor):
        return torch.equal(parameter.detach(), state)
    return (parameter._version, parameter.data_ptr()) == state


_lent: ContextVar[Dict[int, _Lent]] = ContextVar('transforms of this forward pass', default={})  # noqa: B039 not changed


def transforms_for_this_pass(layer: nn.Module, parameters: Sequence[Tensor]) -> Optional[Tensor]:
    """The layer's transforms ``(O, kT*kH*kW, kH*kW)``, if its network shares them and they are those of ``parameters``.

    A hook may have changed or replaced them since the network's forward pass began.
    """
    lent = _lent.get().get(id(layer))
    if lent is None or not saves_tensors_itself():
        return None
    if not all(own is other for own, other in zip(parameters, lent.parameters)):
        return None
    if not all(map(_is_in_state, parameters, lent.states)):
        return None
    return lent.transforms


def _kind(layer: nn.Module) -> Optional[tuple]:
    """What layers must have in common to share; None for a layer that finds its own transforms."""
    parameters = layer.shared_parameters()
    if parameters is None:
        return None
    # what something else has put in the parameters' places, or is yet to gather (FSDP), is left alone
    if not all(conditions.is_parameter(p) and p.dim() == 2 and p.shape == parameters[0].shape for p in parameters):
        return None
    if not any(p.requires_grad for p in parameters):
        return None
    if parameters[0].device.type == 'cpu':
        if cpu_refusal(*parameters) is not None:
            return None
    elif plain_refusal(*parameters) is not None or len({p.dtype for p in (layer.weight, *parameters)}) > 1:
        return None
    elif parameters[0].dtype not in ACCURATE or (requested() != KERNEL_PRODUCT and kernel_triton.unsupported(
            layer.weight, parameters, parameters[0].dtype) is None):
        return None  # with Triton a layer needs two launches by itself
    return layer.kernel_size, str(parameters[0].dtype)


def _layers(network: nn.Module, taken: Dict[int, _Lent]) -> Iterator[List[nn.Module]]:
    """Those that can share, by the size and type of their kernels."""
    found = [(kind, layer) for layer in network.modules() if hasattr(layer, 'shared_parameters')
             and id(layer) not in taken for kind in [_kind(layer)] if kind is not None]
    for _, group in groupby(sorted(found, key=lambda pair: pair[0]), lambda pair: pair[0]):
        layers = [layer for _, layer in group]
        if len(layers) > 1 or layers[0].weight.device.type != 'cpu':
            yield layers


@contextmanager
def share_transforms(network: nn.Module) -> Iterator[None]:
    """Compute the transforms of the network's Conv3T layers together, for a forward pass within this context.

    Results and gradients are those that the layers would have found by themselves. It takes effect in a pass that
    needs gradients, on CPU, and on a GPU where there is no Triton (with it a layer is done in two launches alone:
    :mod:`.kernel_triton`); layers in a checkpointed part of a network find their own. Within such a context of a larger
    network, a part's own adds nothing. The backbones of this package do it themselves.

    >>> import tconv_mmaction
    >>> from tconv_mmaction.layers import Conv3T, share_transforms
    >>> network = nn.Sequential(Conv3T(9, 9, 3, padding=1), nn.ReLU(), Conv3T(9, 9, 3, padding=1))
    >>> with share_transforms(network):
    ...     y = network(torch.randn(2, 9, 4, 8, 8))
    >>> y.shape
    torch.Size([2, 9, 4, 8, 8])
    """
    token = None
    if not torch.compiler.is_compiling() and torch.is_grad_enabled() and eager() and requested() != REFERENCE:
        lent = dict(_lent.get())
        for layers in _layers(network, lent):
            own = [layer.shared_parameters() for layer in layers]
            with torch.autocast(own[0][0].device.type, enabled=False):
                transforms = _Together.apply(layers[0].kernel_size[-1], *(p for kind in zip(*own) for p in kind))
            for layer, parameters, found in zip(layers, own, transforms):
                lent[id(layer)] = _Lent(tuple(parameters), tuple(map(_state, parameters)), found)
        token = _lent.set(lent)
    try:
        yield
    finally:
        if token is not None:
            _lent.reset(token)
