"""3T layers as products of their slices with patches: the convolution's numbers, and used where they take less time."""
import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.layers import Conv3T
from tconv_mmaction.ops import explain, use
from tconv_mmaction.ops.conv3t import slices_times_patches
from tconv_mmaction.ops.conv3t.affine_slices import AffineRule
from tconv_mmaction.ops.conv3t.slice_rule import SliceRule, with_gain
from tconv_mmaction.ops.conv3t.slices_times_patches import profitable, slices_times_patches_conv3d
from tconv_mmaction.ops.geometry import Geometry, time_windows

CASES = [  # input, out_channels, (kT, k), stride, padding, dilation
    ((2, 6, 4, 7, 6), 5, (3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    ((1, 6, 5, 7, 6), 5, (3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    ((3, 4, 7, 9, 8), 5, (3, 3), (3, 2, 1), (1, 0, 2), (1, 2, 1)),
    ((2, 4, 6, 5, 5), 6, (5, 3), (2, 1, 2), (2, 1, 1), (1, 1, 1)),
    ((2, 4, 1, 5, 5), 6, (3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),  # the outer slices see padding only
    ((2, 4, 6, 9, 9), 6, (2, 2), (4, 3, 3), (0, 0, 0), (2, 1, 1)),  # some frames are in no window
    ((1, 4, 2, 5, 5), 6, (3, 3), (5, 1, 1), (4, 3, 3), (1, 1, 1)),  # no frame is
]


def rule_and_parameters(kind, channels, out_channels, depth, size, dtype=torch.float64):
    scale, *moves = torch.randn(4, depth - 1, out_channels, dtype=dtype) / 3
    weight = torch.randn(out_channels, channels, 1, size, size, dtype=dtype)
    if kind == 'affine':
        return AffineRule(), [weight, scale + 1, *moves]
    if kind == 'gains':
        return with_gain(AffineRule()), [weight, scale + 1, *moves, torch.randn(depth, out_channels, dtype=dtype)]
    transforms = torch.randn(out_channels, depth, size**2, size**2, dtype=dtype)
    transforms[:, 0] = torch.eye(size**2, dtype=dtype)
    return SliceRule(size**2), [weight.squeeze(2), transforms.flatten(1, 2)]


@pytest.mark.parametrize('kind', ['affine', 'gains', 'given'])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize('case', range(len(CASES)))
def test_equals_autograd(case, layout, kind):
    size, out_channels, (depth, side), *geometry = CASES[case]
    torch.manual_seed(0)
    rule, parameters = rule_and_parameters(kind, size[1], out_channels, depth, side)
    x = torch.randn(size, dtype=torch.float64).contiguous(memory_format=layout)
    results = []
    for by_products in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x, *parameters)]
        if by_products:
            y = slices_times_patches_conv3d(leaves[0], rule, Geometry(*geometry), *leaves[1:])
        else:
            y = F.conv3d(leaves[0], rule.differentiable(*leaves[1:]), None, *geometry)
        grads = torch.autograd.grad(y, leaves, torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y),
                                    allow_unused=True)
        grads = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads)]
        if kind == 'given':
            grads[-1] = grads[-1][:, side**2:]  # the first slice's transform is a constant here
        results.append([y, *grads])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_in_float32_and_only_some_gradients():
    size, out_channels, (depth, side), *geometry = CASES[0]
    torch.manual_seed(0)
    rule, parameters = rule_and_parameters('affine', size[1], out_channels, depth, side)
    x, exact = torch.randn(size, dtype=torch.float64), rule.differentiable(*parameters)
    want = F.conv3d(x, exact, None, *geometry)
    grad = torch.randn_like(want)
    of_x = torch.nn.grad.conv3d_input(x.shape, exact, grad, *geometry)
    singles = [t.float() for t in (x, *parameters)]
    singles[0].requires_grad_()  # the clip's gradient alone
    y = slices_times_patches_conv3d(singles[0], AffineRule(), Geometry(*geometry), *singles[1:])
    y.backward(grad.float())
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(singles[0].grad.double(), of_x, rtol=1e-5, atol=1e-5)
    leaves = [t.float().requires_grad_() for t in parameters]  # the parameters' alone
    slices_times_patches_conv3d(x.float(), AffineRule(), Geometry(*geometry), *leaves).backward(grad.float())
    doubles = [t.clone().requires_grad_() for t in parameters]
    F.conv3d(x, AffineRule().differentiable(*doubles), None, *geometry).backward(grad)
    for got, expected in zip(leaves, doubles):
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=2e-5, atol=2e-5)


def test_memory_is_never_read_stale_and_second_derivatives():
    """Two forward passes before a backward pass, backward twice; a gradient penalty."""
    torch.manual_seed(0)
    layer = Conv3T(12, 6, 3, stride=2, padding=1).double()
    with torch.no_grad():
        layer.rotate.normal_()
    a, b = torch.randn(2, 2, 12, 4, 6, 6, dtype=torch.float64)
    parameters = list(layer.parameters())

    def gradients(x, twice=False):
        x = x.clone().requires_grad_()
        first, = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum() if twice else layer(x).square().sum(), parameters,
                                   allow_unused=True)

    found = []
    for name in ('reference', 'slices_times_patches'):
        with use(name):
            losses = [layer(x).square().sum() for x in (a, b)]
            found.append([*torch.autograd.grad(losses[0], parameters, retain_graph=True),
                          *torch.autograd.grad(losses[1], parameters), *torch.autograd.grad(losses[0], parameters),
                          *gradients(a), *gradients(a, twice=True)])
    for without, with_it in zip(*found):
        assert (without is None) == (with_it is None)
        if with_it is not None:
            torch.testing.assert_close(with_it, without, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('padding, dilation, frames, depth', [(0, 1, 5, 3), (1, 1, 5, 3), (3, 2, 4, 3), (4, 1, 2, 2),
                                                              (0, 3, 7, 3), (2, 1, 1, 5)])
def test_time_windows_are_those_of_a_loop(stride, padding, dilation, frames, depth):
    out_frames = (frames + 2 * padding - dilation * (depth - 1) - 1) // stride + 1
    for b in range(depth):
        pairs = [(t, t * stride + b * dilation - padding) for t in range(out_frames)]
        pairs = [(t, frame) for t, frame in pairs if 0 <= frame < frames]
        to, of = time_windows(b, frames, out_frames, stride, padding, dilation)
        assert list(zip(range(out_frames)[to], range(frames)[of])) == pairs


def test_profitable_with_large_kernels_and_few_positions(monkeypatch):
    """The rule, and that the layer follows it."""
    strided = (2, 2, 2), (1, 1, 1), (1, 1, 1)
    kernel, x = (512, 256, 3, 3, 3), torch.empty(2, 256, 4, 14, 14)
    monkeypatch.setattr(slices_times_patches, 'has_products', lambda: True)
    for avx512 in (True, False):
        monkeypatch.setattr(slices_times_patches, 'has_avx512', lambda answer=avx512: answer)
        assert profitable(x, kernel, *strided) and not profitable(x.double(), kernel, *strided)
        assert profitable(x[:, :128], (256, 128, 3, 3, 3), *strided)
        half = torch.empty(2, 128, 4, 28, 28), (256, 128, 3, 3, 3), *strided  # 1128 numbers for each position
        assert profitable(*half) == (not avx512)
        assert not profitable(torch.empty(2, 64, 8, 56, 56), (128, 64, 3, 3, 3), *strided)
    many = torch.empty(64, 512, 2, 14, 14)
    assert not profitable(many, (4096, 512, 3, 3, 3), *strided)  # a large kernel, but patches of 29 MB
    for size in ((1, 14, 14), (4, 1, 14)):
        nothing = torch.empty(2, 256, *size)
        assert not profitable(nothing, kernel, (2, 2, 2), (0, 0, 0), (1, 1, 1))
        with pytest.raises(ValueError, match='an input of 1 '):
            Conv3T(256, 512, 3, 2)(nothing)
    monkeypatch.setattr(slices_times_patches, 'has_products', lambda: False)
    assert not profitable(x, kernel, *strided)

    clip = torch.randn(1, 12, 4, 6, 6)
    for answer in (True, False):
        monkeypatch.setattr(slices_times_patches, 'profitable', lambda *a, answer=answer: answer)
        for options in (dict(), dict(transform='free'), dict(gain=True), dict(padding_mode='reflect')):
            layer = Conv3T(12, 6, 3, 2, 1, **options)
            assert (explain(layer, clip)['slices_times_patches'] == 'chosen') == answer
            with torch.no_grad():
                assert explain(layer, clip)['slices_times_patches'] == 'no gradients of parameters are wanted'
        grouped = explain(Conv3T(24, 6, 3, 2, 1, groups=2), torch.cat([clip, clip], 1))
        assert grouped['slices_times_patches'] == 'groups'
