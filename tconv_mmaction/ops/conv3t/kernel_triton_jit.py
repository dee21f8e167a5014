r"""The two Triton kernels of :mod:`.kernel_triton`; imported only where Triton is. Sums are in float32.

One program is one filter o and BI of its input channels. A slice is a tile (PP, BI), PP the next power of two from
P = kH*kW on (at least 16, the least that ``tl.dot`` takes), and a step is a (PP, PP) matrix that is made in registers
from the filter's few numbers whenever it is needed: with hat(d) = max(0, 1 - \|d\|) and (x'_p, y'_p) where pixel p
reads (eq. 3 of arXiv:2006.15983),

.. math::  A[p, q] = \mathrm{hat}(y'_p - y_q)\, \mathrm{hat}(x'_p - x_q), \qquad S_{b+1} = A_b S_b

The loops over steps are loops, not unrolled: one compiled kernel serves every temporal length, and it compiles in about
a second. Rows and columns from P on are zero everywhere.
"""
import triton
import triton.language as tl


@triton.jit
def cos_sin(angle):
    """cos and sin to float32's precision for any angle that a filter can turn by (|angle| < 1e4).

    The libraries' functions put a table for huge angles on the stack; this stays in registers.
    """
    quarters = tl.floor(angle * 0.6366197723675814 + 0.5)
    # pi / 2 in three parts, the first two of few bits: their products with the number of quarters are exact
    rest = angle - quarters * 1.5703125
    rest = rest - quarters * 4.837512969970703125e-4
    rest = rest - quarters * 7.549789954891882e-8
    square = rest * rest
    # least-squares fits of the rest of both series on [-pi/4, pi/4]; errors 5e-12 and 6e-11 before rounding
    sine = ((2.7180043860e-06 * square - 1.9839297425e-04) * square + 8.3333292463e-03) * square - 1.6666666640e-01
    sine = rest + rest * square * sine
    cosine = ((2.4389162255e-05 * square - 1.3886747573e-03) * square + 4.1666622689e-02) * square - 4.9999999718e-01
    cosine = 1. + square * cosine
    quadrant = quarters.to(tl.int32) & 3
    swap = (quadrant & 1) == 1
    c = tl.where(swap, sine, cosine)
    s = tl.where(swap, cosine, sine)
    c = tl.where((quadrant == 1) | (quadrant == 2), -c, c)
    s = tl.where(quadrant >= 2, -s, s)
    return c, s


@triton.jit
def bounded(value):
    """Infinities as large finite numbers; NaN stays (comparisons with it are false)."""
    return tl.where(value > 1e15, 1e15, tl.where(value < -1e15, -1e15, value))


@triton.jit
def entries(theta, rotate, move_x, move_y, o, b, filters, FREE: tl.constexpr):
    """Step b's matrix of eq. 3 as six numbers, from theta, or from scale, rotate, translate_x and translate_y."""
    if FREE:
        at = theta + (b * filters + o) * 6
        xx = bounded(tl.load(at).to(tl.float32))
        xy = bounded(tl.load(at + 1).to(tl.float32))
        x1 = bounded(tl.load(at + 2).to(tl.float32))
        yx = bounded(tl.load(at + 3).to(tl.float32))
        yy = bounded(tl.load(at + 4).to(tl.float32))
        y1 = bounded(tl.load(at + 5).to(tl.float32))
    else:
        at = b * filters + o
        scale = bounded(tl.load(theta + at).to(tl.float32))
        angle = tl.load(rotate + at).to(tl.float32)
        x = bounded(tl.load(move_x + at).to(tl.float32))
        y = bounded(tl.load(move_y + at).to(tl.float32))
        cos, sin = cos_sin(angle)
        xx = scale * cos
        yx = scale * sin
        xy = -yx
        yy = xx
        x1 = xx * x - yx * y
        y1 = yx * x + xx * y
    return xx, xy, x1, yx, yy, y1


@triton.jit
def distances(xx, xy, x1, yx, yy, y1, KH: tl.constexpr, KW: tl.constexpr, PP: tl.constexpr):
    """From every pixel q to where pixel p reads, in pixels ``(PP, PP)``: down and along."""
    across: tl.constexpr = (KW - 1) / (KH - 1) if KH > 1 else 0.
    along: tl.constexpr = (KH - 1) / (KW - 1) if KW > 1 else 0.
    half_w: tl.constexpr = (KW - 1) / 2
    half_h: tl.constexpr = (KH - 1) / 2
    p = tl.arange(0, PP)
    # pixels counted from the centre: half-integers, so that the identity's samples lie exactly on pixels
    v = (p // KW).to(tl.float32) - half_h
    u = (p % KW).to(tl.float32) - half_w
    x = xx * u + xy * (across * v) + x1 * half_w
    y = yx * (along * u) + yy * v + y1 * half_h
    return y[:, None] - v[None, :], x[:, None] - u[None, :]


@triton.jit
def hat(distance):
    height = 1. - tl.abs(distance)
    return tl.where(height < 0., 0., height)  # NaN stays NaN


@triton.jit
def hat_slope(distance):
    """Minus the sign inside, half of it at the kink \\|d\\| = 1, nothing outside and at 0: means of both sides."""
    size = tl.abs(distance)
    steepness = tl.where(size < 1., 1., tl.where(size == 1., 0.5, 0.))
    return tl.where(distance > 0., -steepness, tl.where(distance < 0., steepness, 0.))


@triton.jit
def step_matrix(theta, rotate, move_x, move_y, o, b, filters, FREE: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
                PP: tl.constexpr):
    """A_b, ``(PP, PP)``."""
    xx, xy, x1, yx, yy, y1 = entries(theta, rotate, move_x, move_y, o, b, filters, FREE)
    down, along = distances(xx, xy, x1, yx, yy, y1, KH, KW, PP)
    p = tl.arange(0, PP)
    inside = (p[:, None] < KH * KW) & (p[None, :] < KH * KW)
    return tl.where(inside, hat(down) * hat(along), 0.)


@triton.jit
def product(a, b):
    return tl.dot(a, b, input_precision='ieee')  # the default would round float32 to TF32


@triton.jit
def build(first, theta, rotate, move_x, move_y, gain, out, channels, filters, steps, of_filter, of_channel, of_slice,
          of_pixel, KH: tl.constexpr, KW: tl.constexpr, PP: tl.constexpr, BI: tl.constexpr, FREE: tl.constexpr,
          GAIN: tl.constexpr):
    """``out[o, i, b, p] = gain[b, o] S_b[p, i]``, S_0 = ``first (O, I, P)``; the strides of ``out`` are given."""
    o = tl.program_id(0)
    i = tl.program_id(1) * BI + tl.arange(0, BI)
    p = tl.arange(0, PP)
    P: tl.constexpr = KH * KW
    inside = (p[:, None] < P) & (i[None, :] < channels)
    row = o.to(tl.int64)
    own = first + row * channels * P
    slice_ = tl.load(own + (i[None, :] * P + p[:, None]), mask=inside, other=0.).to(tl.float32)
    target = out + row * of_filter
    where = i[None, :] * of_channel + p[:, None] * of_pixel
    for b in range(steps + 1):
        if b > 0:
            step = step_matrix(theta, rotate, move_x, move_y, o, b - 1, filters, FREE, KH, KW, PP)
            slice_ = product(step, slice_)
        value = slice_
        if GAIN:
            value = value * tl.load(gain + b * filters + o).to(tl.float32)
        tl.store(target + b * of_slice + where, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def build_backward(grad, first, theta, rotate, move_x, move_y, gain, grad_first, sums, channels, filters, steps,
                   of_filter, of_channel, of_slice, of_pixel, sums_of_block, KH: tl.constexpr, KW: tl.constexpr,
                   PP: tl.constexpr, BI: tl.constexpr, FREE: tl.constexpr, GAIN: tl.constexpr):
    """The gradients of :func:`build`: ``grad_first (O, I, P)`` whole, the others as sums over this block's channels.

    ``sums``, a row for each block: the parameters one after the other, each laid out as itself, then the gain. From
    the last step to the first, S_b is found again from S_0, so nothing is kept from the forward pass.
    """
    o = tl.program_id(0)
    i = tl.program_id(1) * BI + tl.arange(0, BI)
    p = tl.arange(0, PP)
    P: tl.constexpr = KH * KW
    half_w: tl.constexpr = (KW - 1) / 2
    half_h: tl.constexpr = (KH - 1) / 2
    across: tl.constexpr = (KW - 1) / (KH - 1) if KH > 1 else 0.
    along_: tl.constexpr = (KH - 1) / (KW - 1) if KW > 1 else 0.
    v = (p // KW).to(tl.float32) - half_h
    u = (p % KW).to(tl.float32) - half_w
    inside = (p[:, None] < P) & (i[None, :] < channels)
    square = (p[:, None] < P) & (p[None, :] < P)
    row = o.to(tl.int64)
    own = row * channels * P
    here = i[None, :] * P + p[:, None]
    start = tl.load(first + own + here, mask=inside, other=0.).to(tl.float32)
    source = grad + row * of_filter
    where = i[None, :] * of_channel + p[:, None] * of_pixel
    total = sums + tl.program_id(1).to(tl.int64) * sums_of_block
    each = steps * filters  # numbers of one affine parameter; theta has six times as many
    of_gain = total + (6 if FREE else 4) * each + o
    of_kernel = tl.load(source + steps * of_slice + where, mask=inside, other=0.).to(tl.float32)
    of_slice_ = of_kernel
    if GAIN:
        of_slice_ = of_kernel * tl.load(gain + steps * filters + o).to(tl.float32)
    for back in range(steps):
        b = steps - 1 - back
        slice_ = start
        for c in range(b):
            earlier = step_matrix(theta, rotate, move_x, move_y, o, c, filters, FREE, KH, KW, PP)
            slice_ = product(earlier, slice_)
        xx, xy, x1, yx, yy, y1 = entries(theta, rotate, move_x, move_y, o, b, filters, FREE)
        down, along = distances(xx, xy, x1, yx, yy, y1, KH, KW, PP)
        rows = hat(down)
        columns = hat(along)
        step = tl.where(square, rows * columns, 0.)
        if GAIN:
            tl.store(of_gain + (b + 1) * filters, tl.sum(of_kernel * product(step, slice_)))
        of_step = tl.where(square, product(of_slice_, tl.trans(slice_)), 0.)
        of_x = tl.sum(of_step * rows * hat_slope(along), 1)
        of_y = tl.sum(of_step * columns * hat_slope(down), 1)
        of_xx = tl.sum(of_x * u)
        of_xy = tl.sum(of_x * v) * across
        of_x1 = tl.sum(of_x) * half_w
        of_yx = tl.sum(of_y * u) * along_
        of_yy = tl.sum(of_y * v)
        of_y1 = tl.sum(of_y) * half_h
        at = b * filters + o
        if FREE:
            tl.store(total + at * 6, of_xx)
            tl.store(total + at * 6 + 1, of_xy)
            tl.store(total + at * 6 + 2, of_x1)
            tl.store(total + at * 6 + 3, of_yx)
            tl.store(total + at * 6 + 4, of_yy)
            tl.store(total + at * 6 + 5, of_y1)
        else:  # eq. 3: xx = yy = s cos r, yx = -xy = s sin r, and the translation turned and scaled with the rest
            angle = tl.load(rotate + at).to(tl.float32)
            x = bounded(tl.load(move_x + at).to(tl.float32))
            y = bounded(tl.load(move_y + at).to(tl.float32))
            of_cos = of_xx + of_yy + of_x1 * x + of_y1 * y
            of_sin = of_yx - of_xy + of_y1 * x - of_x1 * y
            cos, sin = cos_sin(angle)
            tl.store(total + at, cos * of_cos + sin * of_sin)
            tl.store(total + each + at, xx * of_sin - yx * of_cos)
            tl.store(total + 2 * each + at, xx * of_x1 + yx * of_y1)
            tl.store(total + 3 * each + at, xx * of_y1 - yx * of_x1)
        of_kernel = tl.load(source + b * of_slice + where, mask=inside, other=0.).to(tl.float32)
        contribution = of_kernel
        if GAIN:
            contribution = of_kernel * tl.load(gain + b * filters + o).to(tl.float32)
        of_slice_ = product(tl.trans(step), of_slice_) + contribution
    if GAIN:
        tl.store(of_gain, tl.sum(of_kernel * start))
    tl.store(grad_first + own + here, of_slice_.to(grad_first.dtype.element_ty), mask=inside)
