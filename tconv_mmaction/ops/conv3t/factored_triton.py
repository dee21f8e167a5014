"""The second stage of the factored 3TConv as Triton kernels: transform, shift and add without the taps in memory.

:mod:`.factored_conv3t` computes U by one 1x1 convolution and from it

    y[t, h, w] = sum_b sum_p sum_q A_b[p, q] U[t*s + b*d - pad, q, h - p_h, w - p_w]

by batched products and a fold, which write and read an activation P = kH*kW times the output. Here each output is one
sum. Used where Triton can be imported and the tensors are on CUDA; P <= 9. Sums are in float32 (float64 for float64).
"""
import functools

import torch
from torch import Tensor

BLOCK = 128
MAX_PIXELS = 9  # the loops over p and q are unrolled


@functools.cache
def _kernels():
    import triton
    import triton.language as tl

    @triton.jit
    def forward(u, a, y, T, N, O, H, W, OH, OW, st, sh, sw, pad, fh, fw, dt, dh, dw,  # noqa: E741
                KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):
        P: tl.constexpr = KH * KW
        row = tl.program_id(0)  # (t', n, o)
        o = row % O
        n = row // O % N
        first = row // O // N * st - pad
        position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        valid = position < OH * OW
        h = position // OW * sh + fh
        w = position % OW * sw + fw
        everywhere = position * 0  # a condition on a scalar is made one on all positions: masks are vectors
        total = tl.zeros((BLOCK, ), SUM)
        for b in tl.static_range(KT):
            t = first + b * dt
            exists = valid & (everywhere + t >= 0) & (everywhere + t < T)
            maps = u + ((t * N + n) * O + o).to(tl.int64) * (P * H * W)
            for p in tl.static_range(P):
                i = h - p // KW * dh
                j = w - p % KW * dw
                seen = exists & (i >= 0) & (i < H) & (j >= 0) & (j < W)
                if b == 0:  # the first slice is the kernel itself
                    total += tl.load(maps + (P - 1 - p) * H * W + i * W + j, mask=seen, other=0.).to(SUM)
                else:
                    for q in tl.static_range(P):
                        weight = tl.load(a + ((b * O + o) * P + p) * P + q).to(SUM)
                        total += weight * tl.load(maps + q * H * W + i * W + j, mask=seen, other=0.).to(SUM)
        tl.store(y + row.to(tl.int64) * (OH * OW) + position, total.to(y.dtype.element_ty), mask=valid)

    @triton.jit
    def backward_u(g, a, gu, TO, N, O, H, W, OH, OW, st, sh, sw, pad, fh, fw, dt, dh, dw,  # noqa: E741
                   KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):
        P: tl.constexpr = KH * KW
        row = tl.program_id(0)  # (t, n, o)
        o = row % O
        n = row // O % N
        t = row // O // N
        q = tl.program_id(2)
        position = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        valid = position < H * W
        i = position // W
        j = position % W
        everywhere = position * 0
        total = tl.zeros((BLOCK, ), SUM)
        for b in tl.static_range(KT):
            shifted = t + pad - b * dt
            to = shifted // st
            reached = valid & (everywhere + shifted >= 0) & ((everywhere + shifted) % st == 0) & (everywhere + to < TO)
            maps = g + ((to * N + n) * O + o).to(tl.int64) * (OH * OW)
            for p in tl.static_range(P):
                h = i + p // KW * dh - fh
                w = j + p % KW * dw - fw
                seen = reached & (h >= 0) & (h % sh == 0) & (h // sh < OH)
                seen = seen & (w >= 0) & (w % sw == 0) & (w // sw < OW)
                if b == 0:
                    seen = seen & (everywhere + q == P - 1 - p)
                    total += tl.load(maps + h // sh * OW + w // sw, mask=seen, other=0.).to(SUM)
                else:
                    weight = tl.load(a + ((b * O + o) * P + p) * P + q).to(SUM)
                    total += weight * tl.load(maps + h // sh * OW + w // sw, mask=seen, other=0.).to(SUM)
        tl.store(gu + (row.to(tl.int64) * P + q) * (H * W) + position, total.to(gu.dtype.element_ty), mask=valid)

    @triton.jit
    def backward_a(g, u, ga, T, TO, N, O, H, W, OH, OW, st, sh, sw, pad, fh, fw, dt, dh, dw,  # noqa: E741
                   KH: tl.constexpr, KW: tl.constexpr, SUM: tl.constexpr, BLOCK: tl.constexpr):
        P: tl.constexpr = KH * KW
        o = tl.program_id(0)
        b = tl.program_id(1) + 1
        p = tl.program_id(2) // P
        q = tl.program_id(2) % P
        total = tl.zeros((BLOCK, ), SUM)
        for frame in range(TO * N):
            n = frame % N
            t = frame // N * st + b * dt - pad
            source = u + (((t * N + n) * O + o).to(tl.int64) * P + q) * (H * W)
            target = g + (frame * O + o).to(tl.int64) * (OH * OW)
            for start in range(0, OH * OW, BLOCK):
                position = start + tl.arange(0, BLOCK)
                i = position // OW * sh + fh - p // KW * dh
                j = position % OW * sw + fw - p % KW * dw
                seen = (position < OH * OW) & (position * 0 + t >= 0) & (position * 0 + t < T)
                seen = seen & (i >= 0) & (i < H) & (j >= 0) & (j < W)
                total += (tl.load(target + position, mask=seen, other=0.).to(SUM)
                          * tl.load(source + i * W + j, mask=seen, other=0.).to(SUM))
        tl.store(ga + ((b * O + o) * P + p) * P + q, tl.sum(total, 0).to(ga.dtype.element_ty))

    return forward, backward_u, backward_a, {torch.float64: tl.float64}, tl.float32


def available(u: Tensor, pixels: int) -> bool:
    """Whether ``u`` can be handed to the kernels: on CUDA, few pixels, and Triton is there."""
    if u.device.type != 'cuda' or pixels > MAX_PIXELS:
        return False
    try:
        _kernels()
    except ImportError:
        return False
    return True


def _numbers(geometry, height: int, width: int) -> tuple:
    return (geometry.batch, geometry.out_channels, geometry.height, geometry.width, height, width, *geometry.stride,
            geometry.padding[0], *geometry.fold_padding, *geometry.dilation)


def _blocks(positions: int) -> int:
    return -(-positions // BLOCK)


def second_stage(u: Tensor, products: Tensor, geometry) -> Tensor:
    """``u (T, N, O, P, H*W)``, ``products (kT, O, P, P)`` -> ``(T', N, O, H', W')``."""
    forward, _, _, sums, default = _kernels()
    u = u.contiguous()
    height, width = (-(-size // step) for size, step in zip(geometry.full, geometry.stride[1:]))
    y = u.new_empty(geometry.out_frames, geometry.batch, geometry.out_channels, height, width)
    forward[(y.shape[0] * y.shape[1] * y.shape[2], _blocks(height * width))](
        u, products, y, geometry.frames, *_numbers(geometry, height, width), geometry.depth, *geometry.kernel,
        sums.get(u.dtype, default), BLOCK)
    return y


def second_stage_backward(grad: Tensor, u: Tensor, products: Tensor, geometry):
    """Gradients of ``u`` and of ``products`` from that of the result, ``(T', N, O, H', W')``."""
    _, backward_u, backward_a, sums, default = _kernels()
    grad, u, kind = grad.contiguous(), u.contiguous(), sums.get(u.dtype, default)
    height, width = grad.shape[-2:]
    numbers = _numbers(geometry, height, width)
    grad_u, grad_products = torch.empty_like(u), torch.zeros_like(products)
    backward_u[(u.shape[0] * u.shape[1] * u.shape[2], _blocks(geometry.positions), geometry.pixels)](
        grad, products, grad_u, geometry.out_frames, *numbers, geometry.depth, *geometry.kernel, kind, BLOCK)
    backward_a[(geometry.out_channels, geometry.depth - 1, geometry.pixels**2)](
        grad, u, grad_products, geometry.frames, geometry.out_frames, *numbers, *geometry.kernel, kind, BLOCK)
    return grad_u, grad_products
