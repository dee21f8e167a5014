"""The two Triton kernels of :mod:`.cell`, one number of the state each; imported only where Triton is.

Gates are (N, 4, F*H*W), the state is (N, F*H*W), both in order in memory; sums are in float32.
"""
import triton
import triton.language as tl


@triton.jit
def tanh(x):
    return 2. * tl.sigmoid(2. * x) - 1.


@triton.jit
def places(size, total, BLOCK: tl.constexpr):
    """Where this program's numbers of the state are, those of gate i, and which exist."""
    state = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return state, state // size * (4 * size) + state % size, state < total


@triton.jit
def forward(gates, hidden, before, cell, output, size, total, HIDDEN: tl.constexpr, BEFORE: tl.constexpr,
            BLOCK: tl.constexpr):
    """Activates ``gates`` (+ ``hidden``) in place; writes c and h."""
    state, gate, exists = places(size, total, BLOCK)
    i = tl.load(gates + gate, mask=exists, other=0.).to(tl.float32)
    f = tl.load(gates + gate + size, mask=exists, other=0.).to(tl.float32)
    g = tl.load(gates + gate + 2 * size, mask=exists, other=0.).to(tl.float32)
    o = tl.load(gates + gate + 3 * size, mask=exists, other=0.).to(tl.float32)
    if HIDDEN:
        i += tl.load(hidden + gate, mask=exists, other=0.).to(tl.float32)
        f += tl.load(hidden + gate + size, mask=exists, other=0.).to(tl.float32)
        g += tl.load(hidden + gate + 2 * size, mask=exists, other=0.).to(tl.float32)
        o += tl.load(hidden + gate + 3 * size, mask=exists, other=0.).to(tl.float32)
    i = tl.sigmoid(i)
    f = tl.sigmoid(f)
    g = tanh(g)
    o = tl.sigmoid(o)
    c = i * g
    if BEFORE:
        c += f * tl.load(before + state, mask=exists, other=0.)
    kind = gates.dtype.element_ty
    tl.store(gates + gate, i.to(kind), mask=exists)
    tl.store(gates + gate + size, f.to(kind), mask=exists)
    tl.store(gates + gate + 2 * size, g.to(kind), mask=exists)
    tl.store(gates + gate + 3 * size, o.to(kind), mask=exists)
    tl.store(cell + state, c, mask=exists)
    tl.store(output + state, (o * tanh(c)).to(output.dtype.element_ty), mask=exists)


@triton.jit
def backward(gates, before, cell, of_output, of_next, of_cell, of_gates, size, total, BEFORE: tl.constexpr,
             OUTPUT: tl.constexpr, NEXT: tl.constexpr, CELL: tl.constexpr, BLOCK: tl.constexpr):
    """Writes ``of_gates``; ``of_cell``, the gradient of c, becomes that of the c before. ``of_output`` and ``of_next``
    are gradients of h, from the loss and from the step behind."""
    state, gate, exists = places(size, total, BLOCK)
    i = tl.load(gates + gate, mask=exists, other=0.).to(tl.float32)
    f = tl.load(gates + gate + size, mask=exists, other=0.).to(tl.float32)
    g = tl.load(gates + gate + 2 * size, mask=exists, other=0.).to(tl.float32)
    o = tl.load(gates + gate + 3 * size, mask=exists, other=0.).to(tl.float32)
    through = tanh(tl.load(cell + state, mask=exists, other=0.))
    of_h = tl.zeros((BLOCK, ), tl.float32)
    if OUTPUT:
        of_h += tl.load(of_output + state, mask=exists, other=0.).to(tl.float32)
    if NEXT:
        of_h += tl.load(of_next + state, mask=exists, other=0.).to(tl.float32)
    of_c = of_h * o * (1. - through * through)
    if CELL:
        of_c += tl.load(of_cell + state, mask=exists, other=0.)
    of_f = tl.zeros((BLOCK, ), tl.float32)
    if BEFORE:
        of_f = of_c * tl.load(before + state, mask=exists, other=0.) * f * (1. - f)
    kind = of_gates.dtype.element_ty
    tl.store(of_gates + gate, (of_c * g * i * (1. - i)).to(kind), mask=exists)
    tl.store(of_gates + gate + size, of_f.to(kind), mask=exists)
    tl.store(of_gates + gate + 2 * size, (of_c * i * (1. - g * g)).to(kind), mask=exists)
    tl.store(of_gates + gate + 3 * size, (of_h * through * o * (1. - o)).to(kind), mask=exists)
    tl.store(of_cell + state, of_c * f, mask=exists)
