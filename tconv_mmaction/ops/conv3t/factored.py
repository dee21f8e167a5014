r"""3TConv without its 3D kernel: mix the channels once, then transform per channel.

Slice b of a 3T kernel is A_b K_1, with A_b a (P, P) resampling matrix per output channel, P = kH*kW, the same for all
input channels (:mod:`.temporal_transform`). Convolution being linear,

.. math::  U[o, q] = \sum_i K_1[o, i, q]\, x[i], \qquad
           y[o, t] = \sum_p \mathrm{shift}_p \Big( \sum_b A_b[o, p, \cdot]\, U[o, \cdot, t + b] \Big)

U is one 1x1 convolution with O*P outputs, so the sum over input channels is done once instead of kT times:
I*P + (kT-1)*P^2 multiply-adds per output instead of I*P*kT. The price is U, which is P times the output. It pays at
stride 1 with many channels; with a spatial stride U is computed at positions that no output uses.

The clips of a batch are taken in chunks whose U stays near the cache, and the backward pass is written out: it
recomputes U where keeping it would cost more than ``KEEP_ELEMENTS``. Adding taps at their shifts is a convolution's
transpose: its taps run backwards. So the rows of every A_b are reversed, the identity of the first slice included.

On CPU, U of a chunk is one matrix product, a row for each filter and tap (:mod:`..onednn`), and the second stage goes
frame by frame; on accelerators U is a convolution, and the second stage takes all frames together. There it is for
those who ask for it by name: by count of operations the 3D kernel wins in every layer (docs/recipes.md).
"""
from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Geometry, out_sizes, time_windows
from ..memory import borrow
from ..onednn import product
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from .slice_rule import SliceRule

# Elements of U per chunk of clips on CPU (8 MB in float32), which bounds the memory; what that does to the time is in
# tools/benchmarks/inner_paths.py. Accelerators get the whole batch, up to KEEP_ELEMENTS.
CHUNK_ELEMENTS = 1 << 21
KEEP_ELEMENTS = 1 << 24
Window = Tuple[int, slice, slice]  # a slice of the kernel, frames that it reaches, frames that it reads


def _borrow(name: str, like: Tensor, *shape: int) -> Tensor:
    """Memory that is used up before the next chunk asks for it."""
    if like.device.type == 'cpu':
        return borrow(name, like.dtype, shape)
    return like.new_empty(shape)


class _Sizes:
    """Sizes and the time windows of one call; x is (T, N, I, H, W), y is (T', N, O, H', W')."""

    def __init__(self, x: Tensor, weight: Tensor, depth: int, stride, padding, dilation, groups: int) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.frames, self.batch, _, self.height, self.width = x.shape
        self.out_channels, self.kernel = weight.shape[0], tuple(weight.shape[-2:])
        self.pixels, self.positions, self.depth = self.kernel[0] * self.kernel[1], self.height * self.width, depth
        self.out_frames, *full = out_sizes((self.frames, self.height, self.width), (depth, *self.kernel),
                                           (stride[0], 1, 1), padding, dilation)
        self.full = tuple(full)  # output size at spatial stride 1
        self.fold_padding = tuple(d * (k - 1) - p for d, k, p in zip(dilation[1:], self.kernel, padding[1:]))
        # the slices of the kernel that see a frame, with the output frames that they reach and what they read for them
        windows = ((b, *time_windows(b, self.frames, self.out_frames, stride[0], padding[0], dilation[0]))
                   for b in range(depth))
        self.windows = [(b, to, of) for b, to, of in windows if to.stop > to.start]
        self.by_products = x.device.type == 'cpu' and groups == 1

    def mix(self, x: Tensor, kernel: Tensor) -> Tensor:
        """U, ``(T, N, O, P, H*W)``: all taps of K_1 at all positions. ``kernel``: ``(O*P, I/groups)``."""
        if self.by_products:
            u = product(kernel, x.flatten(3).permute(2, 0, 1, 3).reshape(x.shape[2], -1))
            return u.view(self.out_channels, self.pixels, self.frames, self.batch, -1).permute(2, 3, 0, 1, 4)
        u = F.conv2d(x.flatten(0, 1), kernel[:, :, None, None], groups=self.groups)
        return u.view(self.frames, self.batch, self.out_channels, self.pixels, self.positions)

    def mix_backward(self, grad_u: Tensor, x: Tensor, kernel: Tensor, wants_x: bool,
                     wants_kernel: bool) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """The gradients of ``x`` and of the kernel, or None."""
        if self.by_products:
            rows = borrow('products', grad_u.dtype, (*grad_u.shape[2:4], *grad_u.shape[:2], self.positions))
            rows = rows.copy_(grad_u.permute(2, 3, 0, 1, 4)).flatten(0, 1).flatten(1)
            grad_x = grad_kernel = None
            if wants_kernel:
                grad_kernel = product(rows, x.flatten(3).transpose(2, 3).reshape(-1, x.shape[2]))
            if wants_x:
                grad_x = product(kernel.t(), rows).view(-1, self.frames, self.batch, *x.shape[3:])
                grad_x = grad_x.permute(1, 2, 0, 3, 4)
            return grad_x, grad_kernel
        frames = x.flatten(0, 1)
        grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
            grad_u.view(len(frames), -1, *frames.shape[2:]), frames, kernel[:, :, None, None], None, (1, 1), (0, 0),
            (1, 1), False, (0, 0), self.groups, (wants_x, wants_kernel, False))
        return grad_x.view_as(x) if wants_x else None, grad_kernel.flatten(1) if wants_kernel else None

    def transform(self, u: Tensor, products: Tensor) -> Tensor:
        """sum_b A_b U[t + b], ``(T', N, O, P, H*W)``."""
        return self._sum_products(_borrow('windows', u, self.out_frames, *u.shape[1:]), products, u, self.windows)

    def _sum_products(self, out: Tensor, products: Tensor, source: Tensor, windows: Sequence[Window]) -> Tensor:
        """For every window ``(b, to, of)``: ``products[b] @ source[of]``, added up in the frames ``out[to]``."""
        if not self.by_products:
            out.zero_()
            for b, to, of in windows:
                target = out[to]
                matrix = products[b].expand(*target.shape[:2], -1, -1, -1).flatten(0, 2)
                target.add_(torch.bmm(matrix, source[of].flatten(0, 2)).view(target.shape))
            return out
        written = [False] * len(out)
        for b, to, of in windows:
            for frame, source_frame in zip(range(len(out))[to], source[of]):
                for target, clip in zip(out[frame], source_frame):
                    if written[frame]:
                        target.baddbmm_(products[b], clip)
                    else:
                        torch.bmm(products[b], clip, out=target)
                written[frame] = True
        for target, is_written in zip(out, written):
            if not is_written:
                target.zero_()
        return out

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

    def second_stage_backward(self, grad: Tensor, u: Optional[Tensor], products: Tensor,
                              grad_products: Optional[Tensor], fixed: bool) -> Tensor:
        """The gradient of U from that of the result; with U, the products' gradient is added to ``grad_products``.

        The first slice's has none if it is ``fixed``.
        """
        taps = self.unfold(grad)
        for b, to, of in self.windows:
            if (b or not fixed) and u is not None:
                for target, source in zip(taps[to].flatten(0, 1), u[of].flatten(0, 1)):
                    grad_products[b].baddbmm_(target, source.mT)
        grad_u = _borrow('analysed', taps, self.frames, *taps.shape[1:4], self.positions)
        return self._sum_products(grad_u, products.mT, taps, [(b, of, to) for b, to, of in self.windows])


def _kernel(first: Tensor) -> Tensor:
    """K_1 ``(O, I, P)`` as ``(O*P, I)``, rows together."""
    out_channels, channels, pixels = first.shape
    return _borrow('kernel', first, out_channels, pixels, channels).copy_(first.mT).flatten(0, 1)


def _kernel_for_backward(first: Tensor) -> Tensor:
    """The same, columns together."""
    out_channels, channels, pixels = first.shape
    kernel = _borrow('kernel of backward', first, channels, out_channels, pixels).copy_(first.transpose(0, 1))
    return kernel.flatten(1).t()


class _FactoredConv3T(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, rule, geometry, *others):
        first = weight.flatten(2)
        products = rule.transforms(weight, *others).unflatten(1, (-1, first.shape[2]))
        products = products.transpose(0, 1).contiguous().flip(2)  # (kT, O, P, P); see the module's text
        elements = first.shape[0] * first.shape[2] * x[:, 0, 0].numel()  # of U of one clip
        ctx.clips = max(1, (CHUNK_ELEMENTS if x.device.type == 'cpu' else KEEP_ELEMENTS) // max(1, elements))
        # only the gradient of the products needs U again
        keep = any(ctx.needs_input_grad[4:]) and x.shape[1] * elements <= KEEP_ELEMENTS
        outputs, kept, kernel = [], [], _kernel(first)
        for part in x.split(ctx.clips, dim=1):
            sizes = _Sizes(part, weight, len(products), *geometry)
            u = sizes.mix(part, kernel)
            outputs.append(sizes.fold(sizes.transform(u, products)))
            if keep:
                kept.append(u)
        ctx.rule, ctx.geometry, ctx.others = rule, geometry, len(others)
        ctx.save_for_backward(x, weight, *others, products, *kept)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    @staticmethod
    def backward(ctx, grad_y):
        x, weight, *tensors = ctx.saved_tensors
        others, (products, *kept) = tensors[:ctx.others], tensors[ctx.others:]
        if leave_to_autograd(grad_y):

            def reference(frames: Tensor, *parameters: Tensor) -> Tensor:
                y = F.conv3d(frames.permute(1, 2, 0, 3, 4), ctx.rule.differentiable(*parameters), None, *ctx.geometry)
                return y.permute(2, 0, 1, 3, 4)

            wanted = *ctx.needs_input_grad[:2], *ctx.needs_input_grad[4:]
            of_x, of_weight, *of_others = gradients_by_autograd(reference, (x, weight, *others), [grad_y], wanted)
            return of_x, of_weight, None, None, *of_others
        first = weight.flatten(2)
        wants_x, wants_weight, wants_others = (
            ctx.needs_input_grad[0], ctx.needs_input_grad[1], any(ctx.needs_input_grad[4:]))
        grad_kernel, grad_products = None, torch.zeros_like(products) if wants_others else None
        kernel, grad_x = None, []
        for i, (part, grad) in enumerate(zip(x.split(ctx.clips, dim=1), grad_y.split(ctx.clips, dim=1))):
            sizes = _Sizes(part, weight, len(products), *ctx.geometry)
            u = kept[i] if kept else sizes.mix(part, _kernel(first)) if wants_others else None
            grad_u = sizes.second_stage_backward(grad, u, products, grad_products, bool(ctx.rule.fixed))
            if kernel is None:
                kernel = _kernel_for_backward(first) if sizes.by_products else _kernel(first)
            of_part, of_kernel = sizes.mix_backward(grad_u, part, kernel, wants_x, wants_weight)
            grad_kernel = of_kernel if grad_kernel is None else grad_kernel.add_(of_kernel)
            grad_x.append(of_part)
        of_weight, of_others = None, (None, ) * len(others)
        if wants_weight:
            of_weight = grad_kernel.view(len(first), first.shape[2], -1).mT.reshape(weight.shape)
        if wants_others:
            of_transforms = grad_products.flip(2).transpose(0, 1).flatten(1, 2)[:, ctx.rule.fixed:]
            of_others = ctx.rule.transform_gradients(of_transforms, weight, *others)
        return torch.cat(grad_x, dim=1) if wants_x else None, of_weight, None, None, *of_others


def factored_conv3t(x: Tensor, rule: SliceRule, geometry: Geometry, weight: Tensor, *others: Tensor) -> Tensor:
    """``F.conv3d(x, rule.differentiable(weight, *others), None, *geometry)``.

    Args:
        x: ``(N, I, T, H, W)``.
        rule: how the slices follow from ``weight``, the first of them, and ``others``; kT > 1.
        geometry: of the convolution.

    Returns:
        ``(N, O, T', H', W')``.
    """
    height, width = weight.shape[-2:]
    stride, padding, dilation, groups = geometry
    spans = dilation[1] * (height - 1), dilation[2] * (width - 1)
    beyond = [max(0, p - span) for p, span in zip(padding[1:], spans)]
    if any(beyond):  # windows that see padding only: F.fold knows nothing outside the image it folds from
        x = F.pad(x, (beyond[1], beyond[1], beyond[0], beyond[0]))
        padding = padding[0], padding[1] - beyond[0], padding[2] - beyond[1]
    y = _FactoredConv3T.apply(x.permute(2, 0, 1, 3, 4).contiguous(), weight, rule,
                              Geometry(stride, padding, dilation, groups), *others)
    return y.permute(1, 2, 0, 3, 4).contiguous()
