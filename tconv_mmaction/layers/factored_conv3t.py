r"""3TConv without its 3D kernel: mix the channels once, then transform per channel.

Slice b of a 3T kernel is A_b K_1, with A_b a (P, P) resampling matrix per output channel, P = kH*kW, the same for all
input channels (:mod:`.temporal_transform`). Convolution being linear,

.. math::  U[o, q] = \sum_i K_1[o, i, q]\, x[i], \qquad
           y[o, t] = \sum_p \mathrm{shift}_p \Big( \sum_b A_b[o, p, \cdot]\, U[o, \cdot, t + b] \Big)

U is one 1x1 convolution with O*P outputs, so the sum over input channels is done once instead of kT times:
I*P + (kT-1)*P^2 multiply-adds per output instead of I*P*kT. The price is U, which is P times the output. It pays at
stride 1 with many channels; with a spatial stride U is computed at positions that no output uses.

The clips of a batch are taken in chunks whose U stays near the cache, and the backward pass is written out: it
recomputes U where keeping it would cost more than ``KEEP_ELEMENTS``.
"""
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import fused_second_stage
from .eager import runs_eagerly
from .scratch import scratch

# Elements of U per chunk of clips on CPU (4 MB in float32), which bounds the memory; what that does to the time is in
# tools/benchmarks/inner_paths.py. Accelerators get the whole batch, up to KEEP_ELEMENTS.
CHUNK_ELEMENTS = 1 << 20
KEEP_ELEMENTS = 1 << 24


def _borrow(name: str, like: Tensor, *shape: int) -> Tensor:
    """Memory that is used up before the next chunk asks for it."""
    if like.device.type == 'cpu' and runs_eagerly():
        return scratch.borrow(name, like.dtype, shape)
    return like.new_empty(shape)


class _Geometry:
    """Sizes and the time windows of one call; x is (T, N, I, H, W), y is (T', N, O, H', W')."""

    def __init__(self, x: Tensor, weight: Tensor, depth: int, stride, padding, dilation, groups: int) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.frames, self.batch, _, self.height, self.width = x.shape
        self.out_channels, self.kernel = weight.shape[0], tuple(weight.shape[-2:])
        self.pixels, self.positions, self.depth = self.kernel[0] * self.kernel[1], self.height * self.width, depth
        spans = [dilation[0] * (depth - 1), *(d * (k - 1) for d, k in zip(dilation[1:], self.kernel))]
        full = [size + 2 * p - span for size, p, span in zip((self.frames, self.height, self.width), padding, spans)]
        self.full = tuple(full[1:])  # output size at spatial stride 1
        self.out_frames = (full[0] - 1) // stride[0] + 1
        self.fold_padding = tuple(span - p for span, p in zip(spans[1:], padding[1:]))

    def windows(self, b: int) -> Tuple[slice, slice]:
        """Output frames that slice b of the kernel reaches, and the input frames it reads for them."""
        shift, step = b * self.dilation[0] - self.padding[0], self.stride[0]
        first = max(0, -(shift // step))  # ceil(-shift / step): the first output whose frame exists
        last = min(self.out_frames - 1, (self.frames - 1 - shift) // step)
        if last < first:
            return slice(0, 0), slice(0, 0)
        return slice(first, last + 1), slice(first * step + shift, last * step + shift + 1, step)

    def mix(self, x: Tensor, kernel: Tensor) -> Tensor:
        """U, ``(T, N, O, P, H*W)``: all taps of K_1 at all positions."""
        u = F.conv2d(x.flatten(0, 1), kernel, groups=self.groups)
        return u.view(self.frames, self.batch, self.out_channels, self.pixels, self.positions)

    def transform(self, u: Tensor, products: Tensor) -> Tensor:
        """sum_b A_b U[t + b], ``(T', N, O, P, H*W)``. Time comes first so that windows of it are contiguous."""
        out = _borrow('windows', u, self.out_frames, *u.shape[1:])
        to, of = self.windows(0)
        out[to] = u[of]
        out[:to.start] = 0
        out[to.stop:] = 0
        for b in range(1, self.depth):
            to, of = self.windows(b)
            if to.stop > to.start:
                self.add_products(out[to], products[b - 1], u[of])
        return out

    def add_products(self, out: Tensor, matrix: Tensor, u: Tensor) -> None:
        """out += matrix @ u for every frame and clip; ``out`` is a contiguous window."""
        matrix = matrix.expand(*u.shape[:2], -1, -1, -1).flatten(0, 2)
        out.flatten(0, 2).baddbmm_(matrix, u.flatten(0, 2))

    def fold(self, taps: Tensor) -> Tensor:
        """Add the taps at their shifts: ``(T', N, O, P, H*W)`` -> ``(T', N, O, H', W')``."""
        columns = taps.view(-1, self.out_channels * self.pixels, self.positions)
        y = F.fold(columns, self.full, self.kernel, self.dilation[1:], self.fold_padding)
        y = y.view(self.out_frames, self.batch, self.out_channels, *self.full)
        return y[..., ::self.stride[1], ::self.stride[2]]

    def unfold(self, grad: Tensor) -> Tensor:
        """The transpose of :meth:`fold`."""
        if self.stride[1] != 1 or self.stride[2] != 1:
            spread = grad.new_zeros(*grad.shape[:3], *self.full)
            spread[..., ::self.stride[1], ::self.stride[2]] = grad
            grad = spread
        taps = _borrow('windows', grad, self.out_frames * self.batch, self.out_channels * self.pixels, self.positions)
        torch.ops.aten.im2col.out(grad.reshape(-1, self.out_channels, *self.full), self.kernel, self.dilation[1:],
                                  self.fold_padding, (1, 1), out=taps)  # F.unfold
        return taps.view(self.out_frames, self.batch, self.out_channels, self.pixels, self.positions)

    def second_stage_backward(self, grad: Tensor, u: Tensor, products: Tensor, grad_products: Tensor) -> Tensor:
        """The gradient of U from that of the result; the products' gradient is added to ``grad_products``."""
        taps = self.unfold(grad)
        grad_u = _borrow('analysed', u, *u.shape)
        to, of = self.windows(0)
        if self.stride[0] == 1:  # a window without gaps: what it does not cover is at its ends
            grad_u[:of.start] = 0
            grad_u[of.stop:] = 0
        else:
            grad_u.zero_()
        grad_u[of] = taps[to]
        for b in range(1, len(products) + 1):
            to, of = self.windows(b)
            if to.stop == to.start:
                continue
            window, source = taps[to].flatten(0, 2), u[of].flatten(0, 2)
            shares = torch.bmm(window, source.mT).view(-1, *products.shape[1:])
            grad_products[b - 1] += shares.sum(0)
            if self.stride[0] == 1:
                self.add_products(grad_u[of], products[b - 1].mT, taps[to])
            else:
                matrix = products[b - 1].mT.expand(*taps[to].shape[:2], -1, -1, -1).flatten(0, 2)
                grad_u[of] += torch.bmm(matrix, window).view_as(taps[to])
        return grad_u


class _FactoredConv3T(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, kernel, products, weight_shape, stride, padding, dilation, groups):
        weight = kernel.new_empty(weight_shape, device='meta')
        clips = _chunk(x, kernel)
        keep = x.shape[0] * x.shape[1] * x[0, 0, 0].numel() * kernel.shape[0] <= KEEP_ELEMENTS
        outputs, kept = [], []
        for part in x.split(clips, dim=1):
            geometry = _Geometry(part, weight, len(products) + 1, stride, padding, dilation, groups)
            u = geometry.mix(part, kernel)
            if fused_second_stage.available(u, geometry.pixels):
                outputs.append(fused_second_stage.second_stage(u, products, geometry))
            else:
                outputs.append(geometry.fold(geometry.transform(u, products)))
            if keep:
                kept.append(u)
        ctx.arguments = weight_shape, stride, padding, dilation, groups
        ctx.clips = clips
        ctx.save_for_backward(x, kernel, products, *kept)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, kernel, products, *kept = ctx.saved_tensors
        weight_shape, stride, padding, dilation, groups = ctx.arguments
        weight = kernel.new_empty(weight_shape, device='meta')
        grad_kernel, grad_products = None, torch.zeros_like(products)
        grad_x = []
        for i, (part, grad) in enumerate(zip(x.split(ctx.clips, dim=1), grad_y.split(ctx.clips, dim=1))):
            geometry = _Geometry(part, weight, len(products) + 1, stride, padding, dilation, groups)
            u = kept[i] if kept else geometry.mix(part, kernel)
            if fused_second_stage.available(u, geometry.pixels):
                grad_u, shares = fused_second_stage.second_stage_backward(grad, u, products, geometry)
                grad_products += shares
            else:
                grad_u = geometry.second_stage_backward(grad, u, products, grad_products)
            frames = part.flatten(0, 1)
            grads = torch.ops.aten.convolution_backward(
                grad_u.view(frames.shape[0], -1, *frames.shape[2:]), frames, kernel, None, (1, 1), (0, 0), (1, 1),
                False, (0, 0), groups, (ctx.needs_input_grad[0], True, False))
            grad_kernel = grads[1] if grad_kernel is None else grad_kernel.add_(grads[1])
            if ctx.needs_input_grad[0]:
                grad_x.append(grads[0].view_as(part))
        return torch.cat(grad_x, dim=1) if grad_x else None, grad_kernel, grad_products, *(None, ) * 5


def _chunk(x: Tensor, kernel: Tensor) -> int:
    """Clips per chunk (at least one)."""
    frames, _, _, height, width = x.shape
    limit = CHUNK_ELEMENTS if x.device.type == 'cpu' else KEEP_ELEMENTS
    return max(1, limit // max(1, frames * height * width * kernel.shape[0]))


def factored_conv3t(x: Tensor, weight: Tensor, transforms: Tensor, stride: Tuple[int, int, int],
                    padding: Tuple[int, int, int], dilation: Tuple[int, int, int], groups: int) -> Tensor:
    """The 3TConv of ``x`` from K_1 and the resampling steps.

    Args:
        x: ``(N, I, T, H, W)``.
        weight: ``(O, I/groups, kH, kW)``, K_1.
        transforms: ``(O, kT, P, P)`` from :func:`.slice_transforms.slice_transforms`; kT > 1.
        stride, padding, dilation: (t, h, w). ``padding`` is with zeros.
        groups: as in ``nn.Conv3d``.

    Returns:
        ``(N, O, T', H', W')``, what ``F.conv3d`` with the kernel of :func:`.temporal_transform.temporal_kernel` gives.

    Raises:
        RuntimeError: on a second differentiation, which the written-out backward does not support.
    """
    out_channels, in_channels, height, width = weight.shape
    spans = dilation[1] * (height - 1), dilation[2] * (width - 1)
    beyond = [max(0, p - span) for p, span in zip(padding[1:], spans)]
    if any(beyond):  # windows that see padding only: F.fold knows nothing outside the image it folds from
        x = F.pad(x, (beyond[1], beyond[1], beyond[0], beyond[0]))
        padding = padding[0], padding[1] - beyond[0], padding[2] - beyond[1]
    # Adding taps at their shifts is a convolution's transpose: the taps run backwards. Both factors are flipped, which
    # is free, instead of U, which is large.
    kernel = weight.flip(-1, -2).flatten(2).transpose(1, 2).reshape(-1, in_channels, 1, 1)  # O*P, I/groups, 1, 1
    products = transforms[:, 1:].transpose(0, 1).flip(-1, -2)  # the flip of both axes of P = (kH, kW) reverses P
    y = _FactoredConv3T.apply(x.permute(2, 0, 1, 3, 4).contiguous(), kernel, products, tuple(weight.shape), stride,
                              padding, dilation, groups)
    return y.permute(1, 2, 0, 3, 4).contiguous()
