"""Ways of computing one convolution in a training step: whether a layer takes the faster one.

    python tools/benchmarks/inner_paths.py --out-dir docs/benchmarks
    python tools/benchmarks/inner_paths.py --out-dir docs/benchmarks --cases filtering   # the other rows stay

Choices are made by the operators' ``profitable`` functions, from shapes alone (``ops.explain(layer, x)`` prints them).
Each is timed here around its limits, forward and backward, against PyTorch's own convolution with the same kernel, or
against the layer without it:

* filtering: minimal filtering along time, and along the rows of a C-LSTM's state (``minimal_filtering.choose``). It
  rounds otherwise than the convolution: ``error`` is the root mean square of output's error against float64, over that
  of the convolution. Layers of a few input channels (the 7x7x7 one) take its gradient of the kernel only, so there the
  forward pass is the convolution's on both sides.
* products: the backward pass as matrix products, where the kernel is large (``matrix_backward.profitable``). The
  forward pass is the convolution's, so the ratio is of the backward pass alone.
* patches: a ``Conv3T`` whose kernel would be built, as products of its slices with patches instead
  (``slices_times_patches.profitable``); the peer is the layer that builds it.
* shared: ``LAYERS`` layers of a network that computes their transforms together (``layers.share_transforms``); the peer
  is the network whose layers do so each by itself. A network shares wherever it can.
* matrix: the product of a layer without its kernel, all taps of its first slice with all positions, by oneDNN
  (``ops.onednn.product``) against ``torch.mm``.
* chunk: how many clips ``Conv3T`` takes together without its kernel (``factored.CHUNK_ELEMENTS``); the
  peer takes all clips together.

``chosen`` is whether the layers take it there, and ``choice_is`` whether that was the faster of the two, the slower, or
even, where 1 is within the ratio's quartiles.
"""
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tconv_mmaction.cli.timing import add_cases, asked_cases, interleave, parser, report, rows_against, step, verdict
from tconv_mmaction.layers import Conv3T, share_transforms
from tconv_mmaction.ops import onednn, use
from tconv_mmaction.ops.conv3d import matrix_backward, minimal_filtering
from tconv_mmaction.ops.conv3t import factored, slices_times_patches


class Shape(NamedTuple):
    """A convolution padded by half its kernel: ``size`` is (T, H, W) of a clip, or (H, W) of a state."""
    in_channels: int
    out_channels: int
    kernel: Tuple[int, ...]
    batch: int
    size: Tuple[int, ...]
    stride: int = 1

    def __str__(self) -> str:
        sizes = ['x'.join(map(str, values)) for values in (self.kernel, self.size)]
        return (f'{self.in_channels}->{self.out_channels} {sizes[0]}{f" /{self.stride}" if self.stride > 1 else ""} @ '
                f'{sizes[1]}, batch {self.batch}')

    def tensors(self, device: str) -> Tuple[torch.Tensor, torch.Tensor]:
        """The input and the kernel."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, self.in_channels, *self.size, device=device)
        weight = torch.randn(self.out_channels, self.in_channels, *self.kernel, device=device)
        return x, weight / (self.in_channels * np.prod(self.kernel))**0.5

    def geometry(self) -> Tuple[tuple, tuple, tuple, int]:
        """Stride, padding, dilation, groups."""
        axes = len(self.kernel)
        return (self.stride, ) * axes, tuple(k // 2 for k in self.kernel), (1, ) * axes, 1


CUBE, FIVE = (3, 3, 3), (5, 5)
SHAPES: Dict[str, List[Shape]] = {
    'filtering': [
        Shape(16, 32, CUBE, 2, (8, 28, 28)), Shape(64, 64, CUBE, 2, (8, 28, 28)), Shape(64, 64, CUBE, 8, (8, 28, 28)),
        Shape(64, 64, CUBE, 2, (4, 28, 28)), Shape(64, 64, CUBE, 2, (2, 28, 28)), Shape(64, 64, CUBE, 2, (4, 14, 14)),
        Shape(96, 128, CUBE, 2, (8, 14, 14)), Shape(128, 128, CUBE, 2, (4, 28, 28)),
        Shape(256, 256, CUBE, 2, (4, 7, 7)), Shape(256, 256, CUBE, 1, (32, 14, 14)),
        Shape(512, 512, CUBE, 2, (8, 7, 7)), Shape(512, 512, (5, 3, 3), 1, (32, 7, 7)),
        Shape(512, 512, (5, 1, 1), 1, (32, 7, 7)), Shape(512, 512, (5, 1, 1), 2, (8, 7, 7)),
        Shape(512, 512, (3, 1, 1), 1, (32, 7, 7)), Shape(64, 64, (3, 1, 1), 2, (8, 56, 56)),
        Shape(3, 64, (7, 7, 7), 2, (8, 112, 112), 2), Shape(128, 256, CUBE, 2, (8, 28, 28), 2),
        Shape(16, 64, FIVE, 2, (112, 112)), Shape(32, 128, FIVE, 2, (112, 112)), Shape(32, 128, FIVE, 2, (56, 56)),
        Shape(32, 128, FIVE, 4, (32, 32)), Shape(32, 128, FIVE, 2, (28, 28)), Shape(64, 256, (3, 3), 2, (56, 56)),
    ],
    'products': [
        Shape(64, 64, CUBE, 2, (2, 28, 28)), Shape(128, 256, CUBE, 2, (4, 28, 28), 2),
        Shape(256, 256, CUBE, 2, (2, 14, 14)), Shape(256, 512, CUBE, 2, (4, 14, 14), 2),
        Shape(256, 512, CUBE, 1, (4, 14, 14), 2), Shape(512, 512, CUBE, 2, (2, 7, 7)),
        Shape(512, 512, CUBE, 2, (4, 7, 7)), Shape(512, 512, CUBE, 8, (4, 7, 7)),
        Shape(512, 512, (5, 3, 3), 2, (4, 7, 7)), Shape(512, 512, (5, 1, 1), 2, (4, 7, 7)),
    ],
    'patches': [
        Shape(64, 128, CUBE, 2, (8, 56, 56), 2), Shape(128, 256, CUBE, 2, (4, 28, 28), 2),
        Shape(128, 256, CUBE, 8, (4, 28, 28), 2), Shape(128, 256, CUBE, 1, (4, 14, 14), 2),
        Shape(256, 512, CUBE, 2, (4, 14, 14), 2), Shape(256, 512, CUBE, 8, (4, 14, 14), 2),
        Shape(256, 512, CUBE, 1, (16, 14, 14), 2), Shape(96, 208, CUBE, 2, (3, 6, 6)),
        Shape(128, 128, CUBE, 2, (8, 7, 7)), Shape(128, 128, CUBE, 2, (1, 4, 4)), Shape(32, 128, CUBE, 2, (1, 2, 2)),
    ],
    'shared': [
        Shape(32, 32, CUBE, 2, (3, 6, 6)), Shape(64, 64, CUBE, 2, (4, 14, 14)), Shape(256, 256, CUBE, 2, (2, 7, 7)),
    ],
    'matrix': [
        Shape(160, 320, CUBE, 2, (3, 6, 6)), Shape(256, 256, CUBE, 2, (4, 14, 14)), Shape(512, 512, CUBE, 2, (8, 7, 7)),
    ],
    'chunk': [
        Shape(256, 256, CUBE, 2, (4, 14, 14)), Shape(256, 256, CUBE, 8, (2, 14, 14)),
        Shape(512, 512, CUBE, 8, (2, 7, 7)), Shape(512, 512, CUBE, 8, (8, 7, 7)),
    ],
}
QUICK = [SHAPES['filtering'][1], SHAPES['products'][5], SHAPES['patches'][4], SHAPES['shared'][0]]
LAYERS = 12
QUICK_PARTS = ['filtering', 'products', 'patches', 'shared']


def backward(shape: Shape, x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor,
             of_input: bool = True) -> Callable[[], tuple]:
    """PyTorch's gradients of input and kernel, to be timed."""
    stride, padding, dilation, groups = shape.geometry()
    return lambda: torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, [0] * len(stride), groups, (of_input, True, False))


def of_filtering(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, weight = shape.tensors(device)
    geometry = shape.geometry()
    stem = shape.in_channels < 9  # such layers take its gradients only, and none of the clip
    choose = minimal_filtering.choose_few_channels if stem else minimal_filtering.choose
    chosen = choose(x.shape, x.dtype, weight.shape, *geometry)
    outputs = chosen or minimal_filtering.best_tile(shape.size[0], shape.kernel[0], geometry[1][0], shape.stride)[0]
    conv = F.conv3d if len(shape.size) == 3 else F.conv2d
    exact = conv(x.double(), weight.double(), None, *geometry)
    plain, ours = conv(x, weight, None, *geometry), minimal_filtering.convolve(x, weight, outputs, *geometry)
    rounding = [(y - exact).square().mean().sqrt() for y in (ours, plain)]
    grad = torch.randn_like(plain)
    gradients = backward(shape, x, weight, grad, not stem)

    def convolution():
        conv(x, weight, None, *geometry)
        gradients()

    def filtered():
        if stem:
            conv(x, weight, None, *geometry)
        else:
            minimal_filtering.convolve(x, weight, outputs, *geometry)
        minimal_filtering.convolve_backward(grad, x, weight, outputs, *geometry, not stem, True)

    return (dict(convolution=convolution, filtering=filtered), chosen is not None,
            dict(error=round(float(rounding[0] / rounding[1]), 2)))


def of_products(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, weight = shape.tensors(device)
    geometry = shape.geometry()
    grad = torch.randn_like(F.conv3d(x, weight, None, *geometry))
    return (dict(convolution=backward(shape, x, weight, grad),
                 products=lambda: matrix_backward.matrix_backward(grad, x, weight, *geometry[:3], True, True)),
            matrix_backward.profitable(x, grad, weight, 1), dict(error=''))


def of_patches(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, weight = shape.tensors(device)
    stride, padding, dilation, _ = shape.geometry()
    layer = Conv3T(shape.in_channels, shape.out_channels, shape.kernel, stride, padding, bias=False).to(device)
    run = step(layer, x.requires_grad_(), torch.randn_like(layer(x)))
    filtered = minimal_filtering.choose(x.shape, x.dtype, weight.shape, stride, padding, dilation) is not None

    def one_way(name: str) -> None:
        with use(name):
            run()

    return (dict(kernel=lambda: one_way('minimal_filtering' if filtered else 'kernel_in_place'),
                 patches=lambda: one_way('slices_times_patches')),
            slices_times_patches.profitable(x, weight.shape, stride, padding, dilation), dict(error=''))


class Sharing(nn.Sequential):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with share_transforms(self):
            return super().forward(x)


def of_shared(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, _ = shape.tensors(device)
    layers = []
    for _ in range(LAYERS):
        conv = Conv3T(shape.in_channels, shape.out_channels, shape.kernel, padding=1, bias=False)
        layers += [conv, nn.BatchNorm3d(shape.out_channels), nn.ReLU()]
    networks = {'single': nn.Sequential(*layers).to(device), 'shared': Sharing(*layers).to(device)}
    x.requires_grad_()
    grad = torch.randn_like(networks['single'](x))
    return {name: step(network, x, grad) for name, network in networks.items()}, True, dict(error='')


def of_matrix(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, weight = shape.tensors(device)
    taps, positions = weight[:, :, 0].permute(0, 2, 3, 1).flatten(0, 2), x.transpose(0, 1).flatten(1)
    exact = taps.double() @ positions.double()
    candidates = {'torch.mm': partial(torch.mm, taps, positions), 'product': partial(onednn.product, taps, positions)}
    error = {name: float((run() - exact).square().mean().sqrt()) for name, run in candidates.items()}
    return candidates, onednn.has_products(), dict(error=round(error['product'] / error['torch.mm'], 2))


def of_chunk(shape: Shape, device: str) -> Tuple[Dict[str, Callable], bool, dict]:
    x, _ = shape.tensors(device)
    layer = Conv3T(shape.in_channels, shape.out_channels, 3, padding=1, bias=False, evaluation='factored').to(device)
    x.requires_grad_()
    run = step(layer, x, torch.randn_like(layer(x)))
    size = factored.CHUNK_ELEMENTS

    def together():
        factored.CHUNK_ELEMENTS = 1 << 60
        try:
            run()
        finally:
            factored.CHUNK_ELEMENTS = size

    return dict(together=together, chunks=run), True, dict(error='')


PARTS: Dict[str, Tuple[Callable, str]] = {
    'filtering': (of_filtering, 'convolution'), 'products': (of_products, 'convolution'),
    'patches': (of_patches, 'kernel'), 'shared': (of_shared, 'single'), 'matrix': (of_matrix, 'torch.mm'),
    'chunk': (of_chunk, 'together')}


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.set_defaults(rounds=9)
    add_cases(options, list(PARTS), QUICK_PARTS)
    args = options.parse_args(argv)
    if args.quick:
        args.rounds = min(args.rounds, 3)
    rows: List[dict] = []
    for case in asked_cases(args, list(PARTS), QUICK_PARTS):
        make, peer = PARTS[case]
        for shape in SHAPES[case]:
            if args.quick and shape not in QUICK:
                continue
            candidates, chosen, more = make(shape, args.device)
            seconds = interleave(candidates, args.rounds, args.device, warmup=2)
            name = next(key for key in candidates if key != peer)
            choice_is = verdict(seconds[name] / seconds[peer], chosen)
            rows += [{**row, **more, 'chosen': 'yes' if chosen else 'no', 'choice_is': choice_is,
                      'rounds': args.rounds} for row in rows_against(peer, seconds, case=case, layer=str(shape))]
    report('inner_paths', rows, args, list(PARTS))


if __name__ == '__main__':
    main()
