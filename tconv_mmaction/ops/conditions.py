"""Functions with a written-out backward pass: where they may be used, and their second derivatives."""
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor


def runs_eagerly() -> bool:
    """Whether operators run one after the other; not under tracing (compile, export, jit) and functorch's transforms,
    which need operations that they can see through."""
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active())


def is_eager_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether operators run eagerly on CPU, without autocast, in one type, float32 or float64."""
    return (x.device.type == 'cpu' and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled('cpu') and type(x) is Tensor and runs_eagerly())


def differentiable_gradients(outputs: Sequence[Tensor], inputs: Sequence[Optional[Tensor]], grads: Sequence[Tensor],
                             wanted: Sequence[bool]) -> Tuple[Optional[Tensor], ...]:
    """By autograd, gradients that can be differentiated again: of those ``inputs`` that are ``wanted``, else None."""
    found = iter(torch.autograd.grad(outputs, [t for t, wants in zip(inputs, wanted) if wants], grads,
                                     create_graph=True, allow_unused=True))
    return tuple(next(found) if wants else None for wants in wanted)


def saves_tensors_itself() -> bool:
    """Whether what autograd saves for a backward pass is the tensors themselves, not what hooks make of them.

    Checkpointing is such hooks. It runs a part of a network again when its gradients are wanted and insists that the
    same tensors are saved then: nothing may be done otherwise because of what surrounded the part the first time.
    """
    try:
        return torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    except (AttributeError, TypeError):  # an older PyTorch: unknown
        return False
