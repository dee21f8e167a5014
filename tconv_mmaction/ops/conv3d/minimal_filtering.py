"""A convolution by minimal filtering along its first axis: time of a clip, the rows of a frame.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv:1509.09308). m outputs of a filter of k taps
take m k products; the polynomial product behind them takes n = m + k - 1, the number of points that determine it. Each
of the n products is a convolution along the other axes:

    y[m t : m t + m] = A^T sum_c (G w)[o, c] * (B^T x[m t : m t + n])[c]

With m = 4, a kernel of 3 frames takes 6 of 12 multiplications, one of 5 takes 8 of 20. Only one axis is transformed:
that keeps errors within 2.5e-6 of the values (root mean squares) and every result within 7e-6 of its largest entry
(tests/ops/conv3d/test_minimal_filtering.py), where each further axis would multiply the error. A convolution of stride
2 along the axis is two of stride 1, of the even and of the odd taps.
"""
import functools
import math
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cpu_capability import has_avx512
from ..geometry import Geometry, out_sizes
from ..memory import borrow, constant
from ..onednn import has_onednn
from ..second_derivatives import gradients_by_autograd, leave_to_autograd
from .single_clip import SMALL

POINTS = (0., 1., -1., .5, -2., 2., -.5)  # and infinity, in the order in which longer kernels need them
MAX_POINTS = len(POINTS) + 1
# the limits of choose()
MOST_PRODUCTS = 0.75  # of the convolution's
LEAST_SAVED = 500  # products per output
LEAST_WORK = 5 * 10**8  # products of the convolution
CACHED = 1 << 21  # elements of all transformed kernels
LEAST_POSITIONS = 1024
PART = 1 << 22  # elements of the products that are made together


def matrices(outputs: int, taps: int) -> Tuple[Tensor, Tensor, Tensor]:
    """A^T (m, n), G (n, k) and B^T (n, n) in float64: y = A^T ((G w) * (B^T x)) is the correlation of x and w."""
    n = outputs + taps - 1

    def build() -> Tuple[Tensor, Tensor, Tensor]:
        points = torch.tensor(POINTS[:n - 1], dtype=torch.float64, device='cpu')  # whatever the default device is

        def evaluate(degree: int) -> Tensor:
            at_infinity = torch.zeros(1, degree, dtype=torch.float64, device='cpu')
            at_infinity[0, -1] = 1
            return torch.cat([points[:, None]**torch.arange(degree, device='cpu'), at_infinity])

        return evaluate(outputs).T, evaluate(taps), torch.linalg.inv(evaluate(n)).T

    return constant(('minimal filtering', outputs, taps), build)


def phases(taps: int, stride: int, padding: int) -> List[Tuple[slice, slice, int]]:
    """A strided convolution as a sum of convolutions of stride 1, of every ``stride``-th tap with as sparse frames.

    Returns:
        for each: its taps, its frames, and how many of those it is padded with in front.
    """
    found = []
    for tap in range(min(stride, taps)):
        frame = (tap - padding) % stride
        found.append((slice(tap, None, stride), slice(frame, None, stride), (padding + frame - tap) // stride))
    return found


@functools.cache
def best_tile(length: int, taps: int, padding: int, stride: int = 1) -> Tuple[int, float]:
    """The m with the fewest products, the least of equals, and their share of a convolution's products.

    Args:
        length: of the input. A convolution leaves out the taps that see its padding; a tile does not.
    """
    outputs = (length + 2 * padding - taps) // stride + 1
    direct = sum(0 <= stride * t + j - padding < length for t in range(outputs) for j in range(taps))
    parts = [len(range(taps)[of_taps]) for of_taps, _, _ in phases(taps, stride, padding)]
    products = {m: -(-outputs // m) * sum(m + part - 1 for part in parts)
                for m in range(1, MAX_POINTS - max(parts) + 2)}
    best = min(products, key=products.__getitem__)
    return best, products[best] / max(1, direct)


def choose(shape: Sequence[int], dtype: torch.dtype, kernel: Sequence[int], stride: Sequence[int],
           padding: Sequence[int], dilation: Sequence[int], groups: int = 1) -> Optional[int]:
    """m, where minimal filtering takes less time than the convolution on CPU, forward and backward; None elsewhere.

    It saves products, as many per output as channels, taps and m make, and costs transforms of the input and output:
    a number of operations whatever their size, and some per position and channel. Kernels too large for the cache are
    read from memory n times, which takes positions to be worth it. The limits are where it began to pay on two cores:
    tools/benchmarks/inner_paths.py. Only float32 has a fast convolution there that it could use.

    Args:
        shape, dtype: of the input ``(N, C, A, ...)``.
        kernel: the shape ``(O, C/groups, k, ...)``.
    """
    out_channels, channels, taps, *others = kernel
    count, _, size, *rest = shape
    length = (size + 2 * padding[0] - taps) // stride[0] + 1
    if not (dtype == torch.float32 and has_onednn() and groups == 1
            and dilation[0] == 1 and stride[0] <= 2 and 3 <= taps < MAX_POINTS and length > 1):
        return None
    outputs, part = best_tile(size, taps, padding[0], stride[0])
    area = math.prod(others)
    positions = count * length * math.prod(-(-n // s) for n, s in zip(rest, stride[1:]))
    saved = (1 - part) * taps * area * 2 * channels * out_channels / (channels + out_channels)
    if part > MOST_PRODUCTS or saved < LEAST_SAVED or positions * math.prod(kernel) < LEAST_WORK:
        return None
    if len(rest) == 2 and count * -(-length // outputs) == 1 and channels * math.prod(rest) <= SMALL:
        return None  # one small plane, which PyTorch would keep from oneDNN
    transformed = (stride[0] * (outputs - 1) + taps) * out_channels * channels * area
    return outputs if transformed <= CACHED or positions >= LEAST_POSITIONS else None


def _batched(part: Tensor, planes: bool) -> Callable[[Tensor], Tensor]:
    """What to do with tiles ``(N, C, tiles, W)`` before a convolution, and after it.

    PyTorch leaves a single small input to a slow convolution (:mod:`.single_clip`), but not a batch: the tiles of a
    single input are made one. The planes of clips are one.
    """
    if not planes and part.shape[0] == 1 and part.shape[2] > 1 and part.numel() <= SMALL:
        return lambda tensor: tensor.transpose(0, 2)
    return lambda tensor: tensor


class MinimalFilter:
    """One convolution with stride and dilation 1 along its first axis, applied once or many times.

    Args:
        weight: ``(O, C/groups, k, ...)``, or what it is computed from along that axis, with ``basis``.
        outputs: m, with m + k - 1 at most :data:`MAX_POINTS`.
        before: rows of padding in front of the first axis; behind it, there are as many as the output needs.
        stride, padding, dilation: of every axis; the first entries are not used.
        kernels: where to put the transformed kernels, ``(n, numbers of one tap)``; new memory by default.
        basis: ``(k, coefficients)``: the taps are its products with the ``weight (O, C/groups, coefficients, ...)``.
    """

    def __init__(self, weight: Tensor, outputs: int, before: int, stride: Sequence[int], padding: Sequence[int],
                 dilation: Sequence[int], groups: int = 1, kernels: Optional[Tensor] = None,
                 basis: Optional[Tensor] = None) -> None:
        self.outputs, self.pad, self.columns = outputs, before, weight.shape[2]
        self.taps = self.columns if basis is None else len(basis)
        self.planes = weight.dim() == 5  # tiles of frames: each is a clip of one frame, with as many planes as channels
        if self.planes:
            self.geometry = stride[1:], padding[1:], dilation[1:], False, (0, 0), groups
        else:
            self.geometry = (1, *stride[1:]), (0, *padding[1:]), dilation, False, (0, 0), groups
        self.synthesis, self.of_kernel, self.analysis = (m.to(weight) for m in matrices(outputs, self.taps))
        self.points = len(self.analysis)
        if basis is not None:
            self.of_kernel = self.of_kernel @ basis
        columns = self._buffer('windows', self.columns, *weight.shape[:2], *weight.shape[3:])
        columns.copy_(weight.movedim(2, 0))
        if kernels is None:
            kernels = weight.new_empty(self.points, columns[0].numel())
        self.kernels = torch.mm(self.of_kernel, columns.flatten(1), out=kernels).view(
            self.points, *weight.shape[:2], 1, *weight.shape[3:])  # G w

    def _buffer(self, name: str, *shape: int) -> Tensor:
        return borrow(name, self.analysis.dtype, shape)

    def _rows(self, length: int, tiles: int) -> Iterator[Tuple[int, slice, slice]]:
        """For each point j: the tiles whose j-th row is within the input's ``length``, and which rows those are."""
        for j in range(self.points):
            first = max(0, -(-(self.pad - j) // self.outputs))
            end = max(first, min(tiles, (length - 1 + self.pad - j) // self.outputs + 1))
            start = self.outputs * first + j - self.pad
            yield j, slice(first, end), slice(start, start + self.outputs * (end - first), self.outputs)

    def _tiled(self, name: str, first: int, count: int, channels: int, tiles: int, *rest: int) -> Tuple[Tensor, Tensor]:
        """Scratch memory: as a batch for convolutions, a tensor for each of ``first``, and as ``(first, N, C, tiles,
        ...)``. The tiles of frames lie one after the other."""
        if self.planes:
            memory = self._buffer(name, first, count, tiles, channels, *rest)
            return memory.flatten(1, 2), memory.transpose(2, 3)
        memory = self._buffer(name, first, count, channels, tiles, *rest)
        return memory, memory

    def _analyse(self, x: Tensor, tiles: int) -> Tensor:
        """B^T x for every tile; (N, C, A, ...) to batches for convolutions."""
        count, channels, length, *rest = x.shape
        flat, windows = self._tiled('windows', self.points, count, channels, tiles, *rest)
        for j, inside, rows in self._rows(length, tiles):
            if inside.start:
                windows[j, :, :, :inside.start].zero_()
            windows[j, :, :, inside].copy_(x[:, :, rows])
            if inside.stop < tiles:
                windows[j, :, :, inside.stop:].zero_()
        out = self._buffer('analysed', *flat.shape)
        torch.mm(self.analysis, flat.flatten(1), out=out.flatten(1))
        return out

    def _kernel(self, point: int) -> Tensor:
        return self.kernels[point].squeeze(2) if self.planes else self.kernels[point]

    def _tiles(self, full: Tensor, tiled: Tensor) -> Iterator[Tuple[Tensor, Tensor]]:
        """Views of the same outputs in (N, O, A', ...) and in (m, N, O, tiles, ...), for each of m."""
        for a in range(min(self.outputs, full.shape[2])):
            part = full[:, :, a::self.outputs]
            yield part, tiled[a, :, :, :part.shape[2]]

    def add_to(self, out: Tensor, x: Tensor, replace: bool = False) -> Tensor:
        """Add the convolution of ``x (N, C, A, ...)`` to ``out (N, O, A', ...)``, or put it there."""
        count, channels, length, *rest = out.shape
        tiles = -(-length // self.outputs)
        analysed = self._analyse(x, tiles)
        batched = _batched(analysed[0], self.planes)
        parts = [batched(torch.ops.aten.convolution(batched(part), self._kernel(i), None, *self.geometry))
                 for i, part in enumerate(analysed)]
        products = torch.stack(parts, out=self._buffer('products', self.points, *parts[0].shape))
        flat, y = self._tiled('outputs', self.outputs, count, channels, tiles, *rest)
        torch.mm(self.synthesis, products.flatten(1), out=flat.flatten(1))
        for target, source in self._tiles(out, y):
            target.copy_(source) if replace else target.add_(source)
        return out

    def backward(self, grad: Tensor, x: Tensor, grad_x: Optional[Tensor], grad_kernels: Optional[Tensor],
                 replace: bool) -> None:
        """From the gradient of the output: put that of the input into ``grad_x``, like ``x``, and add what is due to
        the kernels to ``grad_kernels``, like :attr:`kernels`, or put it there. Either may be None."""
        count, channels, length, *rest = grad.shape
        tiles = -(-length // self.outputs)
        flat, of_outputs = self._tiled('outputs', self.outputs, count, channels, tiles, *rest)
        if length % self.outputs:
            of_outputs[length % self.outputs:, :, :, -1].zero_()
        for source, target in self._tiles(grad, of_outputs):
            target.copy_(source)
        of_products = self._buffer('products', self.points, *flat.shape[1:])
        torch.mm(self.synthesis.T, flat.flatten(1), out=of_products.flatten(1))
        parts: List[Tensor] = []
        analysed = self._analyse(x, tiles)
        batched = _batched(analysed[0], self.planes)
        for i, part in enumerate(analysed):
            of_part, of_kernel, _ = torch.ops.aten.convolution_backward(
                batched(of_products[i]), batched(part), self._kernel(i), None, *self.geometry,
                (grad_x is not None, grad_kernels is not None, False))
            parts.append(of_part if grad_x is None else batched(of_part))
            if grad_kernels is not None:
                of_kernel = of_kernel.view(grad_kernels[i].shape)
                grad_kernels[i].copy_(of_kernel) if replace else grad_kernels[i].add_(of_kernel)
        if grad_x is None:
            return
        of_analysed = torch.stack(parts, out=self._buffer('analysed', self.points, *parts[0].shape))
        flat, windows = self._tiled('windows', self.points, *x.shape[:2], tiles, *x.shape[3:])
        torch.mm(self.analysis.T, of_analysed.flatten(1), out=flat.flatten(1))
        # The tiles overlap. Their first m rows are each row once, up to the last tile's; the others are added.
        covered = max(0, self.outputs * tiles - self.pad)  # more padding than outputs: no first row is one of the input
        if covered < x.shape[2]:
            grad_x[:, :, covered:].zero_()
        for j, inside, rows in self._rows(x.shape[2], tiles):
            part, target = windows[j, :, :, inside], grad_x[:, :, rows]
            target.copy_(part) if j < self.outputs else target.add_(part)

    def weight_gradient(self, grad_kernels: Tensor) -> Tensor:
        """The gradient of ``weight`` from that of :attr:`kernels`; in scratch memory."""
        shape = grad_kernels.shape
        columns = self._buffer('windows', self.columns, *shape[1:3], *shape[4:])
        torch.mm(self.of_kernel.T, grad_kernels.flatten(1), out=columns.flatten(1))
        return columns.movedim(0, 2)


def _filter(weight: Tensor, basis: Optional[Tensor], taps: slice, outputs: int, before: int,
            *geometry) -> MinimalFilter:
    """Of some of the taps; for use before the next one is made."""
    if basis is None:
        weight = weight[:, :, taps]
        count = weight.shape[2]
    else:
        basis = basis[taps]
        count = len(basis)
    kernels = borrow('kernels', weight.dtype, (outputs + count - 1, weight[:, :, 0].numel()))
    return MinimalFilter(weight, outputs, before, *geometry, kernels, basis)


def convolve(x: Tensor, weight: Tensor, outputs: int, stride: Sequence[int], padding: Sequence[int],
             dilation: Sequence[int], groups: int = 1, basis: Optional[Tensor] = None) -> Tensor:
    """``conv(x, weight, None, stride, padding, dilation, groups)`` by minimal filtering of m = ``outputs``.

    With ``basis (k, coefficients)`` the taps of the kernel are its products with the ``weight``'s third axis, and the
    kernel is never made.
    """
    taps_in_all = weight.shape[2] if basis is None else len(basis)
    kernel = taps_in_all, *weight.shape[3:]
    out = x.new_empty(len(x), len(weight), *out_sizes(x.shape[2:], kernel, stride, padding, dilation))
    if x.dim() == 5 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        out = out.contiguous(memory_format=torch.channels_last_3d)
    for number, (taps, frames, before) in enumerate(phases(taps_in_all, stride[0], padding[0])):
        conv = _filter(weight, basis, taps, outputs, before, stride, padding, dilation, groups)
        for part, target in zip(*_parts(conv, x[:, :, frames], out)):
            conv.add_to(target, part, replace=number == 0)
    return out


def convolve_backward(grad: Tensor, x: Tensor, weight: Tensor, outputs: int, stride: Sequence[int],
                      padding: Sequence[int], dilation: Sequence[int], groups: int, wants_x: bool,
                      wants_weight: bool, basis: Optional[Tensor] = None) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """The gradients of ``x`` and ``weight`` of :func:`convolve` from that of its output, or None."""
    taps_in_all = weight.shape[2] if basis is None else len(basis)
    fresh = torch.empty_like if stride[0] <= taps_in_all else torch.zeros_like  # some frames may be in no window
    grad_x = fresh(x) if wants_x else None
    grad_weight = torch.empty_like(weight) if wants_weight else None
    for number, (taps, frames, before) in enumerate(phases(taps_in_all, stride[0], padding[0])):
        conv = _filter(weight, basis, taps, outputs, before, stride, padding, dilation, groups)
        grad_kernels = borrow('of kernels', x.dtype, conv.kernels.shape) if wants_weight else None
        parts, of_parts = _parts(conv, x[:, :, frames], grad)
        targets = grad_x[:, :, frames].split(len(parts[0])) if wants_x else [None] * len(parts)
        for i, (part, of_part, target) in enumerate(zip(parts, of_parts, targets)):
            conv.backward(of_part, part, target, grad_kernels, replace=i == 0)
        if wants_weight and basis is None:
            grad_weight[:, :, taps] = conv.weight_gradient(grad_kernels)
        elif wants_weight:  # every tap has a share in all coefficients
            of_weight = conv.weight_gradient(grad_kernels)
            grad_weight.add_(of_weight) if number else grad_weight.copy_(of_weight)
    return grad_x, grad_weight


def _parts(conv: MinimalFilter, x: Tensor, out: Tensor) -> Tuple[Sequence[Tensor], Sequence[Tensor]]:
    """``x`` and ``out`` in parts of so many clips that what lies between them stays small."""
    per_clip = max(x[0].numel(), out[0].numel()) * conv.points // conv.outputs
    together = max(1, PART // max(1, per_clip))
    return x.split(together), out.split(together)


class _FilteredGradients(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, outputs, geometry):
        ctx.outputs, ctx.geometry = outputs, geometry
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, None, *geometry)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        if leave_to_autograd(grad):

            def reference(clips: Tensor, kernel: Tensor) -> Tensor:
                return F.conv3d(clips, kernel, None, *ctx.geometry)

            return *gradients_by_autograd(reference, (x, weight), [grad], wants), None, None
        return *convolve_backward(grad, x, weight, ctx.outputs, *ctx.geometry, *wants), None, None


def choose_few_channels(shape: Sequence[int], dtype: torch.dtype, kernel: Sequence[int], stride: Sequence[int],
                        padding: Sequence[int], dilation: Sequence[int], groups: int = 1) -> Optional[int]:
    """:func:`choose` for :func:`filtered_gradients_conv3d`. oneDNN's AVX-512 convolutions leave nothing to gain."""
    return None if has_avx512() else choose(shape, dtype, kernel, stride, padding, dilation, groups)


def filtered_gradients_conv3d(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """``F.conv3d(x, weight, None, *geometry)`` for the first layer of a network, in a training step on CPU.

    With a handful of input channels the convolution itself is fast and only its gradients are worth filtering, where
    :func:`choose_few_channels` says so.
    """
    outputs = choose_few_channels(x.shape, x.dtype, weight.shape, *geometry)
    if outputs is None:
        return F.conv3d(x, weight, None, *geometry)
    return _FilteredGradients.apply(x, weight, outputs, geometry)
