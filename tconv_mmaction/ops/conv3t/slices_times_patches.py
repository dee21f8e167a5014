"""A 3T convolution as matrix products, one for each slice of its kernel.

The patches of a frame are what one slice sees at all positions of the output, (positions, kH*kW*I), and the output is
the sum over the kernel's slices of patches of the right frames times slice. A convolution does as many multiplications,
but it rearranges a large kernel three times in a training step, and it wants the first slice copied into the kernel and
the input channels apart; the batched products that make 3T's slices, and the gradients back, are fastest with the
channels last (:mod:`.slice_rule`). The price is the patches, kH*kW / (stride in height times width) times the input;
they are made again for the backward pass rather than kept.

It pays with a stride, where patches overlap little, and where positions are few beside the kernel's numbers.
"""
import functools
import math
from typing import Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..conv3d.kernel_in_place import kernel_gradients_by_autograd
from ..cpu_capability import has_avx512
from ..geometry import Geometry, Triple, out_sizes, time_windows
from ..memory import Loan, borrow
from ..onednn import has_products, product
from ..second_derivatives import leave_to_autograd
from .slice_rule import SliceRule

# the limits of profitable()
PER_POSITION = 1 << 12
PER_POSITION_WITHOUT_AVX512 = 1 << 8
MOST_PATCHES = 1 << 22  # elements: 16 MB in float32


def profitable(x: Tensor, kernel: Sequence[int], stride: Triple, padding: Triple, dilation: Triple) -> bool:
    """Whether a training step takes less time so than with a convolution: with a kernel of at least ``PER_POSITION``
    numbers, without AVX-512 a sixteenth of them, for each position of the output.

    The limits are where it began to pay on two cores: tools/benchmarks/inner_paths.py.

    Args:
        x: ``(N, I, T, H, W)``.
        kernel: its shape ``(O, I, kT, kH, kW)``.
    """
    if x.dtype != torch.float32 or not has_products():
        return False
    sizes = _sizes(tuple(x.shape), tuple(kernel[2:]), stride, padding, dilation)
    if min(sizes.out_frames, *sizes.out) < 1:
        return False
    least = PER_POSITION if has_avx512() else PER_POSITION_WITHOUT_AVX512
    return (math.prod(kernel) >= least * sizes.out_frames * sizes.positions
            and math.prod(sizes.view[0]) <= MOST_PATCHES)


class _Sizes:
    """Sizes and windows of one call. Frames with the same remainder by the stride in time lie together: those that a
    slice reads are consecutive."""

    def __init__(self, size: Sequence[int], kernel: Triple, stride: Triple, padding: Triple, dilation: Triple) -> None:
        self.count, self.channels, self.frames, self.height, self.width = size
        self.kernel, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self.out_frames, *self.out = out_sizes(size[2:], kernel, stride, padding, dilation)
        self.positions = self.count * self.out[0] * self.out[1]  # of one frame of the output
        self.rows = self.frames * self.positions
        (down, across), (top, left) = stride[1:], padding[1:]
        self.image = self.frames, self.count, self.height + 2 * top, self.width + 2 * left, self.channels
        self.inner = slice(top, top + self.height), slice(left, left + self.width)
        starts = [0]
        for remainder in range(stride[0]):
            starts.append(starts[-1] + len(range(remainder, self.frames, stride[0])))
        # which frames of an image those are that a clip has at every stride-th place
        self.places = [(slice(start, stop), slice(remainder, None, stride[0]))
                       for remainder, (start, stop) in enumerate(zip(starts, starts[1:]))]
        self.windows = []  # slices that see a frame: number, rows of the output and rows of the patches
        for b in range(kernel[0]):
            to, of = time_windows(b, self.frames, self.out_frames, stride[0], padding[0], dilation[0])
            if to.stop > to.start:
                first = starts[of.start % stride[0]] + of.start // stride[0]
                rows = (to.start, to.stop), (first, first + to.stop - to.start)
                self.windows.append((b, *(slice(start * self.positions, stop * self.positions)
                                          for start, stop in rows)))
        column = self.channels
        row = self.image[3] * column
        frame = self.count * self.image[2] * row
        self.view = ((self.frames, self.count, *self.out, *kernel[1:], self.channels),
                     (frame, frame // self.count, row * down, column * across, row * dilation[1],
                      column * dilation[2], 1))

    def clips(self, image: Tensor) -> Iterator[Tuple[Tensor, slice]]:
        """An ``image (frames, N, H + 2p, W + 2p, I)`` without padding, as ``(N, I, some frames, H, W)``, and which
        frames of the clip those are."""
        inner = image[:, :, self.inner[0], self.inner[1]].permute(1, 4, 0, 2, 3)
        for here, there in self.places:
            yield inner[:, :, here], there

    def patches(self, x: Tensor) -> Tensor:
        """``(frames * N * H' * W', kH*kW*I)``; in scratch memory."""
        image = borrow('windows', x.dtype, self.image)
        rows, columns = self.inner
        for border in (image[:, :, :rows.start], image[:, :, rows.stop:], image[:, :, :, :columns.start],
                       image[:, :, :, columns.stop:]):
            border.zero_()
        for inner, frames in self.clips(image):
            inner.copy_(x[:, :, frames])
        patches = borrow('patches', x.dtype, self.view[0])
        return patches.copy_(image.as_strided(*self.view)).view(self.rows, -1)

    def add_up(self, patches: Tensor, x_like: Tensor) -> Tensor:
        """The transpose of :meth:`patches`."""
        image = borrow('windows', patches.dtype, self.image).zero_()
        view, patches = image.as_strided(*self.view), patches.view(self.view[0])
        for row in range(self.kernel[1]):
            for column in range(self.kernel[2]):  # patches overlap, what one tap of each sees does not
                view[:, :, :, :, row, column].add_(patches[:, :, :, :, row, column])
        out = torch.empty_like(x_like)
        for inner, frames in self.clips(image):
            out[:, :, frames] = inner
        return out


_sizes = functools.lru_cache(maxsize=512)(_Sizes)


def _convolve(x: Tensor, slices: Tensor, sizes: _Sizes) -> Tensor:
    patches = sizes.patches(x)
    y = _add_windows(sizes.out_frames * sizes.positions, [
        (to, product(patches[of], slices[b].flatten(1).t())) for b, to, of in sizes.windows])
    if y is None:
        y = x.new_zeros(sizes.out_frames * sizes.positions, slices.shape[1])
    return y.view(sizes.out_frames, sizes.count, *sizes.out, -1).permute(1, 4, 0, 2, 3).contiguous()


def _add_windows(size: int, parts: Sequence[Tuple[slice, Tensor]]) -> Optional[Tensor]:
    """The sum of matrices that each are some rows of it; ``size`` rows, None for no matrix. Overwrites one of them."""
    whole = next((part for _, part in parts if len(part) == size), None)
    total = whole if whole is not None else parts[0][1].new_zeros(size, parts[0][1].shape[1]) if parts else None
    for rows, part in parts:
        if part is not whole:
            total[rows].add_(part)
    return total


def _slice_gradients(grad: Tensor, x: Tensor, sizes: _Sizes) -> Iterator[Tuple[int, Tensor]]:
    """For each slice that sees a frame: its number and its gradient ``(O, kH*kW, I)``."""
    patches, out_channels = sizes.patches(x), grad.shape[1]
    by_channel = grad.permute(1, 2, 0, 3, 4).reshape(out_channels, -1)
    for b, to, of in sizes.windows:
        yield b, product(by_channel[:, to], patches[of]).view(out_channels, -1, sizes.channels)


def _input_gradient(grad: Tensor, x: Tensor, slices: Tensor, sizes: _Sizes) -> Tensor:
    by_position = grad.permute(2, 0, 3, 4, 1).reshape(-1, grad.shape[1])
    patches = _add_windows(sizes.rows, [
        (of, product(by_position[to], slices[b].flatten(1))) for b, to, of in sizes.windows])
    return torch.zeros_like(x) if patches is None else sizes.add_up(patches, x)


def _slices(rule: SliceRule, parameters: Sequence[Tensor]) -> Loan:
    out_channels, channels, depth, height, width = rule.shape(*parameters)
    loan = Loan((depth, out_channels, height * width, channels), parameters[0].dtype)
    rule.build_slices(loan.tensor, *parameters)
    return loan


class _SlicesTimesPatches(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, rule, geometry, *parameters):
        ctx.rule, ctx.geometry = rule, geometry
        ctx.loan = _slices(rule, parameters)
        ctx.save_for_backward(x, *parameters)
        ctx.sizes = _sizes(tuple(x.shape), rule.shape(*parameters)[2:], *geometry[:3])
        return _convolve(x, ctx.loan.tensor, ctx.sizes)

    @staticmethod
    def backward(ctx, grad):
        x, *parameters = ctx.saved_tensors
        wants = ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]
        if leave_to_autograd(grad):
            grad_x, *grads = kernel_gradients_by_autograd(ctx.rule, x, parameters, grad, ctx.geometry, wants)
            return grad_x, None, None, *grads
        loan, rule = ctx.loan.take(), ctx.rule
        if loan is None:  # a second pass through this graph: the first has given the slices back, or is at it
            rule = ctx.rule.anew()
            loan = _slices(rule, parameters)
        slices = loan.tensor
        grads = (None, ) * len(parameters)
        if any(wants[1:]):
            grads = rule.slice_gradients(_slice_gradients(grad, x, ctx.sizes), slices, *parameters)
        return _input_gradient(grad, x, slices, ctx.sizes) if wants[0] else None, None, None, *grads


def slices_times_patches_conv3d(x: Tensor, rule: SliceRule, geometry: Geometry, *parameters: Tensor) -> Tensor:
    """``F.conv3d(x, rule.differentiable(*parameters), None, *geometry)``, without groups.

    Args:
        x: ``(N, I, T, H, W)``.
        rule: how the slices are made.
        geometry: of the convolution; groups = 1.
        parameters: the rule's arguments.
    """
    return _SlicesTimesPatches.apply(x, rule, geometry, *parameters)
