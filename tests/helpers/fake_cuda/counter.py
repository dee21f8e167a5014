"""Counts what a step would launch on a GPU, without one. Import it before PyTorch, in a process of its own.

FakeTensors have shapes, types and a device but no numbers. With the shim loaded they go through autograd and autocast
as tensors on a GPU would, and a dispatch mode sees every operator that would launch kernels there. Counted are
operators, not kernels: cuDNN launches several for a convolution, and rearranges tensors that are not in its own order.
"""
import collections
import contextlib
import ctypes
import sys
import warnings
from typing import Dict, List

sys.dont_write_bytecode = True
from .build import shim  # noqa: E402

ctypes.CDLL(str(shim()))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

warnings.filterwarnings('ignore')
torch.cuda.amp.common.amp_definitely_not_available = lambda: False
torch.cuda.is_bf16_supported = lambda *args, **kwargs: True

# allocations, and what only makes another tensor of the same memory without being marked as a view
WITHOUT_LAUNCH = {'empty', 'empty_strided', 'empty_like', 'new_empty', 'new_empty_strided', '_unsafe_view', 'detach',
                  'lift_fresh', 'alias', 'view', '_reshape_alias', 'set_'}
WAITS = {'_local_scalar_dense', 'item', 'nonzero', 'masked_select', 'is_nonzero', 'equal', '_unique2', 'unique_dim'}


class Counter(TorchDispatchMode):
    """``launches`` by operator; ``copies`` between host and device, also those that the host does not wait for;
    ``waits``, where the host must know what the device computed or the other way round; ``mixed``, operators with
    tensors of both (a tensor of one number on the host is none: it travels as an argument)."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Dict[str, int] = collections.Counter()
        self.copies: Dict[str, int] = collections.Counter()
        self.waits: Dict[str, int] = collections.Counter()
        self.mixed: Dict[str, int] = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == 'prim':  # questions about a tensor
            return result
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        devices = {t.device.type for t in given + made}
        if 'cuda' not in devices:
            return result
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.waits[name] += 1
        elif name.startswith('index') and any(t.dtype == torch.bool for t in given[1:]):
            self.waits[f'{name} with a mask'] += 1
        if {'cpu', 'cuda'} <= devices:
            self.copies[name] += name in ('copy_', '_to_copy')
            if name in ('copy_', '_to_copy') and (kwargs or {}).get('non_blocking', (args[2:] or [False])[0]):
                pass  # the host goes on
            elif name in ('copy_', '_to_copy') or (name.startswith('index') and given[0].device.type == 'cuda'):
                self.waits[f'{name} between host and device'] += 1
            elif any(t.device.type == 'cpu' and t.dim() for t in given):
                self.mixed[name] += 1
        nothing = made and not any(t.numel() for t in made)
        if not (name in WITHOUT_LAUNCH or func.is_view or nothing):
            self.launches[name] += 1
        return result

    @property
    def total(self) -> int:
        return sum(self.launches.values())

    def summary(self) -> dict:
        return dict(launches=self.total, copies=sum(self.copies.values()), waits=dict(self.waits),
                    mixed=dict(self.mixed))


@contextlib.contextmanager
def taken_for_plain():
    """Within it, hand-written code runs on fake tensors, too, as it does on those of a GPU.

    It asks whether tensors are plain and no dispatch mode is active, and takes the reference otherwise.
    """
    from torch._subclasses import FakeTensor

    from tconv_mmaction.ops import conditions, memory
    plain, before, is_parameter = conditions.PLAIN, conditions.context_refusal, conditions.is_parameter
    modules = [m for name, m in sys.modules.items() if name.startswith('tconv_mmaction.')]
    changed = [m for m in modules if getattr(m, 'context_refusal', None) is before]
    leave = [m for m in modules if hasattr(m, 'leave_to_autograd')]
    left = leave[0].leave_to_autograd
    try:
        conditions.PLAIN = (*plain, FakeTensor)
        conditions.is_parameter = lambda tensor: isinstance(tensor, nn.Parameter)
        for module in changed:
            module.context_refusal = lambda: None
        for module in leave:
            module.leave_to_autograd = lambda *grads: torch.is_grad_enabled()
        yield
    finally:
        conditions.PLAIN, conditions.is_parameter = plain, is_parameter
        for module in changed:
            module.context_refusal = before
        for module in leave:
            module.leave_to_autograd = left
        memory.release_memory()  # constants are fake


def to_cuda(module: nn.Module) -> nn.Module:
    """What ``module.cuda()`` leaves; on fake tensors it fails, as parameters cannot be swapped in place."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved = torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda')
                    tensors[name] = nn.Parameter(moved, tensor.requires_grad) if tensors is part._parameters else moved
    return module


def step(module: nn.Module, inputs: List[Tensor], dtype=None) -> Counter:
    """Forward and backward of one step, under autocast to ``dtype`` if given."""
    with Counter() as counter:
        with torch.autocast('cuda', dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            result = module(*inputs)
            parts = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
            loss = sum((t.float().mean() for t in parts[1:]), parts[0].float().mean())
        loss.backward()
    return counter
