"""Minimal filtering equals the convolution but for rounding, and is used where it saves work."""
import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.layers import Conv3T, MultiBranchConv3d
from tconv_mmaction.ops import explain, release_memory, use
from tconv_mmaction.ops.conv3d import minimal_filtering
from tconv_mmaction.ops.conv3d.minimal_filtering import (
    MinimalFilter,
    best_tile,
    choose,
    convolve,
    convolve_backward,
    matrices,
)
from tconv_mmaction.ops.cpu_capability import has_avx512

EXACT = dict(rtol=1e-11, atol=1e-11)
PLAIN = (1, 1, 1), (1, 1, 1), (1, 1, 1)


@pytest.mark.parametrize('outputs, taps', [(m, k) for k in range(1, 8) for m in range(1, 10 - k)])
def test_matrices_make_the_correlation(outputs, taps):
    synthesis, of_kernel, analysis = matrices(outputs, taps)
    x, w = (torch.randn(n, dtype=torch.float64) for n in (outputs + taps - 1, taps))
    y = synthesis @ ((of_kernel @ w) * (analysis @ x))
    torch.testing.assert_close(y, x.unfold(0, taps, 1) @ w, **EXACT)


@pytest.mark.parametrize('part', [1, 500, 1 << 22])  # every clip alone, some together, all together
@pytest.mark.parametrize('kernel, size, outputs, stride, padding, dilation, groups', [
    ((5, 5), (13, 9), 4, (1, 1), (2, 2), (1, 1), 1), ((5, 5), (1, 1), 2, (1, 1), (2, 2), (1, 1), 1),
    ((5, 3), (3, 2), 4, (1, 1), (2, 1), (1, 1), 1), ((1, 5), (6, 6), 4, (1, 1), (0, 2), (1, 1), 1),
    ((3, 3, 3), (8, 5, 6), 4, *PLAIN, 1), ((3, 3, 3), (2, 4, 4), 2, (1, 1, 1), (3, 1, 1), (1, 1, 1), 1),
    ((3, 3, 3), (7, 5, 6), 3, (1, 2, 2), (1, 1, 1), (1, 1, 2), 2), ((5, 1, 1), (9, 3, 2), 4, (1, 1, 1), (0, 0, 0),
                                                                   (1, 1, 1), 1),
    ((3, 1, 2), (5, 3, 4), 5, (1, 1, 1), (1, 0, 0), (1, 1, 1), 1),
    ((7, 3, 3), (9, 6, 5), 4, (2, 2, 2), (3, 1, 1), (1, 1, 1), 1), ((3, 3, 3), (8, 5, 4), 3, (2, 1, 2), (1, 1, 0),
                                                                    (1, 1, 1), 2),
    ((5, 1, 3), (10, 3, 6), 2, (2, 1, 1), (0, 0, 2), (1, 1, 2), 1), ((3, 1, 1), (2, 3, 3), 2, (2, 1, 1), (2, 0, 0),
                                                                     (1, 1, 1), 1),
    ((7, 1, 1), (12, 2, 3), 3, (3, 1, 1), (2, 0, 0), (1, 1, 1), 1)])
def test_equals_autograd(monkeypatch, part, kernel, size, outputs, stride, padding, dilation, groups):
    monkeypatch.setattr(minimal_filtering, 'PART', part)
    torch.manual_seed(0)
    x = torch.randn(5, 4, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=torch.float64, requires_grad=True)
    geometry = stride, padding, dilation, groups
    y = (F.conv2d if len(size) == 2 else F.conv3d)(x, weight, None, *geometry)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad)
    inputs = x.detach(), weight.detach(), outputs, *geometry
    torch.testing.assert_close(convolve(*inputs), y, **EXACT)
    for got, want in zip(convolve_backward(grad, *inputs, True, True), expected):
        torch.testing.assert_close(got, want, **EXACT)
    only_x, nothing = convolve_backward(grad, *inputs, True, False)
    torch.testing.assert_close(only_x, expected[0], **EXACT)
    assert nothing is None
    nothing, only_weight = convolve_backward(grad, *inputs, False, True)
    torch.testing.assert_close(only_weight, expected[1], **EXACT)
    assert nothing is None


@pytest.mark.parametrize('coefficients', [1, 4, 5])
@pytest.mark.parametrize('stride, area', [(1, (1, 1)), (1, (3, 2)), (2, (1, 1)), (2, (3, 2))])
def test_a_kernel_in_a_basis_is_never_made(coefficients, stride, area):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 9, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, coefficients, *area, dtype=torch.float64, requires_grad=True)
    basis = torch.randn(5, coefficients, dtype=torch.float64)
    geometry = (stride, 1, 1), (2, 1, 0), (1, 1, 1), 1
    y = F.conv3d(x, torch.einsum('tc,oichw->oithw', basis, weight), None, *geometry)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad)
    inputs = x.detach(), weight.detach(), 3, *geometry
    torch.testing.assert_close(convolve(*inputs, basis), y, **EXACT)
    for got, want in zip(convolve_backward(grad, *inputs, True, True, basis), expected):
        torch.testing.assert_close(got, want, **EXACT)


def test_one_short_clip_is_a_batch_of_planes(monkeypatch):
    """Four frames of one clip are one tile: a single 3D input, which PyTorch would keep from oneDNN."""
    layer, x = Conv3T(128, 128, 3, padding=1, bias=False), torch.randn(1, 128, 4, 28, 28)
    assert choose(x.shape, x.dtype, (128, 128, 3, 3, 3), *PLAIN) == 4
    seen = []
    convolution = torch.ops.aten.convolution
    monkeypatch.setattr(torch.ops.aten, 'convolution', lambda x, *a: seen.append(x.shape) or convolution(x, *a))
    assert explain(layer, x)['minimal_filtering'] == 'chosen'
    layer(x)
    assert seen == [(1, 128, 28, 28)] * 6
    kernel = 300, 128, 3, 3, 3  # a plane so small is kept from oneDNN as well; two are not
    assert choose((1, 128, 4, 11, 11), x.dtype, kernel, *PLAIN) is None
    for several in ((2, 128, 4, 11, 11), (1, 128, 8, 11, 11)):
        assert choose(several, x.dtype, kernel, *PLAIN) == 4


def test_adds_to_what_is_there_and_can_be_used_again():
    """Its buffers hold what the call before left; a smaller clip in between makes others."""
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    conv = MinimalFilter(weight, 4, 2, (1, 1), (2, 2), (1, 1))
    for rows in (9, 9, 6, 9):
        x, out = torch.randn(2, 4, rows, 7, dtype=torch.float64), torch.randn(2, 6, rows, 7, dtype=torch.float64)
        want = out + F.conv2d(x, weight, None, 1, 2)
        assert conv.add_to(out, x) is out
        torch.testing.assert_close(out, want, **EXACT)


def test_channels_last_stays():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    weight = torch.randn(6, 4, 3, 3, 3, dtype=torch.float64)
    plain = convolve(x, weight, 4, *PLAIN)
    last = convolve(x.contiguous(memory_format=torch.channels_last_3d), weight, 4, *PLAIN)
    assert plain.is_contiguous() and last.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(last, plain, rtol=0, atol=0)
    grads = [convolve_backward(y, clip, weight, 4, *PLAIN, 1, True, True) for y, clip in (
        (plain, x), (last, x.contiguous(memory_format=torch.channels_last_3d)))]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize('kernel, size', [((3, 3, 3), (8, 10, 10)), ((5, 3, 3), (12, 7, 7)), ((5, 1, 1), (16, 7, 7)),
                                          ((5, 5), (24, 24))])
def test_rounding(kernel, size):
    """Errors in float32 against the values, root mean squares and the largest, and without AVX-512 as multiples of the
    convolution's own, too: with it, those of kernels of one pixel are much smaller."""
    torch.manual_seed(0)
    weight = torch.randn(64, 64, *kernel) / (64 * torch.tensor(kernel).prod())**0.5
    x = torch.randn(2, 64, *size)
    axes = len(kernel)
    geometry = (1, ) * axes, tuple(k // 2 for k in kernel), (1, ) * axes, 1
    conv = F.conv2d if axes == 2 else F.conv3d
    found = []
    for dtype in (torch.float64, torch.float32):
        clip, w = (t.detach().clone().to(dtype).requires_grad_() for t in (x, weight))
        y = conv(clip, w, None, *geometry)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        found.append([t.detach().double() for t in (y, *torch.autograd.grad(y, (clip, w), grad))])
    inputs = x.detach(), weight, 4, *geometry
    found.append([convolve(*inputs), *convolve_backward(grad, *inputs, True, True)])
    if not has_avx512():
        errors = [[float((t - exact).square().mean().sqrt()) for t in (ours, plain)]
                  for exact, plain, ours in zip(*found)]
        assert errors[0][0] <= 4 * errors[0][1]  # of the output
        assert errors[2][0] <= 12 * errors[2][1]  # of the kernel's gradient, which oneDNN sums more exactly
    for exact, _, ours in zip(*found):
        assert (ours - exact).square().mean().sqrt() <= 2.5e-6 * exact.square().mean().sqrt()
        assert (ours - exact).abs().max() <= 7e-6 * exact.abs().max()


def test_the_tile_with_the_fewest_products():
    assert best_tile(8, 3, 1) == (4, 12 / 22)  # two tiles of six points; 8 outputs of 3 taps, less one at each end
    assert best_tile(2, 3, 1) == (2, 1.)  # each output sees both frames: nothing to save
    assert best_tile(5, 3, 1) == (5, 7 / 13)
    assert best_tile(32, 5, 2) == (4, 64 / 154)
    assert best_tile(8, 3, 0) == (6, 8 / 18)
    assert best_tile(4, 1, 0)[1] == 1
    assert best_tile(8, 7, 3, 2) == (4, 13 / 22)  # a stem: filters of 4 and 3 taps over every other frame
    assert best_tile(8, 3, 1, 2) == (4, 9 / 11)


def test_where_it_is_chosen():
    def chosen(channels, out, kernel, batch, size, dtype=torch.float32, stride=1, dilation=1, groups=1):
        axes = len(size)
        padding = tuple(dilation * (k // 2) for k in kernel)
        return choose((batch, channels * groups, *size), dtype, (out, channels, *kernel), (stride, ) * axes, padding,
                      (dilation, ) * axes, groups)

    layer = dict(channels=64, out=64, kernel=(3, 3, 3), batch=2, size=(8, 28, 28))
    assert chosen(**layer) == 4
    assert chosen(**{**layer, 'size': (32, 14, 14)}) == 4
    assert chosen(32, 128, (5, 5), 2, (112, 112)) == 4
    assert chosen(512, 512, (5, 1, 1), 1, (32, 7, 7)) == 4
    assert chosen(3, 64, (7, 7, 7), 2, (8, 112, 112), stride=2) == 4
    for change in (dict(dtype=torch.float64), dict(stride=2), dict(dilation=2), dict(groups=2),
                   dict(size=(2, 28, 28)), dict(size=(1, 28, 28)),  # nothing to save
                   dict(size=(4, 14, 14)),  # too little work
                   dict(channels=8, out=8, size=(32, 56, 56)),  # too few channels
                   dict(kernel=(3, 1, 1), size=(8, 112, 112)),  # too few products per output
                   dict(kernel=(1, 3, 3))):
        assert chosen(**{**layer, **change}) is None, change
    assert chosen(512, 512, (3, 3, 3), 2, (8, 7, 7)) is None  # a large kernel for few positions
    with torch.backends.mkldnn.flags(enabled=False):
        assert chosen(**layer) is None


@pytest.mark.parametrize('make', [
    lambda: Conv3T(10, 6, 3, (1, 2, 1), 1, bias=False),
    lambda: MultiBranchConv3d(10, 6, (5, 3, 3), 1, (2, 1, 1), norm_cfg=None)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
def test_a_layer_has_the_same_gradients_with_it(monkeypatch, make, layout):
    torch.manual_seed(0)
    layer = make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, 10, 6, 8, 9, dtype=torch.float64).contiguous(memory_format=layout)
    found, used = [], []
    filtered = minimal_filtering.convolve_backward
    monkeypatch.setattr(minimal_filtering, 'convolve_backward', lambda *a: used.append(1) or filtered(*a))
    for outputs in (None, 3):
        monkeypatch.setattr(minimal_filtering, 'choose',
                            lambda shape, dtype, kernel, *a, m=outputs: m if kernel[2] > 1 else None)
        clip = x.clone().requires_grad_()
        layer.zero_grad()
        with use('kernel_in_place' if outputs is None else 'minimal_filtering'):
            y = layer(clip)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y))
        found.append([y.detach(), clip.grad, *(p.grad.clone() for p in layer.parameters())])
        assert bool(used) == bool(outputs)
    for without, with_it in zip(*found):
        torch.testing.assert_close(with_it, without, rtol=1e-10, atol=1e-11)


def test_the_first_layer_has_the_same_gradients_with_it(monkeypatch):
    """Strided, with few input channels: its forward pass is the convolution, so that it has second derivatives, too."""
    torch.manual_seed(0)
    layer = Conv3T(2, 6, (7, 5, 5), 2, (3, 2, 2)).double()
    with torch.no_grad():
        layer.rotate.normal_()
    x, found, used = torch.randn(3, 2, 9, 11, 10, dtype=torch.float64), [], []
    filtered = minimal_filtering.convolve_backward
    monkeypatch.setattr(minimal_filtering, 'convolve_backward', lambda *a: used.append(1) or filtered(*a))
    for outputs in (None, 3):
        monkeypatch.setattr(minimal_filtering, 'choose_few_channels', lambda *a, m=outputs: m)
        clip = x.clone().requires_grad_()
        y = layer(clip)
        leaves = [clip, *layer.parameters()]
        grads = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True)
        assert bool(used) == bool(outputs)
        first, = torch.autograd.grad(y.square().sum(), clip, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [layer.weight, layer.rotate])
        frozen = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
        found.append([y, *grads, *second, *frozen])
    for without, with_it in zip(*found):
        torch.testing.assert_close(with_it, without, rtol=1e-10, atol=1e-11)


def test_another_default_device_changes_nothing():
    torch.manual_seed(0)
    layer = Conv3T(64, 64, 3, padding=1, bias=False)
    x = torch.randn(2, 64, 4, 28, 28)
    assert choose(x.shape, x.dtype, (64, 64, 3, 3, 3), *PLAIN)
    want = torch.autograd.grad(layer(x).sum(), layer.weight)[0]
    release_memory()
    with torch.device('meta'):
        found = torch.autograd.grad(layer(x).sum(), layer.weight)[0]
    torch.testing.assert_close(found, want, rtol=0, atol=0)


def test_the_first_layers_gradients_are_left_to_avx512(monkeypatch):
    stem = (2, 3, 8, 112, 112), torch.float32, (64, 3, 7, 7, 7), (2, 2, 2), (3, 3, 3), (1, 1, 1)
    for avx512 in (True, False):
        monkeypatch.setattr(minimal_filtering, 'has_avx512', lambda answer=avx512: answer)
        assert minimal_filtering.choose_few_channels(*stem) == (None if avx512 else choose(*stem))
    assert choose(*stem) is not None
