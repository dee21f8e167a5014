"""Mixed precision in bfloat16 on any device.

mmengine's ``AmpOptimWrapper`` refuses the CPU, because its loss scaler is CUDA's. bfloat16 has the range of float32 and
needs no scaler, so a wrapper that only runs the forward under autocast is enough, on CPU as on CUDA. mmaction2's heads
turn scores into numpy arrays for the training accuracy, and numpy has no bfloat16; so scores leave the head as float32,
in which the loss is better off anyway. So do the outputs of the head's own modules, since the scores of auxiliary
classifiers do not pass its forward.
"""
from contextlib import contextmanager, nullcontext
from typing import Any, Iterator

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from ..compat.short_convolutions import ShortConvolutionsInFloat32


def in_float32(value: Any) -> Any:
    """bfloat16 tensors of a head's output as float32, whatever holds them."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.bfloat16 else value
    if isinstance(value, (tuple, list)):
        return type(value)(in_float32(part) for part in value)
    return value


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """``OptimWrapper`` with the forward and the loss under ``torch.autocast`` in bfloat16; arguments are the same.

    Parameters, their gradients and the optimizer's state stay float32. The device is that of the model's parameters.
    On CPU, convolutions of inputs shorter than their kernel stay float32, too: :mod:`..compat.short_convolutions`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no synchronisation of gradients between accumulated iterations."""
        device = next(model.parameters()).device.type
        head = getattr(getattr(model, 'module', model), 'cls_head', None)
        makers = [] if head is None else [head, *head.children()]
        handles = [m.register_forward_hook(lambda module, inputs, out: in_float32(out)) for m in makers]
        try:
            short = ShortConvolutionsInFloat32() if device == 'cpu' else nullcontext()
            with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16), short:
                yield
        finally:
            for handle in handles:
                handle.remove()
