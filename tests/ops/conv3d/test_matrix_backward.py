"""Gradients of a convolution by matrix products equal PyTorch's, and are used where the kernel is the larger part."""
import pytest
import torch
import torch.nn.functional as F

from tconv_mmaction.layers import Conv3T, MultiBranchConv3d
from tconv_mmaction.ops import use
from tconv_mmaction.ops.conv3d import matrix_backward


@pytest.mark.parametrize('part', [1, 700, 1 << 21])  # every clip alone, some together, all together
@pytest.mark.parametrize('stride, padding, dilation, kernel', [
    ((2, 2, 2), (1, 1, 1), (1, 1, 1), (3, 3, 3)), ((1, 1, 1), (1, 1, 1), (1, 1, 1), (3, 3, 3)),
    ((1, 2, 3), (0, 2, 1), (2, 1, 2), (2, 5, 3)), ((3, 1, 2), (2, 0, 0), (1, 1, 1), (5, 1, 1)),
    ((4, 4, 4), (0, 0, 0), (1, 1, 1), (2, 2, 2))])  # the last: pixels that no output sees
def test_equals_autograd(monkeypatch, part, stride, padding, dilation, kernel):
    monkeypatch.setattr(matrix_backward, 'PART', part)
    torch.manual_seed(0)
    x = torch.randn(5, 3, 7, 9, 10, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv3d(x, weight, None, stride, padding, dilation)
    grad = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, weight), grad)
    geometry = grad, x.detach(), weight.detach(), stride, padding, dilation
    for got, want in zip(matrix_backward.matrix_backward(*geometry, True, True), expected):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    only_x, nothing = matrix_backward.matrix_backward(*geometry, True, False)
    torch.testing.assert_close(only_x, expected[0], rtol=1e-12, atol=1e-12)
    assert nothing is None
    nothing, only_kernel = matrix_backward.matrix_backward(*geometry, False, True)
    torch.testing.assert_close(only_kernel, expected[1], rtol=1e-12, atol=1e-12)
    assert nothing is None


def test_the_rule(monkeypatch):
    monkeypatch.setattr(matrix_backward, 'has_avx512', lambda: False)
    kernel = torch.empty(512, 256, 3, 3, 3, device='meta')  # 3.5 million

    def profitable(batch, frames, side, kernel=kernel, groups=1):
        x = torch.empty(batch, kernel.shape[1] * groups, frames, side, side, device='meta')
        grad = torch.empty(batch, kernel.shape[0], frames // 2, side // 2, side // 2, device='meta')
        return matrix_backward.profitable(x, grad, kernel, groups)

    assert profitable(2, 4, 14) and profitable(4, 4, 14) and profitable(8, 2, 8)
    assert not profitable(8, 4, 14)  # 784 positions
    assert not profitable(1, 4, 14)  # PyTorch does the same for a single clip
    assert not profitable(2, 4, 14, groups=2)
    assert not profitable(2, 2, 7, torch.empty(128, 256, 3, 3, 3, device='meta'))
    assert profitable(2, 4, 14, torch.empty(256, 256, 3, 3, 3, device='meta'))
    assert not profitable(4, 4, 14, torch.empty(256, 256, 3, 3, 3, device='meta'))
    monkeypatch.setattr(matrix_backward, 'has_avx512', lambda: True)
    assert not profitable(2, 4, 14)


@pytest.mark.parametrize('make', [
    lambda: Conv3T(10, 6, 3, (2, 2, 1), 1, bias=False),
    lambda: MultiBranchConv3d(10, 6, (5, 3, 3), (1, 2, 2), (2, 1, 1), norm_cfg=None)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last_3d])
def test_a_layer_has_the_same_gradients_with_it(monkeypatch, make, layout):
    torch.manual_seed(0)
    layer = make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(3, 10, 6, 8, 9, dtype=torch.float64).contiguous(memory_format=layout)
    found, used = [], []
    products = matrix_backward.matrix_backward
    monkeypatch.setattr(matrix_backward, 'matrix_backward', lambda *a: used.append(1) or products(*a))
    for answer in (False, True):
        monkeypatch.setattr(matrix_backward, 'profitable', lambda *a, answer=answer: answer)
        clip = x.clone().requires_grad_()
        layer.zero_grad()
        with use('kernel_in_place'):
            y = layer(clip)
        y.backward(torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y))
        found.append([clip.grad, *(p.grad.clone() for p in layer.parameters())])
        assert bool(used) == answer
    for without, with_it in zip(*found):
        torch.testing.assert_close(with_it, without, rtol=1e-11, atol=1e-12)
