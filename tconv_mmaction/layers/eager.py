"""Where functions with a written-out backward pass may be used."""
import torch
from torch import Tensor


def is_eager_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether operators run one after the other on CPU, in one type, float32 or float64.

    Tracing (compile, export, jit), functorch's transforms and autocast need operations that they can see through.
    """
    return (x.device.type == 'cpu' and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled('cpu') and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing() and type(x) is Tensor and not torch._C._are_functorch_transforms_active())
