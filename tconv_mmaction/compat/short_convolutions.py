"""Convolutions of inputs that are shorter than the kernel, in float32 where oneDNN's bfloat16 is wrong.

On processors with AVX-512, oneDNN 3.12 (PyTorch 2.13) makes a wrong gradient of the kernel of a bfloat16 convolution
whose input has fewer frames, rows or columns than the kernel, or writes beyond the gradient's memory, which ends the
process: 3x3x3 kernels of nn.Conv3d on clips of two frames, and with a stride of 2 on a height of one, as in the last
stages of networks for short or small clips. All else about such a layer is small, so float32 costs little there.
"""
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..ops.cpu_capability import has_avx512

_CONVOLUTIONS = {F.conv2d: 2, F.conv3d: 3}


def is_short(x: Tensor, weight: Tensor, axes: int) -> bool:
    """Whether an axis of ``x (N, C, ...)`` has fewer places than the kernel ``(O, C/groups, ...)``."""
    return any(size < taps for size, taps in zip(x.shape[-axes:], weight.shape[-axes:]))


class ShortConvolutionsInFloat32(TorchFunctionMode):
    """A context in which ``conv2d`` and ``conv3d`` on CPU leave autocast for inputs shorter than the kernel.

    The result has autocast's type, as elsewhere. It is without effect outside autocast and without AVX-512.
    """

    def __init__(self) -> None:
        super().__init__()
        self.needed = has_avx512()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        axes = _CONVOLUTIONS.get(func)
        if axes is None or not self.needed or not torch.is_autocast_enabled('cpu'):
            return func(*args, **kwargs)
        names = dict(zip(('input', 'weight', 'bias'), args), **kwargs)
        x, weight, bias = names['input'], names['weight'], names.get('bias')
        if x.device.type != 'cpu' or not is_short(x, weight, axes):
            return func(*args, **kwargs)
        names.update(input=x.float(), weight=weight.float(), bias=None if bias is None else bias.float())
        dtype = torch.get_autocast_dtype('cpu')
        with torch.autocast('cpu', enabled=False):
            return func(**{**names, **dict(zip(('stride', 'padding', 'dilation', 'groups'), args[3:]))}).to(dtype)
