"""May hand-written code run here on these tensors? Asked in this one place; :mod:`.context` looks around the call.

Hand-written backward passes, memory that is lent again and private operators are right for plain tensors that run
eagerly, one operator after the other. Under everything else (tracing, torch.func, fake tensors, subclasses, forward
mode) the reference runs, which is operations that those see through.
"""
from typing import Optional

import torch
from torch import Tensor, nn

from .context import context_refusal

PLAIN = (Tensor, nn.Parameter)
ACCURATE = (torch.float32, torch.float64)


def eager() -> bool:
    """Whether operators run one after the other on what they are given."""
    return context_refusal() is None


def plain_refusal(*tensors: Tensor) -> Optional[str]:
    """Why hand-written code may not run on these tensors now, be they of one type or not; None if it may.

    They must be plain, dense, and on one device.
    """
    why = context_refusal()
    if why is not None:
        return why
    device = tensors[0].device
    for tensor in tensors:
        if type(tensor) not in PLAIN:
            return f'a {type(tensor).__name__} is not a plain tensor'
        if tensor.device != device:
            return f'tensors lie on {device} and {tensor.device}'
        if tensor.layout is not torch.strided:
            return f'a tensor has the layout {tensor.layout}'
    if device.type == 'meta':
        return 'tensors on the meta device have no numbers'
    return None


def tensor_refusal(*tensors: Tensor, under_autocast: bool = False) -> Optional[str]:
    """:func:`plain_refusal`, and of one type: float32 or float64, and without autocast unless the code says that it
    does not depend on it (``under_autocast``)."""
    why = plain_refusal(*tensors)
    if why is not None:
        return why
    dtype = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype is not dtype:
            return f'tensors are {dtype} and {tensor.dtype}'
    if dtype not in ACCURATE:
        return f'tensors are {dtype}'
    if not under_autocast and torch.is_autocast_enabled(tensors[0].device.type):
        return 'autocast is on'
    return None


def is_parameter(tensor: Tensor) -> bool:
    """Whether this is a parameter itself, and not what FSDP, pruning or a parametrisation has put in its place."""
    return type(tensor) is nn.Parameter


def cpu_refusal(*tensors: Tensor, under_autocast: bool = False) -> Optional[str]:
    """:func:`tensor_refusal`, and on the CPU only."""
    if tensors[0].device.type != 'cpu':
        return f'tensors lie on {tensors[0].device.type}, this is for the CPU'
    return tensor_refusal(*tensors, under_autocast=under_autocast)


def saves_tensors_itself() -> bool:
    """Whether what autograd saves for a backward pass is the tensors themselves, not what hooks make of them.

    Checkpointing is such hooks. It runs a part of a network again when its gradients are wanted and insists that the
    same tensors are saved then: nothing may be done otherwise because of what surrounded the part the first time.
    """
    try:
        return torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    except (AttributeError, TypeError):  # an older PyTorch: unknown
        return False
