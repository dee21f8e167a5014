"""What surrounds a call: whether operators run one after the other, and what was found out about the call so far."""
import functools
from contextvars import ContextVar
from typing import Callable, Optional

import torch
from torch.autograd import forward_ad

answers: ContextVar[Optional[dict]] = ContextVar('answers about the call that is being dispatched', default=None)


def once_per_call(question: Callable) -> Callable:
    """Decorator of a function of a call that several implementations ask: it is answered once per dispatch."""

    @functools.wraps(question)
    def answer(*call):
        known = answers.get()
        if known is None:
            return question(*call)
        if question not in known:
            known[question] = question(*call)
        return known[question]

    return answer


def context_refusal() -> Optional[str]:
    """Why hand-written code may run on no tensor at all now, or None."""
    if torch.compiler.is_compiling():
        return 'torch.compile or torch.export traces the call'
    return _around_the_call()


@once_per_call
def _around_the_call() -> Optional[str]:
    if torch.jit.is_tracing():
        return 'torch.jit traces the call'
    if transformed():
        return 'a torch.func transform (grad, vmap, jvp, ...) is active'
    if torch._C._len_torch_dispatch_stack() > 0:
        return 'a TorchDispatchMode (fake tensors, a counter of operators) is active'
    if forward_ad._current_level >= 0:
        return 'forward-mode differentiation is active'
    return None


def transformed() -> bool:
    """Whether a torch.func transform is active, where hooks on saved tensors, and so checkpoints, are an error."""
    return torch._C._are_functorch_transforms_active()
