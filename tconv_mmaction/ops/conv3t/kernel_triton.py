r"""The kernel of a 3T layer on a GPU, from its parameters in one launch, and the gradients in one more.

What :mod:`~tconv_mmaction.maths.temporal_transform` composes of some forty operations of a few thousand numbers each
(eq. 2 to 5 of arXiv:2006.15983; with gains, :math:`K_b = g_b T_b K_1`) is one Triton kernel here, and another for the
derivatives: :mod:`.kernel_triton_jit`. A GPU is not busy with such operations, but the processor that launches them is.
The kernel is written in the type and the order in memory that the convolution reads, so neither a cast nor a
rearrangement follows under autocast or with channels last. Between the two launches nothing is kept but the parameters.

The sums over input channels of the temporal parameters' gradients are made of one partial sum for each block of
channels and added up in a fixed order, never with atomics: equal inputs give equal gradients, bit for bit, also without
``torch.use_deterministic_algorithms``.

Equality with the reference, forward and backward, is tested in Triton's interpreter (tests/ops/test_kernel_triton.py);
on a GPU the tests marked ``gpu`` and tools/benchmarks/on_gpu.sh say so.
"""
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ...maths.temporal_transform import affine_matrix, bounded, temporal_kernel
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from ..triton_there import triton_is_there

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 64  # pixels of a slice: its matrices are tiles of 64 x 64 in registers
WARPS = 8
CHANNELS = {16: 64, 32: 32, 64: 16}  # rows of a tile: how many input channels are its columns, at most

torch.library.define('tconv_mmaction::conv3t_kernel', '(Tensor first, Tensor[] transform, Tensor? gain, '
                     'ScalarType dtype, bool channels_last) -> Tensor')
torch.library.define('tconv_mmaction::conv3t_kernel_backward', '(Tensor grad, Tensor first, Tensor[] transform, '
                     'Tensor? gain) -> (Tensor, Tensor)')


def unsupported(first: Tensor, transform: Sequence[Tensor], dtype: torch.dtype) -> Optional[str]:
    """Why :func:`conv3t_kernel` cannot make this kernel, or None."""
    if first.device.type != 'cuda':
        return f'Triton kernels are for CUDA, the parameters are on {first.device.type}'
    if not triton_is_there():
        return 'Triton cannot be imported (pip install triton)'
    if {t.dtype for t in (first, *transform)} - set(DTYPES) or dtype not in DTYPES:
        return f'it sums in float32, the parameters are {first.dtype} and the kernel is to be {dtype}'
    if first.shape[-2] * first.shape[-1] > LARGEST:
        return f'slices of {first.shape[-2]}x{first.shape[-1]} have more than {LARGEST} pixels'
    if not len(transform[0]):
        return 'a kernel of one slice is its parameter'
    return None


def _tile(pixels: int, channels: int) -> Tuple[int, int]:
    """Rows and columns of a program's tile."""
    rows = max(16, 1 << (pixels - 1).bit_length())
    return rows, min(CHANNELS[rows], max(16, 1 << (channels - 1).bit_length()))


def _sizes(first: Tensor, transform: List[Tensor], gain: Optional[Tensor]) -> Tuple[int, int]:
    """Blocks of input channels, and numbers of the temporal parameters."""
    _, columns = _tile(first.shape[-2] * first.shape[-1], first.shape[1])
    return -(-first.shape[1] // columns), sum(t.numel() for t in transform) + (0 if gain is None else gain.numel())


def _arguments(kernel: Tensor, first: Tensor, transform: List[Tensor], gain: Optional[Tensor]) -> Tuple[tuple, dict]:
    """Sizes, strides of ``kernel (O, I, kT, kH, kW)`` and constants, as both kernels take them."""
    height, width = first.shape[-2:]
    rows, columns = _tile(height * width, first.shape[1])
    sizes = first.shape[1], first.shape[0], len(transform[0])
    strides = kernel.stride(0), kernel.stride(1), kernel.stride(2), kernel.stride(4 if width > 1 else 3)
    return (*sizes, *strides), dict(KH=height, KW=width, PP=rows, BI=columns, FREE=len(transform) == 1,
                                    GAIN=gain is not None, num_warps=WARPS)


def _pointers(transform: List[Tensor], gain: Optional[Tensor]) -> List[Tensor]:
    """Five tensors; what a kernel does not read is any of them."""
    transform = [t.contiguous() for t in transform]
    return [*(transform if len(transform) == 4 else transform * 4),
            transform[0] if gain is None else gain.contiguous()]


def _empty_kernel(first: Tensor, transform: List[Tensor], dtype: torch.dtype, channels_last: bool) -> Tensor:
    shape = (*first.shape[:2], len(transform[0]) + 1, *first.shape[-2:])
    return torch.empty(shape, dtype=dtype, device=first.device, memory_format=(
        torch.channels_last_3d if channels_last else torch.contiguous_format))


@torch.library.impl('tconv_mmaction::conv3t_kernel', ('cpu', 'cuda'))  # cpu: in Triton's interpreter
def _build(first: Tensor, transform: List[Tensor], gain: Optional[Tensor], dtype: torch.dtype,
           channels_last: bool) -> Tensor:
    from .kernel_triton_jit import build
    out = _empty_kernel(first, transform, dtype, channels_last)
    numbers, constants = _arguments(out, first, transform, gain)
    with torch.cuda.device_of(first):
        build[(len(first), _sizes(first, transform, gain)[0])](
            first.contiguous(), *_pointers(transform, gain), out, *numbers, **constants)
    return out


@torch.library.impl('tconv_mmaction::conv3t_kernel_backward', ('cpu', 'cuda'))
def _build_backward(grad: Tensor, first: Tensor, transform: List[Tensor],
                    gain: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    from .kernel_triton_jit import build_backward
    height, width = grad.shape[3:]
    if height > 1 and width > 1 and grad.stride(3) != width * grad.stride(4):  # rows that do not follow each other
        grad = grad.contiguous()
    first = first.contiguous()
    grad_first, (blocks, numbers) = torch.empty_like(first), _sizes(first, transform, gain)
    sums = torch.empty(blocks, numbers, dtype=torch.float32, device=first.device)
    sizes, constants = _arguments(grad, first, transform, gain)
    with torch.cuda.device_of(first):
        build_backward[(len(first), blocks)](
            grad, first, *_pointers(transform, gain), grad_first, sums, *sizes, numbers, **constants)
    return grad_first, sums


@torch.library.register_fake('tconv_mmaction::conv3t_kernel')
def _(first, transform, gain, dtype, channels_last):
    return _empty_kernel(first, transform, dtype, channels_last)


@torch.library.register_fake('tconv_mmaction::conv3t_kernel_backward')
def _(grad, first, transform, gain):
    return (torch.empty_like(first, memory_format=torch.contiguous_format),
            first.new_empty(_sizes(first, transform, gain), dtype=torch.float32))


def reference(first: Tensor, transform: Sequence[Tensor], gain: Optional[Tensor], dtype: torch.dtype) -> Tensor:
    """The same by the composed operations; see :func:`conv3t_kernel`."""
    wide = torch.promote_types(first.dtype, torch.float32)
    transform = [t.to(wide) for t in transform]
    theta = bounded(transform[0]) if len(transform) == 1 else affine_matrix(*transform)
    return temporal_kernel(first.to(wide), theta, None if gain is None else gain.to(wide)).to(dtype)


class _Kernel(torch.autograd.Function):

    @staticmethod
    def forward(ctx, dtype, channels_last, first, gain, *transform):
        ctx.dtype = dtype
        ctx.save_for_backward(first, gain, *transform)
        return torch.ops.tconv_mmaction.conv3t_kernel(first, transform, gain, dtype, channels_last)

    @staticmethod
    def backward(ctx, grad):
        first, gain, *transform = ctx.saved_tensors
        if leave_to_autograd(grad):
            return None, None, *gradients_by_autograd(
                lambda first, gain, *transform: reference(first, transform, gain, ctx.dtype),
                (first, gain, *transform), [grad], ctx.needs_input_grad[2:])
        grad_first, sums = torch.ops.tconv_mmaction.conv3t_kernel_backward(grad, first, transform, gain)
        total = sums[0] if len(sums) == 1 else sums.sum(0)
        of_others = []
        for t in transform if gain is None else (*transform, gain):
            part, total = total[:t.numel()], total[t.numel():]
            of_others.append(part.view(t.shape).to(t.dtype))
        of_gain = None if gain is None else of_others.pop()
        return None, None, grad_first, of_gain, *of_others


def conv3t_kernel(first: Tensor, transform: Sequence[Tensor], gain: Optional[Tensor] = None,
                  dtype: Optional[torch.dtype] = None, channels_last: bool = False) -> Tensor:
    """All slices of a 3T layer's kernel; see :func:`unsupported` for where.

    Args:
        first: ``(O, I/groups, kH, kW)``, the first slice K_1, in float32 or half precision.
        transform: scale, rotate (radians), translate_x and translate_y (halves of the kernel), each ``(kT-1, O)``; or
            theta ``(kT-1, O, 2, 3)`` alone.
        gain: ``(kT, O)``, a factor for every slice, or None.
        dtype: of the result; that of ``first`` by default. All sums are in float32.
        channels_last: the order in memory, ``torch.channels_last_3d`` or contiguous.

    Returns:
        ``(O, I/groups, kT, kH, kW)``; differentiable any number of times, the first time in one launch.
    """
    return _Kernel.apply(first.dtype if dtype is None else dtype, channels_last, first, gain, *transform)
