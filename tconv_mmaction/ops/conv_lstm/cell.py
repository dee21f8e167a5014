"""One step of a convolutional LSTM behind its convolutions, and its derivatives, each one launch on a GPU with Triton.

With a' for the derivative of a nonlinearity by its argument, and dh, dc the gradients of h_t and c_t (dc of what comes
after the step alone):

    c_t = f c_{t-1} + i g        h_t = o tanh(c_t)
    dc += dh o (1 - tanh(c_t)^2)
    d(i, f, g, o) = (dc g i', dc c_{t-1} f', dc i g', dh tanh(c_t) o')        dc_{t-1} = dc f

The state c is in float32; gates and h are in the type of the convolutions. Without Triton the same is eight of
PyTorch's operations in a step forward and at most five in one back, and a dozen more for all steps of a chunk at once
(:func:`slopes`); they are what the kernels are compared with (tests/ops/conv_lstm/test_whole_clip.py).
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
        torch.mul(before, f, out=cell).addcmul_(i, g)
    torch.mul(cell.tanh(), o, out=output)


def slopes(gates: Tensor, start: Optional[Tensor], cells: Tensor, of_gates: Tensor) -> Tensor:
    """Without Triton: what does not wait for a gradient, for all steps of a chunk in one operation each.

    Args:
        gates: ``(K, N, 4F, H, W)``, activated.
        start: ``(N, F, H, W)``, the state c before the first of the K steps, or None for zeros.
        cells: ``(K, N, F, H, W)``, c after each step.
        of_gates: ``(K, N, 4F, H, W)``, becomes what dc (i, f, g) and dh (o) are to be multiplied with.

    Returns:
        o (1 - tanh(c)^2), ``(K, N, F, H, W)``: what of dh goes to dc.
    """
    i, f, g, o = (gate.to(cells.dtype) for gate in gates.chunk(4, dim=2))
    of_i, of_f, of_g, of_o = of_gates.chunk(4, dim=2)
    through = cells.tanh()
    of_i.copy_(torch.ops.aten.sigmoid_backward(g, i))
    of_f[1:].copy_(torch.ops.aten.sigmoid_backward(cells[:-1], f[1:]))
    of_f[0].zero_() if start is None else of_f[0].copy_(torch.ops.aten.sigmoid_backward(start, f[0]))
    of_g.copy_(torch.ops.aten.tanh_backward(i, g))
    of_o.copy_(torch.ops.aten.sigmoid_backward(through, o))
    return torch.ops.aten.tanh_backward(o, through)


def plain_backward(gates: Tensor, of_output: Optional[Tensor], of_next: Optional[Tensor], of_cell: Tensor,
                   has_of_cell: bool, of_gates: Tensor, to_cell: Tensor) -> None:
    """:func:`backward` in PyTorch's operations, behind :func:`slopes`, which wrote ``of_gates`` and ``to_cell``."""
    features = of_cell.shape[1]
    given = [t for t in (of_output, of_next) if t is not None]
    of_o = of_gates[:, 3 * features:]
    if given:
        of_h = given[0] if len(given) == 1 else given[0].to(of_cell.dtype) + given[1]
        of_o.mul_(of_h)
        of_c = of_cell.addcmul_(of_h, to_cell) if has_of_cell else of_h * to_cell
    else:
        of_o.zero_()
        of_c = of_cell
    of_gates[:, :3 * features].unflatten(1, (3, features)).mul_(of_c[:, None])
    torch.mul(of_c, gates[:, features:2 * features], out=of_cell)


def forward(gates: Tensor, hidden: Optional[Tensor], before: Optional[Tensor], cell: Tensor, output: Tensor) -> None:
    """A step without its convolutions, without autograd.

    Args:
        gates: ``(N, 4F, H, W)``, what the input's convolution gave; becomes the activated i, f, g, o.
        hidden: ``(N, 4F, H, W)``, what the state's convolution gave, or None for zeros.
        before: ``(N, F, H, W)`` in float32, the state c before the step, or None for zeros.
        cell, output: ``(N, F, H, W)``, c in float32 and h, written.
    """
    step = torch.ops.tconv_mmaction.conv_lstm_cell if takes_kernels(gates) else plain_forward
    step(gates, hidden, before, cell, output)


def backward(gates: Tensor, before: Optional[Tensor], cell: Tensor, of_output: Optional[Tensor],
             of_next: Optional[Tensor], of_cell: Tensor, has_of_cell: bool, of_gates: Tensor) -> None:
    """The derivatives of :func:`forward` in one launch, with Triton.

    Args:
        gates, before, cell: activated gates, c before and after the step.
        of_output, of_next: gradients of h from the loss and from the next step's convolution; None for zeros.
        of_cell: gradient of c from the next step, if ``has_of_cell``; becomes that of ``before``.
        of_gates: ``(N, 4F, H, W)``, written: the gradient of both convolutions' outputs.
    """
    torch.ops.tconv_mmaction.conv_lstm_cell_backward(gates, before, cell, of_output, of_next, of_cell, has_of_cell,
                                                     of_gates)


def takes_kernels(gates: Tensor) -> bool:
    return gates.device.type == 'cuda' and gates.dtype != torch.float64 and triton_is_there()
