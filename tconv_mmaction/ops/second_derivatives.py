"""Derivatives of functions with a written-out backward pass, where that does not do: by autograd, from the reference.

A backward pass runs with gradients enabled if its result is to be differentiated again (``create_graph=True``), with
batched tensors if gradients come in batches (``is_grads_batched=True``), and may be called where autocast is on, which
would round the products in it. All three are left to autograd.
"""
import contextlib
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .context import context_refusal


def leave_to_autograd(*grads: Optional[Tensor]) -> bool:
    """Whether a written-out backward pass must leave this call to :func:`gradients_by_autograd`."""
    return (torch.is_grad_enabled() or context_refusal() is not None
            or any(grad is not None and _is_special(grad) for grad in grads))


def _is_special(grad: Tensor) -> bool:
    return (type(grad) is not Tensor or torch._C._functorch.is_legacy_batchedtensor(grad)
            or torch.is_autocast_enabled(grad.device.type))


def gradients_by_autograd(function: Callable, inputs: Sequence[Optional[Tensor]], grads: Sequence[Optional[Tensor]],
                          wanted: Sequence[bool]) -> Tuple[Optional[Tensor], ...]:
    """The gradients of ``function(*inputs)``, which can be differentiated again.

    Args:
        function: of ``inputs``; a tensor or a sequence of tensors, by operations that autograd knows.
        inputs: what the forward pass saved. Some of them may have been computed from others.
        grads: of the outputs; None for one that was not used.
        wanted: for each input, whether its gradient is.

    Returns:
        A gradient for each input, None where it is not wanted.
    """
    again = torch.is_grad_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        for device in {grad.device.type for grad in grads if grad is not None}:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # Never from the saved tensors themselves: if one of them depends on another, as in a layer that is used twice,
        # autograd would count the path between them, which is not part of this function.
        aliases = [t if t is None else t.view_as(t) for t in inputs]
        outputs = function(*aliases)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        pairs = [(y, grad) for y, grad in zip(outputs, grads) if grad is not None and y.requires_grad]
        sources = [t for t, wants in zip(aliases, wanted) if wants]
        if not pairs or not sources:
            return (None, ) * len(inputs)
        found = iter(torch.autograd.grad([y for y, _ in pairs], sources, [grad for _, grad in pairs],
                                         create_graph=again, allow_unused=True))
    return tuple(next(found) if wants else None for wants in wanted)
