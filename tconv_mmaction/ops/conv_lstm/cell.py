"""One step of a convolutional LSTM behind its convolutions, and its derivatives, each one launch on a GPU with Triton.

With a' for the derivative of a nonlinearity by its argument, and dh, dc the gradients of h_t and c_t (dc of what comes
after the step alone):

    c_t = f c_{t-1} + i g        h_t = o tanh(c_t)
    dc += dh o (1 - tanh(c_t)^2)
    d(i, f, g, o) = (dc g i', dc c_{t-1} f', dc i g', dh tanh(c_t) o')        dc_{t-1} = dc f

The state c is in float32; gates and h are in the type of the convolutions. Without Triton the same is a dozen of
PyTorch's operations, which are also what the kernels are compared with (tests/ops/conv_lstm/test_whole_clip.py).
"""
from typing import Optional

import torch
from torch import Tensor

from ..triton_there import triton_is_there

BLOCK = 512

torch.library.define('tconv_mmaction::conv_lstm_cell', '(Tensor(a!) gates, Tensor? hidden, Tensor? before, '
                     'Tensor(b!) cell, Tensor(c!) output) -> ()')
torch.library.define('tconv_mmaction::conv_lstm_cell_backward', '(Tensor gates, Tensor? before, Tensor cell, '
                     'Tensor? of_output, Tensor? of_next, Tensor(a!) of_cell, bool has_of_cell, '
                     'Tensor(b!) of_gates) -> ()')


def _launch(kernel, cell: Tensor, *arguments, **constants) -> None:
    total, size = cell.numel(), cell[0].numel()
    pointers = [cell if t is None else t for t in arguments]  # a kernel does not read what is None
    with torch.cuda.device_of(cell):
        kernel[(-(-total // BLOCK), )](*pointers, size, total, **constants, BLOCK=BLOCK, num_warps=4)


@torch.library.impl('tconv_mmaction::conv_lstm_cell', ('cpu', 'cuda'))  # cpu: in Triton's interpreter
def _forward(gates, hidden, before, cell, output):
    from .cell_triton_jit import forward
    _launch(forward, cell, gates, hidden, before, cell, output, HIDDEN=hidden is not None, BEFORE=before is not None)


@torch.library.impl('tconv_mmaction::conv_lstm_cell_backward', ('cpu', 'cuda'))
def _backward(gates, before, cell, of_output, of_next, of_cell, has_of_cell, of_gates):
    from .cell_triton_jit import backward
    _launch(backward, cell, gates, before, cell, of_output, of_next, of_cell, of_gates, BEFORE=before is not None,
            OUTPUT=of_output is not None, NEXT=of_next is not None, CELL=has_of_cell)


@torch.library.register_fake('tconv_mmaction::conv_lstm_cell')
def _(*arguments):
    return None


@torch.library.register_fake('tconv_mmaction::conv_lstm_cell_backward')
def _(*arguments):
    return None


def plain_forward(gates: Tensor, hidden: Optional[Tensor], before: Optional[Tensor], cell: Tensor,
                  output: Tensor) -> None:
    """:func:`forward` in PyTorch's operations."""
    if hidden is not None:
        gates.add_(hidden)
    i, f, g, o = gates.chunk(4, dim=1)
    gates[:, :2 * g.shape[1]].sigmoid_()
    g.tanh_()
    o.sigmoid_()
    if before is None:
        torch.mul(i, g, out=cell) if i.dtype == cell.dtype else cell.copy_(i).mul_(g)
    else:
        torch.mul(before, f, out=cell).addcmul_(i.to(cell.dtype), g.to(cell.dtype))
    output.copy_(cell.tanh().mul_(o))


def plain_backward(gates: Tensor, before: Optional[Tensor], cell: Tensor, of_output: Optional[Tensor],
                   of_next: Optional[Tensor], of_cell: Tensor, has_of_cell: bool, of_gates: Tensor) -> None:
    """:func:`backward` in PyTorch's operations."""
    i, f, g, o = (gate.to(cell.dtype) for gate in gates.chunk(4, dim=1))
    of_i, of_f, of_g, of_o = of_gates.chunk(4, dim=1)
    given = [t.to(cell.dtype) for t in (of_output, of_next) if t is not None]
    if given:
        of_h, through = sum(given[1:], given[0]), cell.tanh()
        of_o.copy_(torch.ops.aten.sigmoid_backward(of_h * through, o))
        from_h = torch.ops.aten.tanh_backward(of_h * o, through)
        of_c = from_h.add_(of_cell) if has_of_cell else from_h
    else:
        of_o.zero_()
        of_c = of_cell
    of_i.copy_(torch.ops.aten.sigmoid_backward(of_c * g, i))
    of_g.copy_(torch.ops.aten.tanh_backward(of_c * i, g))
    if before is None:
        of_f.zero_()
    else:
        of_f.copy_(torch.ops.aten.sigmoid_backward(of_c * before, f))
    torch.mul(of_c, f, out=of_cell)


def forward(gates: Tensor, hidden: Optional[Tensor], before: Optional[Tensor], cell: Tensor, output: Tensor) -> None:
    """A step without its convolutions, without autograd.

    Args:
        gates: ``(N, 4F, H, W)``, what the input's convolution gave; becomes the activated i, f, g, o.
        hidden: ``(N, 4F, H, W)``, what the state's convolution gave, or None for zeros.
        before: ``(N, F, H, W)`` in float32, the state c before the step, or None for zeros.
        cell, output: ``(N, F, H, W)``, c in float32 and h, written.
    """
    step = torch.ops.tconv_mmaction.conv_lstm_cell if _takes_kernels(gates) else plain_forward
    step(gates, hidden, before, cell, output)


def backward(gates: Tensor, before: Optional[Tensor], cell: Tensor, of_output: Optional[Tensor],
             of_next: Optional[Tensor], of_cell: Tensor, has_of_cell: bool, of_gates: Tensor) -> None:
    """The derivatives of :func:`forward`.

    Args:
        gates, before, cell: activated gates, c before and after the step.
        of_output, of_next: gradients of h from the loss and from the next step's convolution; None for zeros.
        of_cell: gradient of c from the next step, if ``has_of_cell``; becomes that of ``before``.
        of_gates: ``(N, 4F, H, W)``, written: the gradient of both convolutions' outputs.
    """
    step = torch.ops.tconv_mmaction.conv_lstm_cell_backward if _takes_kernels(gates) else plain_backward
    step(gates, before, cell, of_output, of_next, of_cell, has_of_cell, of_gates)


def _takes_kernels(gates: Tensor) -> bool:
    return gates.device.type == 'cuda' and gates.dtype != torch.float64 and triton_is_there()
